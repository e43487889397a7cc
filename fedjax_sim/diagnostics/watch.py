"""The streaming door of the verdict: sketches kept inside the compiled round loop.

`watch()` is a `core.contracts.Watch`. Each round it measures the server's step, puts four
numbers into their sketches and, where clients have groups, every group's mean loss into the
group's own. `series_of` and `group_series_of` hand the sketches to `verdict()` on the host.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Watch
from fedjax_sim.core.types import Array, Info, Model, Moment, PyTree
from fedjax_sim.diagnostics import series
from fedjax_sim.diagnostics.series import BINS, Sketch

SERIES = ("train_loss", "update_norm", "step_norm", "step_cosine")
GROUP_BINS = 64
"""Bins of a group's series: there may be many groups."""
SAMPLE = 4096
"""Coordinates of a step that are remembered for the cosine; all of them where P is no larger.

The cosine of two steps in P dimensions read off m random coordinates has a standard error of
about 1/sqrt(m) = 0.016, far below the differences that a verdict rests on.
"""


class WatchState(NamedTuple):
    """What is carried from round to round.

    Attributes:
      runs: `Sketch` with leading axis `[4]`, in the order of `SERIES`.
      groups: `Sketch` with leading axis `[G]` of the groups' mean train loss, or `()`.
      step: `[<= 4096]`, the sampled coordinates of the latest step, or `()`.
    """

    runs: Sketch
    groups: Any
    step: Any


def watch(groups: Any = None, *, bins: int = BINS) -> Watch:
    """A `Watch` that keeps what a verdict needs.

    Update rule: with `s_t = x_{t+1} - x_t`, `step_norm = |s_t|` over all parameters and
    `step_cosine = <s_t, s_{t-1}> / (|s_t| |s_{t-1}|)` over a fixed sample of at most 4096
    coordinates, spread evenly; there is none in the first round and after a round without a
    step.

    Args:
      groups: int `[N]`, each client's group from 0, or None.
      bins: M of the run's sketches.

    Returns:
      `Watch`; its scalars are `step_norm`, `step_cosine` and `step_cosine_measured`, and none
      where no model is shared.

    Raises:
      InputError: where `groups` are no small whole numbers (here), or are not one a client
        (in `init`).

    Cost: two reads of the parameters a round, O(4 M + 64 G + K) besides; the state has about
    34 (4 M + 64 G) bytes plus 16 kB.
    """
    of_client = None if groups is None else _checked(groups)

    def init(model: Model | None, n_clients: int) -> WatchState:
        if of_client is not None and of_client.shape != (n_clients,):
            remedy = f"must give one group a client, [{n_clients}]"
            raise InputError("groups", of_client.shape, remedy)
        step = () if model is None else jnp.zeros_like(_sample(model.params))
        count = 0 if of_client is None else int(of_client.max()) + 1
        many = () if of_client is None else _stack(series.empty(GROUP_BINS), count)
        return tree.strong(WatchState(_stack(series.empty(bins), len(SERIES)), many, step))

    def observe(state: WatchState, moment: Moment) -> tuple[WatchState, dict[str, Array]]:
        step, scalars = _step(state.step, moment)
        values, present = _points(moment.info, scalars)
        runs = jax.vmap(series.push)(state.runs, values, present)
        many = state.groups
        if of_client is not None and "loss_sum" in moment.info.rows:
            many = _pushed(many, jnp.asarray(of_client), moment)
        return tree.strong(WatchState(runs, many, step)), scalars

    return Watch(init, observe)


def series_of(state: WatchState) -> dict[str, Sketch]:
    """A run's sketches on the host, by name; those that got no point are left out."""
    runs = jax.tree.map(np.asarray, state.runs)
    each = {name: _row(runs, i) for i, name in enumerate(SERIES)}
    return {name: s for name, s in each.items() if s.seen + s.skipped > 0}


