"""The client that reports gradient and Hessian-vector product, against dense Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    CLASSES,
    DIM,
    Run,
    assert_trees_close,
    cohort_of,
    flat,
    quick_jit,
    shards,
    softmax_data,
    softmax_task,
    unflat,
    window,
)
from oracles.softmax import gradient as softmax_gradient
from sparing import few

from fedjax_sim import tasks
from fedjax_sim.aggregation.mean import mean
from fedjax_sim.algorithms import fedsgd, negative_curvature
from fedjax_sim.clients.curvature import Probe, gradient_and_product
from fedjax_sim.clients.sgd import gradient
from fedjax_sim.core.types import Batch, Context, Member, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.cohort import Work, run_cohort
from fedjax_sim.engine.mesh import make_mesh, place
from fedjax_sim.engine.plan import Plan
from fedjax_sim.sampling.uniform import uniform

KEY = jax.random.key(2)
SIZES = (7, 1, 12, 30)  # batches of 5: ragged ends, a client below one batch
P = DIM * CLASSES + CLASSES
RNG = np.random.default_rng(4)
POINT, DIRECTION = RNG.normal(size=P), RNG.normal(size=P)


def told(client, received, data, ids=(0, 1, 2, 3), plan=Plan(2, 1)):  # noqa: B008 - frozen
    """The mean report of a cohort, run by the engine."""
    mesh = make_mesh(plan.devices)
    work = Work(client, mean(), lambda sent, member: sent)

    def once(received, cohort, data):
        result = run_cohort(
            lambda given: work, (), received, (), cohort, data, key=KEY, plan=plan, mesh=mesh
        )
        return mean().finalize(result.acc)

    return quick_jit(once)(*place((received, cohort_of(ids), data), mesh))


def pooled(task, data, ids):
    """`flat params -> mean loss` over all examples of some clients."""
    x, y = (np.concatenate(v) for v in zip(*(window(data, i) for i in ids), strict=True))
    batch = Batch(jnp.asarray(x), jnp.asarray(y), jnp.ones(len(y), bool))
    return lambda vector: task.loss(KEY, Model(unflat(vector)), batch)[0]


@pytest.mark.parametrize("ids", few([(0, 1, 2, 3), (1,), (3, 0)], (3, 0)))
def test_mean_report_is_gradient_and_product_of_the_pooled_loss(x64, ids):
    task, data = softmax_task(), softmax_data(SIZES)
    client = gradient_and_product(Batches(size=5))(task)
    received = Probe(Model(unflat(jnp.asarray(POINT))), unflat(jnp.asarray(DIRECTION)))
    got = told(client, received, data, ids, Plan(2, 2))
    loss = pooled(task, data, ids)
    hessian = np.asarray(jax.hessian(loss)(jnp.asarray(POINT)))
    np.testing.assert_allclose(flat(got.update.product), hessian @ DIRECTION, rtol=1e-10)
    x, y = (np.concatenate(v) for v in zip(*(window(data, i) for i in ids), strict=True))
    want = softmax_gradient(POINT, x, y, CLASSES)
    np.testing.assert_allclose(flat(got.update.model.params), want, rtol=1e-10, atol=1e-13)
    assert float(got.weight) == sum(SIZES[i] for i in ids)


def test_product_is_the_change_of_the_gradient(x64):
    """On a network with curvature in every direction, by central differences."""
    x = RNG.normal(size=(24, 6))
    y = RNG.integers(0, 3, 24).astype(np.int32)
    task = tasks.classifier((init_tanh, apply_tanh), 3, x_shape=(6,), dtype=jnp.float64)
    data = shards(x, y, [4, 13, 7])
    params = task.init(KEY).params
    direction = jax.tree.map(lambda v: jnp.asarray(RNG.normal(size=v.shape)), params)
    got = told(gradient_and_product()(task), Probe(Model(params), direction), data, (0, 1, 2))

    def slope(t):
        moved = jax.tree.map(lambda p, d: p + t * d, params, direction)
        return told(gradient()(task), Model(moved), data, (0, 1, 2)).update.params

    near = jax.tree.map(lambda a, b: (a - b) / 2e-5, slope(1e-5), slope(-1e-5))
    assert_trees_close(got.update.product, near, rtol=1e-6, atol=1e-9)


def init_tanh(key, x):
    first, second = jax.random.split(key)
    return {
        "w": jax.random.normal(first, (6, 5)),
        "v": jax.random.normal(second, (5, 3)),
    }


def apply_tanh(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def test_gradient_state_and_loss_are_those_of_the_plain_gradient(x64):
    """Also the running statistics of a batch norm, which see the batches in the same order."""
    nn = pytest.importorskip("flax.linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool):
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(4)(x))
            return nn.Dense(3)(jnp.tanh(x))

    x = RNG.normal(size=(20, 6))
    y = RNG.integers(0, 3, 20).astype(np.int32)
    task = tasks.classifier(Net(), 3, x_shape=(6,), dtype=jnp.float64)
    data, rule = shards(x, y, [9, 11]), Batches(size=4, shuffle=False)
    model = task.init(KEY)
    direction = jax.tree.map(jnp.ones_like, model.params)
    ours = told(gradient_and_product(rule)(task), Probe(model, direction), data, (0, 1))
    plain = told(gradient(rule)(task), model, data, (0, 1))
    assert_trees_close(ours.update.model, plain.update, rtol=1e-12, atol=1e-14)
    moved = [float(jnp.abs(v).max()) for v in jax.tree.leaves(ours.update.model.state)]
    assert min(moved) > 1e-3


WEIGHTINGS = ["uniform", "steps", lambda size, steps, ctx: size**2]


@pytest.mark.parametrize("weighting", few(WEIGHTINGS, WEIGHTINGS[2]))
def test_weights_are_those_of_other_clients(x64, weighting):
    data, task = softmax_data(SIZES), softmax_task()
    rule = Batches(size=5)
    received = Probe(Model(unflat(jnp.asarray(POINT))), unflat(jnp.asarray(DIRECTION)))
    ours = told(gradient_and_product(rule, weighting=weighting)(task), received, data)
    plain = told(gradient(rule, weighting=weighting)(task), received.model, data)
    np.testing.assert_allclose(ours.weight, plain.weight)
    assert_trees_close(ours.update.model, plain.update, rtol=1e-12)


def test_a_straggler_reports_the_mean_over_what_it_saw(x64):
    task, data = softmax_task(), softmax_data(SIZES)
    client = gradient_and_product(Batches(size=5, shuffle=False))(task)
    member = Member(jnp.int32(3), jnp.asarray(True), jnp.int32(0), jnp.asarray(0.5))
    ctx = Context(KEY, jnp.int32(0), member)
    mine = data.client(jnp.int32(3))
    assert int(client.steps(ctx, mine)) == 3  # half of six
    received = Probe(Model(unflat(jnp.asarray(POINT))), unflat(jnp.asarray(DIRECTION)))
    work = client.start(ctx, received, (), mine)
    for t in range(3):
        work = client.step(ctx, jnp.int32(t), work, received, mine)
    report, _ = client.finish(ctx, work, received, (), mine)
    x, y = (v[:15] for v in window(data, 3))
    want = softmax_gradient(POINT, x, y, CLASSES)
    np.testing.assert_allclose(flat(report.update.model.params), want, rtol=1e-10, atol=1e-13)
    assert float(report.aux["loss_count"]) == 15


@pytest.mark.slow
def test_twice_the_bytes_of_fedsgd_travel():
    data, counted = softmax_data(SIZES), []
    for recipe in (fedsgd(optax.sgd(0.1)), negative_curvature(optax.sgd(0.1))):
        run = Run.of(recipe, softmax_task(), data, uniform(2, len(SIZES)), Plan())
        _, records = run.simulate(KEY, 1)
        counted.append([int(records[f"{way}_bytes_each"][0]) for way in ("uplink", "downlink")])
    assert counted == [[4 * P, 4 * P], [8 * P, 8 * P]]
