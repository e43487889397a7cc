"""The verbs, run in this process on the smallest experiment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedjax_sim.algorithms.aggregators import AGGREGATORS
from fedjax_sim.algorithms.registry import ALGORITHMS
from fedjax_sim.cli.main import main

TINY = """
[data]
name = "digits"
test_fraction = 0.2
[data.partition]
name = "iid"
clients = 6
[model]
name = "mlp"
widths = [8]
[algorithm]
name = "fedavg"
[client]
learning_rate = 0.1
epochs = 1
batch_size = 50
[run]
rounds = 4
cohort = 3
checkpoint_every = 2
[plan]
devices = 1
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedjax_sim.cli.backend.prepare", lambda *args, **kwargs: None)
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    return tmp_path


def environment(at: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "FEDJAX_SIM_CACHE": str(at / "cache")}


def records(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_run_leaves_what_it_promises(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "tiny.toml", "--rounds", "3", "--client.learning_rate=0.05"]) == 0
    said = capsys.readouterr().out
    out = workplace / "runs" / "tiny-1"
    names = {"config.toml", "metrics.jsonl", "summary.json", "final", "checkpoints"}
    assert {p.name for p in out.iterdir()} == names | {"curves.png", "drift.png"}
    table = tomllib.loads((out / "config.toml").read_text())
    assert table["run"]["rounds"] == 3 and table["client"]["learning_rate"] == 0.05
    assert table["plan"]["lanes"] == 2 and table["task"]["classes"] == 10
    summary = json.loads((out / "summary.json").read_text())
    assert summary["facts"]["model"] == "mlp(8)" and summary["rounds"] == 3
    assert [r["round"] for r in records(out)] == [1, 2, 3]
    last = 100 * records(out)[-1]["test_accuracy"]
    assert f"{last:.2f} %" in said and "round 3/3" in said and "curves.png" in said
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_folders_are_numbered(workplace: Path) -> None:
    for n in ("tiny-1", "tiny-7", "tiny-x"):
        (workplace / "runs" / n).mkdir(parents=True)
    assert main(["run", "tiny.toml", "--rounds", "1"]) == 0
    assert (workplace / "runs" / "tiny-8" / "summary.json").is_file()


@pytest.mark.slow
def test_config_toml_alone_runs_again(workplace: Path) -> None:
    argv = ["run", "tiny.toml", "--rounds", "2", "--seed", "5", "--client.momentum", "0.5"]
    assert main([*argv, "--out", "a"]) == 0
    assert main(["run", "a/config.toml", "--out", "b"]) == 0
    assert Path("a/config.toml").read_bytes() == Path("b/config.toml").read_bytes()
    losses = [[r["train_loss"] for r in records(workplace / out)] for out in ("a", "b")]
    assert losses[0] == losses[1] and losses[0][1] < losses[0][0]


