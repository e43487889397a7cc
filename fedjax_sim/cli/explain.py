"""`fedjax-sim run --explain`: what a run would do and hold, without running it."""

from __future__ import annotations

import contextlib
from typing import Any


def tell(experiment: Any) -> int:
    """Print the tables of an experiment; trains nothing, writes nothing.

    Returns:
      0, also where the plan does not fit into memory: that is told.
    """
    from fedjax_sim.cli import backend

    backend.prepare(experiment.plan.devices)
    import jax

    from fedjax_sim.cli import screen
    from fedjax_sim.cli.run import named_fields
    from fedjax_sim.experiment.build import build
    from fedjax_sim.experiment.explain import explain

    wide = jax.enable_x64(True) if experiment.plan.float64 else contextlib.nullcontext()
    with wide, named_fields():
        built = build(experiment)
        told = explain(built.recipe, built.task, built.federation, built.settings)
    to = screen.console()
    to.print(f"[bold]{told.name}[/]: what it would hold and take; nothing is run or written")
    for table in told.tables():
        to.print(table)
    for note in experiment.notes:
        to.print(f"note: {note}", style="yellow")
    return 0
