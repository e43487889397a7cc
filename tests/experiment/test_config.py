from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import config
from fedjax_sim.experiment.build import build, task_from_config
from fedjax_sim.experiment.optimizers import factor, maker
from fedjax_sim.experiment.sections import OPTIMIZERS, Client, Optimizer, Schedule

SMALL = {
    "data": {"name": "digits", "partition": {"name": "iid", "clients": 5}},
    "model": {"name": "mlp", "widths": [4]},
    "client": {"epochs": 1},
    "run": {"cohort": 2, "rounds": 3},
}


def resolve(pairs: dict[str, Any], file: dict[str, Any] | None = None) -> config.Experiment:
    return config.resolve(SMALL if file is None else file, config.overrides_table(pairs))


def test_the_default_file_resolves_without_a_fault() -> None:
    experiment = config.resolve(config.read(None))
    assert experiment.table["algorithm"] == {"name": "fedavg", "weighting": "examples"}
    assert experiment.run.rounds == 100
    assert experiment.notes == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("true", True),
        ("[64, 64]", [64, 64]),
        ("adam", "adam"),
        ('"3"', "3"),
        ("{name = 'cosine'}", {"name": "cosine"}),
        ("my_pkg.mod:recipe", "my_pkg.mod:recipe"),
        ("a/path/with space", "a/path/with space"),
        ("1\nother = 2", "1\nother = 2"),
        ("", ""),
    ],
)
def test_an_override_is_toml_or_a_bare_word(text: str, value: object) -> None:
    assert config.parse_value("a.b", text) == value


def test_merging_changes_neither_table() -> None:
    under = {"a": {"x": 1, "y": {"z": 2}}, "b": [1]}
    over = {"a": {"y": {"z": 3, "w": 4}}, "b": [2, 3], "c": {"d": 5}}
    merged = config.merge(under, over)
    assert merged == {"a": {"x": 1, "y": {"z": 3, "w": 4}}, "b": [2, 3], "c": {"d": 5}}
    merged["c"]["d"] = 6
    assert under == {"a": {"x": 1, "y": {"z": 2}}, "b": [1]} and over["c"] == {"d": 5}


def test_overrides_win_over_the_file_and_leave_the_rest() -> None:
    experiment = resolve({"client.epochs": 7, "data.partition.clients": 9})
    assert experiment.client.epochs == 7
    assert experiment.table["data"]["partition"] == {"name": "iid", "clients": 9}
    assert experiment.table["model"]["widths"] == [4]


def test_a_renamed_piece_leaves_behind_what_it_does_not_take() -> None:
    file = config.merge(SMALL, {"algorithm": {"name": "fedprox", "mu": 0.5, "weighting": "steps"}})
    experiment = resolve({"algorithm.name": "fedavg", "model.name": "logistic"}, file)
    assert experiment.table["algorithm"] == {"name": "fedavg", "weighting": "steps"}
    assert experiment.table["model"] == {"name": "logistic", "init": "zeros"}
    assert experiment.notes == (
        "algorithm.mu of the file is left out",
        "model.widths of the file is left out",
    )


def test_an_algorithm_brings_its_own_rate_to_the_bundled_experiment_only() -> None:
    bundled = config.read(None)
    mine = bundled | {"model": {"name": "logistic"}}
    named = {"algorithm": {"name": "scaffold"}}
    found = config.resolve(bundled, named)
    assert found.client.learning_rate == 0.1
    assert "client.learning_rate of the file is left out" in found.notes
    assert config.resolve(mine, named).client.learning_rate == 0.2
    given = named | {"client": {"learning_rate": 0.3}}
    assert config.resolve(bundled, given).client.learning_rate == 0.3


def test_an_algorithm_brings_the_model_it_needs_to_the_bundled_experiment_only() -> None:
    bundled, named = config.read(None), {"algorithm": {"name": "depthfl"}}
    found = config.resolve(bundled, named)
    assert found.table["model"]["name"] == "mlp_exits"
    assert "model: mlp_exits, which depthfl needs" in found.notes
    wide = config.resolve(bundled, named | {"model": {"widths": [9, 8]}})
    assert wide.table["model"]["widths"] == [9, 8] and wide.table["model"]["name"] == "mlp_exits"
    own = config.resolve(bundled, named | {"model": {"name": "logistic"}})
    assert own.table["model"]["name"] == "logistic" and not any("needs" in n for n in own.notes)
    mine = bundled | {"model": {"name": "mlp", "widths": [4]}}
    assert config.resolve(mine, named).table["model"]["widths"] == [4]


