"""Checkpoints of a run that says nothing of them: every 25 rounds, but not one after another."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from experiment.little import session
from sparing import few

from fedjax_sim.experiment import session as sessions


@pytest.mark.parametrize(
    ("apart_s", "kept"),
    few([(0.0, [25, 50, 60]), (3600.0, [60])], (0.0, [25, 50, 60]), several=True),
)
def test_without_a_number_they_keep_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart_s: float, kept: list[int]
) -> None:
    monkeypatch.setattr(sessions, "_CHECKPOINT_APART_S", apart_s)
    out = tmp_path / "run"
    session(out, rounds=60, chunk=10, checkpoint_every=None, keep_checkpoints=9).run()
    found = sorted(p.name for p in (out / "checkpoints").iterdir())
    assert found == [f"round_{n:06d}" for n in kept]
    assert "checkpoint_every" not in tomllib.loads((out / "config.toml").read_text())["run"]


@pytest.mark.slow
def test_a_number_is_kept_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_CHECKPOINT_APART_S", 3600.0)
    out = tmp_path / "run"
    session(out, rounds=6, chunk=3, checkpoint_every=2, keep_checkpoints=9).run()
    found = sorted(p.name for p in (out / "checkpoints").iterdir())
    assert found == ["round_000002", "round_000004", "round_000006"]
