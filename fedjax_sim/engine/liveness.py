"""How much a traced program holds at once: a liveness walk over its jaxpr.

XLA writes no buffer for an elementwise value that is only read by other elementwise
operations, writes an elementwise result over an operand that dies there, and keeps a loop's
carry in place. The walk knows these three rules, and takes operations in the order of the
trace; it knows nothing of layouts. `benchmarks/memory.py` measures how good that is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from fedjax_sim.engine.programs import scan_counts

_CALLS = (
    *("pjit", "jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"),
    *("remat2", "checkpoint", "custom_vmap_call", "shard_map"),
)
_UPDATES = ("scatter", "scatter-add", "scatter_add", "dynamic_update_slice")
# Results that are always written out; everything not named here fuses into what reads it.
_WRITTEN = (
    *("dot_general", "conv_general_dilated", "gather", "sort", "cumsum", "cumprod", "cummax"),
    *("reduce_window", "reduce_window_max", "select_and_scatter_add", "select_and_gather_add"),
    *("concatenate", "random_bits", "threefry2x32", "fft", "cholesky", "triangular_solve"),
    *("psum", "psum_invariant", "all_gather", "argmax", "argmin", "top_k"),
    *("reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_prod"),
)
# These read elementwise values as they are made; all other written results need them in memory.
_READS_FUSED = ("reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "concatenate")


class Held(NamedTuple):
    """What is held at the worst moment, beyond the program's arguments.

    Attributes:
      bytes: in all.
      by_shape: `{(shape, dtype name): bytes}` of the buffers alive then.
    """

    bytes: int
    by_shape: dict[tuple[tuple[int, ...], str], int]


class _Step(NamedTuple):
    """One operation with its variables as numbers; calls are already opened."""

    eqn: Any
    reads: tuple[int, ...]
    writes: tuple[int, ...]


class _Block(NamedTuple):
    """A jaxpr with its calls opened.

    Attributes:
      steps: in the order of the trace.
      inputs: variables that exist before.
      outputs: variables that must exist after.
      avals: of every variable.
    """

    steps: list[_Step]
    inputs: list[int]
    outputs: list[int]
    avals: dict[int, Any]


def temporaries(jaxpr: ClosedJaxpr, donated: frozenset[int] = frozenset()) -> Held:
    """The most that a program holds at once beyond its arguments.

    Args:
      jaxpr: of the whole program, from `jax.make_jaxpr` or `jax.jit(f).trace(...)`.
      donated: positions of arguments whose buffers results may take over.

    Cost: one pass over the operations, those of loop bodies once.
    """
    block = _open(jaxpr.jaxpr)
    return _walk(block, {block.inputs[i] for i in donated})


def n_operations(jaxpr: ClosedJaxpr) -> int:
    """How many operations a program has, those of loop bodies once."""
    return sum(1 for _ in _every(jaxpr.jaxpr))


def _every(jaxpr: Jaxpr) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in subjaxprs(eqn):
            yield from _every(inner)


def subjaxprs(eqn: Any) -> Iterator[Jaxpr]:
    """The jaxprs among an operation's parameters."""
    for value in eqn.params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, Jaxpr):
                yield one


def aval_bytes(aval: Any) -> int:
    """Bytes of one value; random keys are two words."""
    if not hasattr(aval, "shape"):
        return 0
    size = 1
    for n in aval.shape:
        size *= n
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return 8 * size
    return size * aval.dtype.itemsize


def _open(jaxpr: Jaxpr) -> _Block:
    """Number the variables and put the bodies of calls in place of the calls."""
    avals: dict[int, Any] = {}
    steps: list[_Step] = []

    def fresh(aval: Any) -> int:
        avals[len(avals)] = aval
        return len(avals) - 1

    def read(names: dict[Any, int], var: Any) -> int:
        if isinstance(var, Literal):
            return fresh(None)
        if var not in names:
            names[var] = fresh(var.aval)
        return names[var]

    def visit(jaxpr: Jaxpr, names: dict[Any, int]) -> None:
        for eqn in jaxpr.eqns:
            inputs = tuple(read(names, v) for v in eqn.invars)
            body = _called(eqn)
            if body is not None:
                inner = {v: fresh(v.aval) for v in body.constvars}
                inner |= dict(zip(body.invars, inputs, strict=True))
                visit(body, inner)
                for out, var in zip(eqn.outvars, body.outvars, strict=True):
                    names[out] = read(inner, var)
                continue
            outputs = tuple(fresh(v.aval) for v in eqn.outvars)
            names.update(zip(eqn.outvars, outputs, strict=True))
            steps.append(_Step(eqn, inputs, outputs))

    names: dict[Any, int] = {}
    inputs = [read(names, v) for v in (*jaxpr.constvars, *jaxpr.invars)]
    visit(jaxpr, names)
    outputs = [read(names, v) for v in jaxpr.outvars]
    return _Block(steps, inputs[len(jaxpr.constvars) :], outputs, avals)


