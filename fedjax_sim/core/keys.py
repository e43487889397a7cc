"""The key law: every draw's key is `fold_in(fold_in(fold_in(run, round), client), purpose)`.

A result therefore never depends on lane, device, cohort order, or where a run was resumed.
Draws by the server or the sampler use the reserved id `SERVER`; a draw that is repeated in
every local step folds in the step last.
"""

from __future__ import annotations

import enum
import functools

import jax
import jax.numpy as jnp

from fedjax_sim.core.types import Array

SERVER = 2**32 - 1


class Purpose(enum.IntEnum):
    """What a key is drawn for; values are part of the reproducibility contract."""

    SHUFFLE = 1
    LOSS = 2
    SAMPLE = 3
    STRAGGLE = 4
    INIT_MODEL = 5
    INIT_ROW = 6
    NOISE = 7
    AGGREGATE = 8
    SERVER = 9
    DIAGNOSIS = 10
    GROUP = 11
    SYSTEM = 12


def fold_in(key: Array, data: Array | int) -> Array:
    """`jax.random.fold_in`, bit for bit, as one elementwise kernel.

    On a CPU jax's own is a loop of small operations, about 10 us a call; keys are folded several
    times a round and once a client, so tiny models feel it. Keys of other generators than
    threefry2x32 go to jax's own.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(key, data)
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return jax.random.fold_in(key, data)
    raw = jax.random.key_data(key)
    block = _threefry(raw[0], raw[1], jnp.zeros((), jnp.uint32), jnp.asarray(data, jnp.uint32))
    return jax.random.wrap_key_data(jnp.stack(block), impl="threefry2x32")


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


@functools.partial(jax.jit, inline=True)  # traced once, not at every key
def _threefry(k0: Array, k1: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """One block of Threefry-2x32, 20 rounds (Salmon et al., Parallel Random Numbers, 2011)."""
    schedule = (k0, k1, k0 ^ k1 ^ jnp.uint32(0x1BD11BDA))
    x0, x1 = x0 + k0, x1 + k1
    for i in range(5):
        for r in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << r) | (x1 >> (32 - r)))
        x0 = x0 + schedule[(i + 1) % 3]
        x1 = x1 + schedule[(i + 2) % 3] + jnp.uint32(i + 1)
    return x0, x1


def round_key(run: Array, round_index: Array | int) -> Array:
    """Key of one round (`round_index` counts from 0)."""
    return fold_in(run, round_index)


def client_key(of_round: Array, client_id: Array | int) -> Array:
    """Key of one client in one round: `Context.key`."""
    return fold_in(of_round, client_id)


def server_key(of_round: Array, purpose: Purpose) -> Array:
    """Key of a draw made by the server or the sampler in one round."""
    return for_purpose(fold_in(of_round, jnp.uint32(SERVER)), purpose)


def for_purpose(of_client: Array, purpose: Purpose) -> Array:
    """Key of one purpose, from a client's (or the server's) key."""
    return fold_in(of_client, int(purpose))


def words(key: Array) -> Array:
    """The key's raw data as uint32 `[2]`, for integer hashes that run in inner loops."""
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return data.reshape(-1)[-2:].astype(jnp.uint32)
