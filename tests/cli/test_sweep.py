"""`fedjax-sim sweep` on the smallest experiment."""

from __future__ import annotations

import csv
import json
import os
import signal
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedjax_sim.cli.main import main

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
[run]
rounds = 2
cohort = 3
"""
RATES = ["--vary", "client.learning_rate", "[0.05, 0.2]"]
SWEEP = ["sweep", "tiny.toml", "--seeds", "2", *RATES]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedjax_sim.cli.backend.prepare", lambda *args, **kwargs: None)
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    return tmp_path


def table(out: str) -> list[dict[str, str]]:
    return list(csv.DictReader((Path(out) / "table.csv").read_text().splitlines()))


def content(out: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(out).iterdir() if p.is_file()}


@pytest.mark.slow
def test_a_sweep_equals_single_runs_and_tells(capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*SWEEP, "--inner", "map", "--vary", "client.epochs", "[1, 2]", "--plan.devices", "2"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "8 runs: 4 settings with 2 seeds each" in said and "2 programs" in said
    assert "< best" in said and "8 runs in" in said and "sweep.png" in said
    out = "runs/tiny-sweep-1"
    rows = table(out)
    assert [r["seed"] for r in rows] == ["0", "1"] * 4
    assert [r["client.epochs"] for r in rows] == ["1", "1", "2", "2"] * 2
    for row in (rows[6],):
        run = ["run", "tiny.toml", "--out", f"single-{row['run']}", "--seed", row["seed"]]
        for key in ("client.learning_rate", "client.epochs"):
            run += [f"--{key}", row[key]]
        assert main([*run, "--plan.devices", "1"]) == 0
        summary = json.loads(Path(f"single-{row['run']}/summary.json").read_text())
        for name in ("test_accuracy", "test_loss", "train_loss", "client_accuracy_mean"):
            assert float(row[f"final_{name}"]) == summary["final"][name], name


def stop_after(runs: int) -> Any:
    def tell(self: object, now: Any) -> None:
        if now.phase == "running" and now.done >= runs:
            os.kill(os.getpid(), signal.SIGINT)

    return tell


@pytest.mark.parametrize(
    "go_on",
    [
        pytest.param(SWEEP, id="same command", marks=pytest.mark.slow),
        pytest.param(["sweep"], id="folder alone", marks=pytest.mark.slow),
        pytest.param(["resume"], id="resume", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_sweep_goes_on(
    go_on: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedjax_sim.experiment.sweep_dispatch._TARGET_S", 1e-9)
    where = ["--out", "cut", "--inner", "map", "--plan.devices", "1"]
    assert main([*SWEEP, "--out", "whole", *where[2:]]) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("fedjax_sim.cli.sweep._Lines.__call__", stop_after(3))
        assert main([*SWEEP, *where]) == 130
    told = capsys.readouterr().err
    assert "after 3 of 4 runs" in told and "fedjax-sim resume cut" in told
    kept = Path("cut/sweep.toml").read_bytes()
    more = {"tiny.toml": where, "resume": ["cut"]}.get(go_on[1] if go_on[1:] else go_on[0])
    assert main([*go_on, *(more or ["--out", "cut"])]) == 0
    assert "went on after 3 runs" in capsys.readouterr().out
    assert Path("cut/sweep.toml").read_bytes() == kept
    assert content("cut")["table.csv"] == content("whole")["table.csv"]
    before = content("cut")
    assert main(["resume", "cut"]) == 0
    assert "nothing left to do: all 4 runs" in capsys.readouterr().out
    assert content("cut") == before


@pytest.mark.slow
def test_sweep_toml_is_resolved_and_other_sweeps_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*SWEEP, "--out", "a", "--seed", "5"]) == 0
    toml = tomllib.loads(Path("a/sweep.toml").read_text())
    assert toml["sweep"]["seeds"] == [5, 6]
    assert toml["vary"] == {"client.learning_rate": [0.05, 0.2]}
    (group,) = toml["group"]
    assert group["experiment"]["task"]["classes"] == 10 and group["plan"]["inner"] == "hyper"
    before = content("a")
    others = [
        [*SWEEP, "--out", "a"],
        [*SWEEP, "--out", "a", "--seed", "5", "--rounds", "3"],
        ["sweep", "tiny.toml", "--out", "a", "--seeds", "[5, 6]"],
    ]
    capsys.readouterr()
    for argv in others:
        assert main(argv) == 2
        assert "holds another sweep" in capsys.readouterr().err
    assert main(["run", "tiny.toml", "--out", "a"]) == 2
    assert "holds a sweep already" in capsys.readouterr().err
    assert content("a") == before


@pytest.mark.slow
def test_diverged_runs_are_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    wild = ["--vary", "client.learning_rate", "[0.1, 3e38]", "--out", "wild"]
    assert main(["sweep", "tiny.toml", "--seeds", "2", *wild]) == 0
    assert "2 of 4 runs diverged" in capsys.readouterr().out
    rows = table("wild")
    assert [r["status"] for r in rows] == ["done", "done", "diverged", "diverged"]
    assert np.isfinite([float(r["final_train_loss"]) for r in rows[:2]]).all()
    only = ["--client.learning_rate", "3e38", "--out", "all"]
    assert main(["sweep", "tiny.toml", "--seeds", "1", *only]) == 3


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--vary", "client.learning_rate", "0.1"], "must be a list of values"),
        (["--vary", "client.learning_rate", "[0.1, 0.1]"], "no value twice"),
        (["--vary", "client.learning_rate", "[0.1"], "must be valid TOML"),
        (["--vary", "client.learning_rate", "[0.1, -2.0]"], "must be greater than 0"),
        (["--vary", "client.lerning_rate", "[0.1]"], "did you mean 'learning_rate'?"),
        (["--vary", "learning_rate", "[0.1]"], "must be --section.key"),
        (["--vary", "run.seed", "[1, 2]"], "--seeds"),
        (["--vary", "plan.lanes", "[1, 2]"], "the plan changes speed only"),
        (["--vary", "client.epochs", "[1]", "--vary", "client.epochs", "[2]"], "given twice"),
        (["--vary", "client.epochs", "[1]", "--client.epochs", "2"], "is varied too"),
        (["--vary", "client.epochs"], "expected 2 arguments"),
        (["--seeds", "0"], "must be a number of seeds"),
        (["--seeds", "[1, 1]"], "distinct"),
        (["--seeds", "many"], "must be a number of seeds"),
        (["--inner", "both"], "must be one of: auto"),
        (["--epochs", "2"], "did you mean --client.epochs?"),
        (["--run.cohort", "7"], "must be at most the population"),
        (["--plan.devices", "99"], "the devices that JAX sees here"),
    ],
)
def test_unusable_input_ends_with_2_and_nothing_written(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "tiny.toml", *argv, "--out", "out"]) == 2
    assert words in capsys.readouterr().err
    assert not Path("out").exists() and not Path("runs").exists()


def test_a_python_sweep_cannot_be_resumed_from_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("made").mkdir()
    Path("made/sweep.toml").write_text(
        '[sweep]\nidentity = "x"\nseeds = [0]\n[[group]]\nlanes = 1\n'
    )
    assert main(["resume", "made"]) == 2
    assert "was made in Python" in capsys.readouterr().err
    Path("made/sweep.toml").write_text("[sweep")
    assert main(["resume", "made"]) == 2
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_a_number_that_only_some_settings_have_makes_two_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SGD without momentum has no such number: the first setting is of another group."""
    vary = ["--vary", "client.momentum", "[0.0, 0.5]"]
    code = main(["sweep", "tiny.toml", "--seeds", "2", *vary, "--out", "momentum"])
    assert code == 0, capsys.readouterr().err
    rows = table("momentum")
    finals = {r["client.momentum"]: r["final_train_loss"] for r in rows}
    assert len(rows) == 4 and finals["0.0"] != finals["0.5"]
