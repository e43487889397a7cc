"""Who holds what: a table, a short text and a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.data.federated import Federation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def holdings_table(fed: Federation, clients: np.ndarray | None = None) -> np.ndarray:
    """How many training examples of each class each client holds.

    Targets with several labels an example (text) count every label.

    Args:
      fed: a federation with classes.
      clients: int `[n]`, the clients to look at; None is all N.

    Returns:
      int64 `[n, C]`.

    Raises:
      InputError: where targets are not classes.
    """
    if fed.n_classes is None:
        raise InputError("federation.n_classes", None, "targets are not classes; nothing to count")
    chosen = np.arange(fed.n_clients) if clients is None else np.asarray(clients, np.int64)
    sizes = fed.train.sizes[chosen]
    starts = fed.train.offsets[chosen] - (np.cumsum(sizes) - sizes)
    rows = np.arange(sizes.sum()) + np.repeat(starts, sizes)
    labels = fed.train.y[rows]
    cell = np.repeat(np.arange(len(chosen)), sizes) * fed.n_classes
    cell = cell.reshape((-1,) + (1,) * (labels.ndim - 1)) + labels
    counts = np.bincount(cell.ravel(), minlength=len(chosen) * fed.n_classes)
    return counts.reshape(len(chosen), fed.n_classes)


def gini(sizes: np.ndarray) -> float:
    """Gini coefficient of sizes `[N]`: 0 where all are equal, towards 1 where one holds all."""
    ordered = np.sort(np.asarray(sizes, np.float64))
    n = len(ordered)
    ranks = 2.0 * np.arange(1, n + 1) - n - 1
    return float(ranks @ ordered / (n * ordered.sum()))


def label_skew(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Per-client measures of a holdings table `[n, C]`.

    Returns:
      `entropy` in nats, `effective` = exp(entropy), the number of equally frequent classes
      with the same entropy, and `largest`, the largest label's share; each float `[n]`.
    """
    shares = counts / counts.sum(axis=1, keepdims=True)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy = -(shares * logs).sum(axis=1) + 0.0
    return {"entropy": entropy, "effective": np.exp(entropy), "largest": shares.max(axis=1)}


def facts(fed: Federation) -> dict[str, Any]:
    """The figures of `federation_report`, plain numbers ready to be written to a file."""
    sizes = fed.train.sizes
    found: dict[str, Any] = {
        "name": fed.name,
        "clients": fed.n_clients,
        "examples": int(sizes.sum()),
        "test_examples": 0 if fed.test is None else int(fed.test.sizes.sum()),
        "validation_examples": 0 if fed.validation is None else int(fed.validation.sizes.sum()),
        "central_test_examples": 0 if fed.central_test is None else len(fed.central_test[1]),
        "size_min": int(sizes.min()),
        "size_median": float(np.median(sizes)),
        "size_mean": float(sizes.mean()),
        "size_max": int(sizes.max()),
        "size_gini": gini(sizes),
    }
    if fed.n_classes is not None:
        counts = _in_blocks(fed)
        found |= {"classes": fed.n_classes, **counts}
    return found


def _in_blocks(fed: Federation, cells: int = 10_000_000) -> dict[str, Any]:
    """Skew of all clients, at most `cells` table cells at a time."""
    block = max(1, cells // max(1, fed.n_classes or 1))
    sums, totals = np.zeros(3), np.zeros(fed.n_classes or 0, np.int64)
    for start in range(0, fed.n_clients, block):
        counts = holdings_table(fed, np.arange(start, min(start + block, fed.n_clients)))
        skew = label_skew(counts)
        sums += [skew["entropy"].sum(), skew["effective"].sum(), skew["largest"].sum()]
        totals += counts.sum(axis=0)
    entropy, effective, largest = sums / fed.n_clients
    return {
        "label_entropy_mean": float(entropy),
        "effective_classes_mean": float(effective),
        "largest_label_share_mean": float(largest),
        "empty_classes": np.flatnonzero(totals == 0).tolist(),
    }


def federation_report(fed: Federation) -> str:
    """A short text: how many, how unequal, how skewed.

    Args:
      fed: any federation; label lines are left out where targets are not classes.

    Returns:
      Lines of `name   figures`, without a trailing newline.
    """
    f = facts(fed)
    held = [f"{f['examples']:,} to train"]
    for key, words in (
        ("test", "to test"),
        ("validation", "to validate"),
        ("central_test", "held centrally"),
    ):
        if f[f"{key}_examples"]:
            held.append(f"{f[f'{key}_examples']:,} {words}")
    lines = [
        f"{fed.name}: {f['clients']:,} client{'' if f['clients'] == 1 else 's'}",
        f"  examples   {', '.join(held)}",
        f"  sizes      min {f['size_min']:,}, median {f['size_median']:,.6g}, "
        f"mean {f['size_mean']:,.6g}, max {f['size_max']:,}, Gini {f['size_gini']:.3f}",
    ]
    if "classes" in f:
        empty = f["empty_classes"]
        shown = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
        lines += [
            f"  labels     {f['classes']} classes, {f['effective_classes_mean']:.2f} effective a "
            f"client (entropy {f['label_entropy_mean']:.3f} nats), largest label's share "
            f"{f['largest_label_share_mean']:.3f}",
            f"  unused     {f'classes {shown} occur nowhere' if empty else 'no class is unused'}",
        ]
    return "\n".join(lines)


def plot_holdings(fed: Federation, *, most: int = 120, seed: int = 0) -> Figure:
    """A picture of who holds what; opens no window. See `pictures.holdings`.

    Args:
      fed: any federation, of one client or a million.
      most: how many clients are drawn one by one; a random sample where there are more.
      seed: of that sample.

    Returns:
      A matplotlib `Figure`; save it with `figure.savefig(path)`.
    """
    from fedjax_sim.data.pictures import holdings

    most = integer("most", most, least=1)
    return holdings(fed, most=most, seed=seed)