def group_series_of(state: WatchState) -> list[dict[str, Sketch]]:
    """The groups' sketches on the host, one mapping a group, as `verdict()` takes it."""
    if not isinstance(state.groups, Sketch):
        return []
    groups = jax.tree.map(np.asarray, state.groups)
    return [{"train_loss": _row(groups, i)} for i in range(groups.seen.shape[0])]


def _row(sketches: Sketch, i: int) -> Sketch:
    return Sketch(*(leaf[i] for leaf in sketches))


def _checked(groups: Any) -> np.ndarray:
    of_client = np.asarray(groups)
    if of_client.ndim != 1 or not of_client.size or of_client.dtype.kind not in "iu":
        raise InputError("groups", groups, "must be whole numbers, one a client, [N]")
    if of_client.min() < 0 or of_client.max() >= of_client.size:
        raise InputError("groups", groups, "must number the groups from 0")
    return of_client.astype(np.int32)


def _stack(sketch: Sketch, n: int) -> Sketch:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), sketch)


def _step(previous: Any, moment: Moment) -> tuple[Any, dict[str, Array]]:
    """The sampled step, and its length and direction as a round's values."""
    if moment.before is None or moment.after is None:
        return (), {}
    before, after = moment.before.params, moment.after.params
    norm = jnp.sqrt(tree.squared_norm(tree.sub(after, before)))
    step = _sample(after) - _sample(before)
    length = jnp.sqrt(jnp.sum(step * step)) * jnp.sqrt(jnp.sum(previous * previous))
    cosine = jnp.sum(step * previous) / jnp.where(length > 0, length, 1)
    measured = (length > 0) & jnp.isfinite(length)
    return step, {
        "step_norm": norm.astype(step.dtype),
        "step_cosine": jnp.where(measured, jnp.clip(cosine, -1, 1), 0),
        "step_cosine_measured": measured,
    }


def _sample(params: PyTree) -> Array:
    """At most `SAMPLE` coordinates, evenly spread over all leaves."""
    leaves = [x for x in jax.tree.leaves(params) if jnp.issubdtype(x.dtype, jnp.floating)]
    stride = _stride(sum(x.size for x in leaves))
    picked, start = [jnp.zeros((0,), float)], 0
    for leaf in leaves:
        picked.append(leaf.reshape(-1)[-start % stride :: stride].astype(float))
        start += leaf.size
    return jnp.concatenate(picked)


@functools.cache
def _stride(size: int) -> int:
    """The least prime stride that leaves no more than `SAMPLE` of `size` coordinates.

    A prime, because a stride that divides a layer's width would look at one column only.
    """
    least = -(-size // SAMPLE)
    if least <= 1:
        return 1
    while any(least % d == 0 for d in range(2, int(least**0.5) + 1)):
        least += 1
    return least


def _points(info: Info, scalars: dict[str, Array]) -> tuple[Array, Array]:
    """This round's value of each of `SERIES` and whether there is one, `[4]` each."""
    known = info.scalars | scalars
    someone = jnp.ones((), bool)
    if "loss_count" in info.rows:
        someone = jnp.sum(info.rows["loss_count"]) > 0
    zero = jnp.zeros((), float)
    values = [jnp.asarray(known.get(name, zero), float) for name in SERIES]
    governed = {
        "train_loss": someone,
        "step_cosine": known.get("step_cosine_measured", jnp.zeros((), bool)),
    }
    present = [governed.get(name, jnp.ones((), bool)) & (name in known) for name in SERIES]
    return jnp.stack(values), jnp.stack(present)


def _pushed(groups: Sketch, of_client: Array, moment: Moment) -> Sketch:
    """Each group's mean loss of this round's members into its sketch."""
    n_groups, rows = groups.seen.shape[0], moment.info.rows
    member = moment.cohort.members
    mine = jnp.where(member.present, of_client[member.id], n_groups)

    def total(values: Array) -> Array:
        return jax.ops.segment_sum(values, mine, num_segments=n_groups + 1)[:-1]

    loss, count = total(rows["loss_sum"]), total(rows["loss_count"])
    mean = loss / jnp.where(count > 0, count, 1)
    return jax.vmap(series.push)(groups, mean, count > 0)
