"""What `explain` tells is what the run then does."""

import dataclasses

import numpy as np
import optax
import pytest
from experiment.little import DIM, federation, recipe, session, settings
from sparing import few

import fedjax_sim as fs
from fedjax_sim.algorithms import fedavg
from fedjax_sim.core.checks import InputError
from fedjax_sim.engine import forecast as forecasts
from fedjax_sim.engine import plan as plans
from fedjax_sim.engine.plan import Plan
from fedjax_sim.experiment.explain import explain
from fedjax_sim.experiment.settings import Settings
from fedjax_sim.tasks.quadratic import quadratic


def told(**changes):
    return explain(recipe(), quadratic(DIM), federation(), settings(stragglers=0.0, **changes))


@pytest.mark.slow
def test_lane_steps_are_those_of_the_run():
    found = told(rounds=3, lanes=2)
    run = session(rounds=3, lanes=2, stragglers=0.0).run()
    assert sum(p.useful for p in found.packings) == run.summary["client_steps"]
    assert found.lane_efficiency == pytest.approx(run.summary["lane_efficiency"])
    assert found.lane_efficiency_bound == pytest.approx(run.summary["lane_efficiency_bound"])


@pytest.mark.slow
def test_a_straggling_cohort_is_drawn_with_the_runs_own_keys():
    found = explain(recipe(), quadratic(DIM), federation(), settings(rounds=3))
    run = session(rounds=3).run()
    assert sum(p.useful for p in found.packings) == run.summary["client_steps"]


def test_rows_and_state_are_counted_to_the_byte():
    kinds = told().forecast.by_kind()
    fed = federation()
    each = 4 * DIM
    assert kinds[forecasts.ROWS] == fed.n_clients * each
    data = fed.train.x.nbytes + fed.train.y.nbytes
    assert data < kinds[forecasts.DATA] < 8 * data + 4096


@pytest.mark.slow
def test_devices_and_lanes_that_are_given_are_kept():
    assert told(lanes=2, devices=2).plan == Plan(2, 2)
    assert "as given" in told(lanes=2, devices=2).why


def test_a_plan_that_cannot_fit_is_told_and_the_run_refused(monkeypatch):
    monkeypatch.setattr(plans, "memory_bytes", lambda: 10**6)
    found = told()
    assert not found.fits
    assert "IT DOES NOT FIT" in found.table()
    with pytest.raises(InputError, match=r"would hold .* of the 1\.0 MB of the machine"):
        session()


def test_the_refusal_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(plans, "memory_bytes", lambda: 10**6)
    with pytest.raises(InputError):
        session(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("width", few([80, 120], 80))
def test_the_table_fits_its_width_and_names_every_kind(width):
    text = told().table(width)
    assert max(map(len, text.splitlines())) <= width
    for words in (
        *("memory", "client rows", "runtime and compiler", "total", "of the machine's"),
        *("plan", "compiles", "lane efficiency", "bound", "time a round", "rough"),
    ):
        assert words in text
    assert repr(told()) == told().table()


def test_explain_is_a_function_of_the_library():
    fed = fs.data.digits(fs.partition.iid(clients=10))
    task = fs.tasks.classifier(fs.models.mlp(16), classes=10)
    found = fs.explain(fedavg(optax.sgd(0.1)), task, fed, cohort=4, lanes=2, devices=1, rounds=7)
    assert (found.cohort, found.rounds, found.plan) == (4, 7, Plan(2, 1))
    forward = 2 * 10 * (64 * 16 + 16 * 10)
    assert 2.5 * forward < found.flops < 6 * forward
    assert found.compiles == 1 and found.seconds_per_round > 0


@pytest.mark.slow
def test_more_lanes_hold_more():
    fed = fs.data.digits(fs.partition.iid(clients=20))
    task = fs.tasks.classifier(fs.models.mlp(200, 200), classes=10)

    def temporaries(lanes):
        found = explain(fedavg(optax.sgd(0.1)), task, fed, Settings(devices=1), lanes=lanes)
        kinds = found.forecast.by_kind()
        return kinds[forecasts.LANES] + kinds[forecasts.ACTIVATIONS]

    few, many = temporaries(2), temporaries(8)
    assert 2 * few < many < 8 * few


def test_times_follow_the_work():
    wide = federation(clients=40)
    base = settings(rounds=3, stragglers=0.0)
    one = explain(recipe(), quadratic(DIM), wide, dataclasses.replace(base, cohort=5))
    all_ = explain(recipe(), quadratic(DIM), wide, dataclasses.replace(base, cohort=40))
    assert all_.seconds_per_round > one.seconds_per_round
    assert np.isclose(all_.steps_per_round, np.ceil(wide.train.sizes / 2).sum())
