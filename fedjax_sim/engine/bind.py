"""Bind a recipe to a task and a plan: here lanes, devices and the trace come in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedjax_sim.core import keys, tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Algorithm, Task
from fedjax_sim.core.types import Aggregate, Array, Cohort, Context, Info, Model, PyTree, Report
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine.cohort import CohortResult, Work, run_cohort
from fedjax_sim.engine.compose import OfTask, Parts, Recipe
from fedjax_sim.engine.plan import Plan

Panel: TypeAlias = Callable[[Parts, Array], Parts]
"""`(parts, round) -> parts`: wraps a round's pieces to measure what passes through them."""


class AlgorithmState(NamedTuple):
    """State of a composed algorithm.

    Attributes:
      hyper: `{name: float scalar}`, the traced hyper-parameters.
      server: the server update's own state.
    """

    hyper: dict[str, Array]
    server: PyTree


def bind(
    recipe: Recipe, task: Task, plan: Plan, mesh: Mesh, *, panel: Panel | None = None
) -> Algorithm:
    """An `Algorithm` from a recipe.

    Args:
      recipe: what `compose` or a recipe builder returned.
      task: what is learned.
      plan: lanes.
      mesh: `plan.devices` devices.
      panel: measures inside the round, given its number (int32, from 0).

    Returns:
      `Algorithm` whose `init` takes `hyper` to override the recipe's numbers without
      compiling anew.
    """

    def parts(state: AlgorithmState) -> Parts:
        return recipe.build(**state.hyper)

    def init(
        key: Array, model: Model, n_clients: int, hyper: dict[str, Any] | None = None
    ) -> AlgorithmState:
        _refuse_new(hyper or {}, recipe)
        numbers = {n: jnp.asarray(v, float) for n, v in (recipe.hyper | (hyper or {})).items()}
        server = recipe.build(**numbers).server
        begun = server.init(model, n_clients)
        if server.draw is not None:
            draw = keys.server_key(key, keys.Purpose.INIT_MODEL)
            begun = server.draw(draw, task.init, begun)
        return tree.strong(AlgorithmState(numbers, begun))

    def init_row(key: Array, model: Model, state: AlgorithmState) -> PyTree:
        return parts(state).client(task).init(key, model)

    def measured(hyper: dict[str, Array], round_index: Array) -> Parts:
        built = recipe.build(**hyper)
        return built if panel is None else panel(built, round_index)

    def work_of(given: tuple[dict[str, Array], Array]) -> Work:
        built = measured(*given)
        return Work(built.client(task), built.aggregator, built.server.receive)

    def step(
        key: Array, state: AlgorithmState, rows: PyTree, cohort: Cohort, data: DeviceShards
    ) -> tuple[AlgorithmState, PyTree, Info]:
        given = (state.hyper, cohort.round)
        built = measured(*given)
        sent = built.server.send(state.server)
        result = run_cohort(work_of, given, sent, rows, cohort, data, key=key, plan=plan, mesh=mesh)
        aggregate = built.aggregator.finalize(result.acc)
        own_key = keys.server_key(key, keys.Purpose.SERVER)
        server = built.server.update(state.server, aggregate, own_key)
        report = _report(parts(state), task, sent, rows, cohort, data, key)
        info = _info(result, aggregate, cohort, sent, built, report)
        return AlgorithmState(state.hyper, tree.strong(server)), result.rows, info

    def model_of(ctx: Context, state: AlgorithmState, row: PyTree, data: Any) -> Model:
        built = parts(state)
        rule = built.model_of
        if rule is None:
            return built.server.model(state.server)
        if isinstance(rule, OfTask):
            rule = rule.build(task)
        return rule(ctx, state.server, row, data)

    def rescale(state: AlgorithmState, factor: Array) -> AlgorithmState:
        change = parts(state).server.rescale
        assert change is not None
        return state._replace(server=tree.strong(change(state.server, factor)))

    def models(state: AlgorithmState) -> Model:
        of_groups = parts(state).server.models
        assert of_groups is not None
        return of_groups(state.server)

    trial = recipe.build(**recipe.hyper)
    return Algorithm(
        init=init,
        init_row=init_row,
        step=step,
        model_of=model_of,
        personal=trial.model_of is not None,
        global_model=(lambda s: parts(s).server.model(s.server)) if trial.shared else None,
        predict=task.predict if trial.predict is None else trial.predict(task),
        rescale=None if trial.server.rescale is None else rescale,
        models=None if trial.shared or trial.server.models is None else models,
    )


