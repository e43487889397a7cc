"""`fedjax-sim verdict`, as a person calls it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from fedjax_sim.cli import verdict
from fedjax_sim.core.checks import InputError


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    verdict.add(parser.add_subparsers(dest="verb"))
    return verdict.main(parser.parse_args(["verdict", *argv]))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "history.csv"
    rows = [f"{i},{0.5 + 0.5 * 0.7**i},{0.9 - 0.8 * 0.9**i}" for i in range(60)]
    path.write_text("\n".join(["epoch,loss,acc", *rows]))
    return path


def test_a_person_reads_name_sentence_cause_remedy_and_evidence(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(table), "--floor", "0") == 0
    said = capsys.readouterr().out
    assert said.startswith("stagnating")
    for text in ("stuck on a plateau: 0.5", "likeliest cause:", "what to try:", "height"):
        assert text in said


def test_json_is_one_object_with_the_same_verdict(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(table), "--floor", "0", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "stagnating" and found["evidence"]["points"] == 60
    assert run(str(table), "--floor", "0.5", "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "converged"


def test_a_column_can_be_named(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(table), "--metric", "acc", "--json") == 0
    found = json.loads(capsys.readouterr().out)["evidence"]
    assert found["end"] == pytest.approx(0.1, abs=0.01)
    with pytest.raises(InputError, match="epoch, loss, acc"):
        run(str(table), "--loss", "lost")


def test_the_parser_takes_its_words_alone() -> None:
    with pytest.raises(SystemExit):
        run("a", "--floor", "low")
