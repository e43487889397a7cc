"""The labelled suite: its truth made again by other means, its rule, its scores."""

from __future__ import annotations

import functools
import json
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from verdict_suite import (
    adaptive,
    cache,
    catalogue,
    conflict,
    cycles,
    digits_common,
    digits_rule,
    drift,
    momentum,
    noise,
    quadratics,
    rules,
    saddles,
    schedules,
)
from verdict_suite.rules import Course, verdict_of
from verdict_suite.scoring import ask, confusion, row_of, table
from verdict_suite.suite import LabelledRun, half_of, records_of, series_of

QUICK = [f for f in catalogue.FAMILIES if f.cheap]


@functools.cache
def quick_runs(name: str) -> list[LabelledRun]:
    (family,) = (f for f in QUICK if f.name == name)
    return family.make(True)


def losses(run: LabelledRun, name: str = "train_loss") -> np.ndarray:
    return series_of(run.records)[name]


def descent(run: LabelledRun, rounds: int) -> np.ndarray:
    """The excess of plain loops in float64, written anew, before each of `rounds` rounds."""
    p, out = run.params, []
    x = np.asarray(p["start"], float)
    a = np.logspace(0, -np.log10(p["condition"]), 8) if "condition" in p else None
    a = np.asarray(p["curvature"]) if "curvature" in p else a
    velocity, first, second = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    with np.errstate(all="ignore"):
        for t in range(rounds):
            g, value = slope(run, x, a)
            out.append(value)
            if run.family in ("heavy_ball", "nesterov"):
                velocity = p["beta"] * velocity + g
                g = g + p["beta"] * velocity if p["nesterov"] else velocity
            elif run.family == "schedules":
                g = g * schedules.factor(p["kind"], p["span"], float(t))
            elif run.family == "fedadagrad":
                second = second + g**2
                g = g / np.sqrt(second + 1e-6 + 1e-3)
            elif run.family == "fedadam":
                first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g**2
                root = np.sqrt(second / (1 - 0.99 ** (t + 1)))
                g = first / (1 - 0.9 ** (t + 1)) / (root + 1e-3)
            x = x - p["rate"] * g
    return np.asarray(out)


def slope(run: LabelledRun, x: np.ndarray, a: np.ndarray | None) -> tuple[np.ndarray, float]:
    p = run.params
    if a is not None:
        return a * x, 0.5 * float(a @ x**2)
    if run.family == "cycle_wells":
        w = np.asarray(p["w"])
        return w * (x**3 - x), float(w @ (x**2 - 1) ** 2) / 4
    if run.family == "cycle_logistic":
        w, chance = np.asarray(p["w"]), np.asarray(p["p"])
        one = 1 / (1 + np.exp(-w * x))
        value = -np.sum(chance * np.log(one) + (1 - chance) * np.log(1 - one)) - run.floor
        return w * (one - chance), float(value)
    if run.family == "saddle_well":
        value = 0.5 * x[0] ** 2 + p["q"] * (x[1] ** 2 - 1) ** 2 / 4
        return np.array([x[0], p["q"] * x[1] * (x[1] ** 2 - 1)]), float(value)
    product = x[1] * x[2] * x[3]
    grads = [x[0], *((product - 1) * product / x[i] for i in (1, 2, 3))]
    return np.array(grads), 0.5 * float(x[0] ** 2 + (product - 1) ** 2)


# Each compiles a program of its own; three kinds of families are enough for every change.
LOOPS = (
    "gd", "cycle_wells",
    *(pytest.param(n, marks=pytest.mark.slow) for n in (
        "fedadam",
        "heavy_ball", "nesterov", "saddle_well", "saddle_chain", "cycle_logistic", "schedules",
        "fedadagrad",
    )),
)  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_records_and_labels_agree_with_a_plain_loop_that_runs_on(name: str) -> None:
    labelled = [r for r in quick_runs(name) if r.truth is not None]
    assert len(labelled) >= 2
    for run in labelled:
        shown = len(run.records)
        e = descent(run, 20 * shown)
        if run.truth not in (rules.OSCILLATING, rules.DIVERGING):
            seen = losses(run) - run.floor
            np.testing.assert_allclose(seen, e[:shown], rtol=2e-2, atol=2e-5 * e[0])
        check_against_later(run.truth, e, shown)


