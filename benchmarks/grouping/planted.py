"""Does grouping by first updates find planted groups, and what does that bring?

    python benchmarks/grouping/planted.py [--seeds 5] [--data digits mnist examples] [--small]

Federations with planted groups: `rotated` (4 groups, turns of 90 degrees) and `swapped` (3 groups,
each but one with two pairs of labels of its own exchanged), and `none`, the same data without
groups. Digits: 20 clients, all in every round; MNIST: 100 clients of 400 examples, 80 of them for
testing. A network of 64 hidden units. Rivals: one global model (FedAvg), `grouped` (groups after
the first round, default settings), IFCA with as many models, drawn at random, and, as the upper
end, `grouped` that is told the groups.

Predicted after a look at one seed of digits, before the full run: the first updates of clients
that disagree on labels or pixels have cosines below 0.6 where those of one group reach 0.8, so
ARI is 1 from the second round on; grouped training ends 10 to 20 points above the global model and
meets its end level in a quarter of its rounds; without groups the silhouette is about 0.1, below
the 0.3 that `grouped` asks for, so it stays FedAvg. IFCA finds the groups more slowly, and in some
seeds two groups share a model. ARI falls towards 0 where clients have fewer than some ten examples.

Rate, epochs and the silhouette that `grouped` asks for were chosen on seed 0 of digits; measured
are seeds 1, 2, ... and MNIST, on which nothing was chosen.

Bars: ARI of at least 0.95 within 5 rounds; mean client accuracy 5 points above the global model's;
its end level in half of the rounds; without groups less than one point lost. Means over seeds
with 95 % t intervals. The picture is ARI after one round against examples a client (digits).
Writes benchmarks/results/grouping_planted.json and .png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optax
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import describe
from records import RESULTS, Row, merge, read

import fedjax_sim as fs
from fedjax_sim.data.federated import Federation
from fedjax_sim.data.planted import relabelled, rotated

RESULT = RESULTS / "grouping_planted.json"
KINDS = {"rotated": 4, "swapped": 3, "none": 4}
SIZES = (2, 4, 8, 16, 32, 64)
ROUNDS = {"digits": 40, "mnist": 30}
LOCAL = {
    "digits": {"epochs": 2, "batch_size": 10},
    "mnist": {"epochs": 1, "batch_size": 20},
}


def federation(data: str, kind: str, seed: int, size: int | None = None) -> Federation:
    """One federation with the truth in `meta["group"]`, or without groups."""
    if data == "digits":
        part = fs.partition.iid(clients=20, size=size)
        fed = fs.data.digits(part, seed=seed, test_fraction=0.2, central_fraction=0.0)
    else:
        part = fs.partition.iid(clients=100, size=400)
        fed = fs.data.mnist(part, seed=seed, test_fraction=0.2)
    if kind == "rotated":
        return rotated(fed, 4, seed=seed)
    return relabelled(fed, 3, pairs=2, seed=seed) if kind == "swapped" else fed


def recipes(data: str, kind: str, truth: Any) -> dict[str, Any]:
    """Recipes by name."""
    m, local, sgd = KINDS[kind], LOCAL[data], optax.sgd(0.1)
    made = {
        "global": fs.algorithms.fedavg(sgd, **local),
        "grouped": fs.algorithms.grouped(sgd, groups=m, **local),
    }
    if kind != "none":
        made["ifca"] = fs.algorithms.ifca(sgd, groups=m, **local)
        made["told"] = fs.algorithms.grouped(sgd, groups=m, ids=truth, **local)
    return made


def course(recipe: Any, fed: Federation, seed: int, rounds: int) -> list[dict[str, Any]]:
    """A run's records, everyone in every round."""
    task = fs.tasks.classifier(fs.models.mlp(64), classes=10)
    n = fed.n_clients
    return fs.run(recipe, task, fed, cohort=n, rounds=rounds, seed=seed).records


def measure(data: str, kind: str, seed: int, rounds: int) -> list[Row]:
    """All methods on one federation."""
    fed = federation(data, kind, seed)
    curves, rows = {}, []
    for name, recipe in recipes(data, kind, fed.meta.get("group")).items():
        records = course(recipe, fed, seed, rounds)
        curves[name] = np.array([r["client_accuracy_mean"] for r in records])
        level = float(curves["global"][-3:].mean())
        met = np.flatnonzero(curves[name] >= level)
        row = {
            "data": data,
            "kind": kind,
            "method": name,
            "seed": seed,
            "rounds": rounds,
            "accuracy": float(curves[name][-3:].mean()),
            "p10": float(records[-1]["client_accuracy_p10"]),
            "rounds_to_global": int(met[0]) + 1 if len(met) else rounds + 1,
        }
        if "group_ari" in records[-1]:
            row |= {"ari_5": records[4]["group_ari"], "ari_end": records[-1]["group_ari"]}
        rows.append(row)
        print(row, flush=True)
    return rows


