"""Federations made from a formula, with the truth known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.data.build import from_arrays
from fedjax_sim.data.federated import Federation, Shards, check_shards
from fedjax_sim.data.partition_sizes import natural

_FEATURES, _CLASSES = 60, 10


def synthetic(
    alpha: float = 1.0,
    beta: float = 1.0,
    clients: int = 30,
    iid: bool = False,
    *,
    seed: int = 0,
    convention: str = "variance",
    test_fraction: float = 0.1,
    validation_fraction: float = 0.0,
) -> Federation:
    """Synthetic(alpha, beta): client k labels its own inputs by its own linear model.

    `y = argmax(W_k x + b_k)` with entries of `W_k [60, 10]` and `b_k [10]` from N(u_k, 1), u_k
    from N(0, alpha); x from N(v_k, Sigma), Sigma diagonal with Sigma_jj = j^-1.2, entries of
    v_k from N(B_k, 1), B_k from N(0, beta). alpha says how much models differ, beta how much
    inputs do. With `iid` one W, b (u = 0) serves everybody and v_k = 0. Client sizes are 50 +
    log-normal(4, 2), rounded down; 453 in the mean, with a heavy tail.

    Args:
      alpha: spread of the models, at least 0.
      beta: spread of the inputs, at least 0.
      clients: N.
      iid: the homogeneous version; alpha and beta then mean nothing.
      seed: of everything.
      convention: `variance` reads N(0, alpha) as the paper writes it, alpha a variance;
        `deviation` does as the authors' public generator does, alpha a standard deviation.
        They agree at 0 and 1.
      test_fraction: share of each client's examples that it is tested on.
      validation_fraction: share of each client's examples that it may tune on.

    Returns:
      A `Federation` with x float32 `[E, 60]` and 10 classes. Labels are exact, without noise.

    Reference: T. Li et al., "Federated Optimization in Heterogeneous Networks", 2020,
    arXiv:1812.06127, section 5.1 and appendix C.1. u_k is also the mean of b_k, as there.
    """
    number("alpha", alpha, least=0)
    number("beta", beta, least=0)
    clients = integer("clients", clients, least=1)
    choice("convention", convention, ("variance", "deviation"))
    rng = np.random.default_rng(integer("seed", seed, least=0))
    sizes = 50 + np.exp(4 + 2 * rng.standard_normal(clients)).astype(np.int64)
    spread = np.array([alpha, beta], np.float64)
    spread = np.sqrt(spread) if convention == "variance" else spread
    model_mean, input_mean = spread[:, None] * rng.standard_normal((2, clients))
    centers = input_mean[:, None] + rng.standard_normal((clients, _FEATURES))
    owner = np.repeat(np.arange(clients), sizes)
    x = rng.standard_normal((len(owner), _FEATURES)) * np.arange(1, _FEATURES + 1) ** -0.6
    if not iid:
        x += centers[owner]
    y = np.empty(len(owner), np.int32)
    matrix = rng.standard_normal((_FEATURES + 1, _CLASSES))
    for client, end in enumerate(np.cumsum(sizes)):
        rows = slice(end - sizes[client], end)
        if not iid:
            matrix = model_mean[client] + rng.standard_normal((_FEATURES + 1, _CLASSES))
        y[rows] = np.argmax(x[rows] @ matrix[:-1] + matrix[-1], axis=1)
    return from_arrays(
        x,
        y,
        natural(owner),
        seed=seed,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        n_classes=_CLASSES,
        name="synthetic(iid)" if iid else f"synthetic({alpha:g}, {beta:g})",
        meta={"alpha": alpha, "beta": beta, "iid": iid, "convention": convention},
    )


def planted_groups(
    groups: int = 2,
    clients: int = 40,
    kind: str = "labels",
    examples: int = 100,
    features: int = 20,
    classes: int = 4,
    separation: float = 3.0,
    *,
    seed: int = 0,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
) -> Federation:
    """Clients in hidden groups, each with its own best model; the truth is in `meta["group"]`.

    Inputs are `x = separation m_c + z`, with one unit vector m_c a class and standard normal
    noise z. Group g then either names the classes otherwise (`labels`: its class c is called
    `order[(place of c + g) mod C]`, so that no two groups agree on any class) or sees
    the inputs turned (`rotation`: by the angle 2 pi g / groups in each plane of two features).

    Args:
      groups: M; with `labels` at most `classes`.
      clients: N, at least M; groups are equally large up to one, their members random.
      kind: `labels` (concept shift) or `rotation` (feature shift).
      examples: examples of each client, before the splits.
      features: d; even for `rotation`.
      classes: C.
      separation: length of the class means in units of the noise.
      seed: of everything.
      test_fraction: share of each client's examples that it is tested on.
      validation_fraction: share of each client's examples that it may tune on.

    Returns:
      A `Federation`; `meta["group"]` int64 `[N]`, and `meta["permutations"]` int `[M, C]` or
      `meta["angles"]` float `[M]` in radians.

    Reference: A. Ghosh et al., "An Efficient Framework for Clustered Federated Learning",
    2020, arXiv:2006.04088 (rotations); F. Sattler et al., "Clustered Federated Learning",
    2019, arXiv:1910.01991 (permuted labels).
    """
    groups = integer("groups", groups, least=1)
    clients = integer("clients", clients, least=groups)
    choice("kind", kind, ("labels", "rotation"))
    examples, features = (
        integer("examples", examples, least=1),
        integer("features", features, least=1),
    )
    classes = integer("classes", classes, least=2)
    number("separation", separation, least=0)
    if kind == "labels" and groups > classes:
        remedy = f"{groups} groups can only disagree everywhere on {groups} classes or more"
        raise InputError("classes", classes, remedy)
    if kind == "rotation" and features % 2:
        raise InputError("features", features, "must be even: features are turned in pairs")
    rng = np.random.default_rng(integer("seed", seed, least=0))
    group = rng.permutation(np.arange(clients) % groups)
    means = rng.standard_normal((classes, features))
    means *= separation / np.linalg.norm(means, axis=1, keepdims=True)
    true_class = rng.integers(0, classes, clients * examples)
    x = means[true_class] + rng.standard_normal((clients * examples, features))
    owner = np.repeat(np.arange(clients), examples)
    if kind == "labels":
        order = rng.permutation(classes)
        truth = order[(np.argsort(order) + np.arange(groups)[:, None]) % classes]
        y, facts = truth[group[owner], true_class], {"permutations": truth}
    else:
        angles = 2 * np.pi * np.arange(groups) / groups
        x, y, facts = _turned(x, angles[group[owner]]), true_class, {"angles": angles}
    return from_arrays(
        x,
        y,
        natural(owner),
        seed=seed,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
        n_classes=classes,
        name=f"{groups} planted groups ({kind})",
        meta={"group": group, **facts},
    )


def _turned(x: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rows `[E, d]` turned by `angle [E]` in each plane of features (2j, 2j + 1)."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    turned = np.empty_like(x)
    turned[:, ::2] = cos * x[:, ::2] - sin * x[:, 1::2]
    turned[:, 1::2] = sin * x[:, ::2] + cos * x[:, 1::2]
    return turned


def quadratics(
    a: Sequence[float] | np.ndarray = (1.0, 4.0),
    b: Sequence[float] | np.ndarray = (0.0, 1.0),
    *,
    weights: Sequence[float] | None = None,
    copies: Sequence[int] | None = None,
) -> Federation:
    """Client i minimises `f_i(w) = sum_j a_ij (w_j - b_ij)^2 / 2`: everything has a closed form.

    A client has one example, x = a_i (the diagonal of its curvature) and y = b_i, in float64;
    `copies` repeats it, so that averaging by examples weighs client i by `copies[i]`.

    Args:
      a: curvatures `[N]` or `[N, d]`, at least 0 and positive for some client in each j.
      b: minimisers, shaped like `a`.
      weights: p `[N]`, nonnegative, for `meta["optimum"]` alone; None takes `copies`, or equal.
      copies: how many times each client's example is repeated `[N]`; None is once.

    Returns:
      A `Federation` without classes; `meta` holds `weights [N]` summing to 1, `optimum [d]` =
      sum p a b / sum p a, and `value`, the weighted mean loss there.

    Example:
      >>> quadratics(a=[1, 4], b=[0, 1]).meta["optimum"].tolist()
      [0.8]
    """
    curvature, minimiser = (_rows(n, v) for n, v in (("a", a), ("b", b)))
    if curvature.shape != minimiser.shape:
        remedy = f"must have the shape of a: {curvature.shape}"
        raise InputError("b.shape", minimiser.shape, remedy)
    number("a", curvature, least=0)
    number("b", minimiser)
    n = len(curvature)
    sizes = np.ones(n, np.int64) if copies is None else np.asarray(copies)
    if sizes.shape != (n,) or sizes.dtype.kind not in "iu" or (sizes < 1).any():
        raise InputError("copies", copies, f"must be {n} whole numbers of at least 1")
    p = np.asarray(sizes if weights is None else weights, np.float64)
    if p.shape != (n,):
        raise InputError("weights", weights, f"must be {n} numbers, one a client")
    number("weights", p, least=0)
    pa = p[:, None] * curvature
    if (pa.sum(axis=0) <= 0).any():
        raise InputError(
            "a", a, "every coordinate needs a client with curvature and weight above 0"
        )
    optimum = (pa * minimiser).sum(axis=0) / pa.sum(axis=0)
    sizes = sizes.astype(np.int64)
    train = Shards(
        np.repeat(curvature, sizes, axis=0),
        np.repeat(minimiser, sizes, axis=0),
        np.cumsum(sizes) - sizes,
        sizes,
    )
    check_shards("quadratics", train)
    value = 0.5 * float((pa * (optimum - minimiser) ** 2).sum() / p.sum())
    meta = {"weights": p / p.sum(), "optimum": optimum, "value": value}
    return Federation(train, name="quadratics", meta=meta)


def _rows(field: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Float64 `[N, d]` from `[N]` or `[N, d]`."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(field, values, "must be numbers, [N] or [N, d]") from error
    if array.ndim not in (1, 2) or array.size == 0:
        raise InputError(field, values, "must be numbers, [N] or [N, d]")
    return array.reshape(len(array), -1)
