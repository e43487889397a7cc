"""Probing a run's folder: which model is read, what is written, what is refused."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from experiment.little import DIM, federation, settings

from fedjax_sim.algorithms import fedavg
from fedjax_sim.core.checks import InputError
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.diagnostics import curvature
from fedjax_sim.experiment import critical_folder as folders
from fedjax_sim.experiment.build import build
from fedjax_sim.experiment.config import overrides_table, read, resolve
from fedjax_sim.experiment.critical import Probe, _looker, probe_run
from fedjax_sim.experiment.critical import read as read_probe
from fedjax_sim.experiment.session import Session
from fedjax_sim.tasks.quadratic import quadratic

CHANGES = {
    "data.partition.clients": 8,
    "model.widths": [6],
    "client.epochs": 1,
    "client.batch_size": 50,
    "run.rounds": 4,
    "run.cohort": 4,
    "run.checkpoint_every": 1,
    "run.keep_checkpoints": 3,
    "plan.devices": 1,
    "plan.lanes": 1,
}
QUICK = Probe(steps=3, block=4, clients=2, client_steps=3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A digits run with checkpoints of rounds 2, 3 and 4, and the model of every round."""
    experiment = resolve(read(None), overrides_table(CHANGES))
    built = build(experiment)
    out = tmp_path_factory.mktemp("runs") / "run"
    models = {}
    for rounds in (2, 4):
        last = resolve(read(None), overrides_table(CHANGES | {"run.rounds": rounds}))
        at = out if rounds == 4 else None
        made = build(last, built.federation)
        session = Session(
            made.recipe, made.task, made.federation, made.settings,
            out=at, config_text=made.config_text,
        )  # fmt: skip
        models[rounds] = session.run().model
    return out, built, models


@pytest.fixture
def run(trained, tmp_path):
    out, built, models = trained
    shutil.copytree(out, tmp_path / "run")
    return tmp_path / "run", built, models


def pooled_loss(built, model):
    """The mean loss over all training examples, in float32 and in one batch."""
    from fedjax_sim.core.types import Batch

    x, y = jnp.asarray(built.federation.train.x), jnp.asarray(built.federation.train.y)
    batch = Batch(x, y, jnp.ones(len(x), bool))
    return float(built.task.loss(jax.random.key(0), model, batch)[0])


@pytest.mark.slow
def test_the_final_model_is_probed_and_the_answer_left(run):
    out, built, models = run
    (point,) = probe_run(out, how=QUICK)
    assert (point.name, point.round) == ("final", 4)
    np.testing.assert_allclose(point.critical.loss, pooled_loss(built, models[4]), rtol=1e-5)
    assert point.critical.kind == "not stationary" and point.critical.epsilon < 1e-15
    assert len(point.clients.ids) == 2
    left = read_probe(out)
    assert left["points"] == [json.loads(json.dumps(point.facts()))]
    assert left["how"]["steps"] == 3
    assert (out / "probe.png").read_bytes()[:4] == b"\x89PNG"


def test_a_checkpoint_gives_the_model_of_its_round(run):
    out, built, models = run
    (point,) = probe_run(out, round=2, how=Probe(steps=2, block=2, clients=0))
    assert (point.name, point.round, point.clients) == ("round 2", 2, None)
    np.testing.assert_allclose(point.critical.loss, pooled_loss(built, models[2]), rtol=1e-5)


def test_all_models_are_probed_oldest_first_by_the_same_programs(run, monkeypatch):
    out, _, _ = run
    told, made = [], []

    def landscape(*args, **options):
        made.append(options)
        return curvature.landscape(*args, **options)

    monkeypatch.setattr("fedjax_sim.experiment.critical.landscape", landscape)
    points = probe_run(
        out,
        all_rounds=True,
        how=Probe(steps=2, block=2, clients=0),
        on_probe=lambda name, what, done, most: told.append(name),
    )
    assert [p.name for p in points] == ["round 2", "round 3", "final"]
    assert len(made) == 1
    losses = [p.critical.loss for p in points]
    assert losses == sorted(losses, reverse=True)  # the run goes down
    assert list(dict.fromkeys(told)) == ["round 2", "round 3", "final"]
    assert [p["round"] for p in read_probe(out)["points"]] == [2, 3, 4]


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_found_and_draws_it(run):
    out, _, _ = run
    how = Probe(steps=2, block=2, clients=0)
    probe_run(out, how=how)

    def stop(name, what, done, most):
        if name == "round 3":
            raise KeyboardInterrupt

    (out / "probe.png").unlink()
    with pytest.raises(KeyboardInterrupt):
        probe_run(out, all_rounds=True, how=how, on_probe=stop)
    assert [p["name"] for p in read_probe(out)["points"]] == ["round 2", "final"]
    assert (out / "probe.png").is_file()
    probe_run(out, round=2, how=Probe(steps=3, block=2, clients=0))
    assert [p["name"] for p in read_probe(out)["points"]] == ["round 2"]  # another way: anew


