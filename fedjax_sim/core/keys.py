"""The key law: every draw's key is `fold_in(fold_in(fold_in(run, round), client), purpose)`.

A result therefore never depends on lane, device, cohort order, or where a run was resumed.
Draws by the server or the sampler use the reserved id `SERVER`; a draw that is repeated in
every local step folds in the step last.
"""

from __future__ import annotations

import enum

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


def round_key(run: Array, round_index: Array | int) -> Array:
    """Key of one round (`round_index` counts from 0)."""
    return jax.random.fold_in(run, round_index)


def client_key(of_round: Array, client_id: Array | int) -> Array:
    """Key of one client in one round: `Context.key`."""
    return jax.random.fold_in(of_round, client_id)


def server_key(of_round: Array, purpose: Purpose) -> Array:
    """Key of a draw made by the server or the sampler in one round."""
    return for_purpose(jax.random.fold_in(of_round, jnp.uint32(SERVER)), purpose)


def for_purpose(of_client: Array, purpose: Purpose) -> Array:
    """Key of one purpose, from a client's (or the server's) key."""
    return jax.random.fold_in(of_client, int(purpose))


def words(key: Array) -> Array:
    """The key's raw data as uint32 `[2]`, for integer hashes that run in inner loops."""
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return data.reshape(-1)[-2:].astype(jnp.uint32)
