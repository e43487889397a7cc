"""Axes that belong together: a union-find whose groups may turn out to be products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

Factor: TypeAlias = tuple[int, int]
"""A group's number and its size."""

Label: TypeAlias = tuple[Factor, ...]
"""One axis: factors whose sizes multiply to its length, the slowest first; `()` for length 1."""


class Groups:
    """A working table for one reading of a program."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._fixed: list[bool] = []
        self._parts: dict[int, Label] = {}

    def fresh(self, shape: Sequence[int]) -> tuple[Label, ...]:
        """A new group for every axis."""
        return tuple(self.axis(n) for n in shape)

    def axis(self, size: int) -> Label:
        """A new group for one axis."""
        if size == 1:
            return ()
        self._parent.append(len(self._parent))
        self._fixed.append(False)
        return ((len(self._parent) - 1, size),)

    def _find(self, at: int) -> int:
        while self._parent[at] != at:
            at = self._parent[at]
        return at

    def factors(self, label: Label) -> list[Factor]:
        """The label with every group that turned out to be a product taken apart."""
        found: list[Factor] = []
        for at, size in label:
            root = self._find(at)
            parts = self._parts.get(root)
            found += [(root, size)] if parts is None else self.factors(parts)
        return found

    def is_fixed(self, at: int) -> bool:
        """Whether the group is no width."""
        return self._fixed[self._find(at)]

    def fix(self, label: Label) -> None:
        """The axis is no width."""
        for at, _ in self.factors(label):
            self._fixed[at] = True

    def fix_all(self, labels: Iterable[Label]) -> None:
        """No axis of these is a width."""
        for label in labels:
            self.fix(label)

    def unite(self, a: Label, b: Label) -> None:
        """Two axes of one length are the same."""
        left, right = self.factors(a), self.factors(b)
        while left or right:
            one, other = _cut(left, right)
            if len(one) == 1 and len(other) == 1:
                self._join(one[0], other[0])
            elif len(one) == 1:
                self._bind(one[0], other)
            elif len(other) == 1:
                self._bind(other[0], one)
            else:
                self.fix(tuple(one + other))

    def _join(self, a: Factor, b: Factor) -> None:
        # An earlier joining may have moved or taken apart either of them.
        left, right = self.factors((a,)), self.factors((b,))
        if left == right:
            return
        if len(left) != 1 or len(right) != 1:
            self.unite(tuple(left), tuple(right))
            return
        (root, _), (other, _) = left[0], right[0]
        self._parent[other] = root
        self._fixed[root] = self._fixed[root] or self._fixed[other]

    def _bind(self, whole: Factor, parts: list[Factor]) -> None:
        root = self._find(whole[0])
        if root in self._parts:
            self.unite(self._parts[root], tuple(parts))
            return
        inside = any(at == root for at, _ in self.factors(tuple(parts)))
        if self._fixed[root] or inside:
            self.fix(tuple(parts))
        if inside:
            self._fixed[root] = True
            return
        self._parts[root] = tuple(parts)


def _cut(left: list[Factor], right: list[Factor]) -> tuple[list[Factor], list[Factor]]:
    """Take the shortest beginnings of equal size off both lists."""
    one, other = [left.pop(0)], [right.pop(0)]
    size, against = one[0][1], other[0][1]
    while size != against:
        if size < against:
            one.append(left.pop(0))
            size *= one[-1][1]
        else:
            other.append(right.pop(0))
            against *= other[-1][1]
    return one, other


def regroup(groups: Groups, labels: Sequence[Label], shape: Sequence[int]) -> list[Label]:
    """The axes after a reshape, in row-major order; what cannot be followed is fixed."""
    left = [f for label in labels for f in groups.factors(label)]
    made: list[Label] = []
    for n in shape:
        taken: list[Factor] = []
        size = 1
        while size < n and left:
            taken.append(left.pop(0))
            size *= taken[-1][1]
        if size != n:  # an axis is cut in two: its parts are no widths
            groups.fix(tuple(taken + left))
            left = []
            fresh = groups.axis(n)
            groups.fix(fresh)
            made.append(fresh)
        else:
            made.append(tuple(taken))
    return made
