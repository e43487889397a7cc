"""The last rounds as they went, member by member: what the picture of the time line reads."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Array

ABSENT, REPORTED, LATE, DROPPED = 0, 1, 2, 3
"""What became of a member: not there, counted, too late, dropped out."""

KEPT_ROUNDS, KEPT_ROWS = 6, 40


class Rows(NamedTuple):
    """Members of one round.

    Attributes:
      id: int32 `[K]`.
      status: int32 `[K]`, see `ABSENT`.
      group: int32 `[K]`, such as tiers.
      down_s: `[K]` seconds to receive.
      compute_s: `[K]` seconds of local work.
      up_s: `[K]` seconds to report.
    """

    id: Array
    status: Array
    group: Array
    down_s: Array
    compute_s: Array
    up_s: Array


class RoundLog(NamedTuple):
    """The last rounds, written round robin.

    Attributes:
      round: int32 `[6]`, counted from 0; -1 where nothing was written yet.
      seconds: `[6]`, how long each round took.
      deadline_s: scalar, infinite where there is none.
      rows: of each round's first members, leaves `[6, min(K, 40)]`.
    """

    round: Array
    seconds: Array
    deadline_s: Array
    rows: Rows


def empty_log(cohort: int, deadline_s: float) -> RoundLog:
    """A log of no rounds."""
    shape = (KEPT_ROUNDS, min(cohort, KEPT_ROWS))
    whole, number = jnp.zeros(shape, jnp.int32), jnp.zeros(shape)
    rows = Rows(whole, whole, whole, number, number, number)
    never = jnp.full((KEPT_ROUNDS,), -1, jnp.int32)
    return RoundLog(never, jnp.zeros(KEPT_ROUNDS), jnp.asarray(deadline_s, float), rows)


def log_round(log: RoundLog, round_index: Array, seconds: Array, rows: Rows) -> RoundLog:
    """Write a round over the oldest."""
    at = round_index % KEPT_ROUNDS
    kept = log.rows.id.shape[1]
    written = jax.tree.map(lambda old, new: old.at[at].set(new[:kept]), log.rows, rows)
    return log._replace(
        round=log.round.at[at].set(round_index),
        seconds=log.seconds.at[at].set(seconds),
        rows=written,
    )


def status_of(here: Array, arrived: Array, gone: Array) -> Array:
    """What became of each member, int32 `[K]`."""
    kind = jnp.where(arrived, REPORTED, jnp.where(gone, DROPPED, LATE))
    return jnp.where(here, kind, ABSENT).astype(jnp.int32)
