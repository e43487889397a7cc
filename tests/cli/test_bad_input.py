"""Every unusable input ends with code 2, one message, and nothing left behind."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fedjax_sim.cli.main import main

OWN = """
import numpy as np
from fedjax_sim.data.build import from_arrays
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.data.partition import iid

number = 3

def _arrays():
    return np.zeros((12, 4), np.float32), np.arange(12) % 3

def _shards(x, y, sizes):
    sizes = np.array(sizes)
    return Shards(x, y, np.cumsum(sizes) - sizes, sizes)

def bad_label():
    x, y = _arrays()
    return from_arrays(x, y + 5, iid(3), n_classes=3)

def bad_label_by_hand():
    x, y = _arrays()
    return Federation(_shards(x, y + 5, [4, 4, 4]), n_classes=3)

def nan_data():
    x, y = _arrays()
    x[7, 1] = np.nan
    return from_arrays(x, y, iid(3))

def nan_by_hand():
    x, y = _arrays()
    x[7, 1] = np.nan
    return Federation(_shards(x, y, [4, 4, 4]), n_classes=3)

def nan_test_by_hand():
    x, y = _arrays()
    return Federation(_shards(x, y, [4, 4, 4]), central_test=(x * np.nan, y), n_classes=3)

def empty_client():
    x, y = _arrays()
    return Federation(_shards(x, y, [6, 0, 6]), n_classes=3)

def lengths():
    x, y = _arrays()
    return from_arrays(x, y[:-1], iid(3))

def nothing(*args, **kwargs):
    return None

def takes(optimizer, strength: float = 1.0):
    return None

def needs_path(path: str):
    return None
