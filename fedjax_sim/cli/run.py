"""`fedjax-sim run`: train an experiment."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.files import check_free


def main(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Train; see `fedjax-sim run --help`."""
    from fedjax_sim.experiment import config

    path = None if arguments.experiment is None else Path(arguments.experiment)
    file = config.read(path)
    values = {key: config.parse_value(key, text) for key, text in overrides.items()}
    if arguments.explain:
        from fedjax_sim.cli.explain import tell

        return tell(config.resolve(file, config.overrides_table(values)))
    if arguments.out is not None:
        check_free(Path(arguments.out))
    experiment = config.resolve(file, config.overrides_table(values))
    out = _out(arguments.out, path, experiment)
    return train(experiment, out)


def train(experiment: Any, out: Path, *, resume: bool = False) -> int:
    """Build, run, and tell; the exit code."""
    from fedjax_sim.cli import backend

    wanted = experiment.plan.devices
    backend.prepare(wanted, at_least=wanted if resume and isinstance(wanted, int) else 0)
    import jax

    wide = jax.enable_x64(True) if experiment.plan.float64 else contextlib.nullcontext()
    with wide:
        return _train(experiment, out, resume=resume)


def _train(experiment: Any, out: Path, *, resume: bool) -> int:
    from fedjax_sim.cli import screen
    from fedjax_sim.cli.main import DIVERGED, DONE
    from fedjax_sim.experiment.build import build
    from fedjax_sim.experiment.session import Session

    built = build(experiment)
    with named_fields():
        session = Session(
            built.recipe,
            built.task,
            built.federation,
            built.settings,
            out=out,
            config_text=built.config_text,
            facts=built.facts,
            resume=resume,
        )
    console = screen.console()
    screen.banner(console, experiment, built, session, out)
    for note in session.notes:
        console.print(note, style="dim", markup=False)
    with screen.progress(console) as tell, named_fields():
        result = session.run(tell)
    screen.closing(console, result, out)
    return DIVERGED if result.status == "diverged" else DONE


@contextlib.contextmanager
def named_fields() -> Generator[None]:
    """Give a setting's name the section that an experiment file has it in."""
    from fedjax_sim.experiment.sections import Plan, Run

    try:
        yield
    except InputError as error:
        for section, model in (("run", Run), ("plan", Plan)):
            if error.field in model.model_fields:
                raise InputError(f"{section}.{error.field}", error.value, error.remedy) from error
        raise


def _out(given: str | None, path: Path | None, experiment: Any) -> Path:
    """The run's folder: the one asked for, or the next free number under `runs/`."""
    if given is not None:
        return Path(given)
    pieces = experiment.pieces
    name = f"{pieces['data'].name}-{pieces['algorithm'].name}" if path is None else path.stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    taken = [p.name.removeprefix(f"{name}-") for p in Path("runs").glob(f"{name}-*")]
    number = 1 + max((int(t) for t in taken if t.isdecimal()), default=0)
    out = Path("runs") / f"{name}-{number}"
    check_free(out)
    return out