def _refuse_new(numbers: dict[str, Any], recipe: Recipe) -> None:
    for name in numbers.keys() - recipe.hyper.keys():
        known = ", ".join(sorted(recipe.hyper)) or "none (give the optimizer as a function)"
        raise InputError(f"hyper.{name}", numbers[name], f"{recipe.name} can vary: {known}")


def _info(
    result: CohortResult,
    aggregate: Aggregate,
    cohort: Cohort,
    sent: PyTree,
    built: Parts,
    report: Report,
) -> Info:
    aux = result.aux
    scalars = {
        "cohort_present": _present(cohort),
        "total_weight": aggregate.weight,
        "client_steps": jnp.sum(result.steps),
        "lane_steps": result.executed,
        "lane_steps_bound": result.bound,
        "downlink_bytes_each": jnp.uint32(_received_bytes(built, sent, cohort)),
        "uplink_bytes_each": jnp.uint32(tree.n_bytes(_travels(report.update))),
    }
    if "loss_sum" in aux:
        count = jnp.sum(aux["loss_count"])
        scalars["train_loss"] = jnp.where(count > 0, jnp.sum(aux["loss_sum"]) / count, jnp.nan)
    if isinstance(aggregate.update, Model):
        scalars["update_norm"] = _update_norm(aggregate)
    own = {n: v for n, v in aggregate.aux.items() if getattr(v, "ndim", None) == 0}
    trees = {n: v for n, v in aggregate.aux.items() if n not in own}
    return Info(scalars | own, aux | {"steps": result.steps}, trees)


def _travels(update: PyTree) -> PyTree:
    """What of an update goes up; which coordinates a client holds is known at both ends."""
    return update.model if "held" in getattr(update, "_fields", ()) else update


def _present(cohort: Cohort) -> Array:
    """How many members of the cohort are present."""
    return jnp.sum(cohort.members.present, dtype=jnp.int32)


def _update_norm(aggregate: Aggregate) -> Array:
    """|u|; of M groups' updates the root mean square of theirs, by the groups' weights."""
    params = aggregate.update.params
    if "group_weight" not in aggregate.aux:
        return jnp.sqrt(tree.squared_norm(params))
    weight = aggregate.aux["group_weight"]
    share = weight / jnp.where(aggregate.weight > 0, aggregate.weight, 1)
    return jnp.sqrt(jnp.sum(share * jax.vmap(tree.squared_norm)(params)))


def _report(
    built: Parts,
    task: Task,
    sent: PyTree,
    rows: PyTree,
    cohort: Cohort,
    data: DeviceShards,
    key: Array,
) -> Report:
    """The shapes of one client's report; its local steps are not traced."""

    def one(sent: PyTree, rows: PyTree, cohort: Cohort, data: DeviceShards, key: Array) -> Report:
        client = built.client(task)
        member = tree.take(cohort.members, jnp.int32(0))
        ctx = Context(keys.client_key(key, member.id), cohort.round, member)
        received, row = built.server.receive(sent, member), tree.take(rows, jnp.int32(0))
        window = data.client(member.id)
        work = client.start(ctx, received, row, window)
        return client.finish(ctx, work, received, row, window)[0]

    return jax.eval_shape(one, sent, rows, cohort, data, key)


def _received_bytes(built: Parts, sent: PyTree, cohort: Cohort) -> int:
    member = tree.take(cohort.members, jnp.int32(0))
    return tree.n_bytes(jax.eval_shape(built.server.receive, sent, member))
