"""Comparisons of real little runs, wherever they lie: folders, sweeps, memory."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
import pytest

import fedjax_sim.experiment.compare as comparing
from fedjax_sim.algorithms import fedavg
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.compare import Comparison, compare
from fedjax_sim.experiment.compare_groups import flat, label, unique
from fedjax_sim.experiment.run_result import Run
from fedjax_sim.experiment.session import Session
from fedjax_sim.experiment.settings import Diagnosis, Settings
from fedjax_sim.experiment.sweep import sweep
from fedjax_sim.tasks.quadratic import quadratic

from .little import DIM, federation

RATES = (0.02, 0.1)
SEEDS = (0, 1, 2)


class Made(NamedTuple):
    """Runs of two rates with three seeds, single and as a sweep."""

    root: Path
    runs: dict[float, list[Run]]
    sweep: Any

    def folder(self, rate: float) -> Path:
        return self.root / f"rate-{rate}"


def recipe(rate: float) -> Any:
    return fedavg(lambda lr: optax.sgd(lr), lr=rate, batch_size=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    root = tmp_path_factory.mktemp("compare")
    runs: dict[float, list[Run]] = {}
    for rate in RATES:
        for seed in SEEDS:
            asked = Settings(
                rounds=30,
                cohort=3,
                seed=seed,
                chunk=10,
                lanes=1,
                devices=1,
                checkpoint_every=0,
                diagnosis=Diagnosis(drift_every=0),
            )
            out = root / f"rate-{rate}" / f"seed-{seed}"
            session = Session(recipe(rate), quadratic(DIM), federation(), asked, out=out)
            runs.setdefault(rate, []).append(session.run())
    grid = sweep(
        recipe(RATES[0]),
        quadratic(DIM),
        federation(),
        hyper={"lr": list(RATES)},
        seeds=list(SEEDS),
        cohort=3,
        rounds=30,
        lanes=1,
        devices=1,
        inner="map",
        out=root / "grid",
    )
    yield Made(root, runs, grid)


def without(rows: list[dict[str, Any]], *gone: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith(gone)} for row in rows]


def test_folders_runs_and_records_say_the_same(made: Made) -> None:
    names = ["slow", "fast"]
    found = compare(*(made.folder(r) for r in RATES), names=names)
    assert found.metric == "test_loss" and found.names == names
    for others in (
        [made.runs[r] for r in RATES],
        [[run.records for run in made.runs[r]] for r in RATES],
        [[run.out for run in made.runs[r]] for r in RATES],
        [[str(run.out) for run in made.runs[r]][::-1] for r in RATES],
    ):
        again = compare(*others, names=names)
        assert without(again.rows, "verdict") == without(found.rows, "verdict")
        assert again.effects == found.effects
        assert again.target.value == found.target.value
    assert found.find("rounds", "fast")["word"] in ("better", "no difference shown")
    assert found.find("rounds", "fast")["pairs"] == 3 and found.find("rounds", "fast")["paired"]


def test_figures_come_from_the_records(made: Made) -> None:
    found = compare(*(made.folder(r) for r in RATES), names=["slow", "fast"], target=0.9)
    for rate, name in zip(RATES, ("slow", "fast"), strict=True):
        losses = [np.array([r["test_loss"] for r in run.records]) for run in made.runs[rate]]
        ends = [v[-3:].mean() for v in losses]
        told = next(row for row in found.rows if row["name"] == name)
        assert told["end"] == pytest.approx(np.exp(np.mean(np.log(ends))), rel=1e-12)
        assert told["best"] == pytest.approx(np.mean([v.min() for v in losses]), rel=1e-12)
        assert told["seeds"] == [0, 1, 2]
    contestant = found.contestants[1]
    for course, run in zip(contestant.courses, made.runs[RATES[1]], strict=True):
        spent = np.cumsum([r["uplink_bytes"] + r["downlink_bytes"] for r in run.records])
        assert course.bytes is not None and course.seconds is not None
        np.testing.assert_array_equal(course.bytes, spent)
        np.testing.assert_array_equal(course.seconds, [r["wall_time_s"] for r in run.records])


def test_a_sweep_in_its_folder_and_in_memory_equals_single_runs(made: Made) -> None:
    single = compare(*(made.folder(r) for r in RATES), names=["a", "b"], target=1.0)
    folder = compare(made.root / "grid", names=["a", "b"], target=1.0)
    memory = compare(made.sweep, names=["a", "b"], target=1.0)
    assert folder.rows == memory.rows and folder.effects == memory.effects
    told = {"seconds", "verdict"}
    for ours, theirs in zip(single.rows, folder.rows, strict=True):
        for name in ours.keys() - told:
            if not name.startswith("seconds"):
                assert theirs[name] == (
                    pytest.approx(ours[name], rel=1e-6)
                    if isinstance(ours[name], float)
                    else ours[name]
                ), name
    assert compare(made.sweep).names == ["lr 0.02", "lr 0.1"]
    assert not any(e["measure"] == "seconds" for e in folder.effects)
    mixed = compare(made.root / "grid", made.folder(RATES[0]))
    assert mixed.names == ["lr 0.02", "lr 0.1", "rate-0.02"]
    assert any("seconds are not compared: lr 0.02, lr 0.1" in note for note in mixed.notes)
    twice = compare(made.root / "grid", made.sweep, made.root / "grid")
    assert twice.names == [
        f"grid: lr {rate}{again}" for again in ("", " (2)", " (3)") for rate in RATES
    ]
    same = mixed.find("end", "rate-0.02")
    assert same["against"] == pytest.approx(1.0, rel=1e-6)


def test_one_folder_of_two_settings_is_sorted_into_both(made: Made, tmp_path: Path) -> None:
    for rate in RATES:
        for seed in SEEDS:
            shutil.copytree(made.folder(rate) / f"seed-{seed}", tmp_path / f"{rate}-{seed}")
    found = compare(tmp_path)
    assert found.names == ["lr 0.02", "lr 0.1"]
    want = compare(*(made.folder(r) for r in RATES), names=found.names)
    assert found.rows == want.rows and found.effects == want.effects
    assert [row["runs"] for row in found.rows] == [3, 3]


def test_a_repeated_seed_is_left_out_and_said(made: Made, tmp_path: Path) -> None:
    for i, rate in enumerate((RATES[0], RATES[0], RATES[1])):
        shutil.copytree(made.folder(rate) / "seed-0", tmp_path / f"run-{i}")
    found = compare(tmp_path)
    assert [row["runs"] for row in found.rows] == [1, 1]
    assert any("run-1 repeats seed 0 of" in note and "left out" in note for note in found.notes)
    with pytest.raises(InputError, match="distinct seeds"):
        compare([made.runs[RATES[0]][0]] * 2, made.runs[RATES[1]])


def content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_unfinished_runs_are_used_as_far_as_they_go_and_nothing_is_written(
    made: Made, tmp_path: Path
) -> None:
    shutil.copytree(made.root, tmp_path / "all")
    cut = tmp_path / "all" / "rate-0.1" / "seed-1"
    (cut / "summary.json").unlink()
    lines = (cut / "metrics.jsonl").read_text().splitlines(keepends=True)
    (cut / "metrics.jsonl").write_text("".join(lines[:4]) + lines[4][:20])  # torn
    empty = tmp_path / "all" / "rate-0.1" / "seed-3"
    empty.mkdir()
    shutil.copy(cut / "config.toml", empty)
    (empty / "metrics.jsonl").write_text("")
    before = content(tmp_path)
    found = compare(tmp_path / "all" / "rate-0.02", tmp_path / "all" / "rate-0.1", target=1e-9)
    assert content(tmp_path) == before
    told = found.rows[1]
    assert (told["runs"], told["unknown"], told["not_reached"]) == (3, 1, 2)
    assert len(found.contestants[1].courses[1].rounds) == 4
    said = "\n".join(found.notes)
    assert "unfinished" in said and "rate-0.1 1 of 3" in said
    assert "seed-3 holds no round yet and is left out" in said


def test_a_sweep_that_was_cut_off_is_read_without_a_change(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "grid"
    shutil.copytree(made.root / "grid", out)
    for name in ("summary.json", "table.csv"):
        (out / name).unlink()
    lines = (out / "runs.jsonl").read_text().splitlines(keepends=True)
    (out / "runs.jsonl").write_text("".join(lines[:5]) + lines[5][:9])
    before = content(out)
    found = compare(out)
    assert content(out) == before
    assert [row["runs"] for row in found.rows] == [3, 2]
    assert "5 of its runs are there" in found.notes[0]
    assert any("rests on the 2 seeds that it shares with lr 0.02" in n for n in found.notes)
    assert found.find("end", "lr 0.1")["pairs"] == 2


def test_a_run_that_diverged_or_was_stopped_is_told_apart(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.folder(RATES[1]), tmp_path / "b")
    for seed, status in ((0, "diverged"), (1, "stopped")):
        path = tmp_path / "b" / f"seed-{seed}" / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status}))
    found = compare(made.folder(RATES[0]), tmp_path / "b", target=1e-9)
    assert [c.ended for c in found.contestants[1].courses] == ["diverged", "stopped", "done"]
    said = "\n".join(found.notes)
    assert "diverged" in said and "b 1 of 3" in said and "stopped early" in said
    assert found.find("end", "b")["pairs"] == 2


def test_virtual_seconds_are_taken_where_all_have_them(made: Made) -> None:
    def timed(run: Run, scale: float) -> list[dict[str, Any]]:
        return [r | {"virtual_time_s": scale * r["round"]} for r in run.records]

    slow, fast = (made.runs[r] for r in RATES)
    both = compare([timed(r, 7.0) for r in slow], [timed(r, 7.0) for r in fast], target=1.0)
    assert both.clock == "virtual_time_s"
    rounds, seconds = (both.find(m, "contestant 2")["value"] for m in ("rounds", "seconds"))
    assert seconds == pytest.approx(7.0 * rounds, rel=1e-9)
    assert "virtual seconds" in both.table()
    one = compare([timed(r, 7.0) for r in slow], fast, target=1.0)
    assert one.clock == "wall_time_s"


def records(values: list[float], **more: float) -> list[dict[str, Any]]:
    return [{"round": i + 1, "test_accuracy": v, **more} for i, v in enumerate(values)]


def test_metrics_targets_and_names(made: Made) -> None:
    a, b = records([0.1, 0.5, 0.9], f1=0.3), records([0.1, 0.3, 0.6], f1=0.2)
    found = compare(a, b)
    assert (found.metric, found.sign, found.names) == (
        "test_accuracy",
        1,
        ["contestant 1", "contestant 2"],
    )
    assert found.target.value == 0.6 and "contestant 2" in found.target.origin
    assert compare(a, b, metric="+f1").sign == 1 and compare(a, b, metric="-f1").sign == -1
    assert compare(a, b, target=0.7).rows[0]["rounds"] == pytest.approx(2.5)
    assert compare(made.runs[0.02][0], made.runs[0.1][0]).names == ["seed-0", "seed-0 (2)"]
    np32 = [r | {"test_accuracy": np.float32(r["test_accuracy"])} for r in a]
    assert compare(np32, b).rows[0]["end"] == pytest.approx(0.9)
    assert "one seed each" in found.notes[0]


BAD: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("none", (), {}, "contestants = (nothing): must be two or more"),
    ("one", (records([0.5]),), {}, "contestants = contestant 1: must be two or more"),
    ("number", (3, records([0.5])), {}, "contestant 1 = int: must be a folder, a Run"),
    ("empty", ([], records([0.5])), {}, "contestant 1 = list: must be a folder"),
    ("gone", ("nowhere", records([0.5])), {}, "folder = nowhere: there is no such folder"),
    ("not runs", ([3, 4], records([0.5])), {}, "contestant 1, run 1 = int: must be a Run"),
    ("no rounds", ([{"a": 1}], records([0.5])), {}, "must be records as in metrics.jsonl"),
    ("metric", (records([0.5]),) * 2, {"metric": "mcc"}, "contestant 1 has none; it has: test_acc"),
    ("which way", (records([0.5], f1=0.1),) * 2, {"metric": "f1"}, "say +f1 or -f1"),
    ("target", (records([0.5]),) * 2, {"target": 95}, "target = 95: must be above 0 and at most 1"),
    ("nan", (records([0.5]),) * 2, {"target": float("nan")}, "target = nan: must be a finite"),
    ("names", (records([0.5]),) * 2, {"names": ["a"]}, "a name for each of the 2 contestants"),
    ("text", (records([0.5]),) * 2, {"names": "ab"}, "a name for each of the 2 contestants"),
    ("twice", (records([0.5]),) * 2, {"names": ["a", "a"]}, "must be distinct"),
    ("level", (records([0.5]),) * 2, {"level": 95}, "level = 95: must be a finite number"),
]


@pytest.mark.parametrize(
    ("contestants", "asked", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_bad_input_is_named(contestants: Any, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        compare(*contestants, **asked)
    assert words in str(error.value)


def test_metrics_that_are_not_common_are_listed() -> None:
    loss = [{"round": 1, "train_loss": 0.5}]
    with pytest.raises(InputError) as error:
        compare(records([0.5]), loss)
    said = str(error.value)
    assert "contestant 1 has test_accuracy" in said and "contestant 2 has train_loss" in said
    with pytest.raises(InputError) as error:
        compare(records([0.5]), loss, metric="test_accuracy")
    assert "contestant 2 has none; it has: train_loss" in str(error.value)


def test_damaged_folders_are_named(made: Made, tmp_path: Path) -> None:
    good = made.folder(RATES[0])
    for name, text, words in [
        ("config.toml", "[run", "config.toml"),
        ("summary.json", "{", "is damaged"),
        ("summary.json", "[]", "is no JSON object"),
        ("metrics.jsonl", '{"round": 2}\n', "is not of round 1"),
    ]:
        out = tmp_path / f"{name}-{len(text)}"
        shutil.copytree(good / "seed-0", out)
        (out / name).write_text(text)
        with pytest.raises(InputError, match=words):
            compare(good, out)
    out = tmp_path / "grid"
    shutil.copytree(made.root / "grid", out)
    (out / "curves.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="is damaged"):
        compare(good, out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no run"):
        compare(good, tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        compare(good, tmp_path / "file")


def test_other_data_are_said_and_not_refused(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "b"
    shutil.copytree(made.folder(RATES[1]), out)
    for path in out.glob("*/summary.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"federation": "other"}))
    found = compare(made.folder(RATES[0]), out)
    assert "different data: b on other, rate-0.02 on little" in found.notes[0]
    assert not any("different data" in n for n in compare(*(made.folder(r) for r in RATES)).notes)


def test_a_comparison_is_json_and_reads_well(made: Made) -> None:
    found = compare(*(made.folder(r) for r in RATES), names=["slow", "fast"])
    told = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert told["rows"] == found.rows and told["baseline"] == "slow"
    for width in (80, 120):
        lines = found.table(width).splitlines()
        assert max(map(len, lines)) <= width
    text = found.table(80)
    for words in ("faster: rounds", "faster: bytes", "better: end level", "steadier: drop"):
        assert words in text
    fast = found.find("rounds", "fast")
    (line,) = [x for x in text.splitlines() if x.startswith("   fast")][:1]
    assert fast["word"] in line and f"x {fast['against']:.2f}" in line
    assert f"{fast['value']:.1f}" in line
    with pytest.raises(InputError, match="must be one of rounds"):
        found.find("speed", "fast")


def panels(found: Comparison) -> dict[str, Any]:
    figure = found.plot()
    figure.savefig(io.BytesIO(), format="png")
    return {ax.get_title(loc="left"): ax for ax in figure.axes}


def test_the_picture_has_the_curves_and_the_four_effects(made: Made) -> None:
    found = compare(*(made.folder(r) for r in RATES), names=["slow", "fast"], target=0.9)
    drawn = panels(found)
    assert list(drawn) == [
        "test loss",
        "faster: rounds to target",
        "better: end level",
        "steadier: largest drop, last third",
        "feasible: seeds that reach the target",
    ]
    lines = {line.get_label(): line for line in drawn["test loss"].lines}
    losses = [[r["test_loss"] for r in run.records] for run in made.runs[RATES[1]]]
    np.testing.assert_allclose(lines["fast"].get_ydata(), np.mean(losses, axis=0))
    dots = [c.get_offsets()[0] for c in drawn["better: end level"].collections]
    np.testing.assert_allclose([d[0] for d in dots], [row["end"] for row in found.rows])
    words = [t.get_text().replace("\n", " ") for t in drawn["better: end level"].texts]
    assert words == [found.find("end", "fast")["word"]]


def test_many_contestants_are_drawn_as_the_best_ones() -> None:
    given = [records([0.1, 0.2 + 0.01 * i, 0.3 + 0.01 * i]) for i in range(14)]
    found = compare(*given)
    drawn = panels(found)["better: end level"]
    shown = [t.get_position()[1] for t in drawn.texts]
    assert len(shown) == 8  # the baseline has no word
    labels = [line.get_label() for line in panels(found)["test accuracy"].lines]
    assert [x for x in labels if x.startswith("contestant")] == [
        f"contestant {i}" for i in (1, *range(7, 15))
    ]


def test_all_diverged_is_drawn_without_a_curve(made: Made) -> None:
    gone = [[r | {"test_loss": None} for r in run.records[:2]] for run in made.runs[RATES[1]]]
    runs = [
        type("R", (), {"records": g, "summary": {"seed": i}, "status": "diverged", "out": None})()
        for i, g in enumerate(gone)
    ]
    found = compare(made.folder(RATES[0]), runs, names=["good", "gone"], metric="test_loss")
    assert found.find("end", "gone")["why"] == "all diverged"
    drawn = panels(found)
    assert [line.get_label() for line in drawn["test loss"].lines][:1] == ["good"]
    assert "not known" in [t.get_text() for t in drawn["better: end level"].texts]


def test_labels() -> None:
    assert label({"client.learning_rate": 0.1, "algorithm.name": "fedprox"}) == (
        "learning rate 0.1, fedprox"
    )
    assert flat({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}
    assert unique(["x", "x", "x (2)"]) == ["x", "x (2)", "x (2) (2)"]
    assert comparing.compare is compare
