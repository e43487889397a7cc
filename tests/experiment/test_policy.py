"""Policies: what is decided, and what a run then does."""

from __future__ import annotations

import dataclasses
import json
import math
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
from fedjax_sim.experiment.interrupt import Interrupted
from fedjax_sim.experiment.policy import Course, Policy, decide, score_of
from fedjax_sim.experiment.progress import Progress
from fedjax_sim.experiment.settings import Diagnosis, Settings, next_stop


def equal(clients: int = 4) -> Any:
    """Clients that share one quadratic of curvature 1 and the target 1."""
    made = little.federation(clients=clients)
    ones = np.ones_like(made.train.x)
    train = dataclasses.replace(made.train, x=ones, y=ones)
    return dataclasses.replace(made, train=train, central_test=(ones, ones))


def descent(rate: float) -> Any:
    """Each round is one step of gradient descent: the error is multiplied by 1 - rate."""
    return fs.algorithms.fedavg(optax.sgd(rate), epochs=1, batch_size=None)


def session(rate: float, policy: Policy, out: Path | None = None, **changes: Any) -> Any:
    given = {"recipe": descent(rate), "federation": equal(), "cohort": 4, "stragglers": 0.0}
    given |= {"rounds": 120, "chunk": 5, "eval_every": 5, "checkpoint_every": 20}
    return little.session(out, **(given | {"policy": policy} | changes))


@pytest.mark.parametrize(
    ("policy", "course", "done", "sound", "wanted"),
    [
        (Policy(), Course("diverging", 0), 500, True, "go_on"),
        (Policy(), Course("converging", 0), 5, False, "stop"),
        (Policy(("converged",)), Course("converged", 10), 29, True, "go_on"),
        (Policy(("converged",)), Course("converged", 10), 30, True, "stop"),
        (Policy(("converged",)), Course("stagnating", 10), 300, True, "go_on"),
        (Policy(on_trouble="stop"), Course("oscillating", 10), 30, True, "stop"),
        (Policy(on_trouble="stop"), Course("stagnating", 10), 30, True, "go_on"),
        (Policy(on_trouble="cut"), Course("diverging", 10), 30, True, "cut"),
        (Policy(on_trouble="cut"), Course("diverging", 10), 29, True, "go_on"),
        (Policy(on_trouble="restore"), Course("", 10), 11, False, "restore"),
        (Policy(on_trouble="restore"), Course("", 10, cuts=3), 11, False, "stop"),
        (Policy(on_trouble="restore", most_cuts=4), Course("", 10, 3), 11, False, "restore"),
    ],
)
def test_decisions(policy: Policy, course: Course, done: int, sound: bool, wanted: str) -> None:
    assert decide(policy, course, done, sound=sound) == wanted


def test_a_verdict_stands_from_where_the_one_before_it_was_given() -> None:
    course = Course().judged("converging", 0).judged("converged", 10).judged("converged", 15)
    assert course.since == 10 and course.stood(25) == 15
    assert course.judged("converging", 25).stood(30) == 5


def test_scores_are_losses_or_what_accuracies_lack() -> None:
    assert score_of([{"train_loss": 3.0}, {"train_loss": 1.0}]) == 2.0
    assert score_of([{"train_loss": 3.0, "test_accuracy": 0.25}]) == -0.25
    assert score_of([{"test_loss": 0.5, "test_accuracy": 0.25}]) == 0.5
    assert score_of([{"test_loss": None, "train_loss": None}]) == math.inf


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"stop_on": ("perfect",)}, "policy.stop_on"),
        ({"stop_on": "converged"}, "policy.stop_on"),
        ({"on_trouble": "pray"}, "policy.on_trouble"),
        ({"cut": 1.0}, "policy.cut"),
        ({"cut": 0.0}, "policy.cut"),
        ({"patience": 0}, "policy.patience"),
        ({"most_cuts": 0}, "policy.most_cuts"),
    ],
)
def test_bad_policies_are_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        Policy(**values)
    assert caught.value.field == field


def test_a_policy_needs_the_verdict_and_a_rate_to_cut() -> None:
    with pytest.raises(InputError, match=r"diagnosis\.verdict"):
        session(0.5, Policy(("converged",)), diagnosis=Diagnosis(verdict=False))
    held = fs.algorithms.centralized(optax.sgd(0.1))
    with pytest.raises(InputError, match="no step to shorten"):
        session(0.5, Policy(on_trouble="cut"), recipe=held)
    session(0.5, Policy(("converged",)), recipe=held)


