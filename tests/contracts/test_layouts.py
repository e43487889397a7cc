"""The plan changes speed only: lanes and devices, for every algorithm; vmap over whole runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contracts.table import NAMES, TABLE, bound, members
from helpers import assert_trees_close, quick_jit

from fedjax_sim.core import tree

ROUNDS = 3
LAYOUTS = [(lanes, devices) for lanes in (1, 4, 16) for devices in (1, 2, 8)][1:]
USUAL_32 = [(16, 2)]
# By default these meet two layouts in float64: one that streams, one with rows, one that
# collects, one that rescales, one without a server. The oracles hold all algorithms to NumPy
# on 2 lanes x 2 devices, and the slow test holds all to every layout.
USUAL = [(n, 4, 2) for n in ("fedavg", "median", "fednova")] + [("scaffold", 16, 8)]
# Under vmap the lane loop itself is another; what algorithms add is close to these.
VMAPPED = [("scaffold", 3), pytest.param("fedavg", 1, marks=pytest.mark.slow)]
_KEPT = {"scaffold"}
VMAPPED += [pytest.param(n, 3, marks=pytest.mark.slow) for n in NAMES if n not in _KEPT]
TOLERANCE = {32: {"rtol": 1e-5, "atol": 1e-6}, 64: {"rtol": 1e-9, "atol": 1e-12}}


def learned(name, lanes, devices, bits):
    """State and records after three ragged rounds with absent and partial members."""
    made = bound(name, lanes, devices, bits)
    case = TABLE[name]
    state = made.start(members(case, 20))
    records = []
    for chunk in range(ROUNDS):
        state, record = made(state._replace(sampler=members(case, 20 + chunk)), 1)
        records.append({n: np.asarray(v[0]) for n, v in record.items() if "lane" not in n})
    return made.learned(state), records


def hold(name, lanes, devices, bits):
    base, base_records = learned(name, 1, 1, bits)
    got, records = learned(name, lanes, devices, bits)
    note = f"{name} on {lanes} lanes x {devices} devices, float{bits}"
    assert_trees_close(got, base, **TOLERANCE[bits], note=note)
    assert_trees_close(records, base_records, **TOLERANCE[bits], note=note)


@pytest.mark.parametrize(("name", "lanes", "devices"), USUAL)
def test_layout_changes_nothing_in_float64(x64, name, lanes, devices):
    hold(name, lanes, devices, 64)


@pytest.mark.parametrize(("lanes", "devices"), USUAL_32)
@pytest.mark.parametrize("name", ["fedavgm"])
def test_layout_changes_nothing_in_float32(name, lanes, devices):
    hold(name, lanes, devices, 32)


@pytest.mark.slow
@pytest.mark.parametrize(("lanes", "devices"), LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [32, 64])
def test_every_layout_of_every_algorithm(name, lanes, devices, bits):
    with jax.enable_x64(bits == 64):
        hold(name, lanes, devices, bits)


@pytest.mark.parametrize(("name", "lanes"), VMAPPED)
def test_vmap_over_seeds_and_numbers_equals_separate_runs(x64, name, lanes):
    """Three runs at once, each with its own seed and hyper-parameters."""
    case, single, made = TABLE[name], bound(name), bound(name, lanes)
    table = members(case, 30)
    factors = np.array([1.0, 0.5, 0.8])
    hyper = {n: v * factors for n, v in case.hyper.items()}

    def whole(seed, numbers):
        key = jax.random.key(seed)
        numbers = {n: jnp.asarray(v, float) for n, v in (single.run_hyper | numbers).items()}
        state = made.run.start(key, numbers)._replace(sampler=table)
        return made.compiled.__wrapped__(key, state, 2, made.data)

    seeds = jnp.arange(3, dtype=jnp.uint32)
    states, records = quick_jit(jax.vmap(whole))(
        seeds, {n: jnp.asarray(v) for n, v in hyper.items()}
    )
    for i in range(3):
        numbers = {n: v[i] for n, v in hyper.items()}
        state, record = single(single.start(table, seed=i, hyper=numbers), 2, seed=i)
        note = f"run {i} with {numbers}"
        close = {"rtol": 1e-9, "atol": 1e-12, "note": note}
        assert_trees_close(made.learned(tree.take(states, i)), single.learned(state), **close)
        loss = records["train_loss"][i]
        np.testing.assert_allclose(loss, record["train_loss"], rtol=1e-9, err_msg=note)


def test_one_compile_on_two_devices(x64):
    """The placed state goes round without compiling the step again."""
    made = bound("scaffold", 4, 2)
    case = TABLE["scaffold"]
    state = made.start(members(case, 0))
    for chunk in range(3):
        state, _ = made(state._replace(sampler=members(case, chunk)), 2 + chunk, seed=1)
    assert int(state.round) == 9
    assert made.compiled._cache_size() == 1
