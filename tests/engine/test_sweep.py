"""A sweep's runs equal single runs, on one device and two, compiled once."""

from __future__ import annotations

from typing import Any

import helpers
import jax
import numpy as np
import optax
import pytest

from fedjax_sim.algorithms import scaffold
from fedjax_sim.engine import mesh as meshes
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import RunState, init_run, make_simulate
from fedjax_sim.engine.sweep import Blocks, make_sweep

ROUNDS, SIZES = 3, (3, 5, 2, 7, 4, 6)
SEEDS = np.array([0, 7, 2**31 + 5, 2**32 - 1], np.uint32)
RATES = np.array([[0.05, 0.3], [0.1, 0.2], [0.05, 0.3], [0.4, 0.01]], np.float32)


class Setup:
    """SCAFFOLD, so that client rows are swept too, on ragged clients and cohorts."""

    def __init__(self, traces: list[int] | None = None) -> None:
        self.task = helpers.softmax_task(traces=traces)
        recipe = scaffold(lambda rate: optax.sgd(rate), rate=0.1, batch_size=2)
        sampler = helpers.script(ROUNDS, 4, len(SIZES)).sampler()
        self.data = helpers.softmax_data(SIZES)
        self.bound = helpers.Run.of(recipe, self.task, self.data, sampler, Plan(lanes=2))
        self.simulate = make_simulate(self.bound.algorithm, sampler, chunk=ROUNDS)

    def init(self, init: Any, key: Any, hyper: Any) -> RunState:
        del init
        model, b = self.task.init(key), self.bound
        return init_run(b.algorithm, b.sampler, key, model, len(SIZES), hyper)

    def single(self, seed: int, rate: float) -> tuple[RunState, dict[str, np.ndarray]]:
        key = jax.random.key(seed)
        state = jax.jit(self.init)((), key, {"rate": rate})
        return jax.device_get(helpers.quick_jit(self.simulate)(key, state, ROUNDS, self.data))

    def sweep(self, inner: str, devices: int, width: int, pieces: Any = (ROUNDS,)) -> Any:
        mesh = meshes.make_mesh(devices)
        whole, cut = meshes.replicated(mesh), meshes.dealt(mesh)
        program = make_sweep(self.init, self.simulate, mesh, inner=inner)
        rates = RATES.reshape(-1, width)
        seeds = np.repeat(SEEDS, 2 // width)
        blocks = jax.device_put(Blocks(seeds, {"rate": rates}), cut)
        counts = jax.device_put(np.full(devices, len(seeds) // devices, np.int32), cut)
        data = jax.device_put(self.data, whole)
        states = helpers.quick_jit(program.begin, out_shardings=cut)(blocks, ())
        advance = helpers.quick_jit(program.advance, donate_argnums=1, out_shardings=cut)
        out, done = [], 0
        for rounds in pieces:
            numbers = jax.device_put((np.int32(done), np.int32(rounds)), whole)
            states, records = advance(blocks, states, counts, *numbers, (data,))
            records = jax.device_get(records)
            out.append(
                {n: v.reshape(8, ROUNDS, *v.shape[3:])[:, :rounds] for n, v in records.items()}
            )
            done += rounds
        assert advance._cache_size() == 1
        states = jax.tree.map(lambda x: x.reshape(8, *x.shape[2:]), jax.device_get(states))
        return states, {n: np.concatenate([o[n] for o in out], 1) for n in out[0]}


@pytest.fixture(scope="module")
def singles() -> tuple[Setup, list[Any]]:
    setup = Setup()
    runs = [(int(s), float(r)) for s, rates in zip(SEEDS, RATES, strict=True) for r in rates]
    return setup, [setup.single(*run) for run in runs]


SLOW = pytest.mark.slow


@pytest.mark.parametrize("devices", [pytest.param(1, marks=SLOW), 2])
def test_one_after_another_is_the_single_run(singles: Any, devices: int) -> None:
    """Within a rounding: the compiler fuses one more or less in the program of many runs."""
    setup, expected = singles
    states, records = setup.sweep("map", devices, width=1)
    for i, (state, single) in enumerate(expected):
        got = jax.tree.map(lambda x, i=i: x[i], states)
        helpers.assert_trees_close(got, state, rtol=1e-6, atol=1e-7, note=f"run {i}")
        for name, values in single.items():
            np.testing.assert_allclose(records[name][i], values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("inner", "devices"),
    [pytest.param("hyper", 1, marks=SLOW), ("hyper", 2), pytest.param("vmap", 2, marks=SLOW)],
)
def test_runs_at_once_equal_single_runs_within_rounding(
    singles: Any, inner: str, devices: int
) -> None:
    setup, expected = singles
    states, records = setup.sweep(inner, devices, width=2)
    for i, (state, single) in enumerate(expected):
        got = jax.tree.map(lambda x, i=i: x[i], states)
        helpers.assert_trees_close(got, state, rtol=1e-5, atol=1e-6, note=f"run {i}")
        np.testing.assert_allclose(records["train_loss"][i], single["train_loss"], rtol=1e-5)


@SLOW
def test_pieces_of_rounds_are_bitwise_all_rounds_at_once(singles: Any) -> None:
    setup = singles[0]
    states, records = setup.sweep("hyper", 2, width=2)
    again, cut = setup.sweep("hyper", 2, width=2, pieces=(1, 2))
    helpers.assert_trees_equal(again, states)
    for name, values in records.items():
        np.testing.assert_array_equal(cut[name], values, err_msg=name)


@pytest.mark.slow
def test_a_device_does_only_the_blocks_it_counts() -> None:
    setup = Setup()
    program = make_sweep(setup.init, setup.simulate, meshes.make_mesh(1), inner="map")
    blocks = Blocks(SEEDS, {"rate": RATES[:, :1]})
    states = jax.jit(program.begin)(blocks, ())
    before = jax.device_get(states)
    counts = np.array([3], np.int32)
    advance = helpers.quick_jit(program.advance)
    after, records = advance(blocks, states, counts, np.int32(0), np.int32(1), (setup.data,))
    assert list(np.asarray(after.round[:, 0])) == [1, 1, 1, 0]
    last = jax.tree.map(lambda x: x[3], (after, before))
    helpers.assert_trees_equal(*last)
    assert np.asarray(records["client_steps"])[3].sum() == 0


@pytest.mark.parametrize("inner", ["hyper", pytest.param("vmap", marks=SLOW)])
def test_the_settings_of_a_seed_share_its_draws(inner: str) -> None:
    """A batch is gathered once for all settings of its seed."""
    setup = Setup()
    program = make_sweep(setup.init, setup.simulate, meshes.make_mesh(1), inner=inner)
    blocks = Blocks(SEEDS[:1], {"rate": RATES[:1]})
    states = jax.eval_shape(program.begin, blocks, ())
    counts = np.ones(1, np.int32)
    shared = (setup.data,)
    jaxpr = jax.make_jaxpr(program.advance)(
        blocks, states, counts, np.int32(0), np.int32(1), shared
    )
    batches = [a for a in _gathers(jaxpr.jaxpr) if a[-2:] == (2, helpers.DIM)]
    lanes_batch_inputs = 3 if inner != "vmap" else 4  # beside them only the axis of blocks
    assert batches and {len(a) for a in batches} == {lanes_batch_inputs}


def _gathers(jaxpr: Any) -> list[tuple[int, ...]]:
    """Shapes of what gathers give, nested programs included."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "gather":
            found.append(tuple(eqn.outvars[0].aval.shape))
        for value in eqn.params.values():
            for inner in value if isinstance(value, (list, tuple)) else [value]:
                if hasattr(inner, "jaxpr"):
                    found += _gathers(inner.jaxpr)
                elif hasattr(inner, "eqns"):
                    found += _gathers(inner)
    return found


def test_one_trace_serves_all_seeds_rates_and_rounds() -> None:
    traces: list[int] = []
    Setup(traces).sweep("map", 1, width=1, pieces=(1, 2))
    alone: list[int] = []
    Setup(alone).single(0, 0.1)
    assert len(traces) == len(alone) > 0
