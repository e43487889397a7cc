"""Our worker runs the package's own models on the common weights and examples."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from ours_worker import params_of, prepare, task_of
from workloads import WORKLOADS


@pytest.mark.parametrize("name", ["W1-lin", "W1-mlp", "W1-cnn", "W2-E1", "W5"])
def test_weights_fit_the_packages_model(name: str) -> None:
    workload = WORKLOADS[name]
    wanted = jax.eval_shape(task_of(workload).init, jax.random.key(0)).params
    given = params_of(workload)
    assert jax.tree.structure(given) == jax.tree.structure(wanted)
    for ours, theirs in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def test_three_rounds_by_hand() -> None:
    """All clients, one batch of all examples each: a round is one step on everything."""
    workload = dataclasses.replace(
        WORKLOADS["W1-lin"], clients=4, cohort=4, examples=10, batch=10, rate=0.5
    )
    held = prepare(workload, devices=2, lanes=2, chunk=2)
    before = held.loss()
    held.advance(3)  # a whole dispatch and a shorter one
    x, y, w, b = _arrays(workload)
    losses = []
    for _ in range(4):
        logits = x @ w + b
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        losses.append(-np.log(share[np.arange(len(y)), y]).mean())
        share[np.arange(len(y)), y] -= 1
        w, b = w - 0.5 * x.T @ share / len(y), b - 0.5 * share.mean(0)
    assert before == pytest.approx(losses[0], rel=1e-5)
    assert held.loss() == pytest.approx(losses[3], rel=1e-5)


def _arrays(workload):
    from workloads import flat, initial

    data, ((w, b),) = flat(workload), initial(workload)
    return data.x.astype(float), data.y, w.astype(float), b.astype(float)
