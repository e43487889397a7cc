"""The federated objective as a landscape: height, slope and curvature, streamed by the engine.

`f(x) = sum_i w_i f_i(x)`, with f_i the mean loss of client i and the model's state (batch
statistics) held fixed. A shared point is measured on wide windows of the flat data, whatever
client an example belongs to, unless clients count alike. Hessian-vector products come in blocks:
the pass that linearizes the gradient is shared by all vectors of a block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError, choice, integer
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData, DeviceShards
from fedjax_sim.data.federated import Shards
from fedjax_sim.engine import mesh as meshes
from fedjax_sim.engine import plan as plans
from fedjax_sim.engine.cohort import Work, run_cohort
from fedjax_sim.engine.evaluate import everyone, windows
from fedjax_sim.engine.plan import Plan

Vector: TypeAlias = np.ndarray
Sums: TypeAlias = "tuple[PyTree, Array]"
SumLoss: TypeAlias = Callable[[PyTree, PyTree, Batch, Array], "tuple[Array, Array]"]
"""`(params, state, batch, key) -> (sum of the loss, how many it is a sum over)`."""

TRAINED, HELD = "training loss", "loss in evaluation mode"
WEIGHTINGS = ("examples", "uniform")


class Received(NamedTuple):
    """What every client gets: a point, the model's state, and what to measure there."""

    params: PyTree
    state: PyTree
    extra: PyTree


@dataclasses.dataclass(frozen=True)
class Landscape:
    """The objective of one task, state and data set; all vectors are flat `[P]`, in NumPy.

    Attributes:
      point: where the model stands.
      tree: `(vector [P]) -> params`, the vector in the shape of the model's params.
      slope: `(x [P]) -> (f, gradient [P])`, f a scalar.
      products: `(x [P], v [b, P]) -> [b, P]`, the Hessian at x times each vector.
      along: `(x [P], v [P], distances [k]) -> f(x + distance v) [k]`.
      measured: which loss this is: `training loss` or `loss in evaluation mode`.
      weighting: `examples` or `uniform`.
      plan: lanes and devices.
      epsilon: rounding unit of the model's numbers.
      move: `(Model) -> Landscape`, the same at another model, its state included; compiles
        nothing.
    """

    point: Vector
    tree: Callable[[Vector], PyTree]
    slope: Callable[[Vector], tuple[np.ndarray, Vector]]
    products: Callable[[Vector, np.ndarray], np.ndarray]
    along: Callable[[Vector, Vector, np.ndarray], np.ndarray]
    measured: str
    weighting: str
    plan: Plan
    epsilon: float
    move: Callable[[Model], Landscape]


def landscape(
    task: Task,
    model: Model,
    data: Shards | DeviceShards,
    *,
    weighting: str = "examples",
    batch_size: int = 256,
    plan: Plan | None = None,
    measured: str | None = None,
    seed: int = 0,
) -> Landscape:
    """The objective around a model.

    Args:
      task: gives the loss.
      model: the point, and the state that is held fixed.
      data: all clients' examples; those of one round, `data.at(round)`, where they change.
      weighting: `examples` (a client counts by its examples) or `uniform` (clients alike).
      batch_size: examples a step; the mean does not depend on it.
      plan: lanes and devices; chosen by rule where not given.
      measured: `training loss` is `task.loss`; `loss in evaluation mode` is the task's metric
        `loss` of its predictions, with batch statistics as they are and without dropout. By
        default the latter where the model has a state or the loss draws random numbers.
      seed: of what the training loss draws, which is the same in every call.

    Raises:
      InputError: no clients, an unknown weighting, params that are not floating, data that
        change with the round.

    Cost: a call passes once over the data. `slope`: lanes x P beside the activations of a batch.
    `products`: lanes x b x P, about 1 to 2 gradients a vector, and one shared gradient a block.
    """
    choice("weighting", weighting, WEIGHTINGS)
    integer("batch_size", batch_size, least=1)
    check_unchanging(data)
    flat, unravel = _flattened(model.params)
    measured = measured or which_loss(task, model, data)
    choice("measured", measured, (TRAINED, HELD))
    cut = _cut(data, weighting, batch_size, plan, flat.size)
    mesh = meshes.make_mesh(cut.plan.devices)
    placed, key = meshes.place(cut.data, mesh), jax.random.key(seed)

    def program(measure: Callable[[Received, Batch, Array], Sums]) -> Callable[..., Any]:
        fold = mean()
        work = Work(summing(measure, cut.batches, weighting), fold, lambda sent, member: sent)

        def run(x: Array, extra: PyTree, state: PyTree, data: DeviceShards) -> PyTree:
            sent = Received(unravel(x), state, extra)
            cohort = everyone(data.n_clients, jnp.zeros((), jnp.int32))
            result = run_cohort(
                lambda _: work, (), sent, (), cohort, data, key=key, plan=cut.plan, mesh=mesh
            )
            return fold.finalize(result.acc).update

        jitted = jax.jit(run)

        def at(state: PyTree, x: Vector, *extra: Vector) -> PyTree:
            vectors = [np.asarray(v, flat.dtype) for v in (x, *extra)]
            here, given, state = meshes.place((vectors[0], tuple(vectors[1:]), state), mesh)
            out = jitted(here, given, state, placed)
            return jax.tree.map(lambda v: np.asarray(v, np.float64), out)

        return at

    slope, products, along = (program(m) for m in measures(sum_loss(task, measured), unravel))

    def around(model: Model) -> Landscape:
        state = jax.tree.map(jnp.asarray, model.state)
        return Landscape(
            point=np.asarray(ravel_pytree(model.params)[0], np.float64),
            tree=lambda v: jax.tree.map(np.asarray, unravel(jnp.asarray(v, flat.dtype))),
            slope=lambda x: slope(state, x),
            products=lambda x, v: products(state, x, v),
            along=lambda x, v, at: along(state, x, v, at),
            measured=measured,
            weighting=weighting,
            plan=cut.plan,
            epsilon=float(jnp.finfo(flat.dtype).eps),
            move=around,
        )

    return around(model)


