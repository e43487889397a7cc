from __future__ import annotations

import pytest

from fedjax_sim.experiment.report import closing_table, duration, measure, size

SUMMARY = {
    "final": {"train_loss": 0.25, "test_accuracy": 0.9512, "test_f1": 0.5, "client_steps": 7},
    "best": {"test_accuracy": {"value": 0.97, "round": 12}},
    "rounds": 20,
    "seconds": 4.0,
    "compile_seconds": 1.5,
    "client_steps": 1000,
    "steps_per_second": 250.0,
    "lane_efficiency": 0.875,
    "lane_efficiency_bound": 1.0,
    "plan": {"lanes": 1, "devices": 2, "chunk": 10},
    "total_uplink_bytes": 2_500_000,
    "total_downlink_bytes": 999,
}


def test_every_figure_is_in_the_table() -> None:
    text = closing_table([], SUMMARY)
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert lines["test accuracy"].split()[2:] == ["95.12", "%", "97.00", "%", "12"]
    assert "0.25" in lines["train loss"]
    assert "0.5" in lines["test f1"]
    assert "20 in 4 s, 5 rounds/s" in text
    assert "1,000, 250/s" in text
    assert "88 % of at most 100 % (1 lane x 2 devices)" in text
    assert "2.5 MB up, 999 B down" in text
    assert max(map(len, text.splitlines())) <= 78


def test_reports_that_did_not_count_stand_beside_the_virtual_time() -> None:
    summary = {"rounds": 2, "virtual_seconds": 90.0}
    records = [{"clients_chosen": 10, "clients_late": n, "clients_dropped": 0} for n in (2, 3)]
    assert "1 min 30 s; reports: 25 % late\n" in closing_table(records, summary) + "\n"
    records[0]["clients_dropped"] = 1
    assert "reports: 25 % late, 5 % dropped" in closing_table(records, summary)
    assert "reports" not in closing_table([{"clients_chosen": 10, "clients_late": 0}], summary)


def test_what_is_missing_is_left_out() -> None:
    text = closing_table([], {"rounds": 1})
    assert "nothing was measured" in text
    assert "traffic" not in text and "lane" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.42 s"), (12.3, "12 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("n", "text"), [(0, "0 B"), (12_345, "12.3 kB"), (5e15, "5e+03 TB")])
def test_sizes(n: float, text: str) -> None:
    assert size(n) == text


def test_measures() -> None:
    assert measure("test_accuracy", 0.5) == "50.00 %"
    assert measure("test_loss", 0.123456) == "0.1235"
    assert measure("test_loss", None) == "not finite"
    assert measure("client_accuracy_jain", 0.98765) == "0.9877"
    assert measure("client_accuracy_worst10", 0.25) == "25.00 %"


def test_of_the_clients_the_mean_the_worst_and_the_index_are_shown() -> None:
    names = ("mean", "p10", "p50", "p90", "std", "worst10", "cvar", "jain", "gini")
    final = {f"client_accuracy_{n}": 0.5 for n in names} | {f"client_loss_{n}": 1.0 for n in names}
    final |= {"group_accuracy_min": 0.25, "group_accuracy_gap": 0.5}
    text = closing_table([], {"final": final})
    rows = [line.strip() for line in text.splitlines() if "clients" in line or "group" in line]
    assert [row.split("  ")[0] for row in rows] == [
        "clients' accuracy, mean",
        "clients' accuracy, worst 10 %",
        "clients' accuracy, Jain's index",
        "worst group's accuracy",
        "clients' loss, mean",
    ]
    assert "0.5000" in rows[2] and "25.00 %" in rows[3]
