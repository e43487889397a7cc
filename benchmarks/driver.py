"""The driver's side of the harness: a simulator in its own process, told what to run when."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from contenders import ENVIRONMENTS, HERE, Rival, python_of
from machine import clean_environment, peak_resident


class Worker:
    """A process that serves the commands of `worker.py`.

    Attributes:
      settings: threads, workers, lanes: what it said of itself.
      ready_seconds: from its start until it was ready.
    """

    def __init__(self, command: Sequence[str], platform: str = "cpu") -> None:
        """Start it and wait until it is ready."""
        path = f"{HERE.parent}:{HERE}:{HERE / 'rivals'}"
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed by `stop`
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [*command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=clean_environment(PYTHONPATH=path, BENCH_PLATFORM=platform),
        )
        self.settings: dict[str, Any] = self._hear()["settings"]
        self.ready_seconds = time.perf_counter() - started

    def run(self, rounds: int) -> float:
        """Seconds of `rounds` rounds, as the worker timed them."""
        return self._ask(f"run {rounds}")["seconds"]

    def loss(self) -> float:
        """The present model's loss on the evaluation rows."""
        return self._ask("loss")["loss"]

    def peak_bytes(self) -> int:
        """Peak resident memory, summed over the worker's process and all that it started.

        Pages that several of them share count once for each.
        """
        root = psutil.Process(self._process.pid)
        return sum(peak_resident(p.pid) for p in [root, *root.children(recursive=True)])

    def stop(self) -> None:
        """End it, and what it started."""
        assert self._process.stdin is not None
        try:
            root = psutil.Process(self._process.pid)
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        self._process.stdin.close()
        _, alive = psutil.wait_procs(family, timeout=20)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._log.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        self._log.seek(0)
        tail = "".join(self._log.readlines()[-30:])
        raise SystemExit(f"a worker ended early: {self._process.args}\n{tail}")


class OurWorker(Worker):
    """fedjax_sim in a process of its own."""

    def __init__(self, workload: str, *options: str, platform: str = "cpu") -> None:
        """Start `ours_worker.py` on a workload."""
        script = str(HERE / "ours_worker.py")
        command = [sys.executable, script, workload, "--platform", platform, *options]
        super().__init__(command, platform)


class RivalWorker(Worker):
    """A rival in its own environment; its scratch folder lives as long as it does."""

    def __init__(
        self, rival: Rival, workload: str, environments: Path = ENVIRONMENTS, platform: str = "cpu"
    ) -> None:
        """Start the rival's worker on a workload."""
        self._folder = tempfile.mkdtemp(prefix="bench-") if rival.folder else None
        extra = ["--folder", self._folder] if self._folder else []
        script = str(HERE / "rivals" / rival.script)
        command = [str(python_of(rival, environments)), script, workload]
        super().__init__([*command, *rival.options_for(workload), *extra], platform)

    def stop(self) -> None:
        """End it and remove its folder."""
        super().stop()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
