"""`fedjax-sim run --explain`."""

from pathlib import Path

import pytest

from fedjax_sim.cli.main import main
from fedjax_sim.engine import plan as plans

ARGUMENTS = ("--model.widths", "[8]", "--data.partition.clients", "6", "--run.cohort", "3")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDJAX_SIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fedjax_sim.cli.backend.prepare", lambda *args, **kwargs: None)
    return tmp_path


def test_it_tells_and_writes_nothing(workplace, capsys):
    assert main(["run", "--explain", *ARGUMENTS, "--plan.devices", "1", "--plan.lanes", "1"]) == 0
    out = capsys.readouterr().out
    for words in ("fedavg on digits", "runtime and compiler", "total", "1 lane x 1 CPU device"):
        assert words in out
    assert "lane efficiency" in out and "100 rounds" in out
    assert list(workplace.iterdir()) == []


def test_what_does_not_fit_is_told_and_the_run_is_refused(monkeypatch, workplace, capsys):
    monkeypatch.setattr(plans, "memory_bytes", lambda: 10**6)
    assert main(["run", "--explain", *ARGUMENTS]) == 0
    assert "IT DOES NOT FIT" in capsys.readouterr().out
    assert main(["run", *ARGUMENTS]) == 2
    error = capsys.readouterr().err
    assert "would hold" in error and "runtime and compiler" in error
    assert list(workplace.iterdir()) == []


def test_bad_input_is_still_refused(workplace, capsys):
    assert main(["run", "--explain", "--client.epochs", "0"]) == 2
    assert "client.epochs" in capsys.readouterr().err
    assert list(workplace.iterdir()) == []


def test_only_run_explains(capsys):
    assert main(["sweep", "--explain"]) == 2
    assert "--explain" in capsys.readouterr().err
