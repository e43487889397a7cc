"""What the digits families share: data, tasks, and a truth from the run's own later course.

Tasks: softmax regression with a ridge (`F = cross entropy + 0.005 |w|^2`, strongly convex, so that
F* is known to twelve digits), and an MLP 64-32-10 without one. About 900 training examples over 20
clients. The objective is measured on all training examples after every round; `test_loss` (the
same objective on the test part) and `test_accuracy` are recorded every fifth round.

The truth of every run comes from its own later course: `digits_rule`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Batch, Model, PyTree
from fedjax_sim.data import partition
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.data.bundled import digits
from fedjax_sim.data.federated import Federation
from fedjax_sim.data.partition_base import Partition
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.tasks.build import TaskSpec, classifier
from fedjax_sim.tasks.models import logistic, mlp
from verdict_suite import rules
from verdict_suite.digits_rule import LATER, borne_out, judged
from verdict_suite.runner import Columns, columns_of, simulate
from verdict_suite.suite import LabelledRun, half_of, records_of

CLIENTS, RIDGE, EVALUATE_EVERY = 20, 0.01, 5
PARTITIONS: dict[str, Callable[[], Partition]] = {
    "iid": lambda: partition.iid(clients=CLIENTS),
    "dirichlet_0.3": lambda: partition.dirichlet(clients=CLIENTS, alpha=0.3, min_size=5),
    "dirichlet_0.1": lambda: partition.dirichlet(clients=CLIENTS, alpha=0.1, min_size=5),
    "shards": lambda: partition.shards(clients=CLIENTS, per_client=2),
}
Params = dict[str, Any]


class Problem(NamedTuple):
    """A task on digits.

    Attributes:
      task: what is learned.
      reference: the lowest level, or None: the best of the family's own runs.
      floor: what a user would know.
    """

    task: Task
    reference: float | None
    floor: float


@functools.cache
def federation(name: str) -> Federation:
    """The digits under a partition of `PARTITIONS`."""
    return digits(PARTITIONS[name](), seed=0, central_fraction=0.5)


def softmax_ridge() -> Problem:
    """Softmax regression with a ridge; its floor is its minimum."""
    plain = _bound(classifier(logistic(), classes=10))

    def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
        value, state = plain.loss(key, model, batch)
        squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(model.params)]
        return value + 0.5 * RIDGE * sum(squares), state

    lowest = ridge_minimum()
    return Problem(plain._replace(loss=loss), lowest, lowest)


def small_mlp() -> Problem:
    """An MLP of one hidden layer; cross entropy is known to be >= 0."""
    return Problem(_bound(classifier(mlp(32), classes=10)), None, 0.0)


def _bound(task: Task | TaskSpec) -> Task:
    return task.bind((64,)) if isinstance(task, TaskSpec) else task


@functools.cache
def ridge_minimum() -> float:
    """F* of the ridge task on all training examples, float64."""
    train = federation("iid").train
    return float(minimise(np.asarray(train.x, float), np.asarray(train.y))[0])


def minimise(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """`(minimum, gradient norm there)` of the ridge objective on `x [E, 64]`, `y [E]`."""
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    rows = np.arange(len(y))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scores = x @ flat.reshape(65, 10)
        log_sum = np.logaddexp.reduce(scores, axis=1)
        slope = np.exp(scores - log_sum[:, None])
        slope[rows, y] -= 1
        value = np.mean(log_sum - scores[rows, y]) + 0.5 * RIDGE * flat @ flat
        return float(value), (x.T @ slope / len(y)).ravel() + RIDGE * flat

    options = {"maxiter": 5000, "ftol": 1e-16, "gtol": 1e-10}
    found = optimize.minimize(objective, np.zeros(650), jac=True, method="L-BFGS-B",
                              options=options)  # fmt: skip
    return float(found.fun), float(np.linalg.norm(found.jac))


def stacked(federations: list[Federation]) -> DeviceShards:
    """One federation a run, as `DeviceShards` with leaves `[V, ...]`."""
    take = lambda name: jnp.asarray(np.stack([getattr(f.train, name) for f in federations]))  # noqa: E731
    offsets, sizes = (take(n).astype(jnp.int32) for n in ("offsets", "sizes"))
    longest = max(int(f.train.sizes.max()) for f in federations)
    return DeviceShards(take("x"), take("y"), offsets, sizes, longest)


def swapped(source: Federation, share: float) -> Federation:
    """The federation with every label c of the first `share` of its clients changed to 9 - c."""
    train = source.train
    of_client = np.repeat(np.arange(train.n_clients), train.sizes)
    y = np.where(of_client < round(share * train.n_clients), 9 - train.y, train.y)
    changed = dataclasses.replace(train, y=y.astype(train.y.dtype))
    return dataclasses.replace(source, train=changed)


def train(
    recipe: Recipe,
    problem: Problem,
    given: list[Params],
    federations: list[Federation],
    hyper: dict[str, list[float]],
    *,
    cohort: int,
) -> Columns:
    """All runs of `given` for `LATER` times the longest, with `start` `[V]` added."""
    init = jax.vmap(lambda seed: problem.task.init(jax.random.key(seed)))
    seeds = jnp.asarray([p["seed"] for p in given], jnp.uint32)
    models = init(seeds)
    test = federations[0].central_test
    assert test is not None
    data = stacked(federations)
    columns = simulate(
        recipe, problem.task, data, models, rounds=LATER * max(p["rounds"] for p in given),
        seeds=seeds, hyper=hyper, cohort=cohort, lanes=1,
        test=(jnp.asarray(test[0]), jnp.asarray(test[1])),
    )  # fmt: skip

    def level(model: Model, x: Array, y: Array) -> Array:
        batch = Batch(x, y, jnp.ones(x.shape[0], bool))
        return problem.task.loss(jax.random.key(0), model, batch)[0]

    columns["start"] = np.asarray(jax.vmap(level)(models, data.x, data.y), float)
    columns["seeds"] = np.asarray(seeds, float)
    return columns


def labelled(
    name: str,
    split: str,
    problem: Problem,
    blocks: list[tuple[list[Params], Columns]],
    *,
    random: bool = True,
) -> list[LabelledRun]:
    """Runs labelled by their own later course.

    Args:
      name: the family.
      split: its split.
      problem: the task.
      blocks: runs with what `train` returned for them.
      random: whether batches or cohorts are drawn at random.
    """  # fmt: skip
    best = min(float(np.nanmin(c["objective"])) for _, c in blocks)
    reference = best if problem.reference is None else problem.reference
    runs: list[LabelledRun] = []
    for given, columns in blocks:
        for name_, every in (("test_loss", EVALUATE_EVERY), ("test_accuracy", EVALUATE_EVERY)):
            rounds = np.arange(1, columns[name_].shape[1] + 1)
            columns[name_] = np.where(rounds % every == 0, columns[name_], np.nan)
        for i, params in enumerate(given):
            shown = columns_of(columns, i, "test_loss", "test_accuracy")
            records = records_of(shown, params["rounds"])
            runs.append(_label(name, split, params, columns, i, reference, records,
                               problem.floor, random))  # fmt: skip
    return runs


def _label(
    name: str, split: str, params: Params, columns: Columns, i: int, reference: float,
    records: list[dict[str, Any]], floor: float, random: bool,
) -> LabelledRun:  # fmt: skip
    """One run; the course is cut to three times what is shown, whole and at the half."""
    e = columns["objective"][i] - reference
    start = float(columns["start"][i]) - reference
    broken = "nonfinite" in records[-1]

    def truth(shown: int) -> str | None:
        if broken and shown == len(records):
            return rules.DIVERGING
        own = e[: LATER * shown]
        if random:
            return judged(own, columns["train_loss"][i], start, shown)
        return borne_out(own, start, shown)

    whole, half = truth(len(records)), truth(half_of(len(records)))
    return LabelledRun(name, split, params, whole, half, floor, records)
