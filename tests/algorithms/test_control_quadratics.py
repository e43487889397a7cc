"""Corrections against client drift on quadratics: known rates, and the optimum at rest."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Run, quadratic_task, shards
from sparing import few

from fedjax_sim.algorithms.fedadmm import fedadmm
from fedjax_sim.algorithms.feddyn import feddyn
from fedjax_sim.algorithms.fedlin import fedlin
from fedjax_sim.algorithms.fedsplit import fedsplit
from fedjax_sim.algorithms.mime import mime
from fedjax_sim.algorithms.scaffold import scaffold
from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Cohort, Member
from fedjax_sim.engine.plan import Plan

KEY = jax.random.key(11)


def sgd(lr):
    return optax.sgd(lr)


# The toy of PAPERS.md: f_i(x) = a_i (x - b_i)^2 / 2, both clients in every round.
A, B, ETA, OPTIMUM = np.array([1.0, 4.0]), np.array([0.0, 1.0]), 0.1, 0.8
MOST = 10


@functools.cache
def toy(builder, hyper, chunk):
    """One program for every number K of local steps: a share K / 10 of ten."""

    def sample(key, state, r):
        ids = jnp.arange(2, dtype=jnp.int32)
        work = jnp.full(2, state / MOST)
        return state, Cohort(r, Member(ids, jnp.ones(2, bool), jnp.zeros_like(ids), work))

    sampler = Sampler(2, lambda n: jnp.zeros(()), sample, lambda state, cohort, info: state)
    recipe = builder(steps=MOST, batch_size=1, shuffle=False, **dict(hyper))
    data = shards(A[:, None], B[:, None], [1, 1])
    run = Run.of(recipe, quadratic_task(), data, sampler, Plan())
    return run, run.compiled(chunk)


def errors(builder, steps, rounds, chunk=400, **hyper):
    """`|x - 0.8|` after each of these numbers of rounds."""
    run, step = toy(builder, tuple(sorted(hyper.items())), chunk)
    state, got = run.start(KEY)._replace(sampler=jnp.asarray(float(steps))), []
    for begin, end in zip([0, *rounds], rounds, strict=False):
        state, _ = step(KEY, state, end - begin)
        got.append(abs(float(run.model(state)["x"][0]) - OPTIMUM))
    return np.array(got)


@functools.cache
def plain(builder):
    """The builder with SGD at the toy's rate."""
    return functools.partial(builder, sgd, lr=ETA)


FEDLIN = {1: 0.75, 2: 0.5625, 5: 0.1999125, 10: 0.1247624}


@pytest.mark.parametrize("builder", few([fedlin, mime], fedlin))
def test_fedlin_contracts_as_it_must(x64, builder):
    """`|1 - mean(c_i / a_i) mean(a)|` every two rounds; Mime with plain SGD likewise."""
    for steps, printed in FEDLIN.items():
        c = 1 - (1 - ETA * A) ** steps
        factor = abs(1 - np.mean(c / A) * np.mean(A))
        assert abs(factor - printed) < 1e-7
        got = errors(plain(builder), steps, [2, 4, 8])
        np.testing.assert_allclose(got, OPTIMUM * factor ** np.array([1, 2, 4]), rtol=1e-10)


@pytest.mark.parametrize(
    ("builder", "hyper"),
    [(feddyn, {"alpha": 0.5}), (fedadmm, {"rho": 0.5}), (fedsplit, {"strength": 2.0})],
)
def test_duals_rest_at_the_optimum_whatever_the_number_of_steps(x64, builder, hyper):
    for steps in (1, 2, 5, 10):
        (last,) = errors(plain(builder), steps, [400], **hyper)
        assert last < 1e-10, f"{steps} steps"


def first_option_by_hand(steps, rounds):
    """Karimireddy et al. 2019, option I, both clients in every round."""
    x, c, own, found = 0.0, 0.0, np.zeros(2), []
    for _ in range(rounds):
        y, fresh = np.full(2, x), A * (x - B)
        for _ in range(steps):
            y = y - ETA * (A * (y - B) - own + c)
        x, c, own = y.mean(), c + np.mean(fresh - own), fresh
        found.append(abs(x - OPTIMUM))
    return found


def test_scaffold_with_exact_gradients_reaches_the_optimum(x64):
    for steps in (1, 5, 10):
        got = errors(plain(scaffold), steps, [1, 5, 20, 400], option="gradient")
        known = first_option_by_hand(steps, 20)
        np.testing.assert_allclose(
            got[:3], [known[r - 1] for r in (1, 5, 20)], rtol=1e-6, atol=1e-14
        )
        assert got[3] < 1e-13


@functools.cache
def bench():
    """`benchmarks/algorithms/quadratics.py`, which is a script."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "algorithms" / "quadratics.py"
    spec = importlib.util.spec_from_file_location("quadratics", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", few(["fedavg", "scaffold", "feddyn", "fedlin"], "scaffold", "feddyn")
)
def test_clients_who_disagree(x64, name):
    """10 clients, 5 dimensions: the corrected reach the optimum, FedAvg its own fixed point."""
    made, steps = bench().federation(), (1, 10)
    optimum = bench().optimum(made)
    found = bench().ends(name, made, 500, steps)
    for k, x in zip(steps, found, strict=True):
        point = bench().resting(made, k) if name == "fedavg" else optimum
        assert np.linalg.norm(x - point) < (1e-2 if k == 1 else 1e-8), f"{k} steps"
    if name == "fedavg":
        assert np.linalg.norm(found[1] - optimum) > 0.05