@pytest.mark.slow
def test_the_test_split_and_float32_are_what_they_say(run):
    out, built, models = run
    how = Probe(steps=2, block=2, clients=0, split="test", float64=False)
    (point,) = probe_run(out, how=how, write=False)
    assert point.critical.epsilon > 1e-8
    test = built.federation.test
    from fedjax_sim.core.types import Batch

    batch = Batch(jnp.asarray(test.x), jnp.asarray(test.y), jnp.ones(len(test.x), bool))
    loss = float(built.task.loss(jax.random.key(0), models[4], batch)[0])
    np.testing.assert_allclose(point.critical.loss, loss, rtol=1e-5)
    assert not (out / "probe.json").exists()


@pytest.mark.slow
def test_a_run_made_in_python_needs_its_task_and_data(tmp_path):
    out = tmp_path / "run"
    fed, task = federation(), quadratic(DIM)
    fast = fedavg(optax.sgd(0.3), epochs=30, batch_size=10)
    Session(fast, task, fed, settings(cohort=6, stragglers=0.0), out=out).run()
    with pytest.raises(InputError):
        probe_run(out, how=QUICK)
    with pytest.raises(InputError, match="together"):
        probe_run(out, how=QUICK, task=task)
    (point,) = probe_run(out, how=QUICK, task=task, federation=fed)
    x = np.asarray(fed.train.x, np.float64)
    curvatures = np.sort(x.mean(axis=0))
    np.testing.assert_allclose(point.critical.spectrum.values, curvatures, rtol=1e-6)


@pytest.mark.slow
def test_data_that_change_are_those_of_the_models_last_round():
    """Curvatures are the mean of x: 1, 2, 3, and from round 2 (of 0 ..) on five times that."""
    each = np.arange(1.0, DIM + 1)
    x, y = np.stack([each, each, 5 * each, 5 * each]), np.zeros((4, DIM))
    at, sizes = np.arange(2), np.ones(2, np.int64)
    changing = Shards(x, y, at, sizes, np.stack([at, at + 2]), np.array([0, 2]))
    with folders.wide(True):
        task = quadratic(DIM)
        model = jax.device_get(task.init(jax.random.key(0)))
        ground = folders.Ground(task, Federation(changing), lambda stop: model)
        look = _looker(ground, QUICK, lambda name, what, done, most: None)
        for rounds, times in ((1, 1), (2, 1), (3, 5), (9, 5), (2, 1)):
            point = look(folders.Stop("a", rounds, Path()))
            np.testing.assert_allclose(point.critical.spectrum.values, times * each, rtol=1e-9)
            np.testing.assert_allclose(point.clients.high, 3 * times, rtol=1e-9)
        with pytest.raises(InputError, match="round = None"):
            look(folders.Stop("final", None, Path()))
        with pytest.raises(InputError, match=r"data\.at"):
            curvature.landscape(task, model, changing)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"round": 1}, "these rounds have: 2, 3, 4"),
        ({"round": 2, "all_rounds": True}, "beside all rounds"),
        ({"how": Probe(clients=9)}, "at most 8"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(run, changes, match):
    out, _, _ = run
    before = sorted(p.name for p in out.iterdir())
    with pytest.raises(InputError, match=match):
        probe_run(out, **changes)
    assert sorted(p.name for p in out.iterdir()) == before


def test_folders_without_a_run_or_a_model_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        folders.stops(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no run"):
        folders.stops(tmp_path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(InputError, match="no model yet"):
        folders.stops(tmp_path)
    with pytest.raises(InputError, match="has not been probed"):
        read_probe(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("split", "validation"), ("steps", 0), ("block", -1), ("clients", -1), ("seed", -1)],
)
def test_probe_settings_are_checked(field, value):
    with pytest.raises(InputError, match=field):
        Probe(**{field: value})


def test_a_final_model_needs_no_checkpoint(run):
    out, built, models = run
    shutil.rmtree(out / "checkpoints")
    moved = Path(shutil.move(out, out.with_name("moved")))
    (point,) = probe_run(moved, how=Probe(steps=2, block=2, clients=0))
    np.testing.assert_allclose(point.critical.loss, pooled_loss(built, models[4]), rtol=1e-5)
