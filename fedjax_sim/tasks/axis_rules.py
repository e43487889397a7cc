"""What each primitive of a program says about which axes belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend import core as jex

from fedjax_sim.core.programs import called
from fedjax_sim.tasks.axis_groups import Groups, Label, regroup

_ELEMENTWISE = {
    *("abs", "add", "add_any", "and", "ceil", "clamp", "convert_element_type", "copy"),
    *("copy_p", "cos", "div", "eq", "erf", "erfc", "exp", "exp2"),
    *("expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log"),
    *("log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg"),
    *("not", "or", "pow", "reduce_precision", "rem", "round", "rsqrt", "select_n"),
    *("sign", "sin", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh"),
    *("xor",),
}
_SAME_LEAF = {"convert_element_type", "copy", "copy_p"}

Labels = tuple[Label, ...]


class Reader:
    """Follows axes through a program.

    Attributes:
      made: `(leaf, free axes of a kernel)`, one for each product with a kernel and for each
        bias added to it.
    """

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.made: list[tuple[int, Labels]] = []

    def read(self, closed: Any, given: list[Labels], leaves: list[int | None]) -> list[Labels]:
        """Labels of the outputs.

        Args:
          closed: a closed jaxpr, or a jaxpr without constants.
          given: labels of its inputs.
          leaves: for each input which leaf of the model it is, or None.
        """
        jaxpr = closed.jaxpr if isinstance(closed, jex.ClosedJaxpr) else closed
        scope = _Scope(self, jaxpr, given, leaves)
        for eqn in jaxpr.eqns:
            scope.follow(eqn)
        return [scope.label(v) for v in jaxpr.outvars]


class _Scope:
    """One program's variables."""

    def __init__(
        self, reader: Reader, jaxpr: Any, given: list[Labels], leaves: list[int | None]
    ) -> None:
        self.reader, self.groups = reader, reader.groups
        self.labels: dict[Any, Labels] = dict(zip(jaxpr.invars, given, strict=True))
        self.leaf: dict[Any, int] = {
            v: i for v, i in zip(jaxpr.invars, leaves, strict=True) if i is not None
        }
        self.product: dict[Any, Labels] = {}
        for v in jaxpr.constvars:
            self.labels[v] = self.groups.fresh(v.aval.shape)

    def label(self, atom: Any) -> Labels:
        if isinstance(atom, jex.Literal) or atom not in self.labels:
            about: Any = atom.aval
            return self.groups.fresh(about.shape)
        return self.labels[atom]

    def leaf_of(self, atom: Any) -> int | None:
        return None if isinstance(atom, jex.Literal) else self.leaf.get(atom)

    def follow(self, eqn: Any) -> None:
        name = eqn.primitive.name
        inner = called(eqn)
        rule = getattr(self, f"_{name}", None)
        if name in _ELEMENTWISE:
            self._elementwise(eqn)
        elif inner is not None:
            self._call(eqn, inner)
        elif rule is not None:
            rule(eqn)
        else:
            self._unknown(eqn)

    def _put(self, eqn: Any, labels: Sequence[Label]) -> None:
        self.labels[eqn.outvars[0]] = tuple(labels)

    def _pass_leaf(self, eqn: Any) -> None:
        leaf = self.leaf_of(eqn.invars[0])
        if leaf is not None:
            self.leaf[eqn.outvars[0]] = leaf

    def _unknown(self, eqn: Any) -> None:
        for v in eqn.invars:
            self.groups.fix_all(self.label(v))
        for v in eqn.outvars:
            self.labels[v] = self.groups.fresh(v.aval.shape)
            self.groups.fix_all(self.labels[v])

    def _call(self, eqn: Any, inner: Any) -> None:
        n = len((inner.jaxpr if isinstance(inner, jex.ClosedJaxpr) else inner).invars)
        atoms = eqn.invars[len(eqn.invars) - n :]
        leaves = [self.leaf_of(v) for v in atoms]
        out = self.reader.read(inner, [self.label(v) for v in atoms], leaves)
        for v, label in zip(eqn.outvars, out, strict=True):
            self.labels[v] = label

    def _elementwise(self, eqn: Any) -> None:
        shape = eqn.outvars[0].aval.shape
        labels = list(self.groups.fresh(shape))
        for v in eqn.invars:
            if len(v.aval.shape) != len(shape):
                continue
            for i, label in enumerate(self.label(v)):
                if v.aval.shape[i] == shape[i]:
                    self.groups.unite(labels[i], label)
        self._put(eqn, labels)
        if eqn.primitive.name in _SAME_LEAF:
            self._pass_leaf(eqn)
            if eqn.invars[0] in self.product:
                self.product[eqn.outvars[0]] = self.product[eqn.invars[0]]
        elif eqn.primitive.name == "add":
            self._bias(*eqn.invars)

    def _bias(self, a: Any, b: Any) -> None:
        for made, added in ((a, b), (b, a)):
            leaf = self.leaf_of(added)
            if leaf is not None and not isinstance(made, jex.Literal) and made in self.product:
                self.reader.made.append((leaf, self.product[made]))

    def _broadcast_in_dim(self, eqn: Any) -> None:
        shape, at = eqn.params["shape"], eqn.params["broadcast_dimensions"]
        labels = list(self.groups.fresh(shape))
        old = self.label(eqn.invars[0])
        for i, axis in enumerate(at):
            if eqn.invars[0].aval.shape[i] == shape[axis]:
                labels[axis] = old[i]
        self._put(eqn, labels)
        self._pass_leaf(eqn)

    def _reshape(self, eqn: Any) -> None:
        shape = eqn.outvars[0].aval.shape
        self._put(eqn, regroup(self.groups, self.label(eqn.invars[0]), shape))
        self._pass_leaf(eqn)

    def _squeeze(self, eqn: Any) -> None:
        dropped = eqn.params["dimensions"]
        kept = [a for i, a in enumerate(self.label(eqn.invars[0])) if i not in dropped]
        self._put(eqn, kept)
        self._pass_leaf(eqn)

    def _expand_dims(self, eqn: Any) -> None:
        self._reshape(eqn)

    def _transpose(self, eqn: Any) -> None:
        labels = self.label(eqn.invars[0])
        self._put(eqn, [labels[i] for i in eqn.params["permutation"]])
        self._pass_leaf(eqn)

    def _dot_general(self, eqn: Any) -> None:
        (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
        a, b = eqn.invars
        one, other = self.label(a), self.label(b)
        for i, j in (*zip(left, right, strict=True), *zip(left_batch, right_batch, strict=True)):
            self.groups.unite(one[i], other[j])
        if self.leaf_of(a) is None and self.leaf_of(b) is None:
            self.groups.fix_all(one[i] for i in left)
        taken = (set(left) | set(left_batch), set(right) | set(right_batch))
        free = [
            tuple(x for i, x in enumerate(v) if i not in t)
            for v, t in zip((one, other), taken, strict=True)
        ]
        self._put(eqn, [*(one[i] for i in left_batch), *free[0], *free[1]])
        self._kernel(eqn, (a, free[0]), (b, free[1]))

    def _kernel(self, eqn: Any, *operands: tuple[Any, Labels]) -> None:
        for atom, free in operands:
            leaf = self.leaf_of(atom)
            if leaf is not None:
                self.reader.made.append((leaf, free))
                self.product[eqn.outvars[0]] = free

    def _conv_general_dilated(self, eqn: Any) -> None:
        x, kernel = eqn.invars
        spec = eqn.params["dimension_numbers"]
        one, other = self.label(x), self.label(kernel)
        plain = eqn.params["feature_group_count"] == 1 == eqn.params["batch_group_count"]
        if not plain or self.leaf_of(kernel) is None:
            self._unknown(eqn)
            return
        self.groups.fix_all(one[i] for i in spec.lhs_spec[2:])
        self.groups.fix_all(other[i] for i in spec.rhs_spec[2:])
        self.groups.unite(one[spec.lhs_spec[1]], other[spec.rhs_spec[1]])
        labels = list(self.groups.fresh(eqn.outvars[0].aval.shape))
        self.groups.fix_all(labels[i] for i in spec.out_spec[2:])
        labels[spec.out_spec[0]] = one[spec.lhs_spec[0]]
        labels[spec.out_spec[1]] = other[spec.rhs_spec[0]]
        self._put(eqn, labels)
        self._kernel(eqn, (kernel, (other[spec.rhs_spec[0]],)))

    def _reduce(self, eqn: Any) -> None:
        labels, axes = self.label(eqn.invars[0]), eqn.params["axes"]
        self.groups.fix_all(labels[i] for i in axes)
        self._put(eqn, [a for i, a in enumerate(labels) if i not in axes])

    _reduce_sum = _reduce_max = _reduce_min = _reduce

    def _window(self, eqn: Any) -> None:
        labels = list(self.label(eqn.invars[0]))
        shape = eqn.outvars[0].aval.shape
        for i, width in enumerate(eqn.params["window_dimensions"]):
            if width > 1 or shape[i] != eqn.invars[0].aval.shape[i]:
                self.groups.fix(labels[i])
                labels[i] = self.groups.axis(shape[i])
                self.groups.fix(labels[i])
        self._put(eqn, labels)

    _reduce_window_max = _reduce_window_sum = _reduce_window_min = _window
