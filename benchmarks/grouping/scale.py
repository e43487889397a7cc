"""Does grouping keep up with a million clients?

    python benchmarks/grouping/scale.py [--seeds 5] [--case histograms|sketches] [--small]

Predicted before the first run: a pass of k-means is two matrix products of 2 N k d operations each,
so 1,000,000 x 100 with k = 20 is 8 GFLOP a pass, some 0.15 s on two cores; 20 to 40 passes and
the seeding (20 x 5 candidates, 20 GFLOP) end near 8 s. The bars: under 20 s on 2 cores for label
histograms of 1,000,000 clients x 100 classes, k = 20, counting the labels included; under 60 s and
2 GB for 100,000 update sketches of 256 numbers.

- histograms: clients of 20 examples each; their labels are drawn from one of 20 label groups
  (Dirichlet 0.1 over 100 classes). Timed: labels to histograms, and histograms to groups.
- sketches: 20 groups of updates, the noise twice as long as what tells the groups apart,
  d = 256. Grouped from one start and, the default of `kmeans`, from the best of four.

Every measurement is a process of its own: the first call with its compilation and the second
without, peak resident memory of the process, and ARI with the planted groups. Beside them
scikit-learn's KMeans (n_init=1, Lloyd, tol=1e-4) and MiniBatchKMeans (defaults) on the same data,
k, and machine, and the ratio of the seconds of grouping alone. The mean and the 95 % interval (t)
over seeds.
Writes benchmarks/results/grouping_scale.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import clean_environment, describe, peak_resident
from records import RESULTS, merge

RESULT = RESULTS / "grouping_scale.json"
K, CLASSES, EXAMPLES, DIM = 20, 100, 20, 256
CLIENTS = {"histograms": 1_000_000, "sketches": 100_000}
SMALL = 20  # `--small` divides the clients by this, to try the script
BARS = {"histograms": {"seconds": 20.0}, "sketches": {"seconds": 60.0, "peak_gb": 2.0}}
METHODS = {
    "histograms": ("ours", "ours-minibatch", "sklearn", "sklearn-minibatch"),
    "sketches": ("ours", "ours-4-starts", "ours-minibatch", "sklearn", "sklearn-minibatch"),
}


def labels(clients: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels int32 `[clients * EXAMPLES]` and the planted groups `[clients]`."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, K, clients)
    edges = np.cumsum(rng.dirichlet(np.full(CLASSES, 0.1), K), axis=1)
    y = np.empty((clients, EXAMPLES), np.int32)
    for g in range(K):
        mine = np.flatnonzero(truth == g)
        drawn = np.searchsorted(edges[g], rng.random((len(mine), EXAMPLES)))
        y[mine] = np.minimum(drawn, CLASSES - 1)
    return y.reshape(-1), truth


def sketches(clients: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sketches float32 `[clients, DIM]` and the planted groups `[clients]`."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, K, clients)
    centers = rng.standard_normal((K, DIM), np.float32)
    x = rng.standard_normal((clients, DIM), np.float32)
    x *= 2
    for start in range(0, clients, 10_000):
        x[start : start + 10_000] += centers[truth[start : start + 10_000]]
    return x, truth


def histograms(y: np.ndarray, clients: int) -> Any:
    """Label shares `[clients, CLASSES]` by our kernel, on the device."""
    import jax

    from fedjax_sim import grouping

    offsets = np.arange(clients, dtype=np.int32) * EXAMPLES
    sizes = np.full(clients, EXAMPLES, np.int32)
    return jax.block_until_ready(grouping.label_histograms(y, offsets, sizes, CLASSES))


def ours(method: str, x: Any, seed: int) -> tuple[np.ndarray, float]:
    """Our kernels: ids and inertia."""
    import jax

    from fedjax_sim import grouping

    kernels = {
        "ours": grouping.kmeans(K, restarts=1),
        "ours-4-starts": grouping.kmeans(K),
        "ours-minibatch": grouping.minibatch_kmeans(K),
    }
    groups = jax.block_until_ready(kernels[method].fit(jax.random.key(seed), x))
    return np.asarray(groups.ids), float(groups.info["inertia"])


def rival(method: str, x: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """scikit-learn's: ids and inertia."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if method == "sklearn":
        model = KMeans(K, n_init=1, random_state=seed)
    else:
        model = MiniBatchKMeans(K, n_init=1, random_state=seed)
    model.fit(x)
    return model.labels_, float(model.inertia_)


