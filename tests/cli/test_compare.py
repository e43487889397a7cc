"""`fedjax-sim compare` on the smallest runs and sweeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedjax_sim.cli.main import main
from fedjax_sim.experiment.compare import compare

TINY = """
[data]
name = "digits"
test_fraction = 0.2
[data.partition]
name = "iid"
clients = 6
[model]
name = "logistic"
[algorithm]
name = "fedavg"
[client]
learning_rate = 0.1
epochs = 1
batch_size = 50
[diagnosis]
drift_every = 0
[run]
rounds = 9
cohort = 3
checkpoint_every = 0
[plan]
devices = 1
lanes = 1
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`slow/s0`, `slow/s1`, `fast/s0`, `fast/s1`, `other` (other data)."""
    at = tmp_path_factory.mktemp("compare-cli")
    (at / "tiny.toml").write_text(TINY, encoding="utf-8")
    run = ["run", str(at / "tiny.toml")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedjax_sim.cli.backend.prepare", lambda *args, **kwargs: None)
        for name, rate in (("slow", "0.02"), ("fast", "0.3")):
            for seed in "01":
                more = ["--client.learning_rate", rate, "--seed", seed]
                assert main([*run, *more, "--out", str(at / name / f"s{seed}")]) == 0
    shutil.copytree(at / "slow" / "s0", at / "other")
    config = at / "other" / "config.toml"
    config.write_text(config.read_text().replace("clients = 6", "clients = 8"))
    return at


@pytest.fixture(autouse=True)
def workplace(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with links to the runs, to be left as it is found."""
    for name in ("slow", "fast", "other"):
        (tmp_path / name).symlink_to(folders / name, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder: str | Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_a_table_says_who_is_faster(capsys: pytest.CaptureFixture[str]) -> None:
    before = [content(name) for name in ("slow", "fast")]
    assert main(["compare", "slow", "fast", "--target", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "test accuracy (more is better), target 50.00 % (as asked)" in said
    lines = said.splitlines()
    at = next(i for i, line in enumerate(lines) if "faster: rounds" in line)
    found = compare("slow", "fast", target=0.5).find("rounds", "fast")
    assert f"{found['value']:.1f}" in lines[at + 2] and found["word"] in lines[at + 2]
    assert "baseline" in lines[at + 1] and "slow" in lines[at + 1]
    assert "add --out compare.png" in said
    assert [content(name) for name in ("slow", "fast")] == before


@pytest.mark.slow
def test_a_sweep_is_its_own_comparison(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fedjax_sim.cli.backend.prepare", lambda *args, **kwargs: None)
    grid = ["sweep", str(folders / "tiny.toml"), "--seeds", "2", "--out", "grid"]
    assert main([*grid, "--vary", "client.learning_rate", "[0.02, 0.3]"]) == 0
    capsys.readouterr()
    assert main(["compare", "grid", "--target", "0.5", "--names", "low, high", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["rows"]] == ["low", "high"]
    assert [row["seeds"] for row in told["rows"]] == [[0, 1], [0, 1]]
    single = compare("slow", "fast", target=0.5, names=["low", "high"])
    for ours, theirs in zip(told["rows"], single.rows, strict=True):
        for name in ("rounds", "end", "bytes", "best"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    assert told["target"] == 0.5 and told["baseline"] == "low"


def test_loss_and_one_run_against_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "slow/s0", "fast", "--metric", "test_loss"]) == 0
    said = capsys.readouterr().out
    assert "test loss (less is better)" in said and "the end level of fast" in said
    assert "cannot say (one seed)" in said
    assert "rests on the one seed that it shares with s0" in said


def test_runs_of_one_setting_are_told_to_belong_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["compare", "slow/s0", "slow/s1"]) == 0
    assert "s0, s1 have the same setting" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("asked", "written"), [("c.png", "c.png"), (".", "compare.png"), ("c.svg", "c.svg")]
)
def test_the_picture_goes_where_it_is_asked_for(
    asked: str, written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "slow", "fast", "--out", asked]) == 0
    assert written in capsys.readouterr().out
    raw = Path(written).read_bytes()
    assert raw.startswith(b"\x89PNG" if written.endswith("png") else b"<?xml")
    assert len(raw) > 10_000


def test_other_data_are_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "slow", "other"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "different data: other differs from slow in data.partition.clients" in said


def test_unfinished_runs_are_said(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(workplace / "fast", workplace / "cut")
    (workplace / "cut/s1/summary.json").unlink()
    records = workplace / "cut/s1/metrics.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:2]))
    assert main(["compare", "slow", "cut", "--target", "0.99"]) == 0
    assert "unfinished, used as far as they go" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["slow"], "contestants = slow: must be two or more"),
        (["slow", "nowhere"], "folder = nowhere: there is no such folder"),
        (["slow", "empty"], "folder = empty: holds no run"),
        (["slow", "a-file"], "folder = a-file: must be the folder of a run or sweep"),
        (["slow", "begun"], "folder = begun: holds no round yet"),
        (["slow", "damaged"], "holds a damaged line"),
        (["slow", "old"], "metric = test_accuracy: old has none; it has: train_loss"),
        (["slow", "fast", "--metric", "f1"], "metric = f1: slow has none; it has: test_accuracy"),
        (["slow", "fast", "--target", "high"], "--target = high: must be a number"),
        (["slow", "fast", "--target", "95"], "target = 95.0: must be above 0 and at most 1"),
        (["slow", "fast", "--target", "inf"], "target = inf: must be a finite number"),
        (["slow", "fast", "--names", "a"], "must be a name for each of the 2 contestants"),
        (["slow", "fast", "--names", "a,"], "--names = a,: must be names with commas"),
        (["slow", "fast", "--names", "a,a"], "must be distinct"),
        (["slow", "fast", "--out", "c.gif"], "--out = c.gif: must end in one of: .png"),
        (["slow", "fast", "--out", "no/c.png"], "there is no folder no"),
        (["slow", "fast", "--best"], "see fedjax-sim"),
        ([], "the following arguments are required = DIR"),
    ],
)
def test_unusable_input_ends_with_2_and_nothing_written(
    argv: list[str], words: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "empty").mkdir()
    (workplace / "a-file").write_text("")
    for name, records in (
        ("begun", ""),
        ("damaged", "{\n"),
        ("old", '{"round":1,"train_loss":1}\n'),
    ):
        (workplace / name).mkdir()
        (workplace / name / "metrics.jsonl").write_text(records)
    if "old" in argv:
        argv = [*argv, "--metric", "test_accuracy"]
    before = content(workplace)
    assert main(["compare", *argv]) == 2
    told = capsys.readouterr()
    assert words in told.err and told.out == ""
    assert told.err.count("fedjax-sim: error:") == 1
    assert content(workplace) == before
