"""Batches of one client: a rule for how many, and a keyed index bijection for which.

Shuffling never sorts: `shuffled(words, epoch, position, size)` evaluates one position of a
pseudo-random permutation of `0 .. size-1` by the swap-or-not construction (Hoang, Morris and
Rogaway, "An Enciphering Scheme Based on a Card Shuffle", CRYPTO 2012). It has a fixed number
of rounds, works for every size without cycle walking, and fuses into one elementwise kernel.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, choice, integer
from fedjax_sim.core.types import Array, Batch

_ROUNDS = 24
_TABLE = 256  # entries of a client's whole order that are worth carrying
_STEPS = (np.arange(_ROUNDS, dtype=np.uint64) * 0x9E3779B9).astype(np.uint32)


def _mix(h: Array) -> Array:
    """MurmurHash3's 32-bit finalizer: a bijection of uint32 with full avalanche."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def _scaled(h: Array, size: Array) -> Array:
    """Map uint32 `h` to `0 .. size-1` by the high word of `h * size`, in 32-bit arithmetic."""
    low, high = size & 0xFFFF, size >> 16
    h_low, h_high = h & 0xFFFF, h >> 16
    middle = h_high * low + ((h_low * low) >> 16)
    carry = (middle & 0xFFFF) + h_low * high
    return h_high * high + (middle >> 16) + (carry >> 16)


