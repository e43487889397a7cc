"""Ctrl-C and SIGTERM end a run between two dispatches, not inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A run was stopped from outside; its records and a checkpoint are kept.

    Attributes:
      out: the run directory, or None where nothing was written.
      round: rounds done.
    """

    def __init__(self, out: Path | None, round_: int) -> None:
        self.out, self.round = out, round_
        kept = f"; resume {out} goes on" if out is not None else ""
        super().__init__(f"interrupted after round {round_}{kept}")


class Request:
    """Whether someone asked the run to stop."""

    def __init__(self) -> None:
        self.stop = False


@contextmanager
def listen() -> Generator[Request]:
    """Catch SIGINT and SIGTERM; a second one acts at once.

    Outside the main thread, where no handler can be set, nothing is caught.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        del frame
        request.stop = True
        signal.signal(number, before[number])

    try:
        for number in before:
            signal.signal(number, ask)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