def check_unchanging(data: Shards | DeviceShards) -> None:
    """Refuse data that change with the round: which of them are meant is not said."""
    if isinstance(data, Shards) and data.stages is not None:
        remedy = "the data change with the round; give those of one, data.at(round)"
        raise InputError("data.stages", len(data.stages), remedy)


def _flattened(params: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    params = jax.tree.map(jnp.asarray, params)
    for leaf in jax.tree.leaves(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise InputError("model.params", leaf.dtype, "must be floating-point numbers")
    if not tree.n_entries(params):
        raise InputError("model.params", "(nothing)", "must hold at least one number")
    return ravel_pytree(params)


def sum_loss(task: Task, measured: str) -> SumLoss:
    """The loss of a batch as a sum, so that batches of any width add up to one mean."""

    def trained(params: PyTree, state: PyTree, batch: Batch, key: Array) -> tuple[Array, Array]:
        value, _ = task.loss(key, Model(params, state), batch)
        count = jnp.sum(batch.mask).astype(value.dtype)
        return value * count, count

    def held(params: PyTree, state: PyTree, batch: Batch, key: Array) -> tuple[Array, Array]:
        del key
        return task.metrics(task.predict(Model(params, state), batch.x), batch)["loss"]

    return trained if measured == TRAINED else held


def which_loss(task: Task, model: Model, data: Shards | DeviceShards) -> str:
    """The loss that is a function of the params alone: see `landscape`."""
    rows = slice(0, min(32, len(data.x)))
    x, y = jnp.asarray(data.x[rows]), jnp.asarray(data.y[rows])
    batch = Batch(x, y, jnp.ones(len(x), bool))
    if "loss" not in jax.eval_shape(lambda m: task.metrics(task.predict(m, x), batch), model):
        return TRAINED
    if jax.tree.leaves(model.state):
        return HELD
    # The model is an argument: as a constant it would be folded at compile time, slowly.
    value = jax.jit(lambda key, m, b: task.loss(key, m, b)[0])
    first, second = (np.asarray(value(jax.random.key(i), model, batch)) for i in range(2))
    return TRAINED if np.array_equal(first, second, equal_nan=True) else HELD


def measures(
    summed: SumLoss, unravel: Callable[[Array], PyTree]
) -> tuple[Callable[[Received, Batch, Array], Sums], ...]:
    """Loss with gradient, Hessian products, and losses along a line, each summed over a batch.

    Args:
      summed: the loss of a batch as a sum.
      unravel: `(vector [P]) -> params`.

    Returns:
      Three functions `(received, batch, key) -> (sums, count)`: `slope` with nothing extra,
      `products` with `(vectors [b, P],)`, `along` with `(direction [P], distances [k])`.

    Cost: of `products`, one linearization of the gradient (a gradient's cost) for all b vectors
    and twice a gradient's products for each, once in the first layer.
    """

    def flat(params: PyTree) -> Array:
        return ravel_pytree(params)[0]

    def slope(got: Received, batch: Batch, key: Array) -> Sums:
        def f(params: PyTree) -> tuple[Array, Array]:
            return summed(params, got.state, batch, key)

        (value, count), gradient = jax.value_and_grad(f, has_aux=True)(got.params)
        return (value, flat(gradient)), count

    def products(got: Received, batch: Batch, key: Array) -> Sums:
        def gradient(params: PyTree) -> tuple[PyTree, Array]:
            return jax.grad(lambda p: summed(p, got.state, batch, key), has_aux=True)(params)

        _, product, count = jax.linearize(gradient, got.params, has_aux=True)
        out = jax.vmap(lambda v: flat(product(unravel(v))))(got.extra[0])
        return out, count

    def along(got: Received, batch: Batch, key: Array) -> Sums:
        direction, distances = got.extra
        towards = unravel(direction)

        def height(distance: Array) -> tuple[Array, Array]:
            moved = jax.tree.map(lambda p, v: p + distance.astype(p.dtype) * v, got.params, towards)
            return summed(moved, got.state, batch, key)

        values, counts = jax.lax.map(height, distances)
        return values, counts[0]

    return slope, products, along


class _Tally(NamedTuple):
    total: PyTree
    seen: Array


def summing(
    measure: Callable[[Received, Batch, Array], Sums], batches: Batches, weighting: str
) -> ClientUpdate:
    """A client update that adds up a measure over the client's examples, in order.

    Args:
      measure: `(received, batch, key) -> (sums, count)`.
      batches: one epoch, not shuffled.
      weighting: `examples` weighs the client's mean by its count, `uniform` by 1.
    """
    no_words = jnp.zeros(2, jnp.uint32)

    def sums(ctx: Context, t: Array, received: Received, data: ClientData) -> _Tally:
        batch = data.batch(batches, no_words, t)
        return _Tally(*measure(received, batch, jax.random.fold_in(ctx.key, t)))

    def start(ctx: Context, received: Received, row: PyTree, data: ClientData) -> _Tally:
        del row
        return tree.zeros(jax.eval_shape(sums, ctx, jnp.int32(0), received, data))

    def step(ctx: Context, t: Array, work: _Tally, received: Received, data: ClientData) -> _Tally:
        return tree.as_before(tree.add(work, sums(ctx, t, received, data)), work)

    def finish(
        ctx: Context, work: _Tally, received: Received, row: PyTree, data: ClientData
    ) -> tuple[Report, PyTree]:
        del ctx, received, data
        count = jnp.maximum(work.seen, 1)
        means = jax.tree.map(lambda s: s / count.astype(s.dtype), work.total)
        heard = (work.seen > 0).astype(work.seen.dtype)
        weight = work.seen if weighting == "examples" else heard
        return Report(means, weight, jnp.zeros((), jnp.int32), {}), row

    return ClientUpdate(
        init=lambda key, model: (),
        steps=lambda ctx, data: batches.count(data.size, data.longest),
        start=start,
        step=step,
        finish=finish,
    )


class _Cut(NamedTuple):
    data: DeviceShards
    batches: Batches
    plan: Plan


def _cut(
    data: Shards | DeviceShards, weighting: str, batch_size: int, plan: Plan | None, size: int
) -> _Cut:
    """Whose examples a job sums: one wide window a device where clients need not be told apart."""
    offsets, sizes = np.asarray(data.offsets), np.asarray(data.sizes)
    if len(sizes) == 0 or not sizes.sum():
        raise InputError("data.clients", len(sizes), "must hold at least one example")
    in_order = np.array_equal(offsets, np.cumsum(sizes) - sizes) and sizes.sum() == len(data.x)
    shared = weighting == "examples" and in_order
    if plan is None:
        jobs = -(-len(data.x) // batch_size) if shared else len(sizes)
        plan = plans.choose(8 * size, jobs, lanes=1 if shared else None)
    if shared:
        offsets, sizes = windows(len(data.x), -(-len(data.x) // plan.devices), plan.devices)
    longest = int(sizes.max())
    # Batches of equal width: a last one that is mostly mask would cost a whole one.
    width = -(-longest // -(-longest // batch_size))
    arrays: list[Any] = [data.x, data.y, offsets.astype(np.int32), sizes.astype(np.int32)]
    return _Cut(DeviceShards(*arrays, longest=longest), Batches(size=width, shuffle=False), plan)
