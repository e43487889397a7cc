"""Virtual seconds to the same accuracy: plain synchronous rounds, deadlines, tiers, equal time.

    python benchmarks/grouping/tiers.py --seeds 5

Digits on 100 clients (Dirichlet 0.5, equal sizes), cohorts of 10, five local epochs; devices and
links are the phones fleet, another one for each seed. Speeds are such that the median client
computes 4.3 times as long as it sends and receives, which is the ratio of LEAF's FEMNIST network on
FLASH's measured phone. All arms do the same number of rounds.

What was predicted, before the first run: the median phone is 14 times as fast as the slowest, so a
plain round of 10 waits for a device of about the fifth percentile, some 6 times the median's time.
Tiers of 20 clients wait so long in one round of five only: 2 to 3 times fewer virtual seconds with
equal odds, and more than 4 with adaptive odds, whose credits let the slowest tier train in some 3 %
of the rounds. The same accuracy to within a point, for speed is drawn independently of the data. A
deadline at the 80th percentile of clients' times loses a fifth of the reports and ends rounds 3
times sooner; over-selection by 0.3 helps less than tiers, for the third slowest of 13 is still
slow. Equal time gives about a deadline's speed with all clients in.

The arm of adaptive tiers with over-selection was added after a first run, which showed that most of
what tiers still wait for is the spread within the slowest tier and the links' draws.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import machine
import numpy as np
import optax
import records
from optimizer_effects.intervals import Interval, interval

import fedjax_sim as fs
from fedjax_sim.experiment.prepare import prepare
from fedjax_sim.experiment.system_model import fleet_of, load_of
from fedjax_sim.experiment.systems import Systems
from fedjax_sim.systems.clock import expected_times

CLIENTS, COHORT, EPOCHS, RATIO = 100, 10, 5, 4.3
MARGINS = (1, 3)  # points below plain's end: the accuracies that are to be reached
PLAIN = "plain synchronous"
COLOURS = (
    *("#2b2d42", "#e08214", "#c99a2e", "#8d5fb8", "#3d9a50", "#7fb77e", "#2f6db3", "#c0392b"),
    "#0b7a75",
)
UNWATCHED = fs.Diagnosis(verdict=False, drift_every=0)


class Arm(NamedTuple):
    """One way to spend virtual time.

    Attributes:
      label: for tables and pictures.
      systems: keys of `[systems]`; `deadline` is a quantile of clients' predicted seconds.
      nova: FedNova's weights in place of the plain mean.
    """

    label: str
    systems: dict[str, Any]
    nova: bool = False


ARMS = (
    Arm(PLAIN, {}),
    Arm("deadline, late absent", {"deadline": 0.8}),
    Arm("deadline, partial work, FedNova", {"deadline": 0.8, "late": "partial"}, True),
    Arm("over-selection 0.3", {"over_select": 0.3}),
    Arm("tiers, equal odds", {"select": "tiers"}),
    Arm(
        "tiers, odds .7 .1 .1 .05 .05",
        {"select": "tiers", "tier_probabilities": (0.7, 0.1, 0.1, 0.05, 0.05)},
    ),
    Arm("tiers, adaptive", {"select": "adaptive_tiers"}),
    Arm("tiers, adaptive, over-selection", {"select": "adaptive_tiers", "over_select": 0.3}),
    Arm("equal time, FedNova", {"select": "equal_time"}, True),
)


class Bench(NamedTuple):
    """What all arms share."""

    federation: Any
    task: Any
    rounds: int
    median_flops: float
    seconds: np.ndarray  # a round's, of all clients of all fleets


def recipe(nova: bool) -> Any:
    """The algorithm of an arm."""
    build = fs.algorithms.fednova if nova else fs.algorithms.fedavg
    return build(optax.sgd(0.1), epochs=EPOCHS, batch_size=10)


def bench_of(rounds: int, data: str, seeds: int) -> Bench:
    """Data, model, and the speed at which the median client computes `RATIO` times its messages."""
    partition = fs.partition.dirichlet(clients=CLIENTS, alpha=0.5, balanced=True)
    federation = fs.data.digits(partition) if data == "digits" else mnist(partition)
    model = fs.models.mlp(200, 200) if data == "digits" else fs.models.mlp(200)
    task = fs.tasks.classifier(model, classes=10)
    bound = prepare(recipe(False), task, federation, fs.Settings(diagnosis=UNWATCHED)).task
    load = load_of(recipe(False), bound, federation)
    links = fleet_of(Systems(), federation)
    messages = np.median(load.down_bytes / links.down_mean + load.up_bytes / links.up_mean)
    flops = np.median(load.steps) * load.flops_per_step / (RATIO * messages)
    fleets = [
        fleet_of(Systems(seed=s, median_flops=float(flops)), federation) for s in range(seeds)
    ]
    seconds = [expected_times(fleet, load).total(load.steps) for fleet in fleets]
    return Bench(federation, task, rounds, float(flops), np.concatenate(seconds))


def mnist(partition: Any) -> Any:
    """6,000 of MNIST's examples, with 2,000 test examples."""
    whole = fs.data.mnist(fs.partition.iid(clients=1))
    assert whole.central_test is not None
    test = tuple(part[:2000] for part in whole.central_test)
    x, y = whole.train.x[:6000], whole.train.y[:6000]
    return fs.data.from_arrays(x, y, partition, test=test, n_classes=10, name="mnist")


