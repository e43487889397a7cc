"""The harness: records merge, ratios and tables say what was timed, losses are compared."""

from __future__ import annotations

import json

import pytest
import records
import tables
from scaling import bars
from timing import block_rounds, interleave, ratios, same_loss, warm_up

KEY = ("workload", "rival")


class Clockwork:
    """A simulator that takes as long as it is told."""

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name, self.seconds, self.log, self.done = name, seconds, log, 0

    def run(self, rounds: int) -> float:
        self.log.append(self.name)
        self.done += rounds
        return rounds * self.seconds

    def loss(self) -> float:
        return 1 / (1 + self.done)


def test_a_new_row_replaces_only_its_own(tmp_path) -> None:
    path = tmp_path / "results" / "compare.json"
    records.merge(path, [{"workload": "A", "rival": "x", "ratio": 1}], KEY)
    records.merge(path, [{"workload": "A", "rival": "y", "ratio": 2}], KEY)
    every = records.merge(path, [{"workload": "A", "rival": "x", "ratio": 3}], KEY)
    assert [(r["rival"], r["ratio"]) for r in every] == [("x", 3), ("y", 2)]
    assert json.loads(path.read_text())["rows"] == every == records.read(path)
    assert [p.name for p in path.parent.iterdir()] == ["compare.json"]


def test_no_record_yet(tmp_path) -> None:
    assert records.read(tmp_path / "none.json") == []


def test_sides_alternate() -> None:
    log: list[str] = []
    sides = {"a": Clockwork("a", 0.5, log), "b": Clockwork("b", 2.0, log)}
    timed = interleave(sides, {"a": 4, "b": 1}, pairs=3)
    assert log == ["a", "b"] * 3
    assert timed == {"a": [0.5] * 3, "b": [2.0] * 3}
    assert (sides["a"].done, sides["b"].done) == (12, 3)


@pytest.mark.parametrize(
    ("seconds", "chunk", "rounds"), [(0.001, 100, 2000), (0.5, 1, 4), (30.0, 1, 1), (0.03, 10, 70)]
)
def test_a_block_lasts_about_as_long_as_asked(seconds: float, chunk: int, rounds: int) -> None:
    assert block_rounds(Clockwork("a", seconds, []), 2.0, chunk) == rounds


def test_ratio_is_the_median_of_pairs_not_of_medians() -> None:
    found = ratios([1.0, 2.0, 4.0], [10.0, 10.0, 10.0])
    assert found["ratio"] == 5.0
    assert (found["ratio_min"], found["ratio_max"]) == (2.5, 10.0)
    assert found["ratios"] == [10.0, 5.0, 2.5]


def test_warm_up_reads_the_loss_on_both_sides_of_the_rounds() -> None:
    assert warm_up(Clockwork("a", 2.0, []), 4) == {
        "initial_loss": 1.0,
        "warm_seconds": 8.0,
        "loss": 0.2,
    }


@pytest.mark.parametrize(
    ("initial", "loss", "same"),
    [
        (2.0, 1.0, True),
        (2.0, 1.04, True),
        (2.0, 1.06, False),  # tolerance: 5 % of the fall from 2 to 1
        (2.0, 0.94, False),
        (2.1, 1.0, False),  # did not start alike
        (2.0, float("nan"), False),
    ],
)
def test_same_loss(initial: float, loss: float, same: bool) -> None:
    ours = {"initial_loss": 2.0, "loss": 1.0}
    assert same_loss(ours, {"initial_loss": initial, "loss": loss}) is same


def test_table() -> None:
    row = {
        "workload": "W1-lin",
        "rounds_a_dispatch": 100,
        "label": "FedJAX",
        "ours_seconds": 0.00123,
        "rival_seconds": 1.5,
        "ratio": 1219.5,
        "ratio_min": 9.999,
        "ratio_max": 1300.0,
        "ours_steps_per_second": 203_252.0,
        "rival_steps_per_second": 166.7,
        "ours_of_peak": 0.021,
        "rival_of_peak": 0.001,
        "ours_peak_bytes": 0.5e9,
        "rival_peak_bytes": 2.5e9,
    }
    head, rule, line = tables.markdown([row]).splitlines()
    assert len(head) == len(rule) == len(line)
    assert [c.strip() for c in line.strip("|").split("|")] == [
        *("W1-lin", "100", "FedJAX", "1.23 ms", "1.50 s", "1,220 (10.0 to 1,300)"),
        *("203,252", "167", "2.1%", "0.1%", "0.50 GB", "2.50 GB"),
    ]


def test_bars_of_scaling() -> None:
    def point(study: str, **figures: float) -> dict[str, object]:
        return {"study": study, **figures}

    rows = [
        point("memory", peak_bytes=1.00e9),
        point("memory", peak_bytes=1.08e9),
        point("million", setup_seconds=20.0, round_seconds=0.3, peak_bytes=4e9),
        point("cohort", peak_bytes=9e9),
    ]
    found = bars(rows)
    assert [(figure < most) for _, figure, most in found] == [True, True, False, True]
    assert found[0][1] == pytest.approx(0.08)
    assert bars(rows[:1]) == []
