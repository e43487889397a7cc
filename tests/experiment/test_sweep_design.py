"""Grids, seeds, groups and plans of a sweep: no program is compiled here."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest
from experiment import little

from fedjax_sim.algorithms import fedavg
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import config, sweep_plan, sweep_records
from fedjax_sim.experiment.prepare import prepare
from fedjax_sim.experiment.sweep_config import from_sweep, request
from fedjax_sim.experiment.sweep_design import as_seeds, grid, numeric_settings
from fedjax_sim.experiment.sweep_dispatch import blocks_of
from fedjax_sim.experiment.sweep_folder import merged
from fedjax_sim.tasks.quadratic import quadratic

RATES = [0.1, 0.2, 0.4]


def groups(**varied: Any) -> list[tuple[int, ...]]:
    keys = {k.replace("__", "."): v for k, v in varied.items()}
    return list(request(config.read(None), {}, keys).groups)


def test_seeds_are_counted_or_listed() -> None:
    assert as_seeds(3) == (0, 1, 2) and as_seeds(2, 7) == (7, 8)
    assert as_seeds([5, 2**32 - 1]) == (5, 2**32 - 1)
    for bad in (0, -1, 1.5, True, "3", [], [1, 1], [-1], [2**32], [0.5]):
        with pytest.raises(InputError, match="seeds"):
            as_seeds(bad)


def test_a_grid_has_all_combinations_the_first_slowest() -> None:
    points = grid({"a": [1, 2], "b": ["x", "y"]})
    assert [tuple(p.values()) for p in points] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    assert grid({}) == [{}]
    for bad in ([], "ab", 3, [1, 1]):
        with pytest.raises(InputError):
            grid({"a": bad})


def test_traced_numbers_share_a_program_and_anything_else_does_not() -> None:
    assert groups(client__learning_rate=RATES) == [(0, 1, 2)]
    assert groups(client__epochs=[1, 2]) == [(0,), (1,)]
    assert groups(client__learning_rate=RATES, client__epochs=[1, 2]) == [(0, 2, 4), (1, 3, 5)]
    assert groups(client__optimizer=["sgd", "adam"]) == [(0,), (1,)]
    assert groups(model__widths=[[8], [16]]) == [(0,), (1,)]
    assert groups(data__partition__alpha=[0.1, 1.0]) == [(0,), (1,)]
    assert groups(run__rounds=[2, 3]) == [(0,), (1,)]
    # No momentum costs no state, so it is another program than some momentum.
    assert groups(client__momentum=[0.0, 0.5, 0.9]) == [(0,), (1, 2)]


def test_a_number_reaches_every_place_that_takes_it() -> None:
    keys = {"client.momentum": [0.5, 0.9]}
    asked = request(config.read(None), {"algorithm.name": "fednova"}, keys)
    assert asked.groups == ((0, 1),)
    assert [p.hyper["momentum"] for p in asked.points] == [0.5, 0.9]
    assert [p.hyper["client_momentum"] for p in asked.points] == [0.5, 0.9]
    mu = {"algorithm.mu": [0.0, 0.1], "algorithm.name": ["fedprox"]}
    prox = request(config.read(None), {}, mu)
    assert prox.groups == ((0, 1),) and [p.hyper["mu"] for p in prox.points] == [0.0, 0.1]


@pytest.mark.parametrize(
    ("varied", "overrides", "field"),
    [
        ({"run.seed": [1, 2]}, {}, "--vary run.seed"),
        ({"plan.lanes": [1, 2]}, {}, "--vary plan.lanes"),
        ({"client.epochs": [1, 2]}, {"client.epochs": 3}, "client.epochs"),
        ({"client.learning_rate": [0.1, -1.0]}, {}, "client.learning_rate"),
        ({"client.lerning_rate": [0.1]}, {}, "client.lerning_rate"),
        ({"epochs": [1]}, {}, "--epochs"),
        ({"client.epochs": []}, {}, "client.epochs"),
    ],
)
def test_a_bad_point_is_refused_by_name(varied: Any, overrides: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        request(config.read(None), overrides, varied)
    assert caught.value.field == field


def test_constants_cannot_be_varied_and_the_advice_says_how() -> None:
    with pytest.raises(InputError, match=r"fedavg\(lambda lr: optax.sgd\(lr\), lr=0.1\)"):
        numeric_settings(fedavg(optax.sgd(0.1)), {"lr": RATES})
    with pytest.raises(InputError, match="can vary: lr"):
        numeric_settings(fedavg(lambda lr: optax.sgd(lr), lr=0.1), {"rate": RATES})
    with pytest.raises(InputError, match=r"hyper\.lr"):
        numeric_settings(fedavg(lambda lr: optax.sgd(lr), lr=0.1), {"lr": [0.1, float("nan")]})


def test_blocks_cover_every_run_once() -> None:
    for width in (1, 2, 3, 5):
        runs = [(b.seed, j) for b in blocks_of((2, 4, 6, 8, 9), 3, width) for j in b.settings]
        assert sorted(runs) == [(s, j) for s in range(3) for j in (2, 4, 6, 8, 9)]


def plan_of(seeds: int, settings: int, **given: Any) -> sweep_plan.SweepPlan:
    recipe = fedavg(lambda lr: optax.sgd(lr), lr=0.1)
    settings_ = little.settings(lanes=2, checkpoint_every=0)
    p = prepare(recipe, quadratic(little.DIM), little.federation(), settings_)
    shapes = jax.eval_shape(p.init_state, None)
    return sweep_plan.choose(p, shapes, seeds=seeds, settings=settings, **given)


def test_settings_run_together_unless_devices_would_idle() -> None:
    assert plan_of(4, 8, devices=2).width == 8
    assert plan_of(1, 8, devices=2).width == 4
    assert plan_of(4, 8, devices=2, inner="map").width == 1
    assert plan_of(1, 1).devices == 1
    assert plan_of(4, 8, devices=2, width=3).width == 3
    vmap = plan_of(5, 4, devices=2, inner="vmap")
    assert vmap.width * vmap.held * vmap.devices >= 20


def test_little_memory_makes_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = plan_of(64, 8, devices=2, inner="vmap")
    assert wide.held * wide.devices * wide.width >= 512
    monkeypatch.setattr("fedjax_sim.engine.plan.memory_bytes", lambda: 20_000)
    few = plan_of(64, 8, devices=2, inner="vmap")
    assert few.held * few.width <= 2
    assert plan_of(64, 8, devices=2).held < 32


def test_outcomes_tell_divergence_finals_and_bests() -> None:
    nan, inf = np.nan, np.inf
    buffers = {
        "train_loss": np.array([[3.0, 2.0, 2.5], [1.0, nan, nan], [1.0, 2.0, 3.0]]),
        "client_steps": np.array([[4, 4, 4], [4, 4, 4], [4, 4, 4]]),
        "test_accuracy": np.array([[0.1, 9.9, 0.3], [0.2, 9.9, inf], [0.4, 9.9, 0.3]]),
        "probed": np.array([[True, False, True]] * 3),
        "uplink_bytes_each": np.full((3, 3), 10),
        "cohort_present": np.array([[2, 2, 1]] * 3),
        "drift_cosine": np.array([[0.5, 0.6, 0.7]] * 3),
        "drift_measured": np.array([[False, True, False]] * 3),
        "sound": np.array([[True, True, True], [True, False, False], [True, True, False]]),
    }
    curves = sweep_records.curves_of(buffers, ["test_accuracy"])
    assert np.isnan(curves["test_accuracy"][:, 1]).all() and "probed" not in curves
    assert curves["uplink_bytes"][0].tolist() == [20, 20, 10]
    assert np.isnan(curves["uplink_bytes"][1, 2]) and curves["uplink_bytes"][1, 1] == 20
    assert "drift_measured" not in curves and "sound" not in curves
    np.testing.assert_array_equal(curves["drift_cosine"][0], [nan, 0.6, nan])
    a, b, c = sweep_records.outcomes(curves, ["test_accuracy"], buffers["sound"])
    assert (a["status"], a["rounds"]) == ("done", 3)
    assert (b["status"], b["rounds"]) == ("diverged", 2)
    assert (c["status"], c["rounds"]) == ("diverged", 3)
    assert (a["final_test_accuracy"], a["best_test_accuracy"]) == (0.3, 0.3)
    assert (c["best_test_accuracy"], c["best_test_accuracy_round"]) == (0.4, 1)
    assert (a["best_train_loss"], a["best_train_loss_round"]) == (2.0, 2)
    assert b["final_train_loss"] is None and b["final_test_accuracy"] is None
    assert b["best_test_accuracy"] == 0.2


def test_a_setting_is_its_sound_runs_mean_and_sample_deviation() -> None:
    rows = [(0, "done", 1.0), (0, "done", 3.0), (0, "diverged", None), (1, "done", 2.5)]
    records = [
        {"setting": s, "lr": s / 10, "status": status, "final_train_loss": v}
        for s, status, v in rows
    ]
    first, second = sweep_records.summary_rows(records, ["lr"])
    assert (first["n"], first["diverged"], first["lr"]) == (3, 1, 0.0)
    assert first["final_train_loss_mean"] == 2.0
    assert first["final_train_loss_std"] == pytest.approx(2**0.5)
    assert second["final_train_loss_std"] is None
    # The first is better, but one of its runs diverged.
    assert sweep_records.best_row([first, second], "train_loss") == 1


def test_curves_of_different_length_are_filled_up() -> None:
    parts = [
        {"run": np.array([2]), "a": np.array([[1.0, 2.0, 3.0]])},
        {"run": np.array([0, 2]), "a": np.array([[5.0, 6.0], [7.0, 8.0]])},
    ]
    whole = merged(parts, 3)["a"]
    np.testing.assert_array_equal(whole, [[5, 6, np.nan], [np.nan] * 3, [7, 8, 3]])


def test_a_damaged_sweep_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"sweep\.toml"):
        from_sweep({"sweep": {"seeds": [0], "inner": "map"}, "vary": {}, "group": [{}]})
