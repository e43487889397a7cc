"""The plan by rule of thumb, and what cannot fit is refused with the figures."""

import os
import subprocess
import sys

import jax
import optax
import pytest
from helpers import Run, softmax_data, softmax_task

from fedjax_sim.algorithms import fedavg, median, scaffold
from fedjax_sim.core.checks import InputError
from fedjax_sim.engine import plan as plans
from fedjax_sim.engine.mesh import cores_as_devices
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


def on_an_accelerator(monkeypatch, memory):
    monkeypatch.setattr(plans, "memory_bytes", lambda: memory)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def test_an_accelerator_takes_the_whole_cohort_where_it_fits(monkeypatch):
    on_an_accelerator(monkeypatch, 1000)
    assert plans.choose(10, 50, devices=1, lane_bytes=1) == Plan(50, 1)
    assert plans.choose(10, 50, devices=2, lane_bytes=1) == Plan(25, 2)


def test_memory_that_the_forecast_leaves_bounds_the_lanes(monkeypatch):
    on_an_accelerator(monkeypatch, 1000)  # of which 800 may be filled
    assert plans.choose(10, 50, devices=1, lane_bytes=100, fixed_bytes=300) == Plan(5, 1)
    assert plans.choose(10, 50, devices=1, lane_bytes=100, fixed_bytes=900) == Plan(1, 1)


CORES = """
import warnings
warnings.simplefilter("error")
import fedjax_sim as fs
{before}
print("asked", fs.cores_as_devices({count}))
import jax
print("has", len(jax.devices()))
{after}
"""


def in_a_process(before="", count="", after=""):
    clean = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    return subprocess.run(
        [sys.executable, "-c", CORES.format(before=before, count=count, after=after)],
        capture_output=True,
        text=True,
        env=clean | {"JAX_PLATFORMS": "cpu"},
        check=False,
    )


def test_cores_become_devices_after_the_import():
    again = "print('again', fs.cores_as_devices(3))"
    done = in_a_process(before="import jax, optax; fs.algorithms; fs.run", count=3, after=again)
    assert done.stdout.split("\n")[:3] == ["asked 3", "has 3", "again 3"], done.stderr


def test_the_default_is_the_cores_of_this_process():
    done = in_a_process()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert done.stdout.split("\n")[:2] == [f"asked {cores}", f"has {cores}"], done.stderr


def test_a_backend_that_runs_already_is_told_in_one_message():
    done = in_a_process(before="import jax; jax.numpy.ones(2).sum()", count=3)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "JAX has already started with 1 CPU device(s), and cannot change to 3" in last
    assert "call cores_as_devices() right after the imports" in last


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_a_senseless_number_of_cores_is_refused(count):
    with pytest.raises(InputError, match="count = "):
        cores_as_devices(count)