def check_against_later(truth: str, e: np.ndarray, shown: int) -> None:
    """What a verdict says of the future, read off a course 20 times as long."""
    start, now, later = e[0], e[shown - 1], e[shown:]
    if truth == rules.DIVERGING:
        assert not np.isfinite(e[-1]) or e[-1] > 100 * start
    elif truth == rules.CONVERGED:
        assert now < 0.05 * start
        assert later.max() < 0.05 * start
    elif truth == rules.CONVERGING:
        assert now > 0.01 * start
        assert later.min() < 0.8 * now
    elif truth == rules.OSCILLATING:
        # It still goes up and down as many rounds later, by a third of the mean.
        window = e[shown : 2 * shown]
        assert np.ptp(window) > 0.3 * window.mean()
        assert np.sum(np.diff(np.sign(np.diff(window))) != 0) >= 4
    elif truth == rules.STAGNATING:
        assert now > 0.15 * start
        assert now > 0.9 * e[3 * shown // 4]
    else:
        assert shown < 10


def test_a_saddle_is_left_when_the_closed_form_says() -> None:
    for params in saddles.well_draws(False):
        e = saddles.excess(params, 2 * params["rounds"])
        predicted = saddles.exit_round(params)
        if 5 < predicted < params["rounds"]:
            # The linear law is exact for small y; near |y| = 1 the descent lags a little.
            left = int(np.argmax(e < 0.5 * params["q"] / 4))
            assert abs(left - predicted) < 6 / np.log1p(params["rate"] * params["q"]) ** 0.9


def test_noise_balls_are_as_high_as_the_closed_form_says() -> None:
    params = {"rate": 0.3, "distance": 1.0, "cohort": 5, "seed": 3}
    y = noise.targets(3)
    groups = y.reshape(noise.CLIENTS, noise.EACH, noise.DIM)
    x, draw, seen = noise.start_of(params, y), np.random.default_rng(0), []
    for t in range(6000):
        who = draw.permutation(noise.CLIENTS)[:5]
        picked = groups[who, draw.integers(noise.EACH, size=5)]
        x = x + 0.3 * (picked.mean(0) - x)
        if t > 100:
            seen.append(0.5 * np.sum((x - y.mean(0)) ** 2))
    want = noise.excess(params, 500)[-1]
    assert abs(np.mean(seen) / want - 1) < 0.02


@pytest.mark.slow
def test_noisy_records_scatter_around_their_expectation() -> None:
    for run in quick_runs("sgd_noise"):
        stray = losses(run) - run.floor - noise.excess(run.params, len(run.records))
        # The ball itself wanders, for 1 / rate rounds at a time.
        error = np.std(stray) / np.sqrt(max(len(stray) * min(run.params["rate"], 1) / 2, 1))
        assert abs(np.mean(stray)) < 5 * max(error, 0.02)


@pytest.mark.parametrize(
    ("name", "controlled"),
    [("fedavg_drift", False), pytest.param("scaffold", True, marks=pytest.mark.slow)],
)
def test_drift_ends_where_algebra_says(name: str, controlled: bool) -> None:
    for run in quick_runs(name):
        p = run.params
        if p["rate"] > 1:
            continue
        a, b, start = drift.problem(p)
        best = (a * b).sum(0) / a.sum(0)
        # F by its definition, not by the excess formula.
        objective = lambda x, a=a, b=b: 0.5 * np.mean(np.sum(a * (x - b) ** 2, axis=1))  # noqa: E731
        assert run.floor == pytest.approx(objective(best), rel=1e-9)
        seen = losses(run, "test_loss") - run.floor
        e = drift.excess(p, len(seen), controlled)
        np.testing.assert_allclose(seen, e, rtol=1e-3, atol=1e-5 * objective(start))
        if not controlled:
            c = 1 - (1 - p["rate"] * a) ** p["steps"]
            end = (c * b).sum(0) / c.sum(0)
            x = start
            for _ in range(4000):
                x = x - p["server"] * np.mean(c * (x - b), axis=0)
            np.testing.assert_allclose(x, end, atol=1e-3)
            share = (objective(end) - run.floor) / (objective(start) - run.floor)
            assert share == pytest.approx(p["share"], rel=0.05)
            if run.truth == rules.STAGNATING:
                assert share > 0.15 or p["server"] <= 0.05


@pytest.mark.slow
def test_conflicting_clients_share_a_floor_that_none_of_them_needs() -> None:
    for run in quick_runs("conflict"):
        a, b, start = conflict.problem(run.params)
        grid = np.linspace(b.min(0), b.max(0), 401)
        each = 0.5 * a * np.mean((grid[:, None] - b) ** 2, axis=1)
        lowest = each.min(0).sum()
        first = 0.5 * np.mean(np.sum(a * (start - b) ** 2, axis=1))
        assert lowest / first == pytest.approx(run.params["share"], rel=1e-3)
        if run.truth == rules.CONVERGED:
            assert lowest / first < 0.05
        if run.truth == rules.STAGNATING:
            assert losses(run)[-1] == pytest.approx(lowest, rel=0.3)
            assert lowest / first > 0.15


def test_the_ridge_minimum_is_stationary_and_lowest() -> None:
    train = digits_common.federation("iid").train
    value, gradient = digits_common.minimise(np.asarray(train.x, float), np.asarray(train.y))
    assert gradient < 1e-5
    # Strongly convex: F - F* <= |gradient|^2 / (2 ridge).
    assert value == digits_common.ridge_minimum()
    assert 0 < value < np.log(10)


@pytest.mark.parametrize("seed", range(3))
def test_random_runs_are_judged_by_their_later_course(seed: int) -> None:
    draw = np.random.default_rng(seed)
    shown = 80
    t = np.arange(3 * shown)
    rough = 1 + 0.05 * draw.normal(size=3 * shown)
    judge = lambda e, start: digits_rule.judged(e * rough, e * rough, start, shown)  # noqa: E731
    assert judge(np.exp(-t / 40), 1.0) == rules.CONVERGING
    assert judge(0.5 + 0.5 * np.exp(-t / 5), 1.0) == rules.STAGNATING
    assert judge(0.01 + 0.99 * np.exp(-t / 5), 1.0) == rules.CONVERGED
    # A plateau that is left later is not what it seemed, and no verdict is true.
    assert judge(np.where(t < 100, 0.5 + 0.5 * np.exp(-t / 5), 0.5 * 0.9 ** (t - 100)), 1.0) is None
    assert judge(0.1 + 0.9 * np.exp(-t / 5), 1.0) is None
    assert digits_rule.judged(np.exp(-t[:24] / 40), np.exp(-t / 40), 1.0, 8) == rules.EARLY


T = np.arange(100)
SHAPES: tuple[tuple[str, np.ndarray, float, bool, str | None], ...] = (
    ("geometric", 0.5 ** (T / 5), 1.0, False, rules.CONVERGED),
    ("slower", 0.5 ** (T / 30), 1.0, False, rules.CONVERGING),
    ("slow", 0.999**T, 1.0, False, rules.STAGNATING),
    ("between two", 0.995**T, 1.0, False, None),
    ("low plateau", 0.03 + 0.97 * 0.5**T, 1.0, False, rules.CONVERGED),
    ("plateau in the gap", 0.1 + 0.9 * 0.5**T, 1.0, False, None),
    ("high plateau", 0.3 + 0.7 * 0.5**T, 1.0, False, rules.STAGNATING),
    ("begun too late to tell", 0.3 + 0.0 * T, 1.0, False, None),
    ("cycle", 0.5 + 0.3 * (-1.0) ** T, 1.0, False, rules.OSCILLATING),
    ("faint cycle", 0.5 + 0.1 * (-1.0) ** T, 1.0, False, None),
    ("low cycle", 0.01 + 0.005 * (-1.0) ** T + 0.5**T, 1.0, False, None),
    ("damped", np.cos(T) ** 2 * 0.965**T, 0.7, False, rules.CONVERGING),
    ("hardly damped", np.cos(T) ** 2 * 0.995**T, 1.0, False, rules.OSCILLATING),
    ("grows", 1.05**T, 1.0, True, rules.DIVERGING),
    ("will grow", 0.5**T + 1e-9 * 1.05**T, 1.0, True, None),
    ("bounded rise", 1.05**T, 1.0, False, None),
)


@pytest.mark.parametrize(("name", "e", "start", "unbounded", "want"), SHAPES)
def test_the_rule(name: str, e: np.ndarray, start: float, unbounded: bool, want: Any) -> None:
    assert verdict_of(Course(e, start, unbounded=unbounded), len(e)) == want, name


def test_short_runs_are_too_early_unless_they_have_grown() -> None:
    assert verdict_of(Course(0.5**T, 1.0), 9) == rules.EARLY
    assert verdict_of(Course(1.5**T, 1.0, unbounded=True), 9) is None


def test_noise_hides_a_small_change_of_a_short_run() -> None:
    scatter = np.random.default_rng(1).normal(size=100)
    for size, slope_, want in ((0.3, 0.001, rules.EARLY), (0.001, 0.05, rules.CONVERGING)):
        e = np.exp(-slope_ * T)
        assert verdict_of(Course(e, 1.0, seen=e + size * scatter), 28) == want


def test_a_run_ends_with_its_first_number_that_is_not_finite() -> None:
    columns = {"train_loss": np.array([1.0, np.inf, 3.0]), "step_norm": np.array([1.0, 2.0, 3.0]),
               "test_loss": np.array([np.nan, 1.0, 1.0])}  # fmt: skip
    records = records_of(columns, 3)
    assert records == [
        {"round": 1, "train_loss": 1.0, "step_norm": 1.0},
        {"round": 2, "train_loss": None, "step_norm": 2.0, "test_loss": 1.0,
         "nonfinite": ["train_loss"]},
    ]  # fmt: skip
    np.testing.assert_array_equal(series_of(records)["test_loss"], [np.nan, 1.0])


@pytest.mark.slow
def test_quick_runs_have_the_fields_of_real_records_and_survive_the_cache(tmp_path) -> None:
    runs = [run for f in QUICK for run in quick_runs(f.name)]
    assert len(runs) >= 60
    assert {r.truth for r in runs} >= set(rules.VERDICTS)
    for run in runs:
        assert [r["round"] for r in run.records] == list(range(1, len(run.records) + 1))
        assert "step_cosine" not in run.records[0]
        assert run.split == next(f.split for f in QUICK if f.name == run.family)
        if "nonfinite" not in run.records[-1]:
            # SCAFFOLD's update is more than a model, and the engine records no norm of it.
            norm = set() if run.family == "scaffold" else {"update_norm"}
            assert {"train_loss", "step_norm"} | norm <= run.records[-1].keys()
            assert all(abs(r.get("step_cosine", 0)) <= 1 + 1e-5 for r in run.records)
    path = cache.path_of(tmp_path, "gd", True)
    cache.write(path, runs)
    as_json = lambda rs: [json.loads(json.dumps(vars(r))) for r in rs]  # noqa: E731
    assert as_json(cache.read(path)) == as_json(runs)
    assert (tmp_path / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("module", [momentum, adaptive, cycles, quadratics])
def test_the_same_runs_every_time(module: ModuleType) -> None:
    draws = {
        momentum: lambda: momentum.draws(2, False, False),
        adaptive: lambda: adaptive.draws("fedadam", False),
        cycles: lambda: cycles.draws(True, False),
        quadratics: lambda: quadratics.draws(1, False),
    }[module]
    assert draws() == draws()


def test_scores_count_what_they_say() -> None:
    def run(family: str, truth: str | None, half: str | None) -> LabelledRun:
        records = [{"round": i + 1, "train_loss": 1.0} for i in range(9)]
        return LabelledRun(family, "tuning", {}, truth, half, 0.0, records)

    seen: list[int] = []

    def always_converged(records: Any, floor: float | None) -> str:
        assert floor == 0.0
        seen.append(len(records))
        return rules.CONVERGED

    runs = [run("a", rules.CONVERGED, None), run("a", rules.STAGNATING, rules.EARLY),
            run("b", None, rules.CONVERGED)]  # fmt: skip
    whole, half = (ask(runs, always_converged, half=h) for h in (False, True))
    assert seen == [9, 9, half_of(9), half_of(9)]
    row = row_of(whole, 1, split="tuning", cut="whole")
    assert (row["accuracy"], row["runs"], row["left_out"]) == (0.5, 2, 1)
    assert row["per_family"] == {"a": {"runs": 2, "accuracy": 0.5}}
    assert row["per_class"][rules.STAGNATING] == {"runs": 1, "accuracy": 0.0}
    assert row["per_class"][rules.DIVERGING] == {"runs": 0, "accuracy": None}
    assert confusion(half)[rules.VERDICTS.index(rules.EARLY)][0] == 1
    assert "50.0 % of 2 runs right; 1 lie between" in table(row)


def test_a_part_of_the_suite_is_never_called_all() -> None:
    import verdicts

    def run(split: str) -> LabelledRun:
        records = [{"round": 1, "train_loss": 1.0}]
        return LabelledRun("a", split, {}, rules.EARLY, rules.EARLY, 0.0, records)

    early = lambda records, floor: rules.EARLY  # noqa: E731
    part, _ = verdicts.scores([run("tuning")], early)
    whole, _ = verdicts.scores([run("tuning"), run("held_out")], early)
    assert {row["split"] for row in part} == {"tuning"}
    assert {row["split"]: row["runs"] for row in whole} == {"all": 2, "tuning": 1, "held_out": 1}
    assert verdicts.bars(part) == []
    assert all(line.endswith("cleared") for line in verdicts.bars(whole))
    late, _ = verdicts.scores([run("tuning"), run("held_out")], lambda *given: rules.CONVERGED)
    assert all(line.endswith("MISSED") for line in verdicts.bars(late))
