"""The plan's lowering changes speed only: whole rounds of a convolutional model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Run, assert_trees_close, script, shards
from sparing import few

from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.engine.plan import Plan
from fedjax_sim.tasks import classifier, models

SIZES = [7, 3, 12, 5, 9, 4]


def federation():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(sum(SIZES), 8, 8, 1)).astype(np.float32)
    return shards(x, rng.integers(0, 4, len(x)).astype(np.int32), SIZES)


def trained(plan):
    task = classifier(models.cnn_mcmahan(), 4, x_shape=(8, 8, 1))
    recipe = fedavg(optax.sgd(0.05), epochs=2, batch_size=4)
    run = Run.of(recipe, task, federation(), script(3, 4, len(SIZES)).sampler(), plan)
    state, records = run.simulate(jax.random.key(0), 3)
    return run.model(state), records["train_loss"]


@pytest.fixture(scope="module")
def stock():
    return trained(Plan(1, 1, lowering=False))


@pytest.mark.parametrize("plan", few([Plan(1, 1), Plan(3, 1), Plan(2, 2)], Plan(2, 2)), ids=str)
def test_lowering_changes_speed_only(plan, stock):
    model, losses = trained(plan)
    assert_trees_close(model, stock[0], rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(losses, stock[1], rtol=1e-5)
    assert float(jnp.max(jnp.abs(model["conv_1"]["w"]))) > 0
