"""Verdicts on files: our records, other people's tables, and what is wrong with them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.verdict_file import columns_of, read_series, verdict_of

FALL = [1.0 * 0.9**i for i in range(80)]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def lines(records: list[dict]) -> str:
    return "".join(json.dumps(r) + "\n" for r in records)


def ours(loss: list[float], **more: float) -> list[dict]:
    return [{"round": i + 1, "train_loss": v, **more} for i, v in enumerate(loss)]


def test_records_a_folder_and_its_file_say_the_same(tmp_path: Path) -> None:
    records = ours(FALL)
    write(tmp_path / "metrics.jsonl", lines(records))
    found = verdict_of(records, floor=0.0)
    assert found.name == "converged"
    assert verdict_of(tmp_path, floor=0.0) == verdict_of(tmp_path / "metrics.jsonl", floor=0.0)
    assert verdict_of(tmp_path, floor=0.0).sentence == found.sentence


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_any_csv(tmp_path: Path, delimiter: str) -> None:
    rows = ["epoch,Train Loss,note", *(f"{i},{v},x" for i, v in enumerate(FALL))]
    path = write(tmp_path / "log.csv", "\n".join(rows).replace(",", delimiter))
    assert verdict_of(path, floor=0.0).evidence["points"] == 80
    assert verdict_of(path, floor=0.0).name == "converged"


def test_cells_that_are_missing_or_not_finite(tmp_path: Path) -> None:
    text = "\ufeffloss,acc\n1.0,\n0.5,0.2\nNaN,0.3\n,0.4\n-,0.5\ninf,\n"
    columns = columns_of(read_series(write(tmp_path / "a.csv", text)))
    assert columns["acc"] == [None, 0.2, 0.3, 0.4, 0.5, None]
    assert columns["loss"][:2] == [1.0, 0.5] and math.isnan(columns["loss"][2])
    assert columns["loss"][3:5] == [None, None] and columns["loss"][5] == math.inf
    assert verdict_of(tmp_path / "a.csv", loss="loss").name == "diverging"


def test_null_in_our_records_is_not_finite_or_not_measured() -> None:
    records = ours([1.0] * 12)
    records[3] |= {"train_loss": None, "nonfinite": ["train_loss"], "cohort_present": 0}
    records[5] |= {"train_loss": None, "nonfinite": ["train_loss"], "cohort_present": 2}
    values = columns_of(records)["train_loss"]
    assert values[3] is None and math.isnan(values[5])
    records[-1] |= {"train_loss": None, "nonfinite": ["train_loss"]}
    assert verdict_of(records).name == "diverging"
    assert "finite" in verdict_of(records).sentence


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", lines(ours(FALL)) + '{"round": 81, "tr')
    assert len(read_series(path)) == 80


@pytest.mark.parametrize(
    ("header", "judged"),
    [
        ("step,loss,val_loss", "loss"),
        ("round,test_loss,test_accuracy", "test_loss"),
        ("round,accuracy", "accuracy"),
        ("x", "x"),
        ("epoch,time,rmse", "rmse"),
    ],
)
def test_the_column_is_guessed(tmp_path: Path, header: str, judged: str) -> None:
    names = header.split(",")
    rows = [",".join(str(0.9**i if n == judged else i) for n in names) for i in range(50)]
    path = write(tmp_path / "a.csv", "\n".join([header, *rows]))
    found = verdict_of(path)
    want = 1 - 0.9**0 if judged == "accuracy" else 1.0
    assert found.evidence["first"] == pytest.approx(max(want, 1 - 0.9**2 if want == 0 else want))
    asked = verdict_of(path, **{"metric" if judged == "accuracy" else "loss": judged})
    assert found.as_dict() == asked.as_dict()


def test_a_metric_of_any_name_is_better_the_higher(tmp_path: Path) -> None:
    rows = ["round,auc", *(f"{i},{0.99 - 0.5 * 0.8**i}" for i in range(60))]
    path = write(tmp_path / "a.csv", "\n".join(rows))
    assert verdict_of(path, metric="auc").name == "converged"
    assert verdict_of(path, metric="auc").evidence["floor"] == 0


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("loss\n", "no rows"),
        ("1,2\n3,4\n", "header"),
        ("a,b\n1,2\n3,4,5\n", "row 3 has 3 cells"),
        ("speed,power\n1,2\n3,4\n", "name one of: speed, power"),
        ("name\nx\n", "hold no numbers"),
        ('{"round": 1}\n{oops}\n{"round": 3}\n', "line 2"),
        ('{"round": 1}\n[1]\n', "line 2"),
    ],
)
def test_bad_files_are_refused_with_the_reason(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        verdict_of(write(tmp_path / "bad", text))


def test_bad_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        verdict_of(tmp_path / "none")
    with pytest.raises(InputError, match="holds no run"):
        verdict_of(tmp_path)
    with pytest.raises(InputError, match="one of the columns: round, train_loss"):
        verdict_of(ours(FALL), loss="lost")
    with pytest.raises(InputError, match="not both"):
        verdict_of(ours(FALL), loss="train_loss", metric="acc")
    write(tmp_path / "raw", "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as text"):
        verdict_of(tmp_path / "raw")


def test_a_folder_is_judged_by_its_own_floor(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", lines(ours([0.5 + 0.5 * v for v in FALL])))
    assert verdict_of(tmp_path).name == "converged"
    summary = {"verdict": {"evidence": {"floor": 0.0}}}
    write(tmp_path / "summary.json", json.dumps(summary))
    assert verdict_of(tmp_path).name == "stagnating"
    assert verdict_of(tmp_path, floor=0.5).name == "converged"


def test_local_steps_are_read_off_the_records() -> None:
    y = 0.4 + 0.6 * 0.7 ** np.arange(80)
    records = ours(list(y), client_steps=500, cohort_present=10)
    for i, r in enumerate(records):
        r["step_norm"] = 0.7**i
    assert "local steps" in verdict_of(records, floor=0.0).cause
    for r in records:
        r["client_steps"] = 10
    assert "local steps" not in verdict_of(records, floor=0.0).cause
