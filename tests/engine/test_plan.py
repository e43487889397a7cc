"""The plan by rule of thumb, and what cannot fit is refused with the figures."""

import jax
import optax
import pytest
from helpers import Run, softmax_data, softmax_task

from fedjax_sim.algorithms import fedavg, median, scaffold
from fedjax_sim.core.checks import InputError
from fedjax_sim.engine import plan as plans
from fedjax_sim.engine.plan import Plan
from fedjax_sim.sampling.uniform import uniform

SIZES = (3, 4, 5, 6)


@pytest.mark.parametrize(
    ("parameters", "cohort", "devices", "wanted"),
    [
        (610, 50, 2, Plan(25, 2)),
        (610, 500, 2, Plan(32, 2)),
        (10_000, 50, 2, Plan(8, 2)),
        (200_000, 50, 2, Plan(1, 2)),
        (610, 3, None, Plan(1, 3)),
    ],
)
def test_many_lanes_for_tiny_models_and_one_for_the_others(parameters, cohort, devices, wanted):
    assert plans.choose(parameters, cohort, devices=devices) == wanted


def test_what_the_user_fixed_is_kept():
    assert plans.choose(10**9, 4, lanes=3, devices=2) == Plan(3, 2)


def start_and_run(recipe):
    run = Run.of(recipe, softmax_task(), softmax_data(SIZES), uniform(4, 4), Plan(1, 1))
    return run.simulate(jax.random.key(0), 1)


def test_collected_reports_that_cannot_fit_are_refused(monkeypatch):
    monkeypatch.setattr(plans, "memory_bytes", lambda: 4 * 16 * 4 - 1)  # K x P x 4 bytes, less 1
    with pytest.raises(InputError, match=r"cohort = 4 reports .* smaller cohort"):
        start_and_run(median(optax.sgd(0.1)))
    state, _ = start_and_run(fedavg(optax.sgd(0.1)))  # a streaming rule fits
    assert int(state.round) == 1


def test_client_states_that_cannot_fit_are_refused(monkeypatch):
    monkeypatch.setattr(plans, "memory_bytes", lambda: 4 * 16 * 4 - 1)
    with pytest.raises(InputError, match=r"clients = 4 client states: would hold .* GB"):
        start_and_run(scaffold(optax.sgd(0.1)))
