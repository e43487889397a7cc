"""What a run will hold, kind by kind, told from its traced program before it is compiled."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
from jax.extend.core import ClosedJaxpr

from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import PyTree
from fedjax_sim.engine import liveness
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.store import Pool

# Measured by `benchmarks/memory.py` on its calibration runs; see docs/decisions/0004.
RUNTIME_BYTES = 85 * 2**20
COMPILER_BYTES_AN_OPERATION = 60 * 2**10
# XLA's CPU runtime touches a little more than the buffers that the walk knows.
CPU_SLACK = 1.15
# Scratch of its products over lanes, in models: a constant, and a term a lane. Not in XLA's own
# plan; seen at 2, 4 and 8 lanes.
CPU_BATCHED_SCRATCH = (2.6, 0.5)

DATA, ROWS, SERVER = "data", "client rows", "model and server state"
LANES, ACTIVATIONS = "lanes: models, optimizer slots", "gradients and activations"
ACCUMULATORS, COHORT_ROWS = "accumulators", "cohort rows"
COMPILER, RECORDS, START = "runtime and compiler", "records", "state while it is placed"

_REMEDY = {
    DATA: ("devices", "devices = 1 holds the data once beside the host's copy; or take fewer data"),
    ROWS: ("clients", 'take client_state = "disk", or fewer clients'),
    SERVER: ("devices", "take devices = 1 or a smaller model"),
    LANES: ("lanes", "take fewer lanes, devices = 1, or an optimizer with fewer slots"),
    ACTIVATIONS: ("batch_size", "take a smaller batch, fewer lanes, or devices = 1"),
    ACCUMULATORS: ("cohort", "take a smaller cohort, or an aggregator that streams"),
    COHORT_ROWS: ("cohort", "take a smaller cohort"),
    COMPILER: ("memory", "needs a machine with more memory"),
    RECORDS: ("chunk", "take a smaller chunk"),
    START: ("clients", "take a smaller model, or fewer clients with state"),
}


class Item(NamedTuple):
    """One kind of memory.

    Attributes:
      kind: its name.
      host: bytes on the host, once.
      each: bytes on every device.
      how: where the figure comes from, in a few words.
    """

    kind: str
    host: int
    each: int
    how: str


class Pieces(NamedTuple):
    """Shapes of what a run is made of; every leaf has `.shape` and `.dtype`.

    Attributes:
      data: arrays put on every device, evaluation's included.
      server: state of algorithm and sampler.
      rows: client rows on the device, all `[N, ...]` or a pool of them.
      work: what one lane carries.
      model: what one client trains.
      accumulator_bytes: of one device's accumulator.
      cohort: K.
      records: record buffers of a chunk.
      host_bytes: of all data on the host.
      rows_parts: devices that the rows on the device are dealt to; 1 where each has all.
      host_rows: client rows and buffers of them on the host.
    """

    data: PyTree
    server: PyTree
    rows: PyTree
    work: PyTree
    model: PyTree
    accumulator_bytes: int
    cohort: int
    records: PyTree
    host_bytes: int
    rows_parts: int = 1
    host_rows: int = 0


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Bytes by kind.

    Attributes:
      items: every kind, in no order.
      plan: lanes and devices.
      platform: `cpu`, or an accelerator's.
    """

    items: tuple[Item, ...]
    plan: Plan
    platform: str

    @property
    def shares_memory(self) -> bool:
        """Whether devices live in the host's memory."""
        return self.platform == "cpu"

    def bytes_of(self, item: Item) -> int:
        """Host and all devices together."""
        return item.host + self.plan.devices * item.each

    def by_kind(self) -> dict[str, int]:
        """`{kind: bytes}`, host and all devices together, largest first."""
        sized = {i.kind: self.bytes_of(i) for i in self.items}
        return dict(sorted(sized.items(), key=lambda pair: -pair[1]))

    @property
    def total(self) -> int:
        """Host and all devices together."""
        return sum(self.by_kind().values())

    @property
    def device_total(self) -> int:
        """One device's share; on a CPU the whole machine's."""
        return self.total if self.shares_memory else sum(i.each for i in self.items)

    def refuse_oversize(self, available: int) -> None:
        """Refuse a plan that cannot fit into `available` bytes.

        Raises:
          InputError: with the figures by kind, largest first, and what to change.
        """
        if self.device_total <= available:
            return
        sized = [(i, self.bytes_of(i) if self.shares_memory else i.each) for i in self.items]
        sized.sort(key=lambda pair: -pair[1])
        figures = ", ".join(f"{i.kind} {gigabytes(n)}" for i, n in sized if n > available / 200)
        field, remedy = _REMEDY[sized[0][0].kind]
        where = "the machine" if self.shares_memory else "a device"
        raise InputError(
            field,
            f"{self.plan.lanes} lanes x {self.plan.devices} devices",
            f"would hold {gigabytes(self.device_total)} of the {gigabytes(available)} of {where}: "
            f"{figures}; {remedy}",
        )


