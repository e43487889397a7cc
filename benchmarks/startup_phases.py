"""Child of `startup.py`: one run of the digits default with a clock around each phase.

Prints a JSON object `{phase: seconds}` as its last line. Phases of a run follow one another;
`compile` overlaps with drawing the first state.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

BEGIN = time.perf_counter()
PHASES: dict[str, float] = {}


def timed(owner: Any, name: str, phase: str) -> None:
    """Add the seconds of every call of `owner.name` to `phase`, up to the first round."""
    inner: Callable[..., Any] = getattr(owner, name)

    def outer(*args: Any, **given: Any) -> Any:
        start = time.perf_counter()
        try:
            return inner(*args, **given)
        finally:
            if "first_chunk" not in PHASES or phase == "first_chunk":
                PHASES.setdefault(phase, 0.0)
                PHASES[phase] += time.perf_counter() - start

    setattr(owner, name, outer)


def main() -> int:
    """Run `fedjax-sim run` with the arguments of this process."""
    from fedjax_sim.cli import main as command
    from fedjax_sim.cli import screen
    from fedjax_sim.experiment import build, config, dispatch, session

    PHASES["import"] = time.perf_counter() - BEGIN
    timed(config, "resolve", "experiment")
    timed(build, "federation", "data")
    timed(session, "prepare", "prepare")
    timed(dispatch.Dispatch, "__init__", "trace")
    timed(screen, "banner", "banner")
    timed(dispatch.Dispatch, "compile", "lower_and_compile")
    first: Callable[..., Any] = dispatch.Dispatch.__call__

    def one_chunk(*args: Any, **given: Any) -> Any:
        start = time.perf_counter()
        out = first(*args, **given)
        PHASES.setdefault("first_chunk", time.perf_counter() - start)
        PHASES.setdefault("all", time.perf_counter() - BEGIN)
        return out

    dispatch.Dispatch.__call__ = one_chunk  # type: ignore[method-assign]
    code = command.main(["run", *sys.argv[1:]])
    print(json.dumps({name: round(seconds, 4) for name, seconds in PHASES.items()}))
    return code


if __name__ == "__main__":
    sys.exit(main())