def test_a_diverged_run_ends_with_3_and_keeps_its_records(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["run", "tiny.toml", "--client.learning_rate", "1e12", "--out", "wild"]
    assert main(argv) == 3
    assert "diverged" in capsys.readouterr().out
    assert records(workplace / "wild")[-1]["train_loss"] is None


def test_an_interrupted_run_ends_with_130_and_resumes_bitwise(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", "tiny.toml", "--out", "whole"]) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("fedjax_sim.cli.screen._Lines.__call__", stop_after(2))
        assert main(["run", "tiny.toml", "--plan.chunk", "2", "--out", "cut"]) == 130
    assert "fedjax-sim resume cut" in capsys.readouterr().err
    assert len(records(workplace / "cut")) == 2
    assert main(["resume", "cut"]) == 0
    assert "went on after round 2" in capsys.readouterr().out
    for name in ("train_loss", "test_accuracy", "client_accuracy_p10"):
        columns = [[r[name] for r in records(workplace / out)] for out in ("whole", "cut")]
        np.testing.assert_allclose(*columns, rtol=1e-6)
    assert main(["resume", "cut"]) == 0
    assert "nothing left to do" in capsys.readouterr().out


def stop_after(rounds: int) -> Callable[..., None]:
    def tell(self: object, now: object) -> None:
        if now.round >= rounds:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGINT)

    return tell


def test_report_draws_again_and_knows_unfinished_runs(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "tiny.toml", "--rounds", "2", "--out", "a"]) == 0
    told = capsys.readouterr().out
    picture = workplace / "a" / "curves.png"
    before = picture.read_bytes()
    picture.unlink()
    assert main(["report", "a"]) == 0
    again = capsys.readouterr().out
    assert picture.read_bytes() == before
    assert again.strip() in told
    (workplace / "a" / "summary.json").unlink()
    assert main(["report", "a"]) == 0
    assert "test accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ("algorithms", [*ALGORITHMS, "1602.05629", "server_momentum=0.9"]),
        ("datasets", ["digits", "mnist", "shakespeare", "central_fraction=0.2"]),
        ("models", ["logistic", "mlp", "lstm_chars"]),
        ("partitions", ["iid", "dirichlet", "alpha", "per_client=2"]),
        ("aggregators", [*AGGREGATORS, "K x P"]),
    ],
)
def test_list(what: str, wanted: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    said = capsys.readouterr().out
    assert [word for word in wanted if word not in said] == []


def test_one_algorithm_is_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "algorithms", "fedprox"]) == 0
    said = capsys.readouterr().out
    for word in ("strength of the tie", "[0, inf)", "1812.06127", "--algorithm.mu 0.01"):
        assert word in said
    assert main(["list", "algorithms", "fedprox", "--bibtex"]) == 0
    assert capsys.readouterr().out.count("@inproceedings{") == 1


def test_algorithms_are_picked_by_tag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "algorithms", "--tag", "fairness"]) == 0
    said = capsys.readouterr().out
    assert "qfedavg" in said and "fedprox" not in said
    for given, word in (
        (["algorithms", "fedprx"], "did you mean fedprox"),
        (["algorithms", "--tag", "none"], "must be one of: adaptive"),
        (["models", "--tag", "fairness"], "goes with list algorithms"),
    ):
        assert main(["list", *given]) == 2
        assert word in capsys.readouterr().err


def test_bibtex_names_each_paper_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "algorithms", "--bibtex"]) == 0
    said = capsys.readouterr().out
    papers = {e.paper.key for e in ALGORITHMS.values() if e.paper is not None}
    assert len(papers) >= 19 and said.count("@inproceedings{") == len(papers)
    assert all(said.count(f"{{{key},") == 1 for key in papers)


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDJAX_SIM_DATA", "nowhere")
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "!!  data folder" in said and "there is no such folder" in said
    monkeypatch.delenv("FEDJAX_SIM_DATA")
    assert main(["doctor"]) == 0
    assert "jaxlib" in capsys.readouterr().out


def test_no_verb_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "VERB" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fedjax-sim ")


def test_help_and_a_wrong_option_start_no_jax(workplace: Path) -> None:
    code = (
        "import sys\nfrom fedjax_sim.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "sys.exit('jax' in sys.modules)"
    )
    for argv in (["--help"], ["run", "--help"], ["--version"], ["run", "--epochs", "3"]):
        command = [sys.executable, "-c", code, *argv]
        env = environment(workplace)
        ended = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_sigint_in_a_process_of_its_own(workplace: Path) -> None:
    command = [sys.executable, "-m", "fedjax_sim.cli.main", "run", "tiny.toml", "--out", "cut"]
    command += ["--rounds", "1000000", "--plan.chunk", "1"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(workplace)
    )
    until = time.monotonic() + 120
    while not (workplace / "cut" / "checkpoints").is_dir() and time.monotonic() < until:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert "fedjax-sim resume cut" in said and "Traceback" not in said


@pytest.mark.slow
def test_the_default_run_learns_the_digits(workplace: Path) -> None:
    """As a user starts it: 100 rounds, test accuracy of at least 0.93 for every seed."""
    for seed in range(5):
        assert main(["run", "--seed", str(seed), "--out", f"s{seed}", "--plan.devices", "1"]) == 0
        summary = json.loads((workplace / f"s{seed}" / "summary.json").read_text())
        assert summary["final"]["test_accuracy"] >= 0.93
        assert summary["seconds"] < 30
