"""What the point looks like to each client: its own slope and curvature, in one cohort's work.

A Lanczos run is carried inside the lane loop: one pass over the client's examples gives its
gradient and its curvature along the global gradient, each further pass one product. Only a few
numbers a client come home.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg as sla
from jax.flatten_util import ravel_pytree

from fedjax_sim.aggregation.mean import mean
from fedjax_sim.core import keys
from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Cohort, Context, Member, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData, DeviceShards
from fedjax_sim.data.federated import Shards
from fedjax_sim.diagnostics.critical import best_step
from fedjax_sim.diagnostics.critical_answer import (
    FLAT,
    MINIMUM,
    NOT_STATIONARY,
    SADDLE,
    Scales,
    Tolerances,
)
from fedjax_sim.diagnostics.curvature import (
    Received,
    SumLoss,
    Vector,
    check_unchanging,
    sum_loss,
    which_loss,
)
from fedjax_sim.engine import mesh as meshes
from fedjax_sim.engine import plan as plans
from fedjax_sim.engine.cohort import Work, run_cohort
from fedjax_sim.engine.plan import Plan, refuse_oversize

_COHORT = 64  # clients a dispatch


@dataclasses.dataclass(frozen=True)
class ClientCurvature:
    """One row a client, `[n]` each.

    Attributes:
      ids: clients.
      examples: how many each holds.
      loss: f_i.
      gradient_norm: `|grad f_i|`.
      cosine: between grad f_i and the global gradient; NaN where one of them is zero.
      along: curvature of f_i along the global gradient.
      low: lowest eigenvalue of the client's Hessian.
      low_error: an eigenvalue lies within so much.
      high: highest eigenvalue.
      high_error: likewise.
      kinds: the answer of first and second order for f_i alone, on the scales of f; flat
        directions are not looked along.
    """

    ids: np.ndarray
    examples: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    cosine: np.ndarray
    along: np.ndarray
    low: np.ndarray
    low_error: np.ndarray
    high: np.ndarray
    high_error: np.ndarray
    kinds: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """JSON-ready columns; NaN as None."""
        columns = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {n: [_plain(v) for v in values] for n, values in columns.items()}


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


class _Rows(NamedTuple):
    """A client's Lanczos run as it goes.

    basis `[m + 1, P]`; diagonal and beside `[m]` of the tridiagonal matrix; product and counted:
    sums of this pass; gradient `[P]`, loss and seen: sums of the first pass; along: the
    curvature that it found.
    """

    basis: Array
    diagonal: Array
    beside: Array
    product: Array
    counted: Array
    gradient: Array
    loss: Array
    seen: Array
    along: Array


def lanczos_client(summed: SumLoss, unravel: Any, batches: Batches, steps: int) -> ClientUpdate:
    """A client update whose `aux` is the client's gradient and a Lanczos run of its Hessian.

    Args:
      summed: the loss of a batch as a sum.
      unravel: `(vector [P]) -> params`.
      batches: one epoch, not shuffled.
      steps: m products.

    Returns:
      A client update that receives `Received(params, state, (direction [P],))`; aux `loss`,
      `gradient_norm`, `slope` (gradient along the direction), `along`, `diagonal [m]`,
      `beside [m]`.

    Cost: (m + 1) passes over the client's examples, of two to three gradients each; memory
      lanes x (m + 4) x P; `8 m P` operations a step for the basis.
    """
    no_words = jnp.zeros(2, jnp.uint32)

    def passes(data: ClientData) -> Array:
        return batches.count(data.size, data.longest)

    def start(ctx: Context, received: Received, row: PyTree, data: ClientData) -> _Rows:
        del row, data
        (direction,) = received.extra
        key = keys.for_purpose(ctx.key, keys.Purpose.DIAGNOSIS)
        first = jax.random.normal(key, direction.shape, direction.dtype)
        first = first / jnp.linalg.norm(first)
        basis = jnp.zeros((steps + 1, *first.shape), first.dtype).at[0].set(first)
        zero, row = jnp.zeros((), first.dtype), jnp.zeros(steps, first.dtype)
        nothing = jnp.zeros_like(first)
        return _Rows(basis, row, row, nothing, zero, nothing, zero, zero, zero)

    def step(ctx: Context, t: Array, w: _Rows, received: Received, data: ClientData) -> _Rows:
        (direction,) = received.extra
        each = jnp.maximum(passes(data), 1)
        at = t // each
        i = t - at * each
        batch = data.batch(batches, no_words, i)
        drawn = jax.random.fold_in(ctx.key, i)

        def slope(params: PyTree) -> tuple[PyTree, tuple[Array, Array]]:
            def f(p: PyTree) -> tuple[Array, tuple[Array, Array]]:
                value, count = summed(p, received.state, batch, drawn)
                return value, (value, count)

            return jax.grad(f, has_aux=True)(params)

        first = at == 0
        vector = jnp.where(first, direction, w.basis[jnp.maximum(at - 1, 0)])
        gradient, product, (value, count) = jax.jvp(
            slope, (received.params,), (unravel(vector),), has_aux=True
        )
        fresh = i == 0
        product = jnp.where(fresh, 0, w.product) + ravel_pytree(product)[0]
        seen = jnp.where(fresh, 0, w.counted) + count.astype(w.counted.dtype)
        image = product / jnp.maximum(seen, 1)
        quotient = vector @ image
        rest, length = _orthogonal(image, w.basis, at)
        whole = jnp.max(jnp.abs(w.diagonal), initial=0) + jnp.abs(quotient)
        length = jnp.where(length > 8 * jnp.finfo(length.dtype).eps * whole, length, 0)
        upcoming = jnp.where(length > 0, rest / jnp.where(length > 0, length, 1), 0)
        j = jnp.maximum(at - 1, 0)
        only = first.astype(value.dtype)
        return _Rows(
            basis=w.basis.at[at].set(jnp.where(first, w.basis[0], upcoming)),
            diagonal=w.diagonal.at[j].set(jnp.where(first, 0, quotient)),
            beside=w.beside.at[j].set(jnp.where(first, 0, length)),
            product=product,
            counted=seen,
            gradient=w.gradient + only * ravel_pytree(gradient)[0],
            loss=w.loss + only * value,
            seen=w.seen + only * count.astype(w.seen.dtype),
            along=jnp.where(first, quotient, w.along),
        )

    def finish(
        ctx: Context, w: _Rows, received: Received, row: PyTree, data: ClientData
    ) -> tuple[Report, PyTree]:
        del ctx, data
        (direction,) = received.extra
        seen = jnp.maximum(w.seen, 1)
        gradient = w.gradient / seen
        aux = {
            "loss": w.loss / seen,
            "gradient_norm": jnp.linalg.norm(gradient),
            "slope": gradient @ direction,
            "along": w.along,
            "diagonal": w.diagonal,
            "beside": w.beside,
        }
        return Report((), jnp.ones(()), jnp.zeros((), jnp.int32), aux), row

    return ClientUpdate(
        init=lambda key, model: (),
        steps=lambda ctx, data: (steps + 1) * passes(data),
        start=start,
        step=step,
        finish=finish,
    )


def _orthogonal(image: Array, basis: Array, at: Array) -> tuple[Array, Array]:
    """The part of a product outside the first `at` rows of the basis, and its length."""
    known = (jnp.arange(basis.shape[0]) < at).astype(image.dtype)
    for _ in range(2):
        image = image - ((basis @ image) * known) @ basis
    return image, jnp.linalg.norm(image)


Prober = Callable[..., ClientCurvature]
"""`(Model, gradient [P], scales, on_step=...) -> ClientCurvature`."""


def client_prober(
    task: Task,
    model: Model,
    data: Shards | DeviceShards,
    *,
    tolerances: Tolerances,
    clients: int | None = None,
    steps: int = 12,
    batch_size: int = 256,
    plan: Plan | None = None,
    measured: str | None = None,
    seed: int = 0,
) -> Prober:
    """A function that looks at any model of one shape from the clients' side; compiles once.

    Args:
      task: gives the loss.
      model: for its shapes.
      data: all clients' examples.
      tolerances: when a number counts as zero.
      clients: how many, drawn without replacement; None for all that hold examples.
      steps: m products a client.
      batch_size: examples a step.
      plan: lanes and devices; chosen by rule where not given.
      measured: which loss, see `curvature.landscape`.
      seed: of the draws.

    Returns:
      `(model, gradient, scales, on_step) -> ClientCurvature`; see `client_curvature`.

    Raises:
      InputError: more clients than there are, bases that do not fit into memory, data that
        change with the round.
    """
    check_unchanging(data)
    ids = _chosen(data, clients, seed)
    at_once = min(len(ids), _COHORT)
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, model.params))
    steps = min(integer("client_steps", steps, least=1), flat.size)
    n_bytes = (steps + 4) * flat.size * flat.dtype.itemsize
    plan = plan or plans.choose(flat.size, at_once, lane_bytes=n_bytes)
    words = f"{plan.lanes} lanes of {steps + 4} vectors of {flat.size:,} parameters"
    refuse_oversize("clients", words, plan.lanes * n_bytes, plan.devices, "take fewer steps")
    summed = sum_loss(task, measured or which_loss(task, model, data))
    longest = int(np.max(np.asarray(data.sizes)))
    batches = Batches(size=batch_size, shuffle=False, even=True)
    client = lanczos_client(summed, unravel, batches, steps)
    run = _program(client, data, longest, unravel, plan, seed)

    def probe(
        model: Model,
        gradient: Vector,
        scales: Scales,
        on_step: Callable[[int, int], None] = lambda done, most: None,
    ) -> ClientCurvature:
        length = np.linalg.norm(gradient)
        direction = np.asarray(gradient / length if length else gradient, flat.dtype)
        x = ravel_pytree(jax.tree.map(jnp.asarray, model.params))[0]
        parts: list[dict[str, np.ndarray]] = []
        for start in range(0, len(ids), at_once):
            some = ids[start : start + at_once]
            aux = jax.device_get(run(_cohort(some, at_once), x, direction, model.state))
            parts.append({n: v[: len(some)] for n, v in aux.items()})
            on_step(start + len(some), len(ids))
        rows = {n: np.concatenate([p[n] for p in parts]).astype(np.float64) for n in parts[0]}
        return _judged(ids, np.asarray(data.sizes)[ids], rows, scales, tolerances)

    return probe


def client_curvature(
    task: Task,
    model: Model,
    data: Shards | DeviceShards,
    *,
    gradient: Vector,
    scales: Scales,
    tolerances: Tolerances = Tolerances(),  # noqa: B008 - frozen
    clients: int | None = None,
    steps: int = 12,
    plan: Plan | None = None,
    seed: int = 0,
) -> ClientCurvature:
    """Each client's own gradient, extreme eigenvalues and kind of point.

    Args:
      task: gives the loss.
      model: the point.
      data: all clients' examples.
      gradient: the global gradient `[P]`.
      scales: of the global loss (`Critical.scales`), so that clients are judged alike.
      tolerances: when a number counts as zero.
      clients: how many, drawn without replacement; None for all that hold examples.
      steps: m products a client.
      plan: lanes and devices; chosen by rule where not given.
      seed: of the draws.

    Raises:
      InputError: more clients than there are, bases that do not fit into memory, data that
        change with the round.

    Cost: see `lanczos_client`; at most 64 clients a dispatch.
    """
    probe = client_prober(
        task, model, data, tolerances=tolerances, clients=clients, steps=steps, plan=plan, seed=seed
    )
    return probe(model, gradient, scales)


def _chosen(data: Shards | DeviceShards, clients: int | None, seed: int) -> np.ndarray:
    able = np.flatnonzero(np.asarray(data.sizes) > 0)
    if clients is None:
        return able
    integer("clients", clients, least=1)
    if clients > len(able):
        remedy = f"must be at most {len(able)}, the clients that hold examples"
        raise InputError("clients", clients, remedy)
    return np.sort(np.random.default_rng((seed, 2)).choice(able, clients, replace=False))


def _program(
    client: ClientUpdate,
    data: Shards | DeviceShards,
    longest: int,
    unravel: Callable[[Array], PyTree],
    plan: Plan,
    seed: int,
) -> Callable[..., dict[str, Array]]:
    """`(cohort, params [P], direction [P], state) -> aux`, compiled at its first call."""
    mesh = meshes.make_mesh(plan.devices)
    arrays: list[Any] = [data.x, data.y]
    arrays += [np.asarray(v, np.int32) for v in (data.offsets, data.sizes)]
    placed, key = meshes.place(DeviceShards(*arrays, longest=longest), mesh), jax.random.key(seed)
    work = Work(client, mean(), lambda sent, member: sent)

    def run(
        cohort: Cohort, x: Array, direction: Array, state: PyTree, data: DeviceShards
    ) -> dict[str, Array]:
        sent = Received(unravel(x), state, (direction,))
        return run_cohort(
            lambda _: work, (), sent, (), cohort, data, key=key, plan=plan, mesh=mesh
        ).aux

    jitted = jax.jit(run)

    def call(*given: PyTree) -> dict[str, Array]:
        return jitted(*meshes.place(given, mesh), placed)

    return call


def _cohort(ids: np.ndarray, size: int) -> Cohort:
    """These clients, filled up with absent ones."""
    member = Member(
        jnp.asarray(np.resize(ids, size), jnp.int32),
        jnp.arange(size) < len(ids),
        jnp.zeros(size, jnp.int32),
        jnp.ones(size),
    )
    return Cohort(jnp.zeros((), jnp.int32), member)


def ends(diagonal: np.ndarray, beside: np.ndarray) -> tuple[float, float, float, float]:
    """`(lowest, its error, highest, its error)` of a Lanczos run's tridiagonal matrix `[m]`."""
    broken = np.flatnonzero(beside == 0)
    m = int(broken[0]) + 1 if len(broken) else len(diagonal)
    values, vectors = sla.eigh_tridiagonal(diagonal[:m], beside[: m - 1])
    errors = beside[m - 1] * np.abs(vectors[-1])
    return float(values[0]), float(errors[0]), float(values[-1]), float(errors[-1])


