"""Sessions: one compile, guards, inputs, and a closed form in float64."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from experiment import little
from sparing import few

import fedjax_sim as fs
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Model
from fedjax_sim.experiment.interrupt import Interrupted
from fedjax_sim.experiment.session import Progress, Session
from fedjax_sim.experiment.settings import Settings, next_stop
from fedjax_sim.tasks.quadratic import quadratic


@pytest.mark.slow
def test_thirty_rounds_and_a_shorter_last_chunk_trace_and_compile_once() -> None:
    traces, compiled = [], []
    base = quadratic(little.DIM)

    def loss(*args: Any) -> Any:
        traces.append(1)
        return base.loss(*args)

    class Listen:
        def __call__(self, event: str, duration: float, **_: Any) -> None:
            if event == "/jax/core/compile/backend_compile_duration":
                compiled.append(event)

    listen = Listen()
    session = little.session(task=base._replace(loss=loss), rounds=33, chunk=10)
    traced = len(traces)
    assert traced > 0
    jax.monitoring.register_event_duration_secs_listener(listen)
    seen: list[int] = []
    try:
        run = session.run(lambda p: seen.append(len(compiled)) if p.phase == "training" else None)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(run.records) == 33
    assert len(traces) == traced
    assert len(seen) > 8 and len(set(seen)) == 1


def test_the_same_seed_gives_the_same_bits_and_the_plan_only_rounding() -> None:
    a = little.session().run()
    little.assert_same(a, little.session().run())
    b = little.session(devices=2, lanes=2, chunk=5).run()
    for x, y in zip(jax.tree.leaves(a.state), jax.tree.leaves(b.state), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-5, atol=1e-6)


def test_chunks_end_at_absolute_rounds() -> None:
    settings = Settings(rounds=33, checkpoint_every=25)
    stops = [0]
    while stops[-1] < settings.rounds:
        stops.append(next_stop(stops[-1], settings, 10))
    assert stops == [0, 10, 20, 25, 30, 33]
    assert next_stop(27, settings, 10) == 30
    assert next_stop(3, dataclasses.replace(settings, checkpoint_every=0), 50) == 33


def test_progress_tells_phases_rounds_and_speed() -> None:
    told: list[Progress] = []
    little.session().run(told.append)
    assert told[0].phase == "compiling" and told[-1].phase == "done"
    assert [p.round for p in told] == [0, 2, 4, 6, 8, 10, 12, 13, 13]
    assert told[0].seconds_left is None and told[-1].seconds_left == 0
    assert told[3].rounds_per_second > 0 and told[3].steps_per_second > 0
    assert told[3].latest["round"] == 6 and "test_loss" in told[3].latest


@pytest.mark.slow
def test_float64_runs_the_closed_form_of_a_quadratic() -> None:
    a, b, start, rate = np.array([0.5, 1.5]), np.array([2.0, -1.0]), np.array([3.0, 3.0]), 0.1
    x, y = np.tile(a, (4, 1)), np.tile(b, (4, 1))
    fed = fs.Federation(fs.data.Shards(x, y, np.array([0, 2]), np.array([2, 2])))
    recipe = fs.algorithms.fedavg(optax.sgd(rate), steps=3, batch_size=2)
    run = fs.run(
        recipe, quadratic(2, start), fed, cohort=2, rounds=7, devices=1, lanes=1, float64=True
    )
    assert run.model is not None
    want = b + (start - b) * (1 - rate * a) ** (3 * 7)
    assert run.model.params["x"].dtype == np.float64
    np.testing.assert_allclose(run.model.params["x"], want, rtol=1e-13)
    assert run.predict(x).dtype == np.float64
    assert not jax.config.jax_enable_x64


@pytest.mark.slow
def test_a_warm_start_is_used_and_not_consumed(tmp_path: Path) -> None:
    start = Model({"x": jax.numpy.array([1.0, 2.0, 3.0])})
    first = fs.algorithms.fedavg(optax.sgd(0.0))
    run = little.session(recipe=first, init=start, rounds=2).run()
    assert run.model is not None
    np.testing.assert_array_equal(run.model.params["x"], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(start.params["x"], [1.0, 2.0, 3.0])
    loaded = fs.load(run.save(tmp_path / "model"))
    again = little.session(recipe=first, init=loaded.model, rounds=2).run()
    little.assert_same(run, again)


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    wild = fs.algorithms.fedavg(optax.sgd(60.0), steps=2, batch_size=2)
    out = tmp_path / "run"
    run = little.session(out, recipe=wild, rounds=40, stragglers=0.0).run()
    assert run.status == run.summary["status"] == "diverged"
    last = run.records[-1]
    assert len(run.records) < 40 and last["train_loss"] is None
    assert "train_loss" in last["nonfinite"]
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.records
    kept = max(int(p.name[6:]) for p in (out / "checkpoints").iterdir())
    assert kept == len(run.records) - 1 == run.summary["good_rounds"] > 0
    shorter = little.session(recipe=wild, rounds=40, stragglers=0.0, chunk=1)
    state = shorter._dispatch.compile() or shorter._dispatch.first_state()
    for _ in range(kept):
        state, _ = shorter._dispatch(state, 1)
    good = np.asarray(run.state.algorithm.server.model.params["x"])
    np.testing.assert_array_equal(good, state.algorithm.server.model.params["x"])
    assert np.isfinite(good).all()
    np.testing.assert_array_equal(fs.load(out / "final").model.params["x"], good)
    again = little.session(out, resume=True, recipe=wild, rounds=40, stragglers=0.0).run()
    assert again.finished_before and again.status == "diverged"


@pytest.mark.slow
def test_a_round_in_which_nobody_trains_is_no_divergence() -> None:
    run = little.session(stragglers=1.0, drop_stragglers=True, rounds=3).run()
    assert run.status == "done" and len(run.records) == 3
    assert run.records[0]["cohort_present"] == 0 and run.records[0]["uplink_bytes"] == 0
    assert run.records[0]["nonfinite"] == ["train_loss"]


@pytest.mark.parametrize("number", few([signal.SIGINT, signal.SIGTERM], signal.SIGINT))
def test_a_signal_ends_the_chunk_writes_a_checkpoint_and_can_be_resumed(
    tmp_path: Path, number: int
) -> None:
    def kill_at_six(p: Progress) -> None:
        if p.round == 6:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        little.session(tmp_path / "run").run(kill_at_six)
    assert (caught.value.out, caught.value.round) == (tmp_path / "run", 6)
    assert signal.getsignal(number) is before
    assert (tmp_path / "run/checkpoints/round_000006").is_dir()
    if number == signal.SIGINT:
        resumed = little.session(tmp_path / "run", resume=True).run()
        assert resumed.resumed_from == 6
        little.assert_same(resumed, little.session().run())


def test_a_keyboard_interrupt_in_the_callback_counts_too(tmp_path: Path) -> None:
    def interrupt(p: Progress) -> None:
        if p.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="resume"):
        little.session(tmp_path / "run").run(interrupt)
    assert (tmp_path / "run/checkpoints/round_000002").is_dir()


def test_a_used_or_unwritable_folder_is_refused_before_training(tmp_path: Path) -> None:
    for name in ("config.toml", "metrics.jsonl"):
        used = tmp_path / name.partition(".")[0]
        used.mkdir()
        (used / name).write_text("")
        with pytest.raises(InputError, match="resume"):
            little.session(used)
    (tmp_path / "file").write_text("")
    for bad in ("file", "file/run"):
        with pytest.raises(InputError, match="out = "):
            little.session(tmp_path / bad)
    with pytest.raises(InputError, match="no run to resume"):
        little.session(tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rounds": 0}, "rounds"),
        ({"cohort": 7}, "cohort"),
        ({"devices": 99}, "plan.devices"),
        ({"stragglers": 1.5}, "stragglers"),
        ({"client_eval": 1}, "client_eval"),
        ({"hyper": {"lr": 0.1}}, "hyper.lr"),
        ({"recipe": optax.sgd(0.1)}, "recipe"),
        ({"task": None}, "task"),
        ({"federation": ()}, "federation"),
        ({"init": Model({"x": np.zeros(9)})}, "init.params['x']"),
        ({"init": Model({"y": np.zeros(3)})}, "init"),
    ],
)
def test_bad_input_names_its_field_and_writes_nothing(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError) as caught:
        little.session(tmp_path / "run", **changes)
    assert caught.value.field == field
    assert not (tmp_path / "run").exists()


def test_local_only_has_client_metrics_and_no_model(tmp_path: Path) -> None:
    session = little.session(
        tmp_path / "run",
        recipe=fs.algorithms.local_only(optax.sgd(0.05), batch_size=2),
        federation=little.federation(client_test=True),
        rounds=3,
    )
    run = session.run()
    assert "client_loss_mean" in run.records[-1] and "test_loss" not in run.records[-1]
    assert run.model is None and any("shares no model" in n for n in run.notes)
    with pytest.raises(InputError, match="shares no model"):
        run.predict(np.zeros((1, little.DIM)))


@pytest.mark.slow
def test_hyper_overrides_the_recipes_numbers() -> None:
    def recipe(lr: float) -> Any:
        return fs.algorithms.fedavg(lambda lr: optax.sgd(lr), lr=lr, batch_size=2)

    given = little.session(recipe=recipe(0.5), hyper={"lr": 0.05}, rounds=3).run()
    little.assert_same(given, little.session(recipe=recipe(0.05), rounds=3).run())


def test_the_package_is_light_and_knows_its_names() -> None:
    assert set(fs.__all__) <= set(dir(fs))
    for name in fs.__all__:
        assert getattr(fs, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fs.nonsense
    assert fs.Session is Session
