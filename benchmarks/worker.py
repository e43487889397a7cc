"""The worker's side of the harness: a simulator in its own process, driven line by line.

The driver writes a command a line and reads one JSON object (a line that begins with `@`) back:

- `run N` runs N rounds and answers `{"rounds": N, "seconds": ...}`;
- `loss` answers `{"loss": ...}`, the mean cross entropy on `evaluation_rows` of the examples.

The first line, before any command, says that the worker is ready, and its
settings. NumPy only, so that each rival's own environment can import it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

EVALUATED = 2000


def evaluation_rows(count: int) -> np.ndarray:
    """The rows of the flat examples on which every simulator's loss is measured, int64."""
    return np.unique(np.linspace(0, count - 1, min(count, EVALUATED)).astype(np.int64))


def serve(run: Callable[[int], None], loss: Callable[[], float], **settings: Any) -> None:
    """Answer commands until the input ends.

    Args:
      run: `(rounds)`; returns when they are done.
      loss: of the present model on the evaluation rows.
      **settings: threads, workers, lanes: whatever a reader of the record should know.
    """
    tell(settings=settings)
    for command, rounds in commands():
        if command == "loss":
            tell(loss=loss())
        else:
            started = time.perf_counter()
            run(rounds)
            tell(rounds=rounds, seconds=time.perf_counter() - started)


def commands() -> Iterator[tuple[str, int]]:
    """`("run", rounds)` or `("loss", 0)` for each line of the input."""
    for line in sys.stdin:
        word, *number = line.split()
        yield word, int(number[0]) if number else 0


def tell(**fields: Any) -> None:
    """Answer the driver."""
    print("@" + json.dumps(fields), flush=True)