def _judged(
    ids: np.ndarray,
    sizes: np.ndarray,
    rows: dict[str, np.ndarray],
    scales: Scales,
    tolerances: Tolerances,
) -> ClientCurvature:
    edges = np.array([ends(d, b) for d, b in zip(rows["diagonal"], rows["beside"], strict=True)]).T
    kinds: list[str] = []
    for i, length in enumerate(rows["gradient_norm"]):
        size = max(abs(edges[0][i]), abs(edges[2][i]))
        zero = max(tolerances.curvature * size, scales.zero)
        own = Scales(scales.loss, scales.reach, size, zero)
        promised = best_step(length, rows["along"][i], own, tolerances)[1]
        if promised > tolerances.stationary * scales.loss:
            kinds.append(NOT_STATIONARY)
        elif edges[0][i] < -zero:
            kinds.append(SADDLE)
        else:
            kinds.append(FLAT if edges[2][i] <= zero else MINIMUM)
    norms = rows["gradient_norm"]
    known = (norms > 0) & (rows["slope"] != 0)
    cosine = np.where(known, rows["slope"] / np.where(norms > 0, norms, 1), np.nan)
    low, low_error, high, high_error = edges
    return ClientCurvature(
        ids=ids,
        examples=sizes,
        loss=rows["loss"],
        gradient_norm=norms,
        cosine=cosine,
        along=rows["along"],
        low=low,
        low_error=low_error,
        high=high,
        high_error=high_error,
        kinds=tuple(kinds),
    )
