"""Random numbers of many clients in one small elementwise kernel, each by its own id."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_sim.core import keys
from fedjax_sim.core.types import Array


def luck(key: Array, ids: Array) -> tuple[Array, Array]:
    """Two uniform numbers in (0, 1) for each client, by key and id alone.

    An integer hash of the id under both words of the key, as for shuffles, and no generator of
    `jax.random`: a key folded for each of N clients costs twenty times as much and its kernel
    takes a third of a second to compile on a CPU, and there are several in a round.

    Args:
      key: of the round and the purpose.
      ids: int32 `[n]`.

    Returns:
      Two float arrays `[n]` of the default precision, of 23 or 32 random bits.
    """
    a, b = keys.words(key)
    h = _mix(_mix(_mix(ids.astype(jnp.uint32) * jnp.uint32(0x9E3779B9) ^ a) + b) ^ a)
    return _unit(h), _unit(_mix(_mix(h + b) ^ jnp.uint32(0x85EBCA6B)))


def luck_of_all(key: Array, n: int) -> Array:
    """A uniform number in (0, 1) for each of `n` clients, `[n]`."""
    return luck(key, jnp.arange(n, dtype=jnp.int32))[0]


def _mix(h: Array) -> Array:
    """MurmurHash3's 32-bit finalizer: a bijection of uint32 with full avalanche."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def _unit(h: Array) -> Array:
    dtype = jnp.result_type(float)
    bits = 32 if dtype == jnp.float64 else 23
    return ((h >> (32 - bits)).astype(dtype) + 0.5) * 2.0**-bits


def settle(*values: Array) -> tuple[Array, ...]:
    """The values as they are, made once and not in each of their uses.

    XLA on a CPU fuses a draw into everything that reads it, and so compiles and runs it many
    times over (it drops its own barriers before); nothing is fused into a sort, here by place.

    Args:
      *values: `[K]` each.
    """
    place = jnp.arange(values[0].shape[0], dtype=jnp.int32)
    return tuple(jax.lax.sort((place, *values), num_keys=1)[1:])
