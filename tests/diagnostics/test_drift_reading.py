from __future__ import annotations

from typing import Any

import pytest

from fedjax_sim.diagnostics.drift_reading import AGREE, APART, LEAN, read_drift


def records(cosines: list[float], clients: int = 10, **more: float) -> list[dict[str, Any]]:
    """A reading every tenth round, with rounds without one between."""
    rows: list[dict[str, Any]] = []
    for i, c in enumerate(cosines):
        rows.append({"round": 10 * i + 9, "train_loss": 1.0})
        rows.append({"round": 10 * i + 10, "drift_cosine": c, "drift_clients": clients} | more)
    return rows


@pytest.mark.parametrize(
    ("cosine", "state"), [(0.9, AGREE), (0.5, AGREE), (0.3, LEAN), (0.08, APART), (-0.2, APART)]
)
def test_the_three_states(cosine: float, state: str) -> None:
    found = read_drift(records([cosine] * 4))
    assert found is not None
    assert (found.state, found.since) == (state, 10)
    assert "throughout" in found.sentence and f"{cosine:.2f}" in found.sentence


def test_more_clients_need_less_agreement() -> None:
    found = read_drift(records([0.08] * 4, clients=100))
    assert found is not None and found.state == LEAN


def test_since_when() -> None:
    found = read_drift(records([0.8] * 6 + [0.01] * 6))
    assert found is not None
    assert (found.state, found.since) == (APART, 70)
    assert "clients pull apart since round 70 (mean cosine 0.01)" in found.sentence


def test_one_stray_reading_changes_nothing() -> None:
    cosines = [0.8] * 5 + [-0.5] + [0.8] * 5
    found = read_drift(records(cosines))
    assert found is not None and (found.state, found.since) == (AGREE, 10)


def test_the_probe_tells_noise_from_disagreement() -> None:
    noisy = read_drift(records([0.0] * 5, drift_probe_square=0.9, drift_probe_client_square=1.0))
    apart = read_drift(records([0.0] * 5, drift_probe_square=-0.1, drift_probe_client_square=1.0))
    assert noisy is not None and noisy.common == pytest.approx(0.9)
    assert "own full gradients agree" in noisy.sentence
    assert apart is not None and apart.common == 0
    assert "0 % in common" in apart.sentence


def test_nothing_read() -> None:
    assert read_drift([]) is None
    assert read_drift([{"round": 1, "drift_cosine": None, "drift_clients": 3}]) is None