def one(case: str, method: str, clients: int, seed: int) -> dict[str, Any]:
    """Measure in this process; ours twice, with compilation and without."""
    if case == "histograms":
        y, truth = labels(clients, seed)
        seconds_counting = [timed(histograms, y, clients)[0] for _ in range(2)]
        x = histograms(y, clients)
        x = x if method.startswith("ours") else np.asarray(x)
    else:
        (x, truth), seconds_counting = sketches(clients, seed), [0.0, 0.0]
    run = ours if method.startswith("ours") else rival
    seconds, (ids, inertia) = timed(run, method, x, seed)
    again = timed(run, method, x, seed)[0] if run is ours else seconds
    peak = peak_resident() / 1e9
    from sklearn.metrics import adjusted_rand_score

    return {
        "seconds": seconds_counting[0] + seconds,
        "warm_seconds": seconds_counting[1] + again,
        "counting_seconds": seconds_counting[0],
        "grouping_seconds": seconds,
        "warm_grouping_seconds": again,
        "peak_gb": peak,
        "ari": float(adjusted_rand_score(truth, ids)),
        "inertia": inertia,
    }


def timed(function: Any, *given: Any) -> tuple[float, Any]:
    """Seconds and the answer."""
    began = time.perf_counter()
    answer = function(*given)
    return time.perf_counter() - began, answer


def fresh(case: str, method: str, clients: int, seed: int) -> dict[str, Any]:
    """`one` in a process of its own."""
    call = [sys.executable, __file__, "--one", case, method, str(clients), str(seed)]
    done = subprocess.run(call, env=clean_environment(), check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def interval(values: list[float]) -> list[float]:
    """Mean and the half width of its 95 % interval (0 for one value)."""
    from scipy.stats import t

    n = len(values)
    half = t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return [float(np.mean(values)), float(half)]


def rows_of(case: str, clients: int, seeds: int) -> list[dict[str, Any]]:
    """One row a method, the seeds in turn, so that a noisy minute meets all methods."""
    taken: dict[str, list[dict[str, Any]]] = {m: [] for m in METHODS[case]}
    for seed in range(seeds):
        for method, found in taken.items():
            found.append(fresh(case, method, clients, seed))
    about = describe("fedjax-sim", "jax", "jaxlib", "numpy", "scikit-learn", "scipy")
    rows = []
    for method, found in taken.items():
        row: dict[str, Any] = {"case": case, "method": method, "clients": clients, "k": K}
        row["features"] = CLASSES if case == "histograms" else DIM
        row["seeds"] = seeds
        for name in found[0]:
            row[name] = interval([one_[name] for one_ in found])
        theirs = taken["sklearn-minibatch" if "minibatch" in method else "sklearn"]
        for name in ("grouping_seconds", "warm_grouping_seconds"):
            ratios = [t[name] / o[name] for t, o in zip(theirs, found, strict=True)]
            row[f"sklearn_over_this_{name}"] = interval(ratios)
        if method == "ours":
            worst = {n: max(one_[n] for one_ in found) for n in BARS[case]}
            row["bars"], row["worst"] = BARS[case], worst
            row["meets_bars"] = all(worst[n] < bar for n, bar in BARS[case].items())
        rows.append(row | about)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """A table of mean +- half width."""
    names = {
        "seconds": "seconds",
        "warm_seconds": "second call",
        "grouping_seconds": "of it grouping",
        "peak_gb": "peak GB",
        "ari": "ARI",
        "sklearn_over_this_grouping_seconds": "sklearn / this",
        "sklearn_over_this_warm_grouping_seconds": "second call",
    }
    print(f"{'case':12}{'method':18}{'clients':>10}" + "".join(f"{n:>18}" for n in names.values()))
    for row in rows:
        cells = "".join(f"{row[n][0]:>11.3g} +-{row[n][1]:<5.2g}" for n in names)
        print(f"{row['case']:12}{row['method']:18}{row['clients']:>10,}{cells}")
        if "bars" in row:
            print(f"{'':12}bars {row['bars']}, worst {row['worst']}: {row['meets_bars']}")


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--case", choices=sorted(CLIENTS))
    parser.add_argument("--small", action="store_true", help="try it: few clients, no record")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        case, method, clients, seed = given.one
        print(json.dumps(one(case, method, int(clients), int(seed))))
        return
    rows: list[dict[str, Any]] = []
    for case in [given.case] if given.case else CLIENTS:
        clients = CLIENTS[case] // (SMALL if given.small else 1)
        rows += rows_of(case, clients, given.seeds)
    show(rows)
    if not given.small:
        merge(RESULT, rows, ("case", "method"))


if __name__ == "__main__":
    main()
