"""Which group each client is in, round by round, and whether that is the truth."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.contracts import Watch
from fedjax_sim.core.types import Array, Model, Moment
from fedjax_sim.grouping import scores

NONE = -1


class GroupsSeen(NamedTuple):
    """What is carried from round to round: each client's last group, int32 `[N]`, -1 for none."""

    ids: Array


def groups_watch(groups: int, truth: Any = None, starts: Any = None) -> Watch:
    """A `Watch` of the groups that clients report in `aux["group"]`.

    Its scalars, once a round: `groups_used`, how many groups the present clients are in;
    `group_switched`, the share of present clients that were in another group when last seen
    (with `group_switched_measured`, whether any was seen before); and with a truth `group_ari`,
    the adjusted Rand index of all clients' last groups with it, those of none left out
    (`group_ari_measured`: whether any is in one).

    Args:
      groups: M; reported groups outside 0 .. M-1 are no group.
      truth: int `[N]`, the planted groups from 0, or None; or int `[T, N]`, those of T stages.
      starts: int `[T]`, the round (from 0) with which each stage begins, where there are stages.

    Raises:
      InputError: where the truth is no such numbers (here), or not one a client (in `init`).

    Cost: 4 N bytes; O(K), and with a truth O(N + M G), a round.
    """
    m = integer("groups", groups, least=1)
    planted = None if truth is None else _whole(truth)
    stages = 1 if starts is None else len(starts)
    if planted is not None and (len(planted), np.asarray(truth).ndim) != (
        stages,
        1 + (starts is not None),
    ):
        raise InputError(
            "groups", np.asarray(truth).shape, f"must be [N], or [{stages}, N] with starts"
        )
    n_true = 1 if planted is None else int(planted.max()) + 1

    def now(table: np.ndarray, round_index: Array) -> Array:
        """The truth of a round."""
        if starts is None:
            return jnp.asarray(table[0])
        begun = jnp.sum(jnp.asarray(starts, jnp.int32) <= round_index, dtype=jnp.int32)
        return jnp.asarray(table)[jnp.maximum(begun - 1, 0)]

    def init(model: Model | None, n_clients: int) -> GroupsSeen:
        del model
        if planted is not None and planted.shape[1] != n_clients:
            remedy = f"must give one a client, [{n_clients}]"
            raise InputError("groups", (planted.shape[1],), remedy)
        return GroupsSeen(jnp.full(n_clients, NONE, jnp.int32))

    def observe(state: GroupsSeen, moment: Moment) -> tuple[GroupsSeen, dict[str, Array]]:
        told = moment.info.rows.get("group")
        if told is None:
            return state, {}
        member, n = moment.cohort.members, state.ids.shape[0]
        within = member.present & (told >= 0) & (told < m)
        before = state.ids[member.id]
        known = within & (before != NONE)
        moved = jnp.sum(known & (before != told), dtype=jnp.int32)
        count = jnp.sum(known, dtype=jnp.int32)
        used = jnp.zeros(m, bool).at[jnp.where(within, told, m)].set(True, mode="drop")
        at = jnp.where(within, member.id, n)
        ids = state.ids.at[at].set(told.astype(jnp.int32), mode="drop")
        scalars = {
            "groups_used": jnp.sum(used, dtype=jnp.int32),
            "group_switched": moved / jnp.maximum(count, 1),
            "group_switched_measured": count > 0,
        }
        if planted is not None:
            scalars["group_ari"] = scores.ari(ids, now(planted, moment.round), m, n_true)
            scalars["group_ari_measured"] = jnp.any(ids != NONE)
        return GroupsSeen(ids), scalars

    return Watch(init, observe)


def final_groups(state: GroupsSeen, groups: int, truth: Any = None) -> dict[str, Any]:
    """What a run's groups came to, JSON-ready; empty where no client is in one.

    Args:
      state: of `groups_watch`, at the end.
      groups: M.
      truth: int `[N]`, the planted groups, or None.

    Returns:
      `sizes` `[M]` and `without`, clients in no group (never seen, most often); with a truth
      `ari`, `nmi` and `purity` of the others.
    """
    ids = np.asarray(state.ids)
    if not (ids >= 0).any():
        return {}
    sizes = np.bincount(ids[ids >= 0], minlength=groups)
    found: dict[str, Any] = {"sizes": sizes.tolist(), "without": int((ids < 0).sum())}
    if truth is None:
        return found
    planted = _whole(truth)[0]
    n = int(planted.max()) + 1
    judges = {"ari": scores.ari, "nmi": scores.nmi, "purity": scores.purity}
    with jax.default_device(jax.devices("cpu")[0]):
        return found | {k: float(f(ids, planted, groups, n)) for k, f in judges.items()}


def _whole(truth: Any) -> np.ndarray:
    """Checked, as int32 `[T, N]`."""
    table = np.asarray(truth)
    if (
        table.ndim not in (1, 2)
        or not table.size
        or table.dtype.kind not in "iu"
        or table.min() < 0
    ):
        raise InputError("groups", truth, "must be whole numbers from 0, one a client, [N]")
    return np.atleast_2d(table).astype(np.int32)
