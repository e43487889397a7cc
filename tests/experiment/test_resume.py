"""A run that was killed goes on bitwise as if it had not been."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optax
import pytest
from experiment import little

import fedjax_sim as fs
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.session import Progress

ROUNDS = 60


class Crash(Exception):
    """What ends a run in the middle of nowhere."""


def crash_at(round_: int) -> Any:
    def crash(p: Progress) -> None:
        if p.round >= round_ and p.phase != "compiling":
            raise Crash

    return crash


@pytest.mark.parametrize(
    "recipe",
    [
        little.recipe(),
        pytest.param(
            fs.algorithms.fedadam(optax.sgd(0.05, momentum=0.9), batch_size=2),
            marks=pytest.mark.slow,
        ),
        fs.algorithms.local_only(optax.adam(0.05), batch_size=2),
        pytest.param(
            fs.algorithms.centralized(optax.adam(0.05), batch_size=2), marks=pytest.mark.slow
        ),
    ],
    ids=["rows", "server optimizer", "own models", "optimizer that lives on"],
)
def test_a_crash_after_a_checkpoint_changes_nothing(tmp_path: Path, recipe: Any) -> None:
    out, same = tmp_path / "run", {"recipe": recipe, "rounds": 9}
    with pytest.raises(Crash):
        little.session(out, **same).run(crash_at(6))
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 6
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"round": 7, "torn')
    again = little.session(out, resume=True, **same).run()
    assert again.resumed_from == 4
    little.assert_same(again, little.session(**same).run())
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == list(range(1, 10))


def test_before_the_first_checkpoint_it_starts_over(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Crash):
        little.session(out).run(crash_at(2))
    assert not (out / "checkpoints").exists()
    again = little.session(out, resume=True).run()
    assert again.resumed_from == 0
    little.assert_same(again, little.session().run())


def test_a_finished_run_says_so_and_touches_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = little.session(out).run()
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = fs.resume(
        out, little.recipe(), fs.tasks.quadratic(little.DIM), little.federation(), little.settings()
    )
    assert again.finished_before and not first.finished_before
    assert again.summary == json.loads((out / "summary.json").read_text())
    little.assert_same(again, first)
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}


@pytest.mark.slow
def test_the_plan_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Crash):
        little.session(out, lanes=2, chunk=4).run(crash_at(4))
    resumed = little.session(out, resume=True, lanes=None, devices=None, chunk=None)
    assert (resumed.settings.lanes, resumed.settings.devices, resumed.settings.chunk) == (2, 1, 4)


@pytest.mark.slow
def test_altered_records_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Crash):
        little.session(out).run(crash_at(4))
    metrics = out / "metrics.jsonl"
    text = metrics.read_text()
    for bad in (text.replace('"cohort_present": 3', '"cohort_present": 2', 1), text[:50]):
        metrics.write_text(bad)
        with pytest.raises(InputError, match=r"metrics\.jsonl"):
            little.session(out, resume=True).run()


def start(out: Path, rounds: int = ROUNDS, **changes: Any) -> subprocess.Popen[bytes]:
    code = "import sys; from experiment import little; "
    code += f"little.slow_run(sys.argv[1], {rounds}, 0.03, **{changes!r})"
    here = Path(__file__).resolve()
    paths = [str(here.parents[1]), str(here.parents[2]), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # as this room's own programs
    return subprocess.Popen([sys.executable, "-c", code, str(out)], env=env)


def lines_of(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_when(out: Path, process: subprocess.Popen[bytes], lines: int, wait: float) -> None:
    """SIGKILL once that many records are there, and `wait` seconds more."""
    while lines_of(out) < lines and process.poll() is None:
        time.sleep(0.005)
    time.sleep(wait)
    process.kill()
    process.wait()


def assert_unharmed(out: Path, rounds: int = ROUNDS) -> None:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["round"] for r in records] == list(range(1, rounds + 1))
    resumed = little.session(out, resume=True, rounds=rounds).run()
    assert resumed.finished_before
    little.assert_same(resumed, little.session(rounds=rounds).run())


@pytest.mark.slow
def test_sigkill_twice_and_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for lines in (10, 40):
        kill_when(out, start(out), lines, 0.01)
    assert start(out).wait() == 0
    assert_unharmed(out)


@pytest.mark.slow
def test_sigkill_at_twenty_random_moments(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    draw, out = random.Random(seed), tmp_path / "run"
    late = 0
    for _ in range(20):
        kill_when(out, start(out, 240), lines_of(out) + draw.choice([0, 1, 3]), draw.random() * 0.1)
        late += any((out / "checkpoints").glob("round_*"))
    assert late >= 10, "most kills must fall after the first checkpoint"
    assert not (out / "summary.json").exists(), "the last kill came too late: nothing was cut off"
    assert start(out, 240).wait() == 0
    assert_unharmed(out, 240)
