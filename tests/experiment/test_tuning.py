"""The timing probe: the fastest plan, kept on disk, never trusted blindly, never on resume."""

import json
import tomllib
from pathlib import Path

import jax
import pytest
from experiment.little import DIM, federation, recipe, session, settings

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import tuning
from fedjax_sim.experiment.explain import explain
from fedjax_sim.experiment.settings import Settings
from fedjax_sim.tasks.quadratic import quadratic

PROBED = {"lanes": "probe", "devices": None, "stragglers": 0.0, "rounds": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDJAX_SIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "plans"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Plans in the order in which they were timed; two lanes on one device is the fastest."""
    timed: list[tuple[int, int]] = []

    def seconds(dispatch):
        plan = dispatch.forecast.plan
        timed.append((plan.lanes, plan.devices))
        return 0.01 if timed[-1] == (1, 1) else 0.02 + 0.001 * len(timed)

    monkeypatch.setattr(tuning, "seconds_a_round", seconds)
    return timed


def test_the_fastest_plan_is_taken_and_kept(clock, cache):
    first = session(**PROBED)
    assert (first.settings.lanes, first.settings.devices) == (1, 1)
    assert clock == [(1, 3), (1, 1)]  # three clients fill three devices, one lane each
    assert "timed now" in first.notes[0]
    (kept,) = cache.iterdir()
    assert json.loads(kept.read_text())["timings"][0] == [1, 1, 0.01]
    clock.clear()
    second = session(**PROBED)
    assert (second.settings.lanes, second.settings.devices) == (1, 1)
    assert clock == [] and "timed before" in second.notes[0]


@pytest.mark.slow
def test_given_devices_are_kept(clock):
    found = session(**(PROBED | {"devices": 1}))
    assert found.settings.devices == 1
    assert clock == [(1, 1), (3, 1)]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff\xfe", b"[]", b"{}", b'{"key": "other", "timings": [[1, 1, 0.1]]}'),
        *(b'{"key": "KEY", "timings": []}', b'{"key": "KEY", "timings": [[0, 1, 0.1]]}'),
        *(b'{"key": "KEY", "timings": [[1, 99, 0.1]]}', b'{"key": "KEY", "timings": [[1, 1]]}'),
        b'{"key": "KEY", "timings": [[true, 1, 0.1]]}',
        b'{"key": "KEY", "timings": [[1, 1, NaN]]}',
    ],
)
def test_a_damaged_answer_is_never_used(cache, content):
    path = cache / "abc.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.replace(b"KEY", b"abc"))
    timings, note = tuning.read("abc")
    assert timings == ()
    assert "damaged" in note and str(path) in note


@pytest.mark.slow
def test_after_damage_the_plans_are_timed_anew_and_kept(clock, cache):
    session(**PROBED)
    (kept,) = cache.iterdir()
    kept.write_text("{")
    clock.clear()
    again = session(**PROBED)
    assert clock == [(1, 3), (1, 1)]
    assert "damaged" in again.notes[0]
    assert tuning.read(kept.stem)[0][0] == tuning.Timing(1, 1, 0.01)


@pytest.mark.slow
def test_other_work_has_another_key(clock):
    session(**PROBED)
    clock.clear()
    session(**(PROBED | {"federation": federation(seed=1)}))
    assert clock


@pytest.mark.slow
def test_the_same_work_with_another_seed_or_rate_is_known(clock):
    session(**PROBED)
    clock.clear()
    session(**(PROBED | {"seed": 5, "rounds": 9}))
    assert clock == []


@pytest.mark.slow
def test_the_chosen_plan_is_written_and_resume_never_times(clock, tmp_path, cache):
    out = tmp_path / "run"
    started = session(out, **PROBED)
    started._folder.begin()  # killed before its first checkpoint
    started._folder.close()
    assert tomllib.loads((out / "config.toml").read_text())["plan"]["devices"] == 1
    for kept in cache.iterdir():
        kept.unlink()
    clock.clear()
    run = session(out, resume=True, **PROBED).run()
    assert clock == []
    assert run.summary["plan"]["devices"] == 1


@pytest.mark.slow
def test_explain_reads_the_answer_and_times_nothing(clock):
    asked = settings(**PROBED)
    before = explain(recipe(), quadratic(DIM), federation(), asked)
    assert clock == [] and not before.timed
    session(**PROBED)
    clock.clear()
    after = explain(recipe(), quadratic(DIM), federation(), asked)
    assert clock == [] and after.timed
    assert (after.plan.devices, after.seconds_per_round) == (1, 0.01)
    assert "fastest of 2 plans" in after.why


@pytest.mark.slow
def test_a_real_clock_runs_the_real_program():
    found = session(**(PROBED | {"devices": 1}))
    assert found.settings.lanes in (1, 3)
    assert "timed now" in found.notes[0]
    run = found.run()
    assert run.summary["rounds"] == 4


def test_a_folder_that_cannot_be_written_is_told(clock, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("FEDJAX_SIM_CACHE", str(blocked))
    assert "not kept" in session(**PROBED).notes[0]


@pytest.mark.parametrize("lanes", ["fast", "auto", 0, 1.5])
def test_other_words_are_refused(lanes):
    with pytest.raises(InputError, match="lanes = "):
        Settings(lanes=lanes)


def test_candidates_fit_the_cohort():
    found = session(**(PROBED | {"lanes": 1, "devices": 2}))
    plans = tuning.candidates(found.prepared, settings(**PROBED))
    assert plans == [(1, 2), (2, 2), (1, 1)]
    assert len(jax.devices()) == 8
