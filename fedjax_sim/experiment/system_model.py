"""From `Systems` to a sampler on a virtual clock: fleet, cost of a step, bytes, choice."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core import tree
from fedjax_sim.core.branches import branch_of, conditional
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Sampler, Task
from fedjax_sim.core.types import Array, Context, Member, PyTree
from fedjax_sim.data.federated import Federation
from fedjax_sim.engine import mesh as meshes
from fedjax_sim.engine.bind import bind
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.engine.lane_shapes import LaneShapes, lane_shapes, program_flops
from fedjax_sim.engine.plan import Plan
from fedjax_sim.experiment.probe import shards_for_device
from fedjax_sim.experiment.systems import Systems
from fedjax_sim.sampling.deadline import over_selected
from fedjax_sim.sampling.equal_time import equal_time
from fedjax_sim.sampling.select import Select, uniform_online, wrapped
from fedjax_sim.sampling.tiers import Adaptive, tiers
from fedjax_sim.sampling.timed import System, timed
from fedjax_sim.systems import availability as when
from fedjax_sim.systems.cost import Load, branch_flops
from fedjax_sim.systems.fleet import Fleet, fleet
from fedjax_sim.systems.networks import steady


def system_sampler(
    asked: Systems,
    recipe: Recipe,
    task: Task,
    federation: Federation,
    *,
    cohort: int,
    rounds: int,
    sampler: Sampler | None = None,
) -> Sampler:
    """The sampler of a run on a system.

    Args:
      asked: what is simulated.
      recipe: the algorithm, whose local step and messages are what devices work on.
      task: bound to the data's shape.
      federation: the data.
      cohort: K, reports that a round waits for.
      rounds: R of the run.
      sampler: a choice of the user's own, to be put on the clock.

    Raises:
      InputError: naming the field.

    Cost: traces and lowers one local step; compiles only how many steps each client does.
    """
    with _named():
        load = load_of(recipe, task, federation)
        devices = fleet_of(asked, federation)
        select = _select(asked, federation.n_clients, cohort, rounds, sampler)
        system = System(devices, load, _availability(asked), asked.dropout)
        return timed(
            select,
            system,
            deadline_s=asked.deadline_s,
            late=asked.late,
            wanted=cohort,
            work=equal_time(devices, load, share=asked.equal_share)
            if asked.select == "equal_time"
            else None,
        )


def load_of(recipe: Recipe, task: Task, federation: Federation) -> Load:
    """What one round of an algorithm asks of clients; nothing is trained.

    All local steps of a client are taken to cost the same, and partial work to be a share of all
    of them. Where a client measures before it trains, that cost is the mean of its own steps.

    Args:
      recipe: the algorithm.
      task: bound to the data's shape.
      federation: the data.
    """
    data = shards_for_device(federation.train)
    algorithm = bind(recipe, task, Plan(), meshes.make_mesh(1))
    key = jax.random.key(0)
    model = jax.eval_shape(lambda k: tree.strong(task.init(k)), key)
    state = jax.eval_shape(lambda m: algorithm.init(key, m, federation.n_clients), model)
    row = jax.eval_shape(lambda m, s: algorithm.init_row(key, m, s), model, state)
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), row)
    shapes = lane_shapes(recipe, task, state, rows, data, 1)

    def received(state: Any) -> PyTree:
        server = recipe.build(**state.hyper).server
        return server.receive(server.send(state.server), _member(jnp.int32(0)))

    def steps(client_id: Array, data: Any, hyper: Any) -> Array:
        client = recipe.build(**hyper).client(task)
        ctx = Context(key, jnp.int32(0), _member(client_id))
        return client.steps(ctx, data.client(client_id)).astype(jnp.int32)

    hyper = {n: np.asarray(v, float) for n, v in recipe.hyper.items()}
    everyone = np.arange(federation.n_clients, dtype=np.int32)
    each = jax.jit(jax.vmap(steps, in_axes=(0, None, None)))(everyone, data, hyper)
    return Load(
        flops_per_step=_step_costs(recipe, task, state, shapes, data, np.asarray(each)),
        down_bytes=float(tree.n_bytes(jax.eval_shape(received, state))),
        up_bytes=float(tree.n_bytes(shapes.report.update)),
        steps=np.asarray(each),
    )


def _step_costs(
    recipe: Recipe, task: Task, state: Any, shapes: LaneShapes, data: Any, steps: np.ndarray
) -> Any:
    """Operations of a local step: one number, or `[N]`, each client's mean over all its steps."""
    costs = branch_flops(shapes.step, program_flops)
    if len(set(costs)) == 1:
        return costs[0]

    def step(client_id: Array, t: Array, data: Any, work: PyTree, state: Any) -> PyTree:
        built = recipe.build(**state.hyper)
        member = _member(client_id)
        ctx = Context(jax.random.key(0), jnp.int32(0), member)
        received = built.server.receive(built.server.send(state.server), member)
        return built.client(task).step(ctx, t, work, received, data.client(client_id))

    def blank(x: Any) -> Any:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), x.shape)
        return jnp.zeros(x.shape, x.dtype)

    one = jnp.int32(0)
    program = jax.make_jaxpr(step)(one, one, data, shapes.work, state)
    which = branch_of(program, conditional(program))
    rest = jax.tree.leaves(jax.tree.map(blank, (shapes.work, state)))
    leaves, numbers = jax.tree.leaves(data), jnp.asarray(costs, float)

    @jax.jit
    def mean(clients: Array, steps: Array, leaves: Any, rest: Any) -> Array:
        def add(t: Array, total: Array) -> Array:
            taken = jax.vmap(lambda i: which(i, t, *leaves, *rest))(clients)
            return total + jnp.where(t < steps, numbers[taken.astype(jnp.int32)], 0)

        total = jax.lax.fori_loop(0, jnp.max(steps), add, jnp.zeros(steps.shape))
        return total / jnp.maximum(steps, 1)

    everyone = jnp.arange(len(steps), dtype=jnp.int32)
    found = np.asarray(mean(everyone, jnp.asarray(steps, jnp.int32), leaves, rest), float)
    return np.maximum(found, min(costs))