def systems_of(arm: Arm, bench: Bench, seed: int) -> Systems:
    """The arm's section for a seed, its deadline in seconds."""
    given = dict(arm.systems)
    quantile = given.pop("deadline", None)
    if quantile is not None:
        given["deadline_s"] = float(np.quantile(bench.seconds, quantile))
    return Systems(seed=seed, median_flops=bench.median_flops, **given)


class Course(NamedTuple):
    """A run: virtual seconds and test accuracy by round `[R]`, and reports lost."""

    seconds: np.ndarray
    accuracy: np.ndarray
    lost: float


def run(arm: Arm, bench: Bench, seed: int) -> Course:
    """One run of an arm."""
    done = fs.run(
        recipe(arm.nova),
        bench.task,
        bench.federation,
        cohort=COHORT,
        rounds=bench.rounds,
        seed=seed,
        diagnosis=UNWATCHED,
        systems=systems_of(arm, bench, seed),
    )
    seconds = np.array([r["virtual_time_s"] for r in done.records])
    accuracy = np.array([r["test_accuracy"] for r in done.records])
    chosen = sum(r["cohort_present"] + r["clients_late"] for r in done.records)
    return Course(seconds, accuracy, sum(r["clients_late"] for r in done.records) / chosen)


def smooth(accuracy: np.ndarray, width: int = 5) -> np.ndarray:
    """The median of the last `width` rounds, so that no lucky round counts."""
    first = np.concatenate([np.full(width - 1, accuracy[0]), accuracy])
    return np.median(np.lib.stride_tricks.sliding_window_view(first, width), axis=1)


def seconds_to(course: Course, target: float) -> float:
    """Virtual seconds until the smoothed accuracy meets `target`; infinite where it never does."""
    met = smooth(course.accuracy) >= target
    return float(course.seconds[met.argmax()]) if met.any() else float("inf")


