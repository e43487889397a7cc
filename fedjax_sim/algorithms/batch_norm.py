"""Batch-norm policies: what any algorithm does with statistics that differ by client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedjax_sim.aggregation.mean import MeanAcc, mean
from fedjax_sim.clients.calibrate import calibrating_norms, measuring
from fedjax_sim.clients.keep import begun_leaves
from fedjax_sim.clients.norms import frozen_norms, local_norms, norm_leaves, norm_mask
from fedjax_sim.core import parts as cut
from fedjax_sim.core.checks import InputError, choice, integer
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine.cohort import Work, run_cohort
from fedjax_sim.engine.compose import Parts, Recipe
from fedjax_sim.engine.evaluate import everyone
from fedjax_sim.engine.plan import Plan
from fedjax_sim.server.norms import calibrates
from fedjax_sim.tasks import norms
from fedjax_sim.tasks.norms import Calibration

POLICIES = ("average", "local", "frozen", "recalibrated")


def batch_norm(
    recipe: Recipe,
    policy: str,
    *,
    after: int = 0,
    affine: bool = False,
    rounds: int | None = None,
    every: int = 0,
) -> Recipe:
    """A recipe under a batch-norm policy; its numbers, name and cohort stay.

    - `average`: the recipe as it is. Clients train on their batches' statistics; running
      statistics are averaged plainly, scale and bias as any parameter.
    - `local`: batch norms stay with their clients (`clients.norms.local_norms`).
    - `frozen`: after some rounds, training uses the averaged running statistics
      (`clients.norms.frozen_norms`).
    - `recalibrated`: trains as `average`; the last rounds train nothing and settle the exact
      pooled statistics of the cohort for the shared weights, a layer a round
      (`clients.calibrate.calibrating_norms`). For everyone's data after a run see `recalibrate`.

    The fifth remedy, another normalisation, is one of the model: `norm="group"`.

    Args:
      recipe: any; each policy says which it does not suit.
      policy: one of `POLICIES`.
      after: `frozen`: rounds that train as usual first.
      affine: `frozen`: scales and biases stay too.
      rounds: `recalibrated`: R, whose last rounds calibrate.
      every: `recalibrated`: the last rounds of each block of so many calibrate too, such as
        the rounds between two evaluations; 0 for none.

    Raises:
      InputError: naming the field; for a model without batch norm when the run is prepared.

    Example:
      >>> import optax
      >>> from fedjax_sim.algorithms.fedavg import fedavg
      >>> batch_norm(fedavg(lambda lr: optax.sgd(lr), lr=0.1), "local").hyper
      {'lr': 0.1}
    """
    choice("client.batch_norm", policy, POLICIES)
    integer("client.batch_norm.after", after, least=0)
    integer("client.batch_norm.every", every, least=0)
    if policy == "average":
        return recipe
    if policy == "recalibrated" and rounds is None:
        raise InputError("client.batch_norm.rounds", rounds, "is needed: the last rounds calibrate")
    calibration = Calibration(rounds or 0, every)

    def build(**hyper: Any) -> Parts:
        parts = recipe.build(**hyper)
        if policy == "local":
            return _local(parts)
        if policy == "frozen":
            client = frozen_norms(parts.client, after=after, affine=affine)
            return parts._replace(client=client)
        return _recalibrated(parts, calibration)

    return recipe._replace(build=build)


def _local(parts: Parts) -> Parts:
    if parts.model_of is not None:
        remedy = "is for algorithms with one shared model; this one has personal models already"
        raise InputError("client.batch_norm", "local", remedy)

    def model_of(ctx: Context, state: PyTree, row: Any, data: Any) -> Model:
        del ctx, data
        shared = parts.server.model(state)
        kept = norm_mask(shared, norms.find(shared))
        return cut.put(shared, kept, begun_leaves(row, shared, kept))

    return parts._replace(client=local_norms(parts.client), model_of=model_of)


def _recalibrated(parts: Parts, calibration: Calibration) -> Parts:
    if parts.model_of is not None or not parts.shared:
        remedy = "is for algorithms with one shared model"
        raise InputError("client.batch_norm", "recalibrated", remedy)

    def zero(report: Report, k: int) -> PyTree:
        acc = parts.aggregator.zero(report, k)
        if not isinstance(acc, MeanAcc):
            remedy = "needs an algorithm that takes the weighted mean of reports"
            raise InputError("client.batch_norm", "recalibrated", remedy)
        return acc

    return parts._replace(
        client=calibrating_norms(parts.client, calibration),
        aggregator=parts.aggregator._replace(zero=zero),
        server=calibrates(parts.server, calibration),
    )


def recalibrate(
    task: Task, data: DeviceShards, *, plan: Plan, mesh: Mesh
) -> Callable[[Model], Model]:
    """A function that gives a model the exact statistics of all clients' examples.

    One pass over the data for each batch norm, first layer first; pure, to be jitted.

    Args:
      task: what the model was trained on.
      data: of all N clients.
      plan: lanes.
      mesh: the plan's devices.

    Returns:
      `(Model) -> Model`, of the same params.

    Raises:
      InputError: for a model without batch norm.

    Cost: a forward pass over all examples for each batch norm.
    """
    at = norm_leaves(task, "recalibrated")
    work = Work(measuring(task), mean(), lambda sent, member: sent)
    cohort = everyone(data.n_clients, jnp.zeros((), jnp.int32))

    def once(_: Array, model: Model) -> Model:
        key = jax.random.key(0)
        result = run_cohort(
            lambda hyper: work, (), model, (), cohort, data, key=key, plan=plan, mesh=mesh
        )
        return norms.settled(model, work.aggregator.finalize(result.acc).update, at)

    return lambda model: jax.lax.fori_loop(0, len(at.means), once, model)
