"""What clients are grouped by: label histograms, sketches of their inputs, sketches of updates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.clients.wrap import with_report
from fedjax_sim.core import keys, tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Aggregator
from fedjax_sim.core.types import Aggregate, Array, PyTree, Report
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.engine.cohort import Work, run_cohort
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.engine.evaluate import everyone
from fedjax_sim.experiment.prepare import prepare
from fedjax_sim.experiment.probe import shards_for_device
from fedjax_sim.experiment.settings import UNWATCHED, Settings
from fedjax_sim.grouping.similarity import feature_sketches, label_histograms
from fedjax_sim.grouping.sketch import sketch_tree

LABELS, FEATURES, UPDATES = "labels", "features", "updates"
KINDS = (LABELS, FEATURES, UPDATES)

Measure = Callable[[Shards], np.ndarray]
"""From training data to features float64 `[N, d]`; compiled once for one shape of data."""


def by_labels(n_classes: int | None) -> Measure:
    """Roots of label shares: their distance is Hellinger's.

    Raises:
      InputError: targets that are no classes.
    """
    if n_classes is None:
        remedy = "these data have no labels; give features or updates"
        raise InputError("by", LABELS, remedy)

    def measure(data: Shards) -> np.ndarray:
        found = label_histograms(data.y, data.offsets, data.sizes, n_classes, form="sqrt")
        return np.asarray(found, np.float64)

    return measure


def by_features(dim: int, seed: int) -> Measure:
    """Random projections of each client's mean input and mean squared input, `[N, 2 dim]`.

    Both parts are scaled to the same size over all clients, and the mean client taken off.
    """
    key = jax.random.key(seed)

    def measure(data: Shards) -> np.ndarray:
        if np.issubdtype(data.x.dtype, np.integer) and data.x.ndim > 1 and data.x.itemsize > 1:
            remedy = "inputs are whole numbers (tokens), whose means say little; give labels"
            raise InputError("by", FEATURES, remedy)
        found = feature_sketches(key, data.x, data.offsets, data.sizes, dim, second=True)
        parts = np.split(np.asarray(found, np.float64), 2, axis=1)
        return np.concatenate([_scaled(part) for part in parts], axis=1)

    return measure


def by_updates(
    recipe: Recipe,
    task: Any,
    federation: Federation,
    dim: int,
    seed: int,
    *,
    devices: int | None = None,
) -> Measure:
    """Sketches of what each client would send in round 1, `[N, dim]`.

    All clients train from one initial model, as the recipe says; each update is projected on
    `dim` random directions inside the round, so that N x P numbers are never held. Updates
    are scaled to length 1 and the mean client taken off.

    Raises:
      InputError: an algorithm whose clients do not train one by one.

    Cost: one round of all clients.
    """
    if recipe.cohort is not None:
        remedy = f"the clients of {recipe.name} send no updates of their own"
        raise InputError("algorithm.name", recipe.name, remedy)
    n = federation.n_clients
    settings = Settings(cohort=n, seed=seed, devices=devices, diagnosis=UNWATCHED)
    bare = dataclasses.replace(federation, test=None, central_test=None)
    p = prepare(recipe, task, bare, settings)
    state = jax.jit(lambda: p.init_state(None))()
    hyper = state.algorithm.hyper
    sketched = jax.random.key(seed)

    def sketching(report: Report, steps: Array) -> Report:
        del steps
        update = getattr(report.update, "params", report.update)
        return report._replace(update=(), aux={"sketch": sketch_tree(sketched, update, dim)})

    def work(numbers: PyTree) -> Work:
        parts = recipe.build(**numbers)
        client = with_report(parts.client, sketching)
        return Work(client(p.task), _nothing(), parts.server.receive)

    @jax.jit
    def run(numbers: PyTree, server: PyTree, rows: PyTree, data: Any) -> Array:
        sent = recipe.build(**numbers).server.send(server)
        cohort = everyone(n, jnp.zeros((), jnp.int32))
        key = keys.round_key(p.key, 0)
        done = run_cohort(
            work, numbers, sent, rows, cohort, data, key=key, plan=p.plan, mesh=p.mesh
        )
        return done.aux["sketch"]

    def measure(data: Shards) -> np.ndarray:
        found = run(hyper, state.algorithm.server, state.rows, shards_for_device(data))
        updates = np.asarray(found, np.float64)
        bad = np.flatnonzero(~np.isfinite(updates).all(axis=1))
        if len(bad):
            remedy = f"the update of client {bad[0]} is not finite: train with a lower rate"
            raise InputError("by", UPDATES, remedy)
        length = np.linalg.norm(updates, axis=1, keepdims=True)
        return _scaled(updates / np.maximum(length, 1e-300))

    return measure


def _nothing() -> Aggregator:
    """Adds nothing up: sketches travel in `aux`."""
    return Aggregator(
        zero=lambda report, k: (),
        accumulate=lambda acc, reports, rows: acc,
        merge=None,
        finalize=lambda acc: Aggregate(acc, jnp.ones(()), jnp.zeros((), jnp.int32), {}),
        bytes_held=lambda report, k: tree.n_bytes(()),
    )


def _scaled(part: np.ndarray) -> np.ndarray:
    """About the mean client, of mean square 1 a client."""
    about = part - part.mean(axis=0, keepdims=True)
    size = np.sqrt(np.mean(np.sum(about**2, axis=1)))
    return about / size if size > 0 else about


def dealt_anew(data: Shards, ids: np.ndarray, rng: np.random.Generator) -> Shards:
    """The same sizes with the examples of each group dealt anew among its clients.

    Args:
      data: training examples.
      ids: int `[N]`, each client's group; clients of one group are alike afterwards.
      rng: deals.
    """
    x, y = data.in_order()
    owner = np.repeat(ids, data.sizes)
    shuffle = rng.permutation(len(owner))
    order = np.empty(len(owner), np.int64)
    order[np.argsort(owner, kind="stable")] = shuffle[np.argsort(owner[shuffle], kind="stable")]
    sizes = data.sizes
    return Shards(x[order], y[order], np.cumsum(sizes) - sizes, sizes)