def _called(eqn: Any) -> Jaxpr | None:
    if eqn.primitive.name not in _CALLS:
        return None
    inner = list(subjaxprs(eqn))
    fits = inner and len(inner[0].invars) == len(eqn.invars)
    return inner[0] if fits else None


def _written(block: _Block) -> set[int]:
    """Variables that get a buffer of their own."""
    written: set[int] = set(block.outputs)
    for step in block.steps:
        name = step.eqn.primitive.name
        inside = next(subjaxprs(step.eqn), None) is not None
        if name in _WRITTEN or name in _UPDATES or inside:
            written.update(step.writes)
            if name not in _READS_FUSED:
                written.update(step.reads[:1] if name in _UPDATES else step.reads)
    return written


def _last_reads(block: _Block, written: set[int]) -> dict[int, int]:
    """When each variable is read last, through the values that are never written out."""
    last = dict.fromkeys(block.outputs, len(block.steps))
    for i in reversed(range(len(block.steps))):
        step = block.steps[i]
        fused = not any(v in written for v in step.writes)
        moment = max((last.get(v, i) for v in step.writes), default=i) if fused else i
        for var in step.reads:
            last[var] = max(last.get(var, -1), moment)
    return last


class _Heap:
    """Buffers alive, their sum, and the worst moment so far."""

    def __init__(self) -> None:
        self.alive: dict[int, tuple[int, Any]] = {}
        self.now, self.worst, self.shapes = 0, 0, dict[Any, int]()

    def add(self, var: int, size: int, aval: Any) -> None:
        if size and var not in self.alive:
            self.alive[var] = (size, aval)
            self.now += size

    def free(self, var: int) -> int:
        size, _ = self.alive.pop(var, (0, None))
        self.now -= size
        return size

    def peak(self, inner: Held) -> None:
        if self.now + inner.bytes <= self.worst:
            return
        self.worst, self.shapes = self.now + inner.bytes, dict(inner.by_shape)
        for size, aval in self.alive.values():
            key = (tuple(aval.shape), str(aval.dtype))
            self.shapes[key] = self.shapes.get(key, 0) + size


_NOTHING = Held(0, {})


def _walk(block: _Block, own: set[int]) -> Held:
    """The worst moment of one block.

    Args:
      block: what is walked.
      own: inputs whose buffers may be written over; they cost nothing, being there before.
    """
    written = _written(block)
    last = _last_reads(block, written)
    heap, of = _Heap(), dict[int, set[int]]()  # of: what a value that is not written reads
    mine = set(own)  # buffers that may be written over when they die
    results = set(block.outputs)
    slots = Counter(aval_bytes(block.avals[v]) for v in own if v not in last)
    for i, step in enumerate(block.steps):
        inner, name = _inside(step), step.eqn.primitive.name
        if name == "cond":  # its branches hold their own results
            heap.peak(inner)
            inner = _NOTHING
        roots = set[int]().union(*(of.get(v, {v}) for v in step.reads))
        of.update((v, roots) for v in step.writes if v not in written)
        dying = [v for v in roots if last[v] == i and v in mine]
        for var in step.writes:
            if var not in written:
                continue
            size = aval_bytes(block.avals[var])
            heir = next((d for d in dying if aval_bytes(block.avals[d]) == size), None)
            if heir is not None and _in_place(step, heir):
                dying.remove(heir)
                if heap.free(heir):
                    heap.add(var, size, block.avals[var])
                slots[size] -= heir in own
            elif var in results and slots[size] > 0:
                slots[size] -= 1  # takes the place of the carry that it replaces
            else:
                heap.add(var, size, block.avals[var])
            mine.add(var)
        heap.peak(inner)
        slots.update(aval_bytes(block.avals[v]) for v in roots & own if last[v] == i)
        for var in list(heap.alive):
            if last.get(var, i) <= i:
                heap.free(var)
    return Held(heap.worst, heap.shapes)


def _in_place(step: _Step, heir: int) -> bool:
    """Whether the operation may write its result over an operand that dies."""
    name = step.eqn.primitive.name
    if name in _UPDATES:
        return step.reads[0] == heir
    if name in ("while", "scan"):
        return True
    if name == "cond":
        return False
    return name not in _WRITTEN


def _inside(step: _Step) -> Held:
    """What an operation holds while it runs, beyond operands and results."""
    worst = _NOTHING
    for body in subjaxprs(step.eqn):
        opened = _open(body)
        held = _walk(opened, _carried(step, opened, step.eqn.primitive.name))
        worst = max(worst, held, key=lambda h: h.bytes)
    return worst


def _carried(step: _Step, body: _Block, name: str) -> set[int]:
    """A loop body's inputs that its results replace."""
    if name == "while":
        skip = step.eqn.params["body_nconsts"]
        return set(body.inputs[skip:])
    if name == "scan":
        skip, carry = scan_counts(step.eqn)
        return set(body.inputs[skip : skip + carry])
    return set()
