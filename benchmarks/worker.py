"""A timed worker: answers every line on its standard input with one timed block.

`serve(block, loss)` prints a JSON line when warm, then one after each line it reads, so that
a driver can interleave several simulators in one run.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable


def serve(block: Callable[[], None], loss: Callable[[], float], rounds: int) -> None:
    """Warm up with one block, then time a block for every line read."""
    started = time.perf_counter()
    block()
    _tell(warm_seconds=time.perf_counter() - started, loss=loss())
    for _ in sys.stdin:
        started = time.perf_counter()
        block()
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        _tell(seconds_a_round=seconds / rounds, loss=loss(), peak_bytes=peak)


def _tell(**fields: float) -> None:
    print("@" + json.dumps(fields), flush=True)