def end(course: Course) -> float:
    """Mean accuracy of the last tenth of the rounds, in points."""
    return 100 * float(course.accuracy[-max(len(course.accuracy) // 10, 1) :].mean())


def speed_up(courses: list[Course], plain: list[Course], margin: float) -> dict[str, Any]:
    """Virtual seconds to `margin` below plain's end, and how many times fewer, paired by seed."""
    targets = [end(p) / 100 - margin for p in plain]
    own = np.array([seconds_to(c, t) for c, t in zip(courses, targets, strict=True)])
    base = np.array([seconds_to(p, t) for p, t in zip(plain, targets, strict=True)])
    found: dict[str, Any] = {"seeds_that_reach_it": int(np.isfinite(own).sum())}
    if np.isfinite(own).all():
        found["seconds"] = told(interval(own))
        found["times_fewer"] = told(interval(np.log(base / own)).each(np.exp))
    return found


def row_of(arm: Arm, courses: list[Course], plain: list[Course]) -> dict[str, Any]:
    """What an arm came to, paired by seed with plain rounds."""
    ends = np.array([end(c) for c in courses])
    behind = ends - np.array([end(p) for p in plain])
    whole = np.array([p.seconds[-1] / c.seconds[-1] for p, c in zip(plain, courses, strict=True)])
    return {
        "arm": arm.label,
        "systems": {k: list(v) if isinstance(v, tuple) else v for k, v in arm.systems.items()},
        "to": {str(m): speed_up(courses, plain, m / 100) for m in MARGINS},
        "end_accuracy": told(interval(ends)),
        "end_difference": told(interval(behind)),
        "round_seconds": told(interval([c.seconds[-1] / len(c.seconds) for c in courses])),
        "times_shorter_rounds": told(interval(np.log(whole)).each(np.exp)),
        "reports_lost": round(float(np.mean([c.lost for c in courses])), 4),
        "curve": curve_of(courses),
    }


def told(value: Interval) -> list[float]:
    """Mean, low, high, ready for JSON."""
    return [round(v, 4) for v in value]


def line(row: dict[str, Any]) -> str:
    """One line of the table."""

    def of(value: list[float] | None, digits: int) -> str:
        if value is None:
            return "not reached"
        mean, low, high = value
        return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    cells = [of(row["to"][str(m)].get("times_fewer"), 2) for m in MARGINS]
    cells += [of(row[n], d) for n, d in (("end_difference", 2), ("end_accuracy", 1))]
    cells += [of(row["round_seconds"], 2), f"{row['reports_lost']:.1%}"]
    return f"{row['arm']:34}" + "".join(f"{cell:23}" for cell in cells)


def curve_of(courses: list[Course]) -> dict[str, list[float]]:
    """Smoothed accuracy in % against virtual seconds, the mean over seeds."""
    first, last = max(c.seconds[0] for c in courses), min(c.seconds[-1] for c in courses)
    grid = np.geomspace(min(first, last), last, 60)
    curves = [np.interp(grid, c.seconds, 100 * smooth(c.accuracy)) for c in courses]
    mean = np.mean(curves, axis=0)
    return {
        "seconds": [round(float(v), 3) for v in grid],
        "accuracy": [round(float(v), 2) for v in mean],
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against virtual time of every arm in the record."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8.5, 5), layout="constrained")
    for row, colour in zip(rows, COLOURS, strict=True):
        curve, width = row["curve"], 2.4 if row["arm"] == PLAIN else 1.6
        axis.plot(curve["seconds"], curve["accuracy"], color=colour, lw=width, label=row["arm"])
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axis.set_xlabel("virtual seconds (log scale)")
    axis.set_ylabel("test accuracy, %")
    axis.grid(color="#e6e8ef", lw=0.8)
    axis.set_ylim(bottom=50)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    title = f"{rows[0]['data']}, 100 clients on phones, cohorts of 10: accuracy by virtual time"
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Run all arms, print the table, write the record and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    asked = parser.parse_args()
    begun = time.time()
    with tempfile.TemporaryDirectory() as cache:  # one compile an arm serves all seeds
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        bench = bench_of(asked.rounds, asked.data, asked.seeds)
        courses: dict[str, list[Course]] = {}
        for arm in ARMS:
            courses[arm.label] = [run(arm, bench, seed) for seed in range(asked.seeds)]
            print(f"  {arm.label}: {time.time() - begun:.0f} s", file=sys.stderr, flush=True)
        jax.config.update("jax_compilation_cache_dir", None)
    rows = [row_of(arm, courses[arm.label], courses[PLAIN]) for arm in ARMS]
    heads = [f"x fewer, to end - {m}" for m in MARGINS]
    heads += ["end, points", "end, %", "s a round", "lost"]
    print(f"{'arm':34}" + "".join(f"{head:23}" for head in heads))
    print("\n".join(line(row) for row in rows))
    common = {
        "data": asked.data,
        "rounds": asked.rounds,
        "seeds": asked.seeds,
        "targets": "points below plain's end, by seed",
        "median_flops": bench.median_flops,
        "minutes": round((time.time() - begun) / 60, 2),
        "machine": machine.describe(),
    }
    path = records.RESULTS / "grouping_tiers.json"
    if asked.seeds >= 5 or "FEDJAX_SIM_RECORD" in os.environ:
        rows = [row | common for row in rows]
        records.merge(path, rows, ("arm", "data"))
        draw(rows, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
