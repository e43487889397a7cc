"""What every grouping kernel takes and gives, and the checks at its door.

Axis letters: N clients (or K, a cohort's), d features, k groups.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.core
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.types import Array

NONE = -1
"""The id of a client that is in no group: absent, noise, or not finite."""


class Groups(NamedTuple):
    """Who belongs where.

    Attributes:
      ids: int32 `[N]`, each client's group from 0, or -1 where it is in none.
      info: what the kernel adds: `sizes` `[k]` always; `centers` `[k, d]`, `inertia`,
        `iterations`, ... where it has them.
    """

    ids: Array
    info: dict[str, Any]


class Grouper(NamedTuple):
    """One way to group clients.

    Attributes:
      fit: `(key, x, mask=None) -> Groups`; `mask` bool `[N]`, False for absent clients. Rows
        of absent clients are never read: they may hold NaN.
      takes: `"features"`: x is `[N, d]`; `"similarity"`: x is `[N, N]`, larger is more alike.
      assign: `(Groups, x) -> int32 ids` of clients that were not there, without fitting
        again; x as `takes` says, a similarity being `[n, N]` from the new to the old. None
        where the kernel has no such rule.
      host: True where `fit` runs on the host (SciPy, scikit-learn) and refuses to be traced.
    """

    fit: Callable[..., Groups]
    takes: Literal["features", "similarity"]
    assign: Callable[[Groups, Any], Array] | None
    host: bool


def is_traced(value: Any) -> bool:
    """Whether `value` is only known inside a compiled program."""
    return isinstance(value, jax.core.Tracer)


def features(x: Any, mask: Any = None, *, k: int = 1) -> tuple[Array, Array]:
    """Features ready for a kernel: floating, checked, absent rows zero.

    A concrete array with a NaN or an infinity in a present row is refused. Inside jit values
    cannot be read: such a row is treated as absent, so that its client gets id -1 and touches
    nobody else.

    Args:
      x: `[N, d]`.
      mask: bool `[N]`, or None where all are present.
      k: groups wanted.

    Returns:
      x `[N, d]` and mask bool `[N]`.

    Raises:
      InputError: the wrong shape, no client, fewer clients than groups, or a number that is
        not finite.
    """
    x = _floating(x)
    if x.ndim != 2 or x.shape[1] < 1:
        raise InputError("x", f"shape {x.shape}", "must be features [N, d] with d >= 1")
    present = _mask(mask, x.shape[0])
    present = _settle("x", present, _finite_rows(x), k)
    if mask is None and not is_traced(x):
        return x, present
    return _cleared(x, present), present


def similarities(x: Any, mask: Any = None, *, k: int = 1) -> tuple[Array, Array]:
    """A similarity matrix ready for a kernel: floating, checked, absent rows and columns zero.

    A client whose similarity to itself, or to any other such client, is not finite counts as
    absent inside jit and is refused outside.

    Args:
      x: `[N, N]`, symmetric, larger is more alike.
      mask: bool `[N]`, or None where all are present.
      k: groups wanted.

    Returns:
      x `[N, N]` and mask bool `[N]`.

    Raises:
      InputError: as `features`, or not symmetric.
    """
    x = _floating(x)
    if x.ndim != 2 or x.shape[0] != x.shape[1]:
        raise InputError("x", f"shape {x.shape}", "must be a similarity matrix [N, N]")
    present = _mask(mask, x.shape[0])
    present = _settle("x", present, _finite_clients(x, present), k)
    clean, gap, scale = _square(x, present)
    if not is_traced(clean) and float(gap) > 1e-4 * float(scale):
        raise InputError("x", f"asymmetric by {float(gap):g}", "a similarity matrix is symmetric")
    return clean, present


def refuse_tracing(name: str, *values: Any) -> None:
    """Refuse traced input of a kernel that runs on the host.

    Raises:
      InputError: one of `values` is traced.
    """
    if any(is_traced(v) for v in values):
        raise InputError(name, "a traced array", "runs on the host: call it outside jit and vmap")


def settled(ids: Array, mask: Array, k: int, **info: Any) -> Groups:
    """`Groups` with -1 at absent clients and `sizes` `[k]` counted."""
    ids, sizes = _settled(ids, mask, k)
    return Groups(ids, {"sizes": sizes, **info})


@functools.partial(jax.jit, static_argnames="k")
def sizes_of(ids: Array, k: int) -> Array:
    """How many clients each group has: int32 `[k]`; ids of -1 count nowhere."""
    weight = (ids >= 0).astype(jnp.int32)
    return jnp.zeros(k, jnp.int32).at[jnp.maximum(ids, 0)].add(weight)


@functools.partial(jax.jit, static_argnames="k")
def _settled(ids: Array, mask: Array, k: int) -> tuple[Array, Array]:
    ids = jnp.where(mask, ids, NONE).astype(jnp.int32)
    return ids, sizes_of(ids, k)


@jax.jit
def _finite_rows(x: Array) -> Array:
    return jnp.all(jnp.isfinite(x), axis=1)


@jax.jit
def _cleared(x: Array, present: Array) -> Array:
    return jnp.where(present[:, None], x, 0)


@jax.jit
def _finite_clients(x: Array, present: Array) -> Array:
    """Clients whose similarity to themselves and to all other such clients is finite."""
    diagonal = jnp.isfinite(jnp.diagonal(x))
    among = present & diagonal
    both = among[:, None] & among[None]
    return diagonal & jnp.all(jnp.isfinite(jnp.where(both, x, 0)), axis=1)


@jax.jit
def _square(x: Array, present: Array) -> tuple[Array, Array, Array]:
    """The matrix among present clients, its largest asymmetry and its largest entry."""
    clean = jnp.where(present[:, None] & present[None], x, 0)
    return clean, jnp.max(jnp.abs(clean - clean.T)), jnp.max(jnp.abs(clean))


def _floating(x: Any) -> Array:
    # A float64 array without x64 becomes float32 here, as everywhere in jax.
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool:
        return x.astype(jnp.result_type(float))
    raise InputError("x", str(x.dtype), "must hold real numbers")


def _mask(mask: Any, n: int) -> Array:
    if n < 1:
        raise InputError("x", f"{n} clients", "needs at least one client")
    if mask is None:
        return jnp.ones(n, bool)
    mask = jnp.asarray(mask)
    if mask.shape != (n,) or mask.dtype != bool:
        raise InputError("mask", f"{mask.dtype}{list(mask.shape)}", f"must be bool [{n}]")
    return mask


def _settle(field: str, present: Array, finite: Array, k: int) -> Array:
    n = present.shape[0]
    integer("k", k, least=1)
    if k > n:
        raise InputError("k", k, f"must be at most the {n} clients there are")
    if not is_traced(finite) and not is_traced(present):
        bad = np.flatnonzero(np.asarray(present) & ~np.asarray(finite))
        if len(bad):
            raise InputError(
                field,
                f"not finite at client {bad[0]} ({len(bad)} in all)",
                "must be finite; leave such clients out by mask",
            )
    if not is_traced(present):
        there = int(np.asarray(present).sum())
        if k > there:
            raise InputError("k", k, f"must be at most the {there} clients that are present")
    return present & finite
