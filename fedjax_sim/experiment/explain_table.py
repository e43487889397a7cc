"""The two tables of an explanation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedjax_sim.engine.forecast import COMPILER, RUNTIME_BYTES, gigabytes
from fedjax_sim.experiment.report import count, duration

if TYPE_CHECKING:
    from rich.table import Table

    from fedjax_sim.experiment.explain import Explanation


def _grid(title: str, columns: tuple[str, ...]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column(title, no_wrap=True)
    table.add_column(columns[0], justify="right", no_wrap=True)
    table.add_column(columns[1], style="dim")
    return table


def memory(told: Explanation) -> Table:
    """Bytes by kind, largest first, and their sum beside the memory there is."""
    forecast = told.forecast
    table = _grid("memory", ("bytes", "from"))
    how = {item.kind: item.how for item in forecast.items}
    how[COMPILER] = f"measured: {RUNTIME_BYTES // 2**20} MiB and some an operation"
    shown = {kind: n for kind, n in forecast.by_kind().items() if n > 0}
    for kind, n in shown.items():
        table.add_row(kind, gigabytes(n), how[kind])
    table.add_section()
    share = f"{forecast.device_total / told.memory_bytes:.0%}"
    of = "the machine's" if forecast.shares_memory else "a device's"
    verdict = "" if told.fits else "; IT DOES NOT FIT"
    if not forecast.shares_memory:
        table.add_row("each device", gigabytes(forecast.device_total), "")
    words = f"{share} of {of} {gigabytes(told.memory_bytes)}{verdict}"
    table.add_row("total", gigabytes(forecast.total), words)
    return table


def work(told: Explanation) -> Table:
    """Plan, compiles, lane steps, operations and time."""
    table = _grid("work", ("figure", "from"))
    plan = told.plan
    kind = "CPU" if told.forecast.shares_memory else told.forecast.platform.upper()
    shape = f"{count(plan.lanes, 'lane')} x {count(plan.devices, f'{kind} device')}"
    table.add_row("plan", shape, "see below")
    table.add_row("compiles", str(told.compiles), f"{told.operations:,} operations traced")
    table.add_row("dispatch", count(told.chunk, "round"), "records come once a dispatch")
    cohorts = count(len(told.packings), "sampled cohort")
    steps = f"{told.steps_per_round:,.0f}"
    table.add_row("local steps a round", steps, f"{count(told.cohort, 'client')}, {cohorts}")
    table.add_row("lane steps a round", f"{told.lane_steps_per_round:,.0f}", "with idle lanes")
    bound = f"bound {told.lane_efficiency_bound:.1%}"
    table.add_row("lane efficiency", f"{told.lane_efficiency:.1%}", bound)
    table.add_row("operations a step", _flops(told.flops), "FLOPs of the traced step")
    seconds = f"{told.seconds_per_round * 1e3:,.3g} ms"
    if told.seconds_per_round >= 1:
        seconds = f"{told.seconds_per_round:,.3g} s"
    origin = "timed on this machine" if told.timed else "rough: FLOPs over a speed"
    table.add_row("time a round", seconds, origin)
    whole = duration(told.seconds_per_round * told.rounds)
    table.add_row("time in all", whole, f"{told.rounds:,} rounds")
    table.caption = f" {told.why}. Times leave out compiling and evaluating."
    table.caption_justify = "left"
    return table


def _flops(n: float) -> str:
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= factor:
            return f"{n / factor:.3g} {unit}"
    return f"{n:.0f}"
