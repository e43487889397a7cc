"""The values that travel between the rooms: models, batches, members, reports.

Axis letters: N population, K cohort, L lanes, D devices, S local steps, B batch,
P parameters, R rounds.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any


class Model(NamedTuple):
    """What a client trains.

    Attributes:
      params: what optimizers, clipping and noise touch.
      state: what the forward pass updates by itself, such as batch statistics;
        aggregated by the plain weighted mean, never by the server optimizer.
    """

    params: PyTree
    state: PyTree = ()


class Batch(NamedTuple):
    """One batch of examples; masked-out rows repeat real examples and count for nothing.

    Attributes:
      x: inputs `[B, ...]`.
      y: targets `[B, ...]`.
      mask: bool `[B]`, False for rows that only fill the batch up.
    """

    x: Array
    y: Array
    mask: Array


class Forward(NamedTuple):
    """What one pass over a batch gave.

    Attributes:
      outputs: `[B, ...]`; in padding rows anything finite.
      features: the representation behind them `[B, F]`, or None where it is unknown.
      state: the model's state after the pass.
    """

    outputs: Array
    features: Array | None
    state: PyTree


class Member(NamedTuple):
    """One row of a cohort (every leaf gains a leading `[K]` inside a `Cohort`).

    Attributes:
      id: int32, the client's row in the population.
      present: bool, False for padding and for clients that dropped out.
      lag: int32, how many server versions behind the client is.
      work: float in (0, 1], the share of its local steps that this client does.
    """

    id: Array
    present: Array
    lag: Array
    work: Array


class Cohort(NamedTuple):
    """Who takes part in one round.

    Attributes:
      round: int32 scalar, counted from 0.
      members: `Member` with leaves `[K]`; ids of present members are distinct.
    """

    round: Array
    members: Member


class Context(NamedTuple):
    """What a client knows about the moment: its key, the round, its cohort row.

    Attributes:
      key: `fold_in(fold_in(run, round), id)`.
      round: int32 scalar, counted from 0.
      member: this client's `Member`.
    """

    key: Array
    round: Array
    member: Member


class Report(NamedTuple):
    """What one client sends up.

    Attributes:
      update: a DECREASE of the model (`Model` of params and state differences), so that
        `optax.sgd(1.0)` at the server is federated averaging.
      weight: float scalar, or a tree prefix of `update`; 0 means absent.
      group: int32 scalar: cluster, tier or edge server.
      aux: small named values (loss, steps, bits, sketch, ...), kept per cohort row.
    """

    update: PyTree
    weight: Array
    group: Array
    aux: dict[str, Array]


class Aggregate(NamedTuple):
    """What an aggregator hands to the server.

    Attributes:
      update: the combined update, shaped like one report's.
      weight: float scalar, the total weight; 0 when nobody reported.
      n_present: int32 scalar, how many clients reported with a positive weight.
      aux: named values that a particular aggregator adds.
    """

    update: PyTree
    weight: Array
    n_present: Array
    aux: dict[str, Array]


class Info(NamedTuple):
    """What one round tells to records, samplers and diagnosis.

    Attributes:
      scalars: `{name: ()}`.
      rows: `{name: [K]}`, one value per cohort row; rows of absent members are 0.
      trees: what an aggregator adds that is no scalar; a `Watch` may read it, no record does.
    """

    scalars: dict[str, Array]
    rows: dict[str, Array]
    trees: dict[str, PyTree]


class Moment(NamedTuple):
    """One round as a `Watch` sees it.

    Attributes:
      key: `fold_in(run, round)`.
      round: int32, counted from 0.
      before: the global model that the round started from, or None where none is shared.
      after: the global model after the server's step, or None.
      cohort: who took part.
      info: what the round told.
      data: all clients' training examples (`DeviceShards`).
    """

    key: Array
    round: Array
    before: Model | None
    after: Model | None
    cohort: Cohort
    info: Info
    data: PyTree
