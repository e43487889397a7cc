"""What the drift panel's numbers say, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

AGREE, LEAN, APART = "agree", "lean one way", "pull apart"

_SHARED_HALF = 0.5
_READINGS = 10
_WINDOW = 2  # readings to either side of the running median


class DriftReading(NamedTuple):
    """How the clients stand to each other at the end of what was recorded.

    Attributes:
      state: `AGREE`, `LEAN` or `APART`.
      since: round of the first reading from which on it was so.
      cosine: mean pairwise cosine at the end, by a running median.
      common: share of the clients' own gradients that is common to all, `|grad f|^2` over mean
        `|grad f_i|^2`, over the last ten readings since then; None without the noise probe.
      sentence: for a person.
    """

    state: str
    since: int
    cosine: float
    common: float | None
    sentence: str


def read_drift(records: Sequence[Mapping[str, Any]]) -> DriftReading | None:
    """Do the clients agree, lean one way or pull apart, and since when?

    With mean pairwise cosine c among n clients, the part of the mean update that they share is
    to its noise as `c n` to `1 - c`. They pull apart where noise is the larger (`c < 1/(n+1)`);
    they agree where each client alone is mostly signal (`c >= 1/2`); between the two only the
    cohort's mean points somewhere. Where they pull apart, the noise probe tells why: their own
    full gradients still agree, and small batches hide it, or they do not.

    Args:
      records: as in `metrics.jsonl`; rounds without a reading are passed over.

    Returns:
      None where nothing was read.
    """
    names = ("round", "drift_cosine", "drift_clients")
    rows = [[r.get(n) for n in names] for r in records]
    known = [row for row in rows if None not in row]
    if not known:
        return None
    rounds, cosine, clients = np.array(known, float).T
    smooth = np.array(
        [np.median(cosine[max(i - _WINDOW, 0) : i + _WINDOW + 1]) for i in range(len(cosine))]
    )
    states = [_state(c, n) for c, n in zip(smooth, clients, strict=True)]
    first = len(states) - 1
    while first > 0 and states[first - 1] == states[-1]:
        first -= 1
    since = int(rounds[first])
    common = _common(records, since) if states[-1] == APART else None
    sentence = _sentence(states, since, float(smooth[-1]), common)
    return DriftReading(states[-1], since, float(smooth[-1]), common, sentence)


def _state(cosine: float, clients: float) -> str:
    if cosine < 1 / (clients + 1):
        return APART
    return AGREE if cosine >= _SHARED_HALF else LEAN


def _common(records: Sequence[Mapping[str, Any]], since: int) -> float | None:
    """What clients' gradients have in common, from the last readings from `since` on."""
    names = ("drift_probe_square", "drift_probe_client_square")
    pairs = [[r.get(n) for n in names] for r in records if r["round"] >= since]
    known = np.array([p for p in pairs if None not in p][-_READINGS:], float).reshape(-1, 2)
    whole, own = known.sum(axis=0)
    return float(np.clip(whole / own, 0, 1)) if own > 0 else None


def _sentence(states: Sequence[str], since: int, cosine: float, common: float | None) -> str:
    meaning = {
        AGREE: "one client's update is mostly what all share",
        LEAN: "their mean points somewhere, one client alone does not",
        APART: "their mean is mostly noise",
    }[states[-1]]
    if common is not None and common >= _SHARED_HALF:
        meaning += ", of their batches: their own full gradients agree"
    elif common is not None:
        meaning += f", and their own full gradients have only {100 * common:.0f} % in common"
    when = "throughout" if len(set(states)) == 1 else f"since round {since:,}"
    return f"clients {states[-1]} {when} (mean cosine {round(cosine, 2) + 0.0:.2f}): {meaning}"
