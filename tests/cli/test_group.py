"""`fedjax-sim group`, run in this process on small federations."""

import json
from pathlib import Path

import pytest

from fedjax_sim.cli.main import main

SKEWED = [
    "--data.partition.name", "label_groups", "--data.partition.groups", "3",
    "--data.partition.clients", "12",
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setattr("fedjax_sim.cli.backend.prepare", lambda *args, **kwargs: None)
    monkeypatch.chdir(tmp_path)


def test_group_tells_the_groups_and_writes_nothing(tmp_path, capsys):
    assert main(["group", *SKEWED]) == 0
    said = capsys.readouterr().out
    assert "3 groups by the clients' shares of their labels" in said
    assert "against the 3 groups planted: ARI 1.000" in said
    assert list(tmp_path.iterdir()) == []


def test_group_leaves_numbers_and_picture_where_it_is_told(tmp_path, capsys):
    argv = ["group", *SKEWED, "--groups", "2", "--kernel", "agglomerative", "--out", "a/b"]
    assert main(argv) == 0
    said, out = capsys.readouterr().out, tmp_path / "a" / "b"
    kept = json.loads((out / "groups.json").read_text())
    assert kept["groups"] == 2 and len(kept["ids"]) == 12 and kept["kernel"] == "agglomerative"
    assert (out / "groups.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in out.iterdir()) == ["groups.json", "groups.png"]
    assert "a/b/groups.png" in said


def test_group_reads_a_file_and_plants_by_options(tmp_path, capsys):
    Path("mine.toml").write_text(
        '[data]\nname = "digits"\n[data.partition]\nname = "iid"\nclients = 12\n'
        '[data.plant]\nname = "rotated"\ngroups = 2\nangles = [0, 90]\n'
    )
    assert (
        main(["group", "mine.toml", "--by", "features", "--json", "--kernel", "agglomerative"]) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert printed["groups"] == 2 and printed["scores"]["ari"] == 1.0
    assert printed["choice"]["split"] == ["1 -> 2", "2 -> 3"]


@pytest.mark.slow
def test_group_runs_the_experiments_first_round_for_updates(capsys):
    argv = [
        "group", "--by", "updates", "--groups", "2", "--data.partition.name", "iid",
        "--data.partition.clients", "8", "--data.plant.name", "relabelled",
        "--data.plant.groups", "2", "--model.widths", "[]", "--client.epochs", "1",
        "--plan.devices", "1", "--client.batch_size", "full",
    ]  # fmt: skip
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "updates of the first round" in said and "ARI 1.000" in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--by", "names"], "by = names: must be one of: features, labels, updates"),
        (["--groups", "many"], '--groups = many: must be a whole number or "auto"'),
        (["--groups", "0"], "groups = 0"),
        (["--kernel", "dbscan"], "kernel = dbscan"),
        (["--most", "x"], "--most = x"),
        (["--rounds", "3"], "did you mean --run.rounds?"),
        (["--out", "taken"], "must be a folder, and is a file"),
        (["none.toml"], "there is no such file"),
        (["--data.plant.groups", "2"], "data.plant.name = (nothing)"),
        (["--data.partition.alpha", "-1"], "alpha"),
    ],
)
def test_bad_input_exits_2_and_writes_nothing(tmp_path, capsys, given, words):
    Path("taken").write_text("")
    assert main(["group", *given]) == 2
    assert words in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_plants_are_listed(capsys):
    assert main(["list", "plants"]) == 0
    said = capsys.readouterr().out
    assert "rotated" in said and "relabelled" in said and "moves_at=none" in said
