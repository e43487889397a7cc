"""Two passes over a client's data: what is measured first, what is trained then."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import CLASSES, flat, softmax_data, softmax_task, window
from oracles.softmax import loss
from sparing import few

from fedjax_sim.clients.phases import best_first, loss_first
from fedjax_sim.clients.sgd import local
from fedjax_sim.core import keys
from fedjax_sim.core.types import Context, Member
from fedjax_sim.data.batching import Batches

SIZES = (7, 12)


def _work(client, received, data, i):
    """One client's whole work, step by step, as the lane loop does it."""
    key = keys.client_key(jax.random.key(3), jnp.int32(i))
    member = Member(jnp.int32(i), jnp.bool_(True), jnp.int32(0), jnp.ones(()))
    ctx, mine = Context(key, jnp.int32(0), member), data.client(jnp.int32(i))
    work = client.start(ctx, received, (), mine)
    n = int(client.steps(ctx, mine))
    step = jax.jit(client.step)
    for t in range(n):
        work = step(ctx, jnp.int32(t), work, received, mine)
    report, _ = client.finish(ctx, work, received, (), mine)
    return n, report


def _models(m):
    task = softmax_task()
    return jax.vmap(task.init)(jax.random.split(jax.random.key(0), m))


@pytest.mark.parametrize("i", [0, 1])
@pytest.mark.parametrize("size", few([3, 100], 3))
def test_the_loss_before_training_is_measured_and_training_is_as_without(x64, i, size) -> None:
    data, task = softmax_data(SIZES), softmax_task()
    model = jax.tree.map(lambda v: v[0], _models(1))
    plain = local(optax.sgd(0.3), Batches(epochs=2, size=4))
    told = loss_first(
        plain,
        Batches(size=size, shuffle=False),
        report=lambda report, before, ctx, data: report._replace(
            aux=report.aux | {"before": before}
        ),
    )
    n, report = _work(told(task), model, data, i)
    alone, wanted = _work(plain(task), model, data, i)
    assert n == alone + -(-SIZES[i] // size)
    x, y = window(data, i)
    want = loss(flat(model.params), x, y, CLASSES)
    np.testing.assert_allclose(report.aux["before"], want, rtol=1e-12)
    np.testing.assert_allclose(flat(report.update.params), flat(wanted.update.params), rtol=1e-12)
    assert report.weight == wanted.weight == SIZES[i]


@pytest.mark.parametrize("i", [0, 1])
def test_the_best_of_several_models_is_trained_and_no_other(x64, i) -> None:
    data, task, models = softmax_data(SIZES), softmax_task(), _models(3)
    plain = local(optax.sgd(0.3), Batches(epochs=1, size=4))
    _, report = _work(best_first(plain)(task), models, data, i)
    x, y = window(data, i)
    each = [loss(theta, x, y, CLASSES) for theta in flat(models.params)]
    best = int(np.argmin(each))
    assert report.group == report.aux["group"] == best
    _, wanted = _work(plain(task), jax.tree.map(lambda v: v[best], models), data, i)
    np.testing.assert_allclose(flat(report.update.params), flat(wanted.update.params), rtol=1e-12)


def test_equal_losses_take_the_first_model(x64) -> None:
    twins = jax.tree.map(lambda v: jnp.concatenate([v, v]), _models(1))
    _, report = _work(
        best_first(local(optax.sgd(0.3)))(softmax_task()), twins, softmax_data(SIZES), 0
    )
    assert report.group == 0


def test_a_client_without_a_step_reports_nothing_of_the_model_it_chose(x64) -> None:
    data, models = softmax_data((2, 9)), _models(3)
    dropping = local(optax.sgd(0.3), Batches(size=4, last="drop"))
    n, report = _work(best_first(dropping)(softmax_task()), models, data, 0)
    x, y = window(data, 0)
    assert n == 1
    assert report.group == np.argmin([loss(theta, x, y, CLASSES) for theta in flat(models.params)])
    assert np.abs(flat(report.update.params)).max() == 0


def test_a_model_whose_loss_is_nan_is_not_chosen(x64) -> None:
    broken = jax.tree.map(lambda v: v.at[0].set(jnp.nan), _models(2))
    _, report = _work(
        best_first(local(optax.sgd(0.3)))(softmax_task()), broken, softmax_data(SIZES), 0
    )
    assert report.group == 1 and np.isfinite(flat(report.update.params)).all()
