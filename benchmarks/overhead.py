"""What do evaluation, records, progress and checkpoints add to the digits default?

    python benchmarks/overhead.py [--pairs 7] [--rounds 600] [--every 1 5 10]

In turn, in one process, all compiled: the rounds of the digits default by the bare compiled
round loop without its probe; and by a whole session into a run folder, with its evaluation
(every round and as the default file says), records, progress drawn for a terminal, and
checkpoints, the last one included. Ratio: median over the pairs. The floor of evaluating every
round is given beside it, as operations of an evaluation over those of a round's training.

Writes to `benchmarks/results/overhead.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
import records

BAR = 1.05


def federated_default(rounds: int) -> Any:
    """The bundled experiment with more rounds."""
    from fedjax_sim.experiment import build, config

    file = config.read(None)
    return build.build(config.resolve(file, {"run": {"rounds": rounds}}))


class Bare:
    """The compiled round loop without a probe."""

    def __init__(self, built: Any) -> None:
        from fedjax_sim.experiment.dispatch import Dispatch
        from fedjax_sim.experiment.prepare import prepare

        found = prepare(built.recipe, built.task, built.federation, built.settings)
        nothing = found.evaluation._replace(**dict.fromkeys(found.evaluation._fields))
        self.dispatch = Dispatch(dataclasses.replace(found, evaluation=nothing))
        self.dispatch.compile()
        self.state, self.chunk = self.dispatch.first_state(), found.chunk

    def __call__(self, rounds: int) -> float:
        """Seconds a round."""
        start = time.perf_counter()
        for _ in range(rounds // self.chunk):
            self.state, _ = self.dispatch(self.state, self.chunk)
        return (time.perf_counter() - start) / (rounds // self.chunk * self.chunk)


def session(built: Any, every: int, out: Path) -> tuple[float, float]:
    """Seconds a round of a whole session, from its first chunk on.

    With its last checkpoint, and without the last chunk and its checkpoint; there is none
    before within 2 s.
    """
    from rich.console import Console

    from fedjax_sim.cli import screen
    from fedjax_sim.experiment.session import Session

    settings = dataclasses.replace(built.settings, eval_every=every)
    made = Session(built.recipe, built.task, built.federation, settings, out=out)
    marks: list[tuple[int, float]] = []
    with open(os.devnull, "w") as sink:
        console = Console(file=sink, force_terminal=True, width=120)
        with screen.progress(console) as draw:

            def tell(now: Any) -> None:
                draw(now)
                if now.phase == "training":
                    marks.append((now.round, time.perf_counter()))

            made.run(tell)
    first, begin = marks[0]
    with_last, without = ((end - begin) / (done - first) for done, end in (marks[-1], marks[-2]))
    return with_last, without


def operations(built: Any, steps: float) -> dict[str, float]:
    """FLOPs of one evaluation and of one round's steps, by the weights alone."""
    import jax

    shapes = jax.tree.leaves(jax.eval_shape(built.task.init, jax.random.key(0)).params)
    weights = [int(np.prod(s.shape)) for s in shapes if len(s.shape) == 2]
    inputs = built.federation.train.x.shape[1]
    first = max(w for w, s in zip(weights, [s for s in shapes if len(s.shape) == 2], strict=True)
                if s.shape[0] == inputs)  # fmt: skip
    fed = built.federation
    tested = len(fed.test.x) + len(fed.central_test[0])
    return {
        "evaluation": 2.0 * sum(weights) * tested,
        "training": steps * 10 * (6.0 * sum(weights) - 2.0 * first),
    }


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--every", type=int, nargs="+", default=[1, 5, 10])
    asked = parser.parse_args()
    from fedjax_sim.cli import backend

    backend.prepare()
    built = federated_default(asked.rounds)
    usual, bare = built.settings.eval_every, Bare(built)
    bare(asked.rounds)
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(asked.pairs):
            for every in asked.every:
                times.setdefault(f"bare_{every}", []).append(bare(asked.rounds))
                spent = session(built, every, Path(folder) / f"{every}-{i}")
                times.setdefault(f"session_{every}", []).append(spent[0])
                times.setdefault(f"unsaved_{every}", []).append(spent[1])
    rows = []
    for every in asked.every:
        pairs = list(zip(times[f"session_{every}"], times[f"bare_{every}"], strict=True))
        ratios = [a / b for a, b in pairs]
        bare_times = times[f"bare_{every}"]
        unsaved = [a / b for a, b in zip(times[f"unsaved_{every}"], bare_times, strict=True)]
        row = {
            "what": "digits default",
            "eval_every": every,
            "is_default": every == usual,
            "ratio": round(statistics.median(ratios), 4),
            "ratios": [round(r, 4) for r in ratios],
            "ratio_without_checkpoint": round(statistics.median(unsaved), 4),
            "ratios_without_checkpoint": [round(r, 4) for r in unsaved],
            "session_ms_a_round": round(1e3 * statistics.median(a for a, _ in pairs), 4),
            "bare_ms_a_round": round(1e3 * statistics.median(b for _, b in pairs), 4),
            "rounds": asked.rounds,
            "bar": BAR,
            "operations": operations(built, 75),
        }
        rows.append(row | machine.describe())
        shown = ("eval_every", "ratio", "ratio_without_checkpoint", "session_ms_a_round")
        print({k: row[k] for k in shown})
    records.merge(records.RESULTS / "overhead.json", rows, ("what", "eval_every"))


if __name__ == "__main__":
    main()
