"""The noise probe: against its definition, and against a quadratic whose noise is known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.types import Model, Report
from fedjax_sim.diagnostics.drift_statistics import CAP
from fedjax_sim.diagnostics.noise_scale import (
    Noise,
    Pair,
    estimate,
    no_noise,
    noise_scales,
    pair_sums,
    probe_noise,
    smoothed,
)
from fedjax_sim.engine.mesh import make_mesh, place
from fedjax_sim.engine.plan import Plan
from tests.helpers import cohort_of, quadratic_task, quick_jit, shards
from tests.oracles import drift as oracle

DIM = 5


def reports(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> Report:
    mean = (first + second) / 2
    pair = Pair(
        {"x": jnp.asarray(mean)},
        jnp.asarray(((first - second) ** 2).sum(1)),
        jnp.asarray((first * second).sum(1)),
        jnp.asarray((mean**2).sum(1)),
    )
    return Report(pair, jnp.asarray(weights), jnp.zeros(len(weights), jnp.int32), {})


def test_estimates_are_those_of_their_definition(x64: None) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6, DIM))
    weights = np.array([3.0, 1, 0, 5, 2, 0])
    first[2], second[5] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        rule, all_of = pair_sums(), reports(first, second, weights)
    shape = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), all_of)
    rows = jnp.arange(6)
    whole = rule.accumulate(rule.zero(shape, 6), all_of, rows)
    halves = [jax.tree.map(lambda v, s=s: v[s], all_of) for s in (slice(0, 2), slice(2, 6))]
    parts = [rule.accumulate(rule.zero(shape, 6), h, rows) for h in halves]
    heard = weights > 0
    want = oracle.noise(first[heard], second[heard], weights[heard], batch=8)
    for acc in (whole, jax.tree.map(jnp.add, *parts)):
        got = estimate(acc, 8)
        np.testing.assert_allclose([got.trace, got.client_square, got.square], want, rtol=1e-12)
        assert got.weight == 1


@pytest.mark.parametrize("weights", [[0, 0], [0, 4]])
def test_fewer_than_two_clients_are_no_probe(weights: list[float]) -> None:
    rule, some = (
        pair_sums(),
        reports(np.ones((2, DIM)), np.ones((2, DIM)), np.array(weights, float)),
    )
    shape = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), some)
    got = estimate(rule.accumulate(rule.zero(shape, 2), some, jnp.arange(2)), 8)
    assert [float(v) for v in got] == [0, 0, 0, 0]


def test_nothing_lost_in_noise_is_not_a_number() -> None:
    lost = noise_scales(Noise(*map(jnp.float32, (4.0, -0.1, -2.0, 1.0))))
    assert float(lost["drift_noise_scale"]) == pytest.approx(CAP)
    assert float(lost["drift_noise_scale_pooled"]) == pytest.approx(CAP)
    assert float(lost["drift_batch_size"]) == pytest.approx(CAP)
    still = noise_scales(no_noise())
    assert {n: float(v) for n, v in still.items()} == {
        "drift_noise_scale": 0,
        "drift_noise_scale_pooled": 0,
        "drift_batch_size": 1,
    }
    known = noise_scales(Noise(*map(jnp.float32, (6.0, 4.0, 1.0, 1.0))))
    assert [float(v) for v in known.values()] == [1.5, 9.0, 2.0]


def test_running_means_pass_over_empty_probes() -> None:
    one = Noise(*map(jnp.float32, (4, 2, 1, 1)))
    held = smoothed(smoothed(no_noise(), one, 0.5), no_noise(), 0.5)
    assert [float(v) for v in held] == [4, 2, 1, 1]
    assert [float(v) for v in smoothed(held, one, 0.5)] == [6, 3, 1.5, 1.5]


def federation(n: int, each: int, seed: int) -> tuple[Any, np.ndarray, float]:
    """A quadratic with curvature 1: an example's gradient is `p - b`, noise is that of b."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n, DIM))
    y = np.repeat(centers, each, 0) + 2 * rng.normal(size=(n * each, DIM))
    own = y.reshape(n, each, DIM)
    trace = own.var(axis=1).sum(1).mean()
    data = shards(np.ones_like(y).astype(np.float32), y.astype(np.float32), [each] * n)
    return data, own.mean(1), trace


@pytest.mark.parametrize("plan", [Plan(1, 1), Plan(3, 2)], ids=str)
def test_known_noise_of_a_quadratic(plan: Plan) -> None:
    """400 probes of 4 clients: each mean within 4 standard errors of the truth."""
    n, batch, probes = 12, 6, 400
    data, targets, trace = federation(n, 15, seed=1)
    at = np.full(DIM, 0.7, np.float32)
    gradients = at - targets
    mesh = make_mesh(plan.devices)
    task, data = quadratic_task(DIM), place(data, mesh)

    def one(key: Any, ids: Any) -> Noise:
        cohort = cohort_of([0] * 6)
        absent = jnp.arange(6) != 1
        members = cohort.members._replace(id=ids, present=absent)
        return probe_noise(
            task,
            Model({"x": jnp.asarray(at)}),
            cohort._replace(members=members),
            data,
            key=key,
            plan=plan,
            mesh=mesh,
            clients=4,
            batch_size=batch,
        )

    rng = np.random.default_rng(2)
    ids = np.stack([rng.permutation(n)[:6] for _ in range(probes)]).astype(np.int32)
    step = quick_jit(lambda keys, ids: jax.lax.map(lambda a: one(*a), (keys, ids)))
    found = step(*place((jax.random.split(jax.random.key(3), probes), ids), mesh))
    # Pairs of different clients of a population of n, drawn without replacement.
    whole = gradients.sum(0) @ gradients.sum(0) - (gradients**2).sum()
    truth = (trace, (gradients**2).sum(1).mean(), whole / (n * (n - 1)))
    for name, got, want in zip(Noise._fields, found, truth, strict=False):
        error = np.std(got) / np.sqrt(probes)
        assert abs(np.mean(got) - want) < 4 * error, f"{name}: {np.mean(got)} {want} {error}"
        assert error < 0.06 * abs(want), name
    assert np.all(np.asarray(found.weight) == 1)


def test_a_client_without_examples_is_left_out() -> None:
    x = np.ones((4, DIM), np.float32)
    data = shards(x, 3 * x, [2, 0, 2])
    mesh = make_mesh(1)
    got = probe_noise(
        quadratic_task(DIM),
        Model({"x": jnp.zeros(DIM)}),
        cohort_of([0, 1, 2]),
        data,
        key=jax.random.key(0),
        plan=Plan(),
        mesh=mesh,
        weighting="uniform",
    )
    np.testing.assert_allclose([got.trace, got.client_square, got.square], [0, 45, 45], atol=1e-4)
