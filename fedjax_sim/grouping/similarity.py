"""What tells clients apart: label histograms, feature sketches, losses; and how alike they are.

Arguments are plain arrays: all clients' examples in one flat array, clients as offsets and sizes.
A similarity is `[N, N]`, larger is more alike, and costs N^2 memory: ask for it by name.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.checks import InputError, choice, integer
from fedjax_sim.core.types import Array
from fedjax_sim.grouping.sketch import sketch_rows
from fedjax_sim.grouping.types import is_traced

_EXACT = jax.lax.Precision.HIGHEST


def label_histograms(
    y: Any, offsets: Any, sizes: Any, classes: int, *, form: str = "shares"
) -> Array:
    """How often each client has each label: features `[N, C]`.

    Args:
      y: int `[E, ...]`, labels of all examples (or tokens of all texts); labels outside
        `0 .. classes - 1` are not counted.
      offsets: int `[N]`; client i owns rows `offsets[i] : offsets[i] + sizes[i]`.
      sizes: int `[N]`.
      classes: C.
      form: `"counts"`; `"shares"`: rows sum to 1; `"sqrt"`: roots of the shares, whose
        euclidean distance is the Hellinger distance times the root of 2. A client without
        labels has zeros.

    Cost: O(E + N C).

    Raises:
      InputError: `form` is unknown, or the shapes do not fit.
    """
    choice("form", form, ("counts", "shares", "sqrt"))
    integer("classes", classes, least=1)
    y = jnp.asarray(y)
    offsets, sizes = _segments(y.shape[0], offsets, sizes)
    return _histograms(y, offsets, sizes, classes, form)


@functools.partial(jax.jit, static_argnames=("classes", "form"))
def _histograms(y: Array, offsets: Array, sizes: Array, classes: int, form: str) -> Array:
    n = sizes.shape[0]
    owner = owners(offsets, sizes, y.shape[0])
    labels = y.reshape(y.shape[0], -1).astype(jnp.int32)
    good = (labels >= 0) & (labels < classes) & (owner >= 0)[:, None]
    row = jnp.broadcast_to(jnp.maximum(owner, 0)[:, None], labels.shape)
    counts = jnp.zeros((n, classes), jnp.result_type(float))
    counts = counts.at[row, jnp.clip(labels, 0, classes - 1)].add(good.astype(counts.dtype))
    if form == "counts":
        return counts
    shares = counts / jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 1)
    return jnp.sqrt(shares) if form == "sqrt" else shares


def owners(offsets: Array, sizes: Array, examples: int) -> Array:
    """Whose each flat row is: int32 `[E]`, -1 for rows of nobody. Clients may lie in any order."""
    n = sizes.shape[0]
    ids = jnp.where(sizes > 0, jnp.arange(n, dtype=jnp.int32), -1)
    rows = jnp.arange(examples, dtype=jnp.int32)
    first = jnp.full(examples, -1, jnp.int32).at[offsets].max(ids, mode="drop")
    began = jax.lax.cummax(jnp.where(first >= 0, rows, -1))
    owner = first[jnp.maximum(began, 0)]
    inside = (began >= 0) & (rows - began < sizes[jnp.maximum(owner, 0)])
    return jnp.where(inside & (owner >= 0), owner, -1)


def feature_sketches(
    key: Array, x: Any, offsets: Any, sizes: Any, dim: int, *, second: bool = False
) -> Array:
    """Each client's mean input through one random projection: features `[N, dim]`.

    With `second` the mean of the squared inputs is projected as well and stands behind: `[N, 2
    dim]`. A client without examples has zeros.

    Args:
      key: draws the projection; the same key is the same projection.
      x: `[E, ...]`, inputs of all examples.
      offsets: int `[N]`.
      sizes: int `[N]`.
      dim: length of the sketch.
      second: also sketch second moments, which see a change of contrast or noise.

    Cost: O(E D) for D numbers an input, `N D` memory for the means.
    """
    x = jnp.asarray(x)
    offsets, sizes = _segments(x.shape[0], offsets, sizes)
    return _feature_sketches(key, x, offsets, sizes, dim, second)


@functools.partial(jax.jit, static_argnames=("dim", "second"))
def _feature_sketches(
    key: Array, x: Array, offsets: Array, sizes: Array, dim: int, second: bool
) -> Array:
    flat = x.reshape(x.shape[0], -1).astype(jnp.promote_types(x.dtype, jnp.float32))
    owner, n = owners(offsets, sizes, x.shape[0]), sizes.shape[0]

    def means(values: Array) -> Array:
        mine = jnp.where((owner >= 0)[:, None], values, 0)
        sums = jnp.zeros((n, flat.shape[1]), flat.dtype).at[jnp.maximum(owner, 0)].add(mine)
        return sums / jnp.maximum(sizes, 1).astype(flat.dtype)[:, None]

    sketches = [sketch_rows(key, means(flat), dim)]
    if second:
        sketches.append(sketch_rows(key, means(jnp.square(flat)), dim))
    return jnp.concatenate(sketches, axis=1)


@jax.jit
def loss_landscape(losses: Any) -> Array:
    """Losses of N clients at S common probe models as features `[N, S]`: each client centered.

    What is left says which probes suit a client better than others, not how hard its data are.
    The cosine of two rows is the correlation of two clients' losses along the landscape.

    Args:
      losses: `[N, S]`, e.g. at random perturbations of one model, or at M models.

    Cost: O(N S).
    """
    losses = jnp.asarray(losses, jnp.result_type(float))
    return losses - jnp.mean(losses, axis=1, keepdims=True)


@jax.jit
def loss_similarity(losses: Any, *, temperature: float = 1.0) -> Array:
    """How alike clients judge M models: `[N, N]` in [0, 1], the overlap of their preferences.

        p_im = softmax_m(-loss_im / temperature),    s_ij = sum_m sqrt(p_im p_jm)

    Args:
      losses: `[N, M]`, mean loss of each client at each model.
      temperature: in units of loss; small makes preferences sharp.

    Cost: `N^2 M` operations, `N^2` memory.
    """
    preference = jax.nn.softmax(-jnp.asarray(losses, jnp.result_type(float)) / temperature, axis=1)
    return hellinger(preference)


@jax.jit
def cosine(x: Any) -> Array:
    """Cosine of every two rows of features, `[N, N]`; rows of zeros are like nothing: 0.

    Cost: `2 N^2 d` operations, `N^2` memory.
    """
    x = _float(x)
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=1, keepdims=True))
    unit = jnp.where(norm == 0, 0, x / jnp.where(norm == 0, 1, norm))
    return jnp.clip(jnp.matmul(unit, unit.T, precision=_EXACT), -1, 1)


@jax.jit
def euclidean(x: Any) -> Array:
    """Minus the euclidean distance of every two rows of features, `[N, N]`.

    Cost: `2 N^2 d` operations, `N^2` memory.
    """
    return -jnp.sqrt(_squared(_float(x)))


@jax.jit
def rbf(x: Any, *, gamma: float | Array) -> Array:
    """`exp(-gamma |x_i - x_j|^2)` of every two rows of features, `[N, N]`, for `spectral`.

    Cost: `2 N^2 d` operations, `N^2` memory.
    """
    return jnp.exp(-gamma * _squared(_float(x)))


@jax.jit
def hellinger(shares: Any) -> Array:
    """Bhattacharyya coefficient `sum_c sqrt(p_c q_c)` of every two rows of shares, `[N, N]`.

    One minus it is the squared Hellinger distance. In [0, 1] for rows that sum to 1.

    Cost: `2 N^2 C` operations, `N^2` memory.
    """
    root = jnp.sqrt(_float(shares))
    return jnp.matmul(root, root.T, precision=_EXACT)


@functools.partial(jax.jit, static_argnames="rows")
def jensen_shannon(shares: Any, *, rows: int = 64) -> Array:
    """One minus the Jensen-Shannon divergence in bits of every two rows of shares, `[N, N]`.

        JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2

    In [0, 1] for rows that sum to 1.

    Args:
      shares: `[N, C]`, rows that sum to 1.
      rows: clients compared with all others at a time: `rows N C` memory.

    Cost: `N^2 C` logarithms, `N^2` memory and a block.
    """
    p = _float(shares)
    own = _bits(p)

    def against_all(one: tuple[Array, Array]) -> Array:
        q, entropy = one
        return 1 - (_bits((p + q[None]) / 2) - (own + entropy) / 2)

    return jnp.clip(jax.lax.map(against_all, (p, own), batch_size=rows), 0, 1)


def _bits(p: Array) -> Array:
    """Entropy in bits of each row."""
    return -jnp.sum(jnp.where(p > 0, p * jnp.log2(jnp.where(p > 0, p, 1)), 0), axis=1)


def _squared(x: Array) -> Array:
    """Squared distances `[N, N]`, exactly zero on the diagonal."""
    x = x - jnp.mean(x, axis=0, keepdims=True)
    length = jnp.sum(jnp.square(x), axis=1)
    product = jnp.matmul(x, x.T, precision=_EXACT)
    square = jnp.maximum(length[:, None] + length[None] - 2 * product, 0)
    return jnp.where(jnp.eye(x.shape[0], dtype=bool), 0 * square, square)


def _float(x: Any) -> Array:
    x = jnp.asarray(x)
    if x.ndim != 2:
        raise InputError("x", f"shape {x.shape}", "must be features [N, d]")
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return x if floating else x.astype(jnp.result_type(float))


def _segments(examples: int, offsets: Any, sizes: Any) -> tuple[Array, Array]:
    offsets, sizes = jnp.asarray(offsets), jnp.asarray(sizes)
    if offsets.shape != sizes.shape or sizes.ndim != 1 or sizes.shape[0] < 1:
        raise InputError(
            "offsets", f"shape {offsets.shape}", f"must be [N] like sizes {sizes.shape}"
        )
    if not is_traced(offsets) and not is_traced(sizes):
        ends = np.asarray(offsets) + np.asarray(sizes)
        if int(ends.max()) > examples or int(np.asarray(offsets).min()) < 0:
            remedy = f"offsets + sizes must stay within the {examples} examples"
            raise InputError("offsets", int(ends.max()), remedy)
    return offsets.astype(jnp.int32), sizes.astype(jnp.int32)