@functools.partial(jax.jit, inline=True)  # traced once for all that read batches
def shuffled(words: Array, epoch: Array, position: Array, size: Array) -> Array:
    """Where `position` goes under the permutation of `0 .. size-1` drawn by (words, epoch).

    Args:
      words: uint32 `[2]`, from `keys.words`.
      epoch: int, scalar or shaped like `position`; each epoch has its own permutation.
      position: int `[...]`; values outside `0 .. size-1` give an unspecified valid index.
      size: int scalar or shaped like `position`, at least 1.

    Returns:
      int32 like `position`, in `0 .. size-1`.

    Cost: 24 integer hashes for each entry; no sort, no loop, no table.
    """
    size = jnp.maximum(jnp.asarray(size), 1).astype(jnp.uint32)
    x = jnp.minimum(jnp.asarray(position).astype(jnp.uint32), size - 1)
    epoch = jnp.asarray(epoch).astype(jnp.uint32)
    seed = _mix(words[0] ^ _mix(epoch + jnp.uint32(0x9E3779B9)))
    rank = max(epoch.ndim, size.ndim)
    steps = jnp.asarray(_STEPS).reshape((_ROUNDS,) + (1,) * rank)
    rounds = _mix((seed[None] if epoch.ndim else seed) + steps + words[1])
    pivots = _scaled(rounds, size[None] if size.ndim else size)
    coins = _mix(rounds ^ words[0])
    for pivot, of_round in zip(pivots, coins, strict=True):
        partner = jnp.where(pivot >= x, pivot - x, pivot + size - x)
        larger = jnp.maximum(x, partner)
        coin = _mix(larger * jnp.uint32(0x9E3779B1) ^ of_round) >> 31
        x = jnp.where(coin == 1, partner, x)
    return x.astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Batches:
    """How a client's examples become local steps.

    Attributes:
      epochs: passes over the client's examples, or None for no bound by epochs.
      steps: local steps, or None for no bound by steps; with both, the smaller wins.
      size: batch size B; None takes all of a client's examples in one batch (B = infinity,
        padded to the largest client).
      last: what happens to an epoch's remainder. `partial`: a smaller batch, its mean taken
        exactly over its mask. `drop`: left out (a client smaller than B then does no step).
        `topup`: batches run on into the next epoch's permutation, every batch is full.
      shuffle: a new permutation each epoch; False keeps the stored order.
      even: B is at most `size`, and such that the largest client's epoch pads least: for sums over
        all examples, to which batches make no difference.
    """

    epochs: Any = 1
    steps: Any = None
    size: int | None = 10
    last: str = "partial"
    shuffle: bool = True
    even: bool = False

    def __post_init__(self) -> None:
        if self.epochs is None and self.steps is None:
            raise InputError("epochs", None, "give epochs, steps, or both")
        for name in ("epochs", "steps"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, jax.Array):
                integer(name, value, least=1)
        if self.size is not None:
            integer("batch_size", self.size, least=1)
        choice("last", self.last, ("partial", "drop", "topup"))

    def width(self, longest: int) -> int:
        """B, given the largest client's size."""
        if self.size is None:
            return longest
        return -(-longest // max(-(-longest // self.size), 1)) if self.even else self.size

    def per_epoch(self, size: Array, longest: int) -> Array:
        """Batches in one epoch of a client with `size` examples, int32."""
        width = self.width(longest)
        if self.size is None:
            return jnp.minimum(size, 1)
        return size // width if self.last == "drop" else -(-size // width)

    def count(self, size: Array, longest: int) -> Array:
        """Local steps of a client with `size` examples, int32."""
        if self.last == "topup" and self.size is not None and self.epochs is not None:
            by_epochs = -(-(size * self.epochs) // self.width(longest))
        elif self.epochs is not None:
            by_epochs = self.per_epoch(size, longest) * self.epochs
        else:
            has_batch = self.per_epoch(size, longest) > 0
            return jnp.where(has_batch, jnp.asarray(self.steps, jnp.int32), 0)
        if self.steps is not None:
            by_epochs = jnp.minimum(by_epochs, self.steps)
        return jnp.asarray(by_epochs, jnp.int32)

    def most_steps(self, longest: int) -> int | None:
        """Local steps of the largest client, or None where that number is traced."""
        epochs, steps = self.epochs, self.steps
        if isinstance(steps, jax.Array):
            return None
        if epochs is None or isinstance(epochs, jax.Array):
            return steps
        width = max(self.width(longest), 1)
        if self.last == "topup":
            most = -(-longest * epochs // width)
        else:
            most = -(-longest // width) * epochs
        return most if steps is None else min(most, steps)

    def positions(self, t: Array, size: Array, longest: int) -> tuple[Array, Array, Array]:
        """`(epoch, position in the epoch, mask)`, each `[B]`, of local step `t`."""
        width = self.width(longest)
        slot = jnp.arange(width, dtype=jnp.int32)
        if self.last == "topup" and self.size is not None:
            stream = t * width + slot
            epoch = stream // jnp.maximum(size, 1)
            return epoch, stream - epoch * size, jnp.full((width,), True) & (size > 0)
        per_epoch = jnp.maximum(self.per_epoch(size, longest), 1)
        epoch = t // per_epoch
        position = (t - epoch * per_epoch) * width + slot
        return epoch, position, position < size


WHOLE = Batches(size=100, shuffle=False, even=True)
"""One pass over all of a client's examples, at most 100 at a time, in their order."""


class Feed(NamedTuple):
    """Rows of the flat arrays that come next, worked out before the step that reads them.

    Carried between steps, because a shuffle in the same step as its gather is fused into it and
    evaluated again for every feature (docs/decisions/0005).

    Attributes:
      words: uint32 `[2]`, the shuffle's key.
      rows: int32 `[S, B]`, those of every step where that is small, else `[1, B]`, of the next.
    """

    words: Array
    rows: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClientData:
    """One client's window on the flat arrays.

    Attributes:
      x: all examples `[E, ...]` (shared, never copied per client).
      y: all targets `[E, ...]`.
      offset: int32 scalar, first row of the window.
      size: int32 scalar, number of examples.
      longest: the largest client's size (static).
      stages: T, equal blocks of the arrays of which this stage reads one (static).
    """

    x: Array
    y: Array
    offset: Array
    size: Array
    longest: int = dataclasses.field(metadata={"static": True})
    stages: int = dataclasses.field(default=1, metadata={"static": True})

    def batch(self, rule: Batches, words: Array, t: Array) -> Batch:
        """Batch of local step `t` under `rule`, shuffled by `words` uint32 `[2]`."""
        return self._take(self._rows(rule, words, t))

    def feed(self, rule: Batches, words: Array) -> Feed:
        """The order in which `next` will hand out this client's examples.

        Args:
          rule: how examples become steps.
          words: uint32 `[2]`, the shuffle's key.
        """
        steps = rule.most_steps(self.longest)
        whole = steps is not None and steps * rule.width(self.longest) <= _TABLE
        t = jnp.arange(max(steps or 1, 1) if whole else 1, dtype=jnp.int32)
        return Feed(words, jax.vmap(lambda t: self._rows(rule, words, t))(t))

    def next(self, rule: Batches, feed: Feed, t: Array) -> tuple[Batch, Feed]:
        """`(batch of local step t, feed for step t + 1)`; call it for t = 0, 1, 2, ..."""
        if feed.rows.shape[0] > 1:
            return self._take(feed.rows[t]), feed
        return self._take(feed.rows[0]), feed._replace(
            rows=self._rows(rule, feed.words, t + 1)[None]
        )

    def _rows(self, rule: Batches, words: Array, t: Array) -> Array:
        """Rows `[B]` of step `t`; `~row`, which is negative, where one only fills up."""
        epoch, position, mask = rule.positions(t, self.size, self.longest)
        if rule.shuffle:
            index = shuffled(words, epoch, position, self.size)
        else:
            index = jnp.clip(position, 0, jnp.maximum(self.size - 1, 0))
        row = self.offset + index
        return jnp.where(mask, row, ~row)

    def _take(self, rows: Array) -> Batch:
        mask = rows >= 0
        at = jnp.where(mask, rows, ~rows)
        # In range as they are: nothing to wrap, and no select that fills what is not.
        take = lambda v: v.at[at].get(mode="clip", wrap_negative_indices=False)  # noqa: E731
        return Batch(take(self.x), take(self.y), mask)

    def whole(self) -> ClientData:
        """The union of all clients as one window, in the stage of this one."""
        total = self.x.shape[0] // self.stages
        begin = jnp.zeros_like(self.offset)
        return dataclasses.replace(
            self,
            offset=begin if self.stages == 1 else self.offset // total * total,
            size=jnp.full_like(self.size, total),
            longest=total,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeviceShards:
    """`Shards` on the device: what `Algorithm.step` receives as `data`.

    Attributes:
      x: `[E, ...]`.
      y: `[E, ...]`.
      offsets: int32 `[N]`.
      sizes: int32 `[N]`.
      longest: the largest client's size (static).
      stages: int32 `[T, N]`, the offsets of each stage, or None; see `Shards`.
      stage_rounds: int32 `[T]`, the round with which each stage begins, or None.
    """

    x: Array
    y: Array
    offsets: Array
    sizes: Array
    longest: int = dataclasses.field(metadata={"static": True})
    stages: Array | None = None
    stage_rounds: Array | None = None

    @property
    def n_clients(self) -> int:
        """N."""
        return self.sizes.shape[0]

    def at(self, round_index: Array) -> DeviceShards:
        """The data of a round (counted from 0); itself where they never change."""
        if self.stages is None or self.stage_rounds is None:
            return self
        begun = jnp.sum(self.stage_rounds <= round_index, dtype=jnp.int32)
        return dataclasses.replace(self, offsets=self.stages[jnp.maximum(begun - 1, 0)])

    def client(self, client_id: Array) -> ClientData:
        """The window of client `client_id` (a scalar, possibly traced)."""
        window = (self.offsets[client_id], self.sizes[client_id])
        stages = 1 if self.stages is None else self.stages.shape[0]
        return ClientData(self.x, self.y, *window, self.longest, stages)