def by_examples(kind: str, size: int, seed: int) -> Row:
    """ARI of groups from one round's updates where clients hold few examples."""
    fed = federation("digits", kind, seed, size=max(2, round(size / 0.8)))
    recipe = fs.algorithms.grouped(
        optax.sgd(0.1), groups=KINDS[kind], separation=-1.0, **LOCAL["digits"]
    )
    records = course(recipe, fed, seed, 2)
    return {
        "data": "digits",
        "kind": kind,
        "method": f"examples {size}",
        "seed": seed,
        "examples": size,
        "ari_2": records[-1]["group_ari"],
    }


def interval(values: Any) -> tuple[float, float]:
    """Mean and half width of its 95 % t interval."""
    v = np.asarray(values, float)
    if len(v) < 2:
        return float(v.mean()), float("nan")
    half = stats.t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v))
    return float(v.mean()), float(half)


def shown(values: Any, scale: float = 1.0, digits: int = 1) -> str:
    """`mean +- half` of values."""
    mean, half = interval(scale * np.asarray(values, float))
    return f"{mean:.{digits}f} +- {half:.{digits}f}"


def table(rows: list[Row], data: str, kind: str) -> str:
    """Each method's line, and the bars."""
    of: dict[str, list[Row]] = {}
    for r in rows:
        if r["data"] == data and r["kind"] == kind and "accuracy" in r:
            of.setdefault(r["method"], []).append(r)
    seeds = len(of["global"])
    lines = [f"{data}, {kind} ({seeds} seeds, {of['global'][0]['rounds']} rounds)"]
    base = np.array([r["accuracy"] for r in of["global"]])
    for name, mine in of.items():
        accuracy = np.array([r["accuracy"] for r in mine])
        gain = shown(accuracy - base, 100)
        line = f"  {name:8} accuracy {shown(accuracy, 100)} %, over global {gain}"
        line += f" points, rounds to its level {shown([r['rounds_to_global'] for r in mine])}"
        if "ari_5" in mine[0]:
            line += f", ARI at 5 {shown([r['ari_5'] for r in mine], digits=3)}"
            line += f", end {shown([r['ari_end'] for r in mine], digits=3)}"
        lines.append(line)
    ours = of["grouped"]
    gain = np.mean([r["accuracy"] for r in ours]) - base.mean()
    if kind == "none":
        bars = {"costs < 1 point": gain > -0.01}
    else:
        rounds = ours[0]["rounds"]
        bars = {
            "ARI >= .95 in 5": np.mean([r["ari_5"] for r in ours]) >= 0.95,
            ">= 5 points": gain >= 0.05,
            "<= half the rounds": np.mean([r["rounds_to_global"] for r in ours]) <= rounds / 2,
        }
    told = ", ".join(f"{name} {'met' if good else 'NOT MET'}" for name, good in bars.items())
    return "\n".join([*lines, f"  bars: {told}"])


def picture(rows: list[Row]) -> None:
    """ARI against examples a client."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for kind, colour in (("rotated", "#0b7a75"), ("swapped", "#b4552d")):
        mine = [r for r in rows if r["kind"] == kind and "examples" in r]
        sizes = sorted({r["examples"] for r in mine})
        if not sizes:
            continue
        points = [interval([r["ari_2"] for r in mine if r["examples"] == s]) for s in sizes]
        mean, half = (np.array(v) for v in zip(*points, strict=True))
        half = np.nan_to_num(half)
        axis.plot(sizes, mean, "o-", color=colour, label=f"{kind}, {KINDS[kind]} groups")
        low, high = np.maximum(mean - half, -0.1), np.minimum(mean + half, 1)
        axis.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.axhline(0.95, color="#6b7480", linewidth=0.8, linestyle=":")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axis.set_xlabel("training examples a client")
    axis.set_ylabel("ARI after one round")
    axis.set_title("Digits, 20 clients: groups from first updates", loc="left")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULT.with_suffix(".png"), dpi=150)
    plt.close(figure)


def main() -> None:
    """Measure, print, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--data", nargs="+", default=[*ROUNDS, "examples"], choices=[*ROUNDS, "examples"]
    )
    parser.add_argument("--small", action="store_true", help="six rounds, to try the script")
    given = parser.parse_args()
    rows: list[Row] = []

    def keep(new: list[Row]) -> None:
        """Each at once, for the whole takes its time."""
        rows.extend(new)
        if not given.small:
            told = [r | {"machine": describe()} for r in new]
            merge(RESULT, told, ("data", "kind", "method", "seed"))

    cases = [(d, k) for d in given.data if d in ROUNDS for k in KINDS]
    for data, kind in cases:
        rounds = 6 if given.small else ROUNDS[data]
        for seed in range(1, given.seeds + 1):
            keep(measure(data, kind, seed, rounds))
        print(table(rows, data, kind), flush=True)
    for kind in ("rotated", "swapped") if "examples" in given.data else ():
        for size in SIZES:
            few = [by_examples(kind, size, seed) for seed in range(1, given.seeds + 1)]
            ari = shown([r["ari_2"] for r in few], digits=3)
            print(f"{kind}, {size} examples: ARI {ari}", flush=True)
            keep(few)
    print("\n".join(table(rows, *case) for case in cases))
    if not given.small:
        picture(read(RESULT))


if __name__ == "__main__":
    main()