def gigabytes(n: float) -> str:
    """Bytes as text: `1.23 GB`, `45.6 MB`, `7.8 kB`, `9 B`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= unit:
            return f"{n / unit:.2f} GB" if name == "GB" else f"{n / unit:.1f} {name}"
    return f"{n:.0f} B"


def forecast(
    program: ClosedJaxpr, donated: frozenset[int], pieces: Pieces, plan: Plan, platform: str
) -> Forecast:
    """Bytes by kind of a run with this program.

    Args:
      program: the traced round loop, devices and lanes included.
      donated: positions of its arguments that results may replace.
      pieces: shapes.
      plan: lanes and devices.
      platform: `jax.default_backend()`.

    Cost: one pass over the program's operations, some 0.1 s; compiles nothing.
    """
    held = liveness.temporaries(program, donated)
    slack = CPU_SLACK if platform == "cpu" else 1.0
    each = -(-pieces.cohort // plan.devices)
    lanes = min(plan.lanes, each)
    work = lanes * tree.n_bytes(pieces.work)
    records = tree.n_bytes(pieces.records)
    cohort_rows = _rows_held(held, pieces, each)
    brief = int(slack * held.bytes)
    if platform == "cpu" and lanes > 1:
        scratch = CPU_BATCHED_SCRATCH[0] + CPU_BATCHED_SCRATCH[1] * lanes
        brief += int(scratch * tree.n_bytes(pieces.model))
    rest = max(0, brief - work - pieces.accumulator_bytes - cohort_rows - records)
    state, rows = tree.n_bytes(pieces.server), -(-tree.n_bytes(pieces.rows) // pieces.rows_parts)
    leaves = [tree.n_bytes(x) for x in jax.tree.leaves((pieces.server, pieces.rows))]
    again = max(0, max(leaves, default=0) - plan.devices * brief)
    compiler = liveness.n_operations(program) * COMPILER_BYTES_AN_OPERATION
    items = (
        Item(DATA, pieces.host_bytes, tree.n_bytes(pieces.data), "one copy a device, one here"),
        Item(SERVER, 0, state, "one copy a device"),
        Item(ROWS, pieces.host_rows, rows, _where(pieces.host_rows)),
        Item(LANES, 0, work, f"{lanes} a device x {gigabytes(tree.n_bytes(pieces.work))}"),
        Item(ACTIVATIONS, 0, rest, "walk over the traced program"),
        Item(ACCUMULATORS, 0, pieces.accumulator_bytes, "one a device"),
        Item(COHORT_ROWS, 0, cohort_rows, "gathered, dealt and handed back"),
        Item(RECORDS, 0, records, "of one dispatch"),
        Item(START, again, 0, "its largest leaf once more, on the host"),
        Item(COMPILER, RUNTIME_BYTES + compiler, 0, "measured: fixed and an operation"),
    )
    return Forecast(items, plan, platform)


def _where(host_rows: int) -> str:
    """How client rows are held, in a few words."""
    if host_rows:
        return "a dispatch's rows a device, written ones and buffers here"
    return "a row a client, dealt to the devices"


def _rows_held(held: liveness.Held, pieces: Pieces, each: int) -> int:
    """Of what the walk found, the buffers shaped like cohort rows `[K, ...]` or `[K/D, ...]`."""
    held_rows = pieces.rows.rows if isinstance(pieces.rows, Pool) else pieces.rows
    leaves = [x for x in jax.tree.leaves(held_rows) if x.shape]
    names = {
        ((k, *x.shape[1:]), str(x.dtype))
        for x in leaves
        for k in (pieces.cohort, each, each * (pieces.cohort // max(each, 1)))
    }
    return sum(n for name, n in held.by_shape.items() if name in names)
