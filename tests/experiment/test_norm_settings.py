"""Optimizers, schedules, normalisation and batch-norm policies as an experiment file says them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_sim.algorithms.batch_norm import batch_norm
from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.cli.main import main
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import config
from fedjax_sim.experiment.api import run
from fedjax_sim.experiment.build import build, task_from_config
from fedjax_sim.experiment.optimizers import maker
from fedjax_sim.experiment.sections import BatchNorm, Client, Schedule, Server
from fedjax_sim.experiment.settings import UNWATCHED
from fedjax_sim.tasks import norms
from fedjax_sim.transforms.schedule import scale_by_round

SMALL: dict[str, Any] = {
    "data": {"name": "digits", "partition": {"name": "iid", "clients": 5}},
    "model": {"name": "mlp", "widths": [8, 8]},
    "client": {"epochs": 1, "batch_size": 100, "shuffle": False},
    "run": {"rounds": 4, "cohort": 3, "eval_every": 4},
    "plan": {"lanes": 1, "devices": 1},
}


def resolve(pairs: dict[str, Any]) -> config.Experiment:
    return config.resolve(SMALL, config.overrides_table(pairs))


def trained(pairs: dict[str, Any], recipe: Any = None) -> Any:
    """The model after four rounds of what the file says, or of `recipe` in its place."""
    built = build(resolve(pairs))
    made = run(
        recipe or built.recipe,
        built.task,
        built.federation,
        **{n: getattr(built.settings, n) for n in ("rounds", "cohort", "lanes", "devices")},
        eval_every=4,
        chunk=4,
        diagnosis=UNWATCHED,
    )
    return made.model


LOCAL = {"epochs": 1, "batch_size": 100, "shuffle": False}
HALVED = {"name": "step", "rate": 0.5, "every": 2}


def halved(count: jax.Array) -> jax.Array:
    """Rates 1, 1, 1/2, 1/2."""
    return jnp.where(count < 2, 1.0, 0.5)


REACHED = {
    "heavy ball at the server": (
        {"server.momentum": 0.8, "server.learning_rate": 0.5},
        lambda: fedavg(optax.sgd(0.1), server=optax.sgd(0.5, 0.8), **LOCAL),
    ),
    "nesterov at both": (
        {
            **{"client.momentum": 0.6, "client.nesterov": True},
            **{"server.momentum": 0.8, "server.nesterov": True, "server.learning_rate": 0.5},
        },
        lambda: fedavg(
            optax.sgd(0.1, 0.6, True), server=optax.sgd(0.5, 0.8, nesterov=True), **LOCAL
        ),
    ),
    "adaptive at both": (
        {
            # Root terms that are not tiny: otherwise the last bit of a gradient of 0 is a step.
            **{"client.optimizer": "adam", "client.learning_rate": 0.01},
            **{"server.optimizer": "yogi", "server.learning_rate": 0.05},
            **{f"{role}.optimizer_params": {"eps": 0.01} for role in ("client", "server")},
        },
        lambda: fedavg(optax.adam(0.01, eps=0.01), server=optax.yogi(0.05, eps=0.01), **LOCAL),
    ),
    "schedules at both": (
        {
            **{"client.schedule": HALVED, "server.schedule": HALVED},
            **{"server.momentum": 0.8, "server.learning_rate": 0.5},
        },
        lambda: fedavg(
            optax.chain(optax.sgd(0.1), scale_by_round(halved)),
            server=optax.chain(optax.sgd(0.5, 0.8), optax.scale_by_schedule(halved)),
            **LOCAL,
        ),
    ),
}


def some(names: Any, quick: str) -> list[Any]:
    """All names, those that are not in `quick` marked slow: each compiles two programs."""
    marks = pytest.mark.slow
    return [n if n in quick else pytest.param(n, marks=marks) for n in names]


@pytest.mark.slow
@pytest.mark.parametrize("name", some(REACHED, "schedules at both"))
def test_a_file_reaches_every_optimizer_of_client_and_server(name: str) -> None:
    pairs, by_hand = REACHED[name]
    got, wanted = trained(pairs), trained(pairs, by_hand())
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=2e-5, atol=1e-6), got, wanted)


def test_the_servers_rate_follows_the_rounds_in_which_somebody_reports() -> None:
    section = Server.model_validate({"schedule": {"name": "cosine", "warmup": 2}})
    made = maker("server", section, rounds=5)
    assert made.numbers == {"server_learning_rate": 1.0}
    optimizer = made(**made.numbers)
    state, steps = optimizer.init(jnp.zeros(1)), []
    for _ in range(6):
        step, state = optimizer.update(jnp.ones(1), state)
        steps.append(-float(step[0]))
    cosine = 0.5 * (1 + np.cos(np.pi * np.minimum(np.arange(6) / 4, 1)))
    np.testing.assert_allclose(steps, cosine * [0.5, 1, 1, 1, 1, 1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("local", BatchNorm(name="local")),
        ("frozen", BatchNorm(name="frozen", after=10, affine=False)),
        ({"name": "frozen", "affine": True}, BatchNorm(name="frozen", after=10, affine=True)),
        ("recalibrated", BatchNorm(name="recalibrated", every=0)),
        ("average", BatchNorm()),
        (None, None),
    ],
)
def test_a_policy_by_its_name_has_its_defaults(given: Any, wanted: BatchNorm | None) -> None:
    table = {"epochs": 1} | ({} if given is None else {"batch_norm": given})
    assert Client.model_validate(table).batch_norm == wanted


def test_a_server_schedule_by_its_name_has_its_defaults() -> None:
    assert Server.model_validate({"schedule": "step"}).schedule == Schedule(
        name="step", rate=0.5, every=25
    )
    assert Server().schedule is None


POLICIES: dict[str, dict[str, Any]] = {
    "average": {},
    "local": {},
    "frozen": {"after": 1, "affine": True},
    "recalibrated": {"every": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", some(POLICIES, "local"))
def test_a_policy_of_the_file_is_the_policy_of_the_library(name: str) -> None:
    pairs = {"model.norm": "batch", "client.batch_norm": {"name": name, **POLICIES[name]}}
    by_hand = batch_norm(fedavg(optax.sgd(0.1), **LOCAL), name, rounds=4, **POLICIES[name])
    got, wanted = trained(pairs), trained(pairs, by_hand)
    assert len(norms.find(got).means) == 2
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=2e-5, atol=1e-6), got, wanted)


@pytest.mark.parametrize(
    "pairs",
    [
        {"model.norm": "batch", "client.batch_norm": "frozen"},
        {"model.norm": "batch", "model.norm_momentum": 0.5, "client.batch_norm.name": "local"},
        {"model.norm": "group", "model.norm_groups": 2, "server.schedule": "cosine"},
        {"algorithm.name": "fedsgd", "model.norm": "batch", "client.batch_norm": "frozen"},
    ],
    ids=str,
)
def test_config_toml_alone_is_the_same_experiment(pairs: dict[str, Any], tmp_path: Path) -> None:
    first = build(resolve(pairs))
    path = tmp_path / "config.toml"
    path.write_text(first.config_text(first.settings), encoding="utf-8")
    second = build(config.resolve(config.read(path)))
    assert second.config_text(second.settings) == path.read_text(encoding="utf-8")
    task = task_from_config(path, x_shape=(64,), x_dtype=np.float32)
    assert task is not None
    shapes = [jax.eval_shape(t.init, jax.random.key(0)) for t in (first.task, second.task, task)]
    assert shapes[0] == shapes[1] == shapes[2]


def test_nothing_is_written_of_a_policy_that_nobody_asked_for() -> None:
    built = build(resolve({}))
    text = built.config_text(built.settings)
    assert "batch_norm" not in text and "norm_" not in text and 'norm = "none"' in text


@pytest.mark.parametrize(
    ("pairs", "field", "words"),
    [
        ({"client.batch_norm": "avrage"}, "client.batch_norm.name", "must be"),
        ({"client.batch_norm": {"name": "local", "after": 3}}, "client.batch_norm", "frozen does"),
        ({"client.batch_norm": {"name": "frozen", "after": -1}}, "client.batch_norm.after", "0"),
        ({"client.batch_norm.aftr": 3}, "client.batch_norm.aftr", "is not known"),
        ({"server.schedule": "cosin"}, "server.schedule.name", "must be"),
        ({"server.schedule.rate": 0.5}, "server.schedule", "these do"),
        ({"model.norm": "batsh"}, "model.norm", "must be one of"),
        ({"model.norm": "group", "model.norm_groups": 3}, "model.norm_groups", "divide"),
        ({"model.norm_momentum": 0.5}, "model.norm_momentum", "batch"),
        (
            {"client.batch_norm": "local", "algorithm.name": "local_only"},
            "client.batch_norm",
            "personal",
        ),
    ],
)
def test_bad_input_names_the_field(pairs: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        build(resolve(pairs)).recipe.build(**{"client_learning_rate": 0.1})
    assert caught.value.field == field and words in str(caught.value)


def test_a_model_without_batch_norm_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["--client.batch_norm", "local", "--model.norm", "group", "--rounds", "2"]
    assert main(["run", *options, "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert "client.batch_norm = local" in told and "model.norm" in told
    assert not out.exists()