def test_dispatches_end_at_evaluations_where_a_policy_acts() -> None:
    plain = Settings(rounds=40, eval_every=7, checkpoint_every=20)
    acting = dataclasses.replace(plain, policy=Policy(("converged",)))
    stops = [0]
    while stops[-1] < 40:
        stops.append(next_stop(stops[-1], acting, 25))
    assert stops == [0, 7, 14, 20, 21, 25, 28, 35, 40]
    assert next_stop(0, plain, 25) == 20


def test_a_converged_run_ends_early(tmp_path: Path) -> None:
    run = session(0.5, Policy(("converged",), patience=10), tmp_path / "run").run()
    assert run.status == run.summary["status"] == "stopped"
    assert 10 < len(run.records) < 60 and run.records[-1]["train_loss"] < 1e-3
    (event,) = run.summary["policy"]["events"]
    assert (event["action"], event["verdict"]) == ("stop", "converged")
    assert event["round"] == len(run.records)
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "stopped"
    again = session(0.5, Policy(("converged",), patience=10), tmp_path / "run", resume=True).run()
    assert again.finished_before and len(again.records) == len(run.records)


@pytest.mark.slow
def test_a_diverging_run_comes_to_rest_once_its_rate_is_cut() -> None:
    """Rate 2.6 multiplies the error by -1.6; cut once, 1.3, by -0.3."""
    without = session(2.6, Policy()).run()
    assert without.status == "diverged" or without.records[-1]["train_loss"] > 1e3
    run = session(2.6, Policy(on_trouble="cut", patience=5)).run()
    assert run.status == "done" and run.summary["policy"]["cuts"] == 1
    at = run.summary["policy"]["events"][0]["round"]
    losses = np.array([r["train_loss"] for r in run.records])
    ratio = losses[at + 1 : at + 6] / losses[at : at + 5]
    np.testing.assert_allclose(ratio, 0.09, rtol=1e-3)


def test_a_run_goes_back_to_its_best_state_and_on_from_there() -> None:
    run = session(2.6, Policy(on_trouble="restore", patience=5)).run()
    assert run.status == "done"
    (event,) = run.summary["policy"]["events"]
    back, at = event["back_to"], event["round"]
    losses = np.array([r["train_loss"] for r in run.records])
    # The record of round r + 1 is the loss of the state after round r, before its step.
    assert losses[at] == losses[back]
    np.testing.assert_allclose(losses[at + 1] / losses[at], 0.09, rtol=1e-3)
    assert [r["round"] for r in run.records] == list(range(1, 121))


@pytest.mark.slow
def test_a_run_that_goes_back_does_not_win_back_time() -> None:
    system = fs.Systems(fleet="equal")
    run = session(2.6, Policy(on_trouble="restore", patience=5), systems=system, rounds=60).run()
    assert [e["action"] for e in run.summary["policy"]["events"]] == ["restore"]
    spent = np.cumsum([r["round_seconds"] for r in run.records])
    np.testing.assert_allclose([r["virtual_time_s"] for r in run.records], spent, rtol=1e-5)


@pytest.mark.slow
def test_numbers_that_are_not_finite_are_cut_too_and_the_last_trouble_ends_it() -> None:
    """Rate 1e20 leaves float32 in a round; halved three times it still does."""
    run = session(1e20, Policy(on_trouble="restore", patience=5), rounds=60).run()
    assert run.status == "diverged" and run.summary["policy"]["cuts"] == 3
    actions = [e["action"] for e in run.summary["policy"]["events"]]
    assert actions == ["restore"] * 3 + ["stop"]
    assert np.isfinite(run.model.params["x"]).all()


@pytest.mark.parametrize("cut_at", few([5, 20, 35], 20))
def test_a_run_under_a_policy_is_resumed_bit_for_bit(tmp_path: Path, cut_at: int) -> None:
    policy = Policy(("converged",), patience=15, on_trouble="restore")
    whole = session(2.6, policy).run()
    assert whole.summary["policy"]["cuts"] == 1

    def stop(p: Progress) -> None:
        if p.round == cut_at and p.phase == "training":
            raise KeyboardInterrupt

    out = tmp_path / "run"
    assert cut_at < len(whole.records)
    with pytest.raises(Interrupted):
        session(2.6, policy, out).run(stop)
    again = session(2.6, policy, out, resume=True).run()
    little.assert_same(whole, again)
    assert again.summary["policy"] == whole.summary["policy"]
    assert jax.tree.structure(again.state) == jax.tree.structure(whole.state)
