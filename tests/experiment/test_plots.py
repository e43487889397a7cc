from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from fedjax_sim.experiment.plots import _apart, _running_mean, curves

SUMMARY = {"algorithm": "fedavg", "federation": "digits", "clients": 100, "cohort": 10, "seed": 3}


def records(n: int, *names: str) -> list[dict[str, Any]]:
    values = {
        "train_loss": lambda i: 2.0 / i,
        "test_loss": lambda i: 2.5 / i + 0.1,
        "test_accuracy": lambda i: 1 - 0.8 / i,
        "client_accuracy_mean": lambda i: 1 - 0.9 / i,
        "client_accuracy_p10": lambda i: 1 - 1.0 / i,
        "client_accuracy_p90": lambda i: 1 - 0.1 / i,
        "client_accuracy_worst10": lambda i: 1 - 1.1 / (i + 1),
    }
    return [{"round": i} | {n: values[n](i) for n in names} for i in range(1, n + 1)]


ALL = ("train_loss", "test_loss", "test_accuracy")
CLIENTS = ("train_loss", "client_accuracy_mean", "client_accuracy_p10", "client_accuracy_p90")


def panels(figure: Any) -> dict[str, Any]:
    figure.savefig(io.BytesIO(), format="png")  # lays out; a fault of drawing shows here
    return {ax.get_title(loc="left"): ax for ax in figure.axes}


def words(ax: Any) -> str:
    return "\n".join(text.get_text() for text in ax.texts)


def test_accuracy_and_losses_with_their_last_values() -> None:
    figure = curves(records(20, *ALL), SUMMARY)
    found = panels(figure)
    assert list(found) == ["accuracy", "loss"]
    assert "test\n96.0 %" in words(found["accuracy"])
    assert "train\n0.1" in words(found["loss"]) and "test\n0.225" in words(found["loss"])
    assert figure.get_suptitle() == "fedavg on digits"
    assert figure.dpi == 150
    drawn = found["accuracy"].lines[0].get_xydata()
    np.testing.assert_allclose(drawn[:, 1], [1 - 0.8 / i for i in range(1, 21)])


def test_the_title_says_clients_cohort_and_status() -> None:
    figure = curves(records(2, *ALL), SUMMARY | {"status": "diverged"})
    said = figure.texts[-1].get_text()
    assert all(part in said for part in ("100 clients", "10 a round", "2 rounds", "diverged"))


def test_without_an_evaluation_only_the_training_loss_is_drawn() -> None:
    assert list(panels(curves(records(5, "train_loss"), SUMMARY))) == ["loss"]


def test_clients_alone_have_their_band() -> None:
    found = panels(curves(records(9, *CLIENTS), SUMMARY))
    assert "percentile of clients" in words(found["accuracy"])
    assert len(found["accuracy"].collections) == 1
    assert "worst tenth" not in words(found["accuracy"])


def test_the_worst_tenth_is_dashed_below_the_band() -> None:
    drawn = records(9, *CLIENTS, "client_accuracy_worst10")
    accuracy = panels(curves(drawn, SUMMARY))["accuracy"]
    assert "dashed: mean of the worst tenth" in words(accuracy)
    (dashed,) = [line for line in accuracy.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed.get_ydata(), [1 - 1.1 / (i + 1) for i in range(1, 10)])
    assert accuracy.get_ylim()[0] <= dashed.get_ydata()[1]


def test_evaluation_rounds_may_be_few() -> None:
    rows = records(12, "train_loss")
    rows[5] |= {"test_accuracy": 0.5}
    rows[11] |= {"test_accuracy": 0.75}
    line = panels(curves(rows, SUMMARY))["accuracy"].lines[0]
    assert line.get_xydata().tolist() == [[6, 0.5], [12, 0.75]]


def test_null_leaves_a_gap_and_the_last_finite_value_is_told() -> None:
    rows = records(6, *ALL)
    rows[2]["train_loss"] = rows[5]["train_loss"] = None
    loss = panels(curves(rows, SUMMARY))["loss"]
    assert "train\n0.4" in words(loss)
    drawn = [line for line in loss.lines if len(line.get_ydata()) == 6][1].get_ydata()
    assert np.isnan(drawn[[2, 5]]).all()


@pytest.mark.parametrize("rows", [records(1, *ALL), records(1, *CLIENTS)], ids=["one", "clients"])
def test_one_round_is_one_tick_and_a_dot(rows: list[dict[str, Any]]) -> None:
    for ax in panels(curves(rows, {})).values():
        assert ax.get_xticks().tolist() == [1]


def test_nothing_finite_is_said() -> None:
    figure = curves([{"round": 1, "train_loss": None}], {})
    panels(figure)
    assert "no finite value" in words(figure.axes[0])


def test_a_wide_range_of_losses_is_logarithmic() -> None:
    assert panels(curves(records(200, *ALL), SUMMARY))["loss"].get_yscale() == "log"
    assert panels(curves(records(10, *ALL), SUMMARY))["loss"].get_yscale() == "linear"


def test_labels_stay_in_order_and_apart() -> None:
    moved = _apart([0.5, 0.51, 0.98, 0.99], gap=0.1)
    assert moved == sorted(moved)
    assert np.diff(moved).min() > 0.1 - 1e-9 and moved[-1] <= 1.0


def test_the_running_mean_of_a_constant_is_itself() -> None:
    values = np.full(80, 3.0)
    values[7] = np.nan
    np.testing.assert_allclose(_running_mean(values), 3.0)
    np.testing.assert_allclose(_running_mean(np.array([-1.0, 1.0] * 40))[10:-10], 0, atol=0.2)