def test_an_override_is_never_left_behind() -> None:
    with pytest.raises(InputError, match=r"algorithm\.mu = 0\.5"):
        resolve({"algorithm.name": "fedavg", "algorithm.mu": 0.5})


@pytest.mark.parametrize(
    "pairs",
    [
        {},
        {"algorithm.name": "fedsgd"},
        {"algorithm.name": "fedadam", "algorithm.tau": 0.1},
        {"algorithm.name": "fednova", "client.momentum": 0.9},
        {"client.schedule": "cosine", "client.batch_size": "full"},
        {"client.optimizer": "adam", "client.optimizer_params": {"b1": 0.5}},
        {"server.optimizer": "yogi", "server.learning_rate": 0.01},
        {"run.cohort": "all", "plan.lanes": 2, "plan.devices": 1},
        {"task.label_smoothing": 0.1, "task.name": "classification"},
        {"data.name": "synthetic"},
    ],
    ids=str,
)
def test_config_toml_alone_is_the_same_experiment(pairs: dict[str, Any], tmp_path: Path) -> None:
    first = build(resolve(pairs))
    path = tmp_path / "config.toml"
    path.write_text(first.config_text(first.settings), encoding="utf-8")
    second = build(config.resolve(config.read(path)))
    assert second.recipe.hyper == first.recipe.hyper
    assert second.recipe.name == first.recipe.name
    assert second.settings == first.settings
    np.testing.assert_array_equal(second.federation.train.x, first.federation.train.x)
    assert second.config_text(second.settings) == path.read_text(encoding="utf-8")


def test_the_resolved_plan_and_cohort_are_written() -> None:
    import dataclasses

    built = build(resolve({"run.cohort": "all"}))
    settings = dataclasses.replace(built.settings, lanes=3, devices=1, chunk=7)
    table = tomllib.loads(built.config_text(settings))
    assert table["plan"] == {
        "lanes": 3,
        "devices": 1,
        "chunk": 7,
        "client_state": "auto",
        "lowering": True,
        "float64": False,
    }
    assert table["run"]["cohort"] == 5
    assert table["task"] == {"name": "classification", "classes": 10, "label_smoothing": 0.0}


def test_every_number_of_the_sections_is_traced() -> None:
    pairs = {
        "algorithm.name": "fedavg",
        "client.momentum": 0.5,
        "client.nesterov": True,
        "client.weight_decay": 1e-3,
        "server.learning_rate": 0.7,
        "client.schedule": "exponential",
    }
    hyper = build(resolve(pairs)).recipe.hyper
    assert hyper == {
        "client_learning_rate": 0.1,
        "client_momentum": 0.5,
        "client_weight_decay": 1e-3,
        "server_learning_rate": 0.7,
    }


def test_fednova_knows_the_clients_momentum() -> None:
    pairs = {"algorithm.name": "fednova", "client.momentum": 0.5}
    hyper = build(resolve(pairs)).recipe.hyper
    assert hyper["momentum"] == hyper["client_momentum"] == 0.5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends(name: str) -> None:
    """Each alias takes what the table says it takes, traced, and goes downhill."""
    facts = OPTIMIZERS[name]
    values: dict[str, Any] = {"optimizer": name, "learning_rate": 0.01, "weight_decay": 1e-6}
    values |= {"momentum": 0.5} if facts.momentum else {}
    values |= {"nesterov": True} if facts.nesterov else {}
    values["optimizer_params"] = {n: 5.0 if n == "threshold" else 0.5 for n in facts.params}
    made = maker("client", Optimizer(**values))

    @jax.jit
    def after(numbers: dict[str, jax.Array]) -> jax.Array:
        optimizer = made(**numbers)
        x = jnp.array([1.0, -2.0])
        state = optimizer.init(x)
        for _ in range(5):
            step, state = optimizer.update(2 * x, state, x)
            x = optax.apply_updates(x, step)
        return jnp.sum(x**2)

    assert float(after(made.numbers)) < 5.0


