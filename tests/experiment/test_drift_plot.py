from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from fedjax_sim.experiment.drift_plot import drift_picture

SUMMARY = {"algorithm": "fedavg", "federation": "digits", "clients": 100, "cohort": 10}
ALL = {
    "drift_clients": lambda i: 10,
    "drift_cosine": lambda i: 0.9 / i,
    "drift_alignment": lambda i: 0.95 / i**0.5,
    "drift_dispersion_relative": lambda i: 0.1 * i,
    "drift_diversity": lambda i: 0.1 + 0.01 * i,
    "drift_noise_scale": lambda i: 5.0 * i,
    "drift_cohort_size": lambda i: 2.0 * i,
}


def records(n: int, every: int = 10, names: Any = tuple(ALL)) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"round": i, "train_loss": 1 / i} for i in range(1, n + 1)]
    for i in range(every, n + 1, every):
        rows[i - 1] |= {name: ALL[name](i // every) for name in names}
    return rows


def panels(figure: Any) -> dict[str, Any]:
    figure.savefig(io.BytesIO(), format="png")  # lays out; a fault of drawing shows here
    return {ax.get_title(loc="left").split(":")[0]: ax for ax in figure.axes if ax.axison}


def words(ax: Any) -> str:
    return "\n".join(text.get_text() for text in ax.texts)


def test_four_panels_with_their_readings() -> None:
    figure = drift_picture(records(90), SUMMARY)
    found = panels(figure)
    names = ["direction", "dispersion of client updates / |mean|\u00b2"]
    assert list(found) == [*names, "gradient diversity", "noise scale"]
    line = found["direction"].lines[0].get_xydata()
    np.testing.assert_allclose(line, [[10 * i, 0.9 / i] for i in range(1, 10)])
    assert "two clients\n0.10" in words(found["direction"])
    assert "1/n = 0.1: all alike" in words(found["gradient diversity"])
    assert "this run's cohort: 10" in words(found["noise scale"])
    assert found["direction"].get_xlim() == (10, 90)


def test_the_sentence_is_on_top() -> None:
    said = [t.get_text() for t in drift_picture(records(90), SUMMARY).texts]
    assert any(
        "clients lean one way throughout (mean cosine 0.11)" in s and "9 readings" in s
        for s in said
    )
    assert any("fedavg on digits" in s for s in said)


def test_without_the_probe_there_is_no_noise_panel() -> None:
    names = ("drift_clients", "drift_cosine", "drift_dispersion_relative")
    found = panels(drift_picture(records(50, names=names), SUMMARY))
    assert [n.split(" ")[0] for n in found] == ["direction", "dispersion"]


def test_a_lost_signal_is_a_gap() -> None:
    rows = records(60)
    rows[29]["drift_noise_scale"] = 999999.94
    line = panels(drift_picture(rows, SUMMARY))["noise scale"].lines[0].get_ydata()
    assert np.isnan(line[2]) and np.isfinite(np.delete(line, 2)).all()


@pytest.mark.parametrize("n", [0, 5, 10, 600])
def test_none_one_and_many_readings(n: int) -> None:
    figure = drift_picture(records(n), {})
    found = panels(figure)
    if n < 10:
        assert not found
        assert any("read nothing" in t.get_text() for t in figure.texts)
        assert "no finite value" in words(figure.axes[0])
    else:
        assert len(found) == 4
        smoothed = len(found["direction"].lines[1].get_xdata()) == n // 10
        assert smoothed


def test_null_readings_are_gaps() -> None:
    rows = records(60)
    rows[29] |= {"drift_cosine": None, "drift_dispersion_relative": None}
    found = panels(drift_picture(rows, SUMMARY))
    assert np.isnan(found["direction"].lines[0].get_ydata()[2])
