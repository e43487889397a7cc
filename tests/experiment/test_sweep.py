"""`fs.sweep`: equal to single runs, resumable, undisturbed by runs that diverge."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
from experiment import little

import fedjax_sim as fs
from fedjax_sim.algorithms import fedavg, scaffold
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.sweep import sweep
from fedjax_sim.experiment.sweep_progress import SweepInterrupted
from fedjax_sim.experiment.sweep_session import SweepSession
from fedjax_sim.tasks.quadratic import quadratic

RATES = [0.01, 0.05, 1e12]
PERCENTILES = ("_p10", "_p50", "_p90", "_std", "_worst10", "_cvar", "_jain", "_gini")
COMMON: dict[str, Any] = {"cohort": 3, "rounds": 6, "lanes": 2, "eval_every": 2}


def recipe(**given: Any) -> Any:
    return scaffold(lambda lr: optax.sgd(lr), lr=0.05, batch_size=2, **given)


def little_sweep(out: Path | None = None, **changes: Any) -> Any:
    given: dict[str, Any] = {"hyper": {"lr": RATES}, "seeds": 3, "devices": 2, "inner": "map"}
    given |= COMMON | {"stragglers": 0.3} | changes
    made = given.pop("recipe", None) or recipe()
    fed = given.pop("federation", None) or little.federation(client_test=True)
    return sweep(made, quadratic(little.DIM), fed, out=out, **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return little_sweep(tmp_path_factory.mktemp("sweep") / "whole")


def single(record: dict[str, Any]) -> Any:
    return fs.run(
        recipe(),
        quadratic(little.DIM),
        little.federation(client_test=True),
        hyper={"lr": record["lr"]},
        seed=record["seed"],
        devices=1,
        stragglers=0.3,
        **COMMON,
    )


def assert_equal_to_single(result: Any, run: int, rtol: float) -> None:
    alone, record = single(result.records[run]), result.records[run]
    assert record["status"] == alone.status
    for name, values in result.curves.items():
        having = [r for r in alone.records if name in r]
        assert having or np.isnan(values[run]).all(), name
        got = [values[run][r["round"] - 1] for r in having]
        got = np.where(np.isfinite(got), got, np.nan)
        wanted = [np.nan if r[name] is None else r[name] for r in having]
        np.testing.assert_allclose(got, wanted, rtol=rtol, err_msg=f"{run} {name}")
    if alone.status == "done":
        assert {n for n in result.curves if np.isfinite(result.curves[n][run]).any()} >= {
            n
            for n in alone.records[-1]
            if n not in ("round", "wall_time_s", "step_norm", "step_cosine")
        }
        for name, best in alone.summary["best"].items():
            if f"best_{name}" in record and not name.endswith(PERCENTILES):
                assert record[f"best_{name}"] == pytest.approx(best["value"], rel=rtol)


@pytest.mark.parametrize("run", [pytest.param(4, marks=pytest.mark.slow), 8])
def test_one_after_another_is_the_single_run(whole: Any, run: int) -> None:
    assert_equal_to_single(whole, run, rtol=1e-6)


@pytest.mark.parametrize("inner", ["hyper", pytest.param("vmap", marks=pytest.mark.slow)])
def test_together_is_the_single_run_within_rounding(inner: str) -> None:
    result = little_sweep(inner=inner)
    assert result.summary["plans"][0]["inner"] == inner
    for run in (5,):
        assert_equal_to_single(result, run, rtol=1e-5)


@pytest.mark.slow
def test_runs_that_diverge_disturb_no_other(whole: Any) -> None:
    status = [r["status"] for r in whole.records]
    assert status == ["done"] * 6 + ["diverged"] * 3
    assert whole.summary["diverged"] == 3
    mild = little_sweep(hyper={"lr": RATES[:2]})
    for name in ("train_loss", "test_loss"):
        np.testing.assert_array_equal(whole.curves[name][:6], mild.curves[name])
    rows = whole.rows()
    assert rows[2]["diverged"] == 3 and rows[2]["final_test_loss_mean"] is None
    assert whole.best()["lr"] in RATES[:2]


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_folder_holds_what_it_promises(whole: Any) -> None:
    names = {p.name for p in whole.out.iterdir()}
    assert names == {
        *("sweep.toml", "runs.jsonl", "curves.npz", "table.csv", "summary.csv"),
        *("summary.json", "sweep.png"),
    }
    rows = rows_of(whole.out / "table.csv")
    assert [int(r["run"]) for r in rows] == list(range(9))
    assert [float(r["lr"]) for r in rows] == [rate for rate in RATES for _ in range(3)]
    assert rows[8]["status"] == "diverged" and rows[8]["final_test_loss"] == ""
    settings = rows_of(whole.out / "summary.csv")
    losses = [float(r["final_test_loss"]) for r in rows[:3]]
    assert float(settings[0]["final_test_loss_mean"]) == pytest.approx(np.mean(losses))
    assert float(settings[0]["final_test_loss_std"]) == pytest.approx(np.std(losses, ddof=1))
    with np.load(whole.out / "curves.npz", allow_pickle=False) as curves:
        np.testing.assert_array_equal(curves["train_loss"], whole.curves["train_loss"])
    summary = json.loads((whole.out / "summary.json").read_text())
    assert summary["runs"] == 9 and summary["best"]["lr"] == whole.best()["lr"]


def test_table_and_picture(whole: Any) -> None:
    lines = whole.table().splitlines()
    best = [line for line in lines if "< best" in line]
    assert len(best) == 1 and f"{whole.best()['lr']:g}" in best[0] and "+-" in best[0]
    figure = whole.plot()
    curves, values = figure.axes
    assert len(curves.lines) == 2 and values.get_xscale() == "log"
    assert len(values.get_legend_handles_labels()[0]) <= 1
    with pytest.raises(InputError, match="must be one of"):
        whole.plot("nothing")
    only_seeds = little_sweep(hyper=None, seeds=2)
    assert len(only_seeds.plot().axes) == 1 and only_seeds.best()["n"] == 2


def cut_after(runs: int) -> Any:
    def told(now: Any) -> None:
        if now.phase == "running" and now.done >= runs:
            os.kill(os.getpid(), signal.SIGINT)

    return told


def without_part(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]


def test_a_cut_sweep_goes_on_bitwise(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr("fedjax_sim.experiment.sweep_dispatch._TARGET_S", 1e-9)
    out = tmp_path / "cut"
    with pytest.raises(SweepInterrupted, match="interrupted after 4 of 9 runs"):
        little_sweep(out, progress=cut_after(4))
    assert len(without_part(out)) == 4 and not (out / "summary.json").exists()
    with (out / "runs.jsonl").open("a") as file:
        file.write('{"run": 8, "torn')
    seen: list[int] = []
    result = little_sweep(out, progress=lambda now: seen.append(now.done))
    assert result.resumed_from == 4 and seen[0] == 4
    assert [r["run"] for r in without_part(out)].count(0) == 1
    assert result.records == whole.records
    for name, values in whole.curves.items():
        np.testing.assert_array_equal(result.curves[name], values, err_msg=name)


def test_a_finished_sweep_is_not_done_again(whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr("fedjax_sim.experiment.sweep_dispatch.SweepDispatch.compile", never)
    before = {p.name: p.read_bytes() for p in whole.out.iterdir()}
    again = little_sweep(whole.out)
    assert again.finished_before and again.records == whole.records
    assert {p.name: p.read_bytes() for p in whole.out.iterdir()} == before


@pytest.mark.parametrize(
    "other",
    [
        {"seeds": 2},
        {"hyper": {"lr": [0.01, 0.06, 1e12]}},
        {"rounds": 7},
        {"federation": little.federation(seed=1, client_test=True)},
        {"recipe": fedavg(lambda lr: optax.sgd(lr), lr=0.05)},
    ],
)
def test_another_experiment_in_the_folder_is_refused(whole: Any, other: Any) -> None:
    before = {p.name: p.read_bytes() for p in whole.out.iterdir()}
    with pytest.raises(InputError, match="holds another sweep"):
        little_sweep(whole.out, **other)
    assert {p.name: p.read_bytes() for p in whole.out.iterdir()} == before


def test_a_run_and_a_sweep_do_not_share_a_folder(whole: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a sweep already"):
        little.session(whole.out)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(InputError, match="holds a run already"):
        little_sweep(tmp_path)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"seeds": 0}, "seeds"),
        ({"inner": "both"}, "inner"),
        ({"hyper": {"rate": [1.0]}}, "hyper.rate"),
        ({"devices": 99}, "plan.devices"),
        ({"rounds": 0}, "rounds"),
        ({"recipe": "fedavg"}, "recipe"),
    ],
)
def test_bad_input_is_named_and_nothing_written(tmp_path: Path, given: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        little_sweep(tmp_path / "out", **given)
    assert caught.value.field == field and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_probe_takes_one_of_the_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"map": 3.0, "hyper": 1.0, "vmap": 2.0}
    monkeypatch.setattr(
        "fedjax_sim.experiment.sweep_probe._seconds_a_run",
        lambda dispatch, wave: seconds[dispatch.plan.inner],
    )
    monkeypatch.setattr("fedjax_sim.experiment.sweep_dispatch.SweepDispatch.compile", _nothing)
    monkeypatch.setattr("fedjax_sim.experiment.sweep_dispatch.SweepDispatch.release", _nothing)
    made: list[SweepSession] = []
    monkeypatch.setattr(SweepSession, "run", lambda self, told: made.append(self))
    little_sweep(inner="probe")
    assert [p.inner for p in made[0].plans] == ["hyper"]


def _nothing(self: Any) -> None:
    del self