def test_sgd_with_decay_and_momentum_is_the_recurrence() -> None:
    made = maker("client", Optimizer(learning_rate=0.1, momentum=0.9, weight_decay=0.01))
    optimizer = made(**made.numbers)
    x, v = np.array([1.0]), np.array([0.0])
    params = jnp.array([1.0])
    state = optimizer.init(params)
    for _ in range(4):
        step, state = optimizer.update(params, state, params)
        params = optax.apply_updates(params, step)
        v = 0.9 * v + x + 0.01 * x
        x = x - 0.1 * v
    np.testing.assert_allclose(params, x, rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "at", "wanted"),
    [
        (Schedule(name="cosine", final=0.2), [0, 5, 10], [1.0, 0.6, 0.2]),
        (Schedule(name="exponential", rate=0.5), [0, 1, 3], [1.0, 0.5, 0.125]),
        (Schedule(name="step", rate=0.1, every=4), [3, 4, 8], [1.0, 0.1, 0.01]),
        (Schedule(name="none", warmup=4), [0, 3, 9], [0.25, 1.0, 1.0]),
    ],
)
def test_schedules(schedule: Schedule, at: list[int], wanted: list[float]) -> None:
    values = [float(factor(schedule, 11)(jnp.int32(i))) for i in at]
    np.testing.assert_allclose(values, wanted, rtol=1e-6)


def test_a_schedule_by_its_name_has_its_defaults() -> None:
    client = Client.model_validate({"epochs": 1, "schedule": "step"})
    assert client.schedule == Schedule(name="step", rate=0.5, every=25)


OWN = """
import jax.numpy as jnp
import numpy as np
import optax
from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.data.federated import Federation, shards_from_index
from fedjax_sim.tasks import classifier, from_functions

def recipe(optimizer, strength: float = 2.0):
    return fedavg(optimizer)

def data(rows: int, seed: int = 0):
    x = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    parts = np.array_split(np.arange(rows), 2)
    return Federation(shards_from_index(x, np.arange(rows) % 2, parts), n_classes=2, name="mine")

def model(width: int = 2):
    init = lambda key, x: {"w": jnp.zeros((x.shape[-1], width))}
    return init, lambda params, x: x @ params["w"]

def task(model, classes: int = 2):
    return classifier(model, classes)

def optimizer(learning_rate, power: float = 1.0):
    return optax.sgd(learning_rate)

def first(outputs, batch):
    right = (outputs.argmax(-1) == batch.y) & batch.mask
    return {"first": (right.sum().astype(float), batch.mask.sum().astype(float))}
"""


def test_pieces_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_pieces.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = {
        "data": {"name": "own_pieces:data", "rows": 8},
        "model": {"name": "own_pieces:model"},
        "task": {"name": "own_pieces:task", "metrics": ["own_pieces:first"]},
        "algorithm": {"name": "own_pieces:recipe", "strength": 3},
        "client": {"optimizer": "own_pieces:optimizer", "optimizer_params": {"power": 2.0}},
    }
    built = build(config.resolve(file))
    assert built.federation.name == "mine" and built.recipe.name == "fedavg"
    model = built.task.init(jax.random.key(0))
    x = jnp.ones((2, 3))
    from fedjax_sim.core.types import Batch

    batch = Batch(x, jnp.array([0, 1]), jnp.array([True, True]))
    found = built.task.metrics(built.task.predict(model, x), batch)
    assert sorted(found) == ["accuracy", "first", "loss"]
    assert float(found["first"][0]) == 1.0


def test_the_task_comes_back_from_config_toml(tmp_path: Path) -> None:
    built = build(resolve({}))
    path = tmp_path / "config.toml"
    path.write_text(built.config_text(built.settings), encoding="utf-8")
    for shape in ({}, {"x_shape": [64], "x_dtype": "float32"}):
        task = task_from_config(path, **shape)
        assert task is not None
        model, x = task.init(jax.random.key(0)), jnp.ones((1, 64))
        wanted = built.task.predict(built.task.init(jax.random.key(0)), x)
        np.testing.assert_array_equal(task.predict(model, x), wanted)
    path.write_text("[data]\nname = 'gone:gone'\n", encoding="utf-8")
    assert task_from_config(path) is None


def test_float64_reaches_the_parameters() -> None:
    with jax.enable_x64(True):
        task = build(resolve({"plan.float64": True})).task
        leaves = jax.tree.leaves(task.init(jax.random.key(0)))
    assert {leaf.dtype for leaf in leaves} == {np.dtype("float64")}
