"""What the digits families share: data, tasks, and a truth from the run's own later course.

Tasks: softmax regression with a ridge (`F = cross entropy + 0.005 |w|^2`, strongly convex, so that
F* is known to twelve digits), and an MLP 64-32-10 without one. About 900 training examples over 20
clients. The objective is measured on all training examples after every round; `test_loss` (the
same objective on the test part) and `test_accuracy` are recorded every fifth round.

Where nothing is random (`random=False`), the common rule judges the exact objective against the
reference level (F* of the ridge, or the best level that any run of the task reaches), and its
verdict stands only if the run's later course bears it out. Every run goes on for three times the
rounds shown (at the half: of the half):
- `converged`: the later excess never exceeds 6 % of the start;
- `converging`: at 3R it is at most 80 % of that at R;
- `stagnating`: it never falls below 70 % of that at R;
- `oscillating`: the rounds R to 3R still swing (size >= 0.3, damping < 4), and the second half of
  what is shown repeats itself (an autocorrelation above 0.5 at some lag of 2 to 16): no chaos;
- `diverging`: not finite, or at 3R above 100 times what it is at R and the start.

Where batches or cohorts are random, the excess is a path with noise, and what is compared are its
means over the third quarter (m1) and the last (m2) of what is shown, over R..2R (l1) and 2R..3R
(l2). The standard error s of m2 - m1 comes from the scatter around a running mean in the second
half. Left out is whatever fits none of these:
- fewer than 10 records, the last not above 1.05 times the start: `too early to say`;
- a number that is not finite while shown: `diverging`; only later: left out;
- up to 30 records whose training loss changes between its halves by less than 0.7 standard errors
  of its scatter: `too early to say`, unless the excess is above 1.2 times the start; by less than
  4, and up to 40 records: left out;
- structured scatter: an autocorrelation over R/2..3R below -0.5 at lag 1 or above 0.5 at lags 2 to
  10 while the scatter exceeds 10 % of the level: left out, as swings and noise mix there;
- m2 <= 0.85 m1 by more than 4 s, l1 <= 0.8 m2, m2 >= 1.5 % of the start: `converging`;
- m2 below 1e-3 of the start, and l1 and l2 too: `converged`;
- flat: |m2 - m1| <= 5 % of m1, or 2 s but no more than 20 %; l1 and l2 within 15 % of the level
  (m2 + l1)/2, or 2 s but no more than 25 %. Flat below 4 % of the start (m2, l1 and l2, at least
  20 records): `converged`; flat between 18 % and 120 % (at least 36 records, the first round still
  shows half of the start, and the scatter is no more than 30 % of the level, or swings would be
  as fair a word): `stagnating`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize
from verdict_suite import rules
from verdict_suite.rules import Course
from verdict_suite.runner import Columns, columns_of, simulate
from verdict_suite.suite import LabelledRun, half_of, records_of

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

CLIENTS, RIDGE, EVALUATE_EVERY = 20, 0.01, 5
LATER = 3
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
    return Federation(train._replace(y=y) if hasattr(train, "_replace") else _with(train, y),
                      central_test=source.central_test)  # fmt: skip


def _with(train: Any, y: np.ndarray) -> Any:
    return type(train)(train.x, y.astype(train.y.dtype), train.offsets, train.sizes)


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
    name: str, split: str, problem: Problem, blocks: list[tuple[list[Params], Columns]],
    *, random: bool = True,
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
        course = Course(own, start, unbounded=_grows(own, shown, start))
        found = rules.verdict_of(course, shown)
        return None if found is None or _not_borne_out(course, found, shown) else found

    whole, half = truth(len(records)), truth(half_of(len(records)))
    return LabelledRun(name, split, params, whole, half, floor, records)


def judged(e: np.ndarray, seen: np.ndarray, start: float, shown: int) -> str | None:
    """The truth of a run with randomness.

    Args:
      e: `[3 shown]`, its excess after each round.
      seen: its training loss, at least `[shown]`.
      start: excess before round 1.
      shown: records seen.
    """
    if shown < rules.FEWEST:
        fine = np.isfinite(e[:shown]).all() and e[shown - 1] <= 1.05 * start
        return rules.EARLY if fine else None
    if not np.isfinite(e).all():
        return None
    early = _hidden(seen[:shown], shown)
    if early != "visible":
        return early if np.mean(e[:shown]) <= 1.2 * start else None
    half, three, twice = shown // 2, 3 * shown // 4, 2 * shown
    m1, m2, l1, l2 = (
        float(np.mean(e[a:b]))
        for a, b in ((half, three), (three, shown), (shown, twice), (twice, LATER * shown))
    )
    scatter = (e - smoothed(e, shown))[half:]
    error = float(np.std(scatter[: shown - half])) * np.sqrt(2 / (shown - three))
    if np.std(scatter) > 0.1 * abs(m2) and _structured(scatter):
        return None
    if m1 - m2 > max(0.15 * m1, 4 * error) and l1 <= 0.8 * m2 and m2 >= 0.015 * start:
        return rules.CONVERGING
    if max(m2, l1, l2) < 1e-3 * start:
        return rules.CONVERGED
    level = (m2 + l1) / 2
    flat = abs(m2 - m1) <= min(max(0.05 * m1, 2 * error), 0.2 * m1)
    near = min(max(0.15 * level, 2 * error), 0.25 * level)
    if not flat or max(abs(l1 - level), abs(l2 - level)) > near:
        return None
    if max(m2, l1, l2) <= 0.04 * start and shown >= 20:
        return rules.CONVERGED
    high = 0.18 * start <= level <= 1.2 * start and shown > rules.SHORT + 5
    begun = e[0] >= 0.5 * start
    return rules.STAGNATING if high and begun and np.std(scatter) <= 0.3 * level else None


def _hidden(seen: np.ndarray, shown: int) -> str | None:
    """`EARLY`, None (left out), or "visible", by the training loss and its scatter."""
    if shown > rules.SHORT + 10:
        return "visible"
    noise = float(np.std(seen - smoothed(seen, shown)))
    half = shown // 2
    change = abs(float(np.mean(seen[:half]) - np.mean(seen[half:])))
    z = change / max(2 * noise / np.sqrt(shown), 1e-300)
    if z > 4:
        return "visible"
    return rules.EARLY if z < 0.7 and shown <= rules.SHORT else None


def _structured(scatter: np.ndarray) -> bool:
    """Whether the scatter alternates or repeats."""
    lags = _correlations(scatter, 10)
    return lags[0] < -0.5 or max(lags[1:]) > 0.5


def _correlations(x: np.ndarray, most: int) -> list[float]:
    """Autocorrelations of `x [n]` at lags 1 to `most`, each over the pairs that there are."""
    centred = x - x.mean()
    power = float(np.mean(centred**2)) or 1.0
    lags = range(1, min(most, len(x) - 2) + 1)
    return [float(np.mean(centred[k:] * centred[:-k])) / power for k in lags]


def smoothed(e: np.ndarray, shown: int) -> np.ndarray:
    """Centred mean over `max(5, shown / 8)` rounds, shorter at the ends."""
    reach = max(5, shown // 8) // 2
    total = np.concatenate([[0.0], np.cumsum(e)])
    at = np.arange(len(e))
    # The same reach on both sides, or a slope would shift the ends.
    side = np.minimum(np.minimum(at, len(e) - 1 - at), reach)
    return (total[at + side + 1] - total[at - side]) / (2 * side + 1)


def _grows(e: np.ndarray, shown: int, start: float) -> bool:
    if not np.isfinite(e).all():
        return True
    return bool(e[-1] > 100 * max(e[shown - 1], start))


def _not_borne_out(course: Course, verdict: str, rounds: int) -> bool:
    """Whether the course after `rounds` contradicts the verdict."""
    e, later = course.excess, course.excess[rounds : LATER * rounds]
    if verdict in (rules.EARLY, rules.DIVERGING) or not len(later):
        return False
    now = float(e[rounds - 1])
    if verdict == rules.CONVERGED:
        return bool(later.max() > 0.06 * course.start)
    if verdict == rules.CONVERGING:
        return bool(later[-max(rounds // 8, 1) :].mean() > 0.8 * now)
    if verdict == rules.STAGNATING:
        return bool(later.min() < 0.7 * now)
    size, damping, turns, _ = rules.swings(later)
    swings_on = turns >= 6 and size >= 0.3 and damping < 4
    return not swings_on or max(_correlations(e[rounds // 2 : rounds], 16)[1:]) < 0.5
