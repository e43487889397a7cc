"""`fedjax-sim probe`, run in this process on the smallest experiment."""

import json
import shutil

import pytest

from fedjax_sim.cli.main import main

RUN = [
    "--model.widths", "[5]", "--data.partition.clients", "6", "--run.cohort", "3",
    "--rounds", "2", "--client.epochs", "1", "--plan.devices", "1", "--plan.lanes", "1",
]  # fmt: skip
QUICK = ["--steps", "2", "--block", "3", "--clients", "2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedjax_sim.cli.backend.prepare", lambda *args, **kwargs: None)
        assert main(["run", *RUN, "--out", str(out)]) == 0
    return out


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    monkeypatch.setattr("fedjax_sim.cli.backend.prepare", lambda *args, **kwargs: None)
    return shutil.copytree(made, tmp_path / "run")


def test_probe_tells_the_kind_its_numbers_and_the_files(folder, capsys):
    assert main(["probe", str(folder), *QUICK]) == 0
    said = capsys.readouterr().out
    kept = json.loads((folder / "probe.json").read_text())["points"][0]
    assert kept["kind"] == "not stationary" and "not stationary at final" in said
    assert f"{kept['loss']:.6g}" in said and f"{kept['high']['value']:.6g}" in said
    assert "probe.png" in said and (folder / "probe.png").stat().st_size > 10_000
    assert all(str(i) in said for i in kept["clients"]["ids"])


@pytest.mark.slow
def test_probe_json_prints_json_and_nothing_else(folder, capsys):
    assert main(["probe", str(folder), *QUICK, "--json", "--split", "test", "--float32"]) == 0
    printed = json.loads(capsys.readouterr().out)["points"]
    assert printed == json.loads((folder / "probe.json").read_text())["points"]
    assert printed[0]["epsilon"] > 1e-8


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--steps", "many"], "--steps = many: must be a whole number"),
        (["--steps", "0"], "steps = 0"),
        (["--split", "all"], "split = all"),
        (["--clients", "7"], "clients = 7"),
        (["--round", "1"], "round = 1"),
        (["--tolerance", "-1"], "stationary"),
        (["--weighting", "steps"], "weighting = steps"),
        (["--round", "1", "--all"], "not allowed with"),
    ],
)
def test_bad_input_exits_2_and_writes_nothing(folder, capsys, given, words):
    before = sorted(p.name for p in folder.iterdir())
    assert main(["probe", str(folder), *given]) == 2
    assert words in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == before


def test_a_folder_without_a_run_exits_2(tmp_path, capsys):
    assert main(["probe", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