"""


class Bad(NamedTuple):
    name: str
    argv: list[str]
    field: str
    value: str
    remedy: str
    prepare: Callable[[Path], None] | None = None


def over(key: str, value: str, remedy: str, *, field: str = "", shown: str = "") -> Bad:
    """A row whose only fault is one override."""
    name = f"{key}={value}"
    return Bad(name, ["run", f"--{key}", value], field or key, shown or value, remedy)


def file(name: str, text: str, field: str, value: str, remedy: str) -> Bad:
    """A row whose fault is in the experiment file."""
    argv = ["run", "bad.toml"]
    return Bad(name, argv, field, value, remedy, lambda at: _write(at / "bad.toml", text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _mnist(content: bytes) -> Callable[[Path], None]:
    def prepare(at: Path) -> None:
        folder = at / "data" / "mnist"
        folder.mkdir(parents=True)
        for name in ("train-images", "t10k-images"):
            (folder / f"{name}-idx3-ubyte").write_bytes(content)
        for name in ("train-labels", "t10k-labels"):
            (folder / f"{name}-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 2) + b"\0\1")

    return prepare


_IDX_HEAD = struct.pack(">IIII", 2051, 2, 28, 28)

OVERRIDES = [
    over("client.lerning_rate", "0.1", "did you mean 'learning_rate'?"),
    over("clinet.epochs", "2", "did you mean 'client'?", field="clinet", shown="epochs"),
    over("run.round", "2", "did you mean 'rounds'?"),
    over("data.nme", "digits", "did you mean 'name'?"),
    over("plan.lane", "2", "did you mean 'lanes'?"),
    over("client.learning_rate", "-0.1", "must be greater than 0"),
    over("client.learning_rate", "0", "must be greater than 0"),
    over("client.learning_rate", "nan", "must be a finite number"),
    over("client.learning_rate", "inf", "must be a finite number"),
    over("client.learning_rate", "fast", "must be a number"),
    over("client.learning_rate", "[0.1]", "must be a number"),
    over("client.momentum", "1.5", "must be less than 1"),
    over("client.weight_decay", "-1", "must be at least 0"),
    over("client.nesterov", "true", "needs momentum", shown="True"),
    over("client.epochs", "0", "must be at least 1"),
    over("client.epochs", "1.5", "must be a whole number"),
    over("client.epochs", "true", "must be a whole number", shown="True"),
    over("client.steps", "-3", "must be at least 1"),
    over("client.batch_size", "-1", '"full"'),
    over("client.batch_size", "ful", '"full"'),
    over("client.last", "keep", "'partial', 'drop' or 'topup'"),
    over("client.shuffle", "1", "must be true or false"),
    over("client.optimizer", "adm", "did you mean 'adam'?"),
    over("client.optimizer", "no_pkg.mod:opt", "there is no module"),
    over("client.optimizer_params", "{b9 = 1}", "b9 is not known", shown="b9"),
    over("client.schedule", "cosin", "'cosine'", field="client.schedule.name"),
    over("client.schedule", "{name = 'step', final = 1}", "takes no final", shown="step"),
    over("client.schedule.rate", "0.5", "these do: exponential, step", field="client.schedule"),
    over("algorithm.name", "fedag", "did you mean 'fedavg'?"),
    over("algorithm.name", "no_pkg.mod:recipe", "there is no module 'no_pkg'"),
    over("algorithm.name", "own:missing", "own has no 'missing'"),
    over("algorithm.name", "own:number", "must name a function"),
    over("algorithm.name", "own:nothing", "must return a Recipe"),
    over("algorithm.name", "own:takes", "must return a Recipe"),
    over("algorithm.mu", "0.1", "[algorithm] takes"),
    over("algorithm.weighting", "step", "did you mean 'steps'? must be one of: examples, uniform"),
    over("algorithm.weighting", "power:much", "power:A"),
    over("algorithm.weighting", "capped:0", "greater than 0"),
    over("algorithm.weighting", "groups", "needs data whose clients have groups"),
    over("data.name", "digit", "did you mean 'digits'?"),
    over("data.name", "5", "must be one of"),
    over("data.name", "own:nothing", "must return a Federation"),
    over("data.name", "own:bad_label", "labels must lie in 0 .. 2", field="data.y", shown="7"),
    over("data.name", "own:bad_label_by_hand", "0 .. 2", field="data.train.y", shown="7"),
    over("data.name", "own:nan_data", "row 7", field="data.x", shown="NaN"),
    over("data.name", "own:nan_by_hand", "row 7", field="data.train.x", shown="NaN"),
    over("data.name", "own:nan_test_by_hand", "must be finite", field="central_test", shown="NaN"),
    over("data.name", "own:empty_client", "client 1 is the first", field="sizes", shown="0"),
    over("data.name", "own:lengths", "as many rows as x", field="data.y", shown="11"),
    over("data.name", "own:needs_path", "is needed", field="data.path", shown="(nothing)"),
    over("data.name", "leaf", "is needed", field="data.train", shown="(nothing)"),
    over("data.test_fraction", "1.5", "less than 1"),
    over("data.image", "yes", "must be true or false"),
    over("data.partition.name", "dirichle", "did you mean 'dirichlet'?"),
    over("data.partition.clients", "0", "must be at least 1"),
    over("data.partition.clients", "5000", "ask for at most"),
    over("data.partition.clients", "ten", "must be a whole number"),
    over("data.partition.alpha", "-1", "greater than 0"),
    over("data.partition.alpha", "nan", "must be a finite number"),
    over("data.partition.min_size", "0", "must be at least 1"),
    over("data.partition", "3", "must be a section"),
    over("model.name", "mpl", "did you mean 'mlp'?"),
    over("model.name", "cnn_mcmahan", "does not take inputs of shape (64,)"),
    over("model.widths", "[10, 0]", "must be at least 1", shown="0"),
    over("model.widths", "ten", "must be a list"),
    over("model.widths", "[10", "must be valid TOML"),
    over("model.init", "xavie", "must be one of"),
    over("task.name", "clasification", "did you mean 'classification'?"),
    over("task.classes", "3", "the data have that many"),
    over("task.metrics", '["f1"]', "package.module:function", shown="f1"),
    over("task.metrics", '["own:f1"]', "own has no 'f1'", shown="own:f1"),
    over("run.rounds", "0", "must be at least 1"),
    over("run.rounds", "-5", "must be at least 1"),
    over("run.rounds", "1e3", "must be a whole number", shown="1000.0"),
    over("run.cohort", "101", "must be at most the population, 100 clients"),
    over("run.cohort", "0", '"all"'),
    over("run.cohort", "everyone", '"all"'),
    over("run.seed", "-1", "must be at least 0"),
    over("run.eval_every", "0", "must be at least 1"),
    over("run.eval_batch_size", "0", "must be at least 1"),
    over("run.stragglers", "1.5", "must be at most 1"),
    over("run.keep_checkpoints", "0", "must be at least 1"),
    over("plan.lanes", "0", '"auto"'),
    over("plan.devices", "1000", "the devices that JAX sees"),
    over("plan.float64", "maybe", "must be true or false"),
    over("server.learning_rate", "-1", "must be greater than 0"),
    over("server.epochs", "1", "is not known"),
]

ARGUMENTS = [
    Bad("rounds", ["run", "--rounds", "many"], "run.rounds", "many", "whole number"),
    Bad("seed", ["run", "--seed", "1.5"], "run.seed", "1.5", "whole number"),
    Bad("unknown option", ["run", "--epochs", "3"], "--epochs", "3", "--client.epochs"),
    Bad("no value", ["run", "--client.epochs"], "--client.epochs", "(nothing)", "needs a value"),
    Bad(
        "no value before another",
        ["run", "--client.epochs", "--run.seed", "1"],
        "--client.epochs",
        "(nothing)",
        "needs a value",
    ),
    Bad(
        "twice",
        ["run", "--run.rounds", "3", "--run.rounds=4"],
        "run.rounds",
        "4",
        "given twice, first as 3",
    ),
    Bad("twice, short", ["run", "--rounds", "3", "--run.rounds", "4"], "rounds", "3", "twice"),
    Bad(
        "value and section",
        ["run", "--client.schedule", "cosine", "--client.schedule.final", "0.1"],
        "client.schedule.final",
        "0.1",
        "is given a value",
    ),
    Bad(
        "no momentum in adam",
        ["run", "--client.optimizer", "adam", "--client.momentum", "0.9"],
        "client.momentum",
        "0.9",
        "these do: sgd",
    ),
    Bad(
        "no server optimizer in fedprox",
        ["run", "--algorithm", "fedprox", "--server.learning_rate", "0.5"],
        "server",
        "0.5",
        "these do: fedavg, median",
    ),
    Bad(
        "no local steps in fedsgd",
        ["run", "--algorithm", "fedsgd", "--client.epochs", "2"],
        "client.epochs",
        "2",
        "[client] takes",
    ),
    Bad(
        "listed sizes with an empty client",
        ["run", "--data.partition.name", "sizes", "--data.partition.sizes", "[5, 0, 7]"],
        "data.partition.sizes",
        "0",
        "at least 1",
    ),
    Bad(
        "a partition where clients are given",
        ["run", "--data.name", "synthetic", "--data.partition.clients", "5"],
        "data.partition",
        "5",
        "[data] takes",
    ),
    Bad("stray option", ["run", "--verbose"], "--verbose", "(nothing)", "--section.key VALUE"),
    Bad("verb", ["rum"], "argument", "rum", "see fedjax-sim --help"),
    Bad("list what", ["list", "optimizers"], "argument", "optimizers", "--help"),
    Bad("no file", ["run", "gone.toml"], "experiment file", "gone.toml", "no such file"),
    Bad("a folder as file", ["run", "."], "experiment file", ".", "is a folder"),
]

FILES = [
    file("TOML", "[data\nname = 3", "experiment file", "bad.toml", "must be valid TOML"),
    file("key twice", "[run]\nseed = 1\nseed = 2", "experiment file", "bad.toml", "valid TOML"),
    file("empty file", "", "client.steps", "None", "client.epochs"),
    file("no steps", "[client]\nmomentum = 0.5", "client.steps", "None", "client.epochs"),
    file("section", "data = 3\n[client]\nepochs = 1", "data", "3", "must be a section"),
    file("list", "client = [1]", "client", "[1]", "must be a section"),
    file("top", "seed = 1\n[client]\nepochs = 1", "seed", "1", "has the sections"),
    Bad(
        "not UTF-8",
        ["run", "bad.toml"],
        "experiment file",
        "bad.toml",
        "UTF-8",
        lambda at: (at / "bad.toml").write_bytes(b"\xff\xfe[run]") and None,
    ),
]

DATA = [
    Bad(
        "truncated IDX",
        ["run", "--data.name", "mnist"],
        "train-images",
        "",
        "bytes",
        _mnist(_IDX_HEAD + b"\0" * 100),
    ),
    Bad(
        "not IDX",
        ["run", "--data.name", "mnist"],
        "train-images",
        "",
        "IDX",
        _mnist(b"hello, this is no IDX file"),
    ),
    Bad(
        "missing LEAF file",
        ["run", "--data.name", "leaf", "--data.train", "nowhere.json"],
        "data.train",
        "nowhere.json",
        "must be a readable JSON file",
    ),
]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDJAX_SIM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FEDJAX_SIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "own", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr("fedjax_sim.cli.backend.prepare", lambda *args, **kwargs: None)
    _write(tmp_path / "own.py", OWN)
    return tmp_path


def tree_of(at: Path) -> dict[str, bytes | None]:
    """Every path below a folder, and the content of files."""
    return {
        p.relative_to(at).as_posix(): p.read_bytes() if p.is_file() else None
        for p in sorted(at.rglob("*"))
    }


def refuses(bad: Bad, at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if bad.prepare is not None:
        bad.prepare(at)
    before = tree_of(at)
    code = main(bad.argv)
    said = capsys.readouterr()
    assert code == 2, said
    assert said.err.startswith("fedjax-sim: error: "), said.err
    assert bad.field in said.err.partition(" = ")[0], said.err
    for part in (bad.value, bad.remedy):
        assert part in said.err, f"{part!r} is not in: {said.err}"
    assert "Traceback" not in said.err + said.out
    assert tree_of(at) == before


ROWS = [*OVERRIDES, *ARGUMENTS, *FILES, *DATA]


@pytest.mark.parametrize("bad", ROWS, ids=[bad.name for bad in ROWS])
def test_is_refused(bad: Bad, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuses(bad, workplace, capsys)


def test_the_table_is_long_and_without_repetition() -> None:
    assert len(ROWS) >= 100
    assert len({bad.name for bad in ROWS}) == len(ROWS)


def test_all_faults_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--client.epochs", "0", "--run.seed", "x", "--model.widths", "3"]) == 2
    said = capsys.readouterr().err
    for field in ("client.epochs = 0", "run.seed = x", "model.widths = 3"):
        assert field in said


TINY = ["--rounds", "2", "--data.partition.clients", "5", "--run.cohort", "2"]
TINY += ["--model.widths", "[4]", "--client.epochs", "1", "--plan.devices", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["run", *TINY, "--out", str(out)]) == 0
    return out


def unchanged(argv: list[str], at: Path, parts: list[str], capsys: object) -> None:
    refuses(Bad("", argv, *parts), at, capsys)  # type: ignore[arg-type]


def copy_of(run: Path, to: Path) -> Path:
    import shutil

    shutil.copytree(run, to)
    (to / "summary.json").unlink()
    return to


def test_a_used_folder(finished: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = copy_of(finished, workplace / "used")
    unchanged(["run", "--out", str(out)], workplace, ["out", "used", "resume"], capsys)


def test_a_file_as_folder(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unchanged(["run", "--out", "own.py"], workplace, ["out", "own.py", "must be a folder"], capsys)


def test_a_folder_below_a_file(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["out", "own.py/sub", "cannot be written"]
    unchanged(["run", "--out", "own.py/sub"], workplace, parts, capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "shut").mkdir(mode=0o500)
    parts = ["out", "shut/run", "no right to write"]
    unchanged(["run", "--out", "shut/run"], workplace, parts, capsys)


@pytest.mark.parametrize("verb", ["resume", "report"])
def test_a_folder_without_a_run(
    verb: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "empty").mkdir()
    unchanged([verb, "empty"], workplace, ["out", "empty", "holds no run"], capsys)
    unchanged([verb, "gone"], workplace, ["out", "gone", "no"], capsys)


def test_resume_of_a_run_made_in_python(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "run").mkdir()
    _write(workplace / "run" / "config.toml", "[run]\nrounds = 3\n")
    unchanged(["resume", "run"], workplace, ["out", "run", "fedjax_sim.resume()"], capsys)


def test_a_corrupt_checkpoint(
    finished: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of(finished, workplace / "run")
    for state in (out / "checkpoints").glob("*/state"):
        for file_ in state.rglob("*"):
            if file_.is_file() and file_.stat().st_size > 200:
                raw = bytearray(file_.read_bytes())
                raw[len(raw) // 2] ^= 0xFF
                file_.write_bytes(bytes(raw))
    unchanged(["resume", str(out)], workplace, ["checkpoint", "run", ""], capsys)


def test_a_checkpoint_of_another_experiment(
    finished: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of(finished, workplace / "run")
    config = out / "config.toml"
    _write(config, config.read_text().replace("seed = 0", "seed = 1"))
    unchanged(["resume", str(out)], workplace, ["checkpoint", "run", "another"], capsys)


def test_altered_records(
    finished: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of(finished, workplace / "run")
    _write(out / "metrics.jsonl", "")
    unchanged(["resume", str(out)], workplace, ["metrics.jsonl", "run", "bytes"], capsys)


def test_damaged_summary(
    finished: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy_of(finished, workplace / "run")
    _write(out / "summary.json", "{")
    unchanged(["report", str(out)], workplace, ["summary.json", "run", "is damaged"], capsys)


@pytest.mark.parametrize(
    "argv", [["run", "--client.epochs", "-1"], ["resume", "gone"]], ids=["run", "resume"]
)
def test_in_a_process_of_its_own(argv: list[str], workplace: Path) -> None:
    before = tree_of(workplace)
    code = [sys.executable, "-m", "fedjax_sim.cli.main", *argv]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(code, capture_output=True, text=True, env=env, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("fedjax-sim: error: ") and "Traceback" not in ended.stderr
    assert ended.stdout == "" and tree_of(workplace) == before