def fleet_of(asked: Systems, federation: Federation) -> Fleet:
    """The devices and links of a federation's clients."""
    values = None
    if asked.correlate != 0:
        values = federation.train.sizes
        if asked.correlate_with == "group":
            values = federation.meta.get("group")
            if values is None:
                remedy = "needs data with planted groups (federation.meta['group'])"
                raise InputError("correlate_with", "group", remedy)
    equal = asked.fleet == "equal"
    return fleet(
        federation.n_clients,
        seed=asked.seed,
        devices=(1.0,) if equal else None,
        links=steady() if equal else None,
        median_flops=asked.median_flops,
        correlated_with=values,
        correlation=asked.correlate,
        online=1.0 if asked.availability == "always" else asked.online,
    )


def _member(client_id: Array) -> Member:
    return Member(client_id, jnp.bool_(True), jnp.int32(0), jnp.ones(()))


def _select(
    asked: Systems, n_clients: int, cohort: int, rounds: int, sampler: Sampler | None
) -> Select:
    if sampler is not None:
        if asked.select not in ("uniform", "equal_time") or asked.over_select > 0:
            remedy = "chooses by itself: leave sampler out, or select and over_select"
            raise InputError("sampler", "a sampler", remedy)
        return wrapped(sampler, n_clients)
    size = over_selected(cohort, asked.over_select)
    if size > n_clients:
        remedy = f"chooses {size} clients, and there are {n_clients}"
        raise InputError("over_select", asked.over_select, remedy)
    if asked.select in ("uniform", "equal_time"):
        return uniform_online(size, n_clients)
    room = n_clients // asked.tiers
    if cohort <= room < size:
        remedy = f"chooses {size} clients, and one of systems.tiers = {asked.tiers} has {room}"
        raise InputError("over_select", asked.over_select, remedy)
    adaptive = None
    if asked.select == "adaptive_tiers":
        adaptive = Adaptive(rounds, asked.tier_interval)
    return tiers(
        size,
        n_clients,
        count=asked.tiers,
        probabilities=asked.tier_probabilities,
        adaptive=adaptive,
        retier_every=asked.retier_every,
    )


def _availability(asked: Systems) -> when.Availability:
    return {
        "always": when.always,
        "bernoulli": when.bernoulli,
        "diurnal": when.diurnal,
        "markov": when.markov,
    }[asked.availability]()


_OF_THE_RUN = {"cohort": "run.cohort", "sampler": "sampler"}


@contextmanager
def _named() -> Generator[None]:
    """Faults of the pieces, under the names of the section."""
    try:
        yield
    except InputError as error:
        if "." in error.field:
            raise
        field = _OF_THE_RUN.get(error.field, f"systems.{error.field}")
        raise InputError(field, error.value, error.remedy) from None
