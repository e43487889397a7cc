"""A model cut in two: which leaves are personal, frozen or special, and which are all others.

A rule says which leaves are meant, by their names; a mask is that answer for one model, a tree of
static bools. Names are dotted paths: `dense_0.w`, `Dense_3.kernel`, `layers.2.bias`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Array, PyTree

Rule: TypeAlias = str | Callable[[str], bool]
"""`head` (the last layer), `body` (all else), `norms` (scales and biases of normalisations),
`all`, `none`, `re:PATTERN` (found anywhere in a dotted path), or a function of dotted paths."""

WORDS = ("head", "body", "norms", "all", "none")
FIELD = "algorithm.personal"

_HEADS = ("head", "classifier", "logits", "output")
_MATRICES = ("w", "kernel", "weight")
_NORM = re.compile(r"norm|^(bn|ln|gn)([^a-z]|$)", re.IGNORECASE)
_NUMBERED = re.compile(r"^(.*?)[_.-]?(\d*)$")

Path: TypeAlias = tuple[str, ...]


def names(params: PyTree) -> tuple[str, ...]:
    """The dotted path of every leaf, in the order of `jax.tree.leaves`."""
    return tuple(".".join(path) for path in _paths(params))


def mask(params: PyTree, rule: Rule, *, field: str = FIELD) -> PyTree:
    """Which leaves a rule selects.

    Args:
      params: arrays, or their shapes.
      rule: see `Rule`.
      field: for messages.

    Returns:
      A tree of bools shaped like `params`, known before any trace.

    Raises:
      InputError: an unknown word, a pattern that is none, a head that cannot be told, and a rule
        other than the words `all` and `none` that selects everything or nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> layer = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
      >>> mask({"dense_0": layer, "head": layer}, "head")
      {'dense_0': {'b': False, 'w': False}, 'head': {'b': True, 'w': True}}
    """
    leaves, structure = jax.tree.flatten(params)
    if isinstance(rule, str) and rule in ("all", "none"):
        return jax.tree.unflatten(structure, [rule == "all"] * len(leaves))
    paths = _paths(params)
    chosen = [bool(c) for c in _chosen(paths, leaves, rule, field)]
    if all(chosen) or not any(chosen):
        what = "everything" if all(chosen) and chosen else "nothing"
        remedy = f"selects {what}; the model has {_listed(paths)}"
        raise InputError(field, _said(rule), remedy)
    return jax.tree.unflatten(structure, chosen)


def masked(rule: Rule, *, others: bool = False, field: str = FIELD) -> Callable[[PyTree], PyTree]:
    """`params -> mask` by a rule; with `others`, of all that it does not select."""

    def where(params: PyTree) -> PyTree:
        chosen = mask(params, rule, field=field)
        return jax.tree.map(lambda here: not here, chosen) if others else chosen

    return where


def pick(params: PyTree, where: PyTree) -> tuple[Array, ...]:
    """The leaves that a mask selects."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(where), strict=True)
    return tuple(leaf for leaf, here in pairs if here)


def put(params: PyTree, where: PyTree, leaves: Sequence[Array]) -> PyTree:
    """`params` with `leaves` where the mask is True; the inverse of `pick`."""
    return fill(without(params, where), where, leaves)


def without(params: PyTree, where: PyTree) -> PyTree:
    """`params` with None, which is no leaf, where the mask is True: the other part alone."""
    return jax.tree.map(lambda here, leaf: None if here else leaf, where, params)


def fill(rest: PyTree, where: PyTree, leaves: Sequence[Array]) -> PyTree:
    """The whole tree from the part that `without` left and the leaves that `pick` took."""
    flags, structure = jax.tree.flatten(where)
    others, chosen = iter(jax.tree.leaves(rest)), iter(leaves)
    whole = [next(chosen if here else others) for here in flags]
    if next(others, None) is not None or next(chosen, None) is not None:
        raise ValueError("more leaves than the mask has places")
    return jax.tree.unflatten(structure, whole)


def _paths(params: PyTree) -> list[Path]:
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return [tuple(entry_name(part) for part in path) for path, _ in flat]


def entry_name(part: Any) -> str:
    """One entry of a leaf's path in a tree, as text."""
    for attribute in ("key", "name", "idx"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    return str(part)


def _chosen(paths: list[Path], leaves: list[Any], rule: Rule, field: str) -> list[bool]:
    if callable(rule):
        return [rule(".".join(path)) for path in paths]
    if rule.startswith("re:"):
        try:
            pattern = re.compile(rule.removeprefix("re:"))
        except re.error as error:
            raise InputError(field, rule, f"is no regular expression: {error}") from None
        return [pattern.search(".".join(path)) is not None for path in paths]
    if rule == "norms":
        return _norms(paths)
    if rule not in ("head", "body"):
        remedy = f"must be {', '.join(WORDS)}, re:PATTERN, or a function of dotted paths"
        raise InputError(field, rule, remedy)
    head = _head(paths, leaves)
    if head is None:
        remedy = (
            "cannot be told for this model: which layer is last? Name leaves by re:PATTERN; "
            f"the model has {_listed(paths)}"
        )
        raise InputError(field, rule, remedy)
    within = [path[: len(head)] == head for path in paths]
    return within if rule == "head" else [not here for here in within]


def _norms(paths: list[Path]) -> list[bool]:
    """Leaves of layers that have `scale` (and `bias`) alone, or are called a norm."""
    layers: dict[Path, set[str]] = {}
    for path in paths:
        layers.setdefault(path[:-1], set()).add(path[-1] if path else "")
    norms = {
        layer
        for layer, leaves in layers.items()
        if {"scale"} <= leaves <= {"scale", "bias"} or (layer and _NORM.search(layer[-1]))
    }
    return [path[:-1] in norms for path in paths]


def _head(paths: list[Path], leaves: list[Any]) -> Path | None:
    """The path of the last layer, or None where names and shapes do not tell.

    A layer called `head` (or alike) is it. Otherwise it is among the layers with a matrix: the
    only one, or the highest number where all are numbered alike (10 comes after 9).
    """
    called = {p[: i + 1] for p in paths for i, part in enumerate(p[:-1]) if part in _HEADS}
    if called:
        depth = min(map(len, called))
        highest = [path for path in called if len(path) == depth]
        return highest[0] if len(highest) == 1 else None
    norms = _norms(paths)
    dense = {
        path[:-1]
        for path, leaf, norm in zip(paths, leaves, norms, strict=True)
        if len(path) > 1 and path[-1] in _MATRICES and np.ndim(leaf) == 2 and not norm
    }
    if len(dense) == 1:
        return dense.pop()
    split = {layer: _NUMBERED.fullmatch(layer[-1]) for layer in dense}
    series = {(layer[:-1], found.group(1)) for layer, found in split.items() if found}
    if len(series) != 1:
        return None
    return max(dense, key=lambda layer: int(split[layer].group(2) or -1))  # type: ignore[union-attr]


def _listed(paths: list[Path], limit: int = 12) -> str:
    shown = ", ".join(".".join(path) for path in paths[:limit])
    return shown + (f" and {len(paths) - limit} more" if len(paths) > limit else "")


def _said(rule: Rule) -> str:
    return rule if isinstance(rule, str) else getattr(rule, "__name__", "a function")
