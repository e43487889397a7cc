"""Records: their schema, what is left out, and files that were cut."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
from experiment import little

from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.records import RecordFile, chunk_records, flags_of, read_records
from fedjax_sim.experiment.settings import Diagnosis


def test_a_run_directory_holds_what_its_readers_rely_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    watched = little.federation(client_test=True)
    run = little.session(out, federation=watched, diagnosis=Diagnosis()).run()
    lines = (out / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert records == run.records
    assert [r["round"] for r in records] == list(range(1, 14))
    walls = [r["wall_time_s"] for r in records]
    assert walls == sorted(walls) and walls[0] > 0
    always = {"round", "wall_time_s", "train_loss", "uplink_bytes", "downlink_bytes"}
    always |= {"cohort_present", "client_steps", "step_norm"}
    probed = {"test_loss"} | {
        f"client_loss_{p}"
        for p in (
            *("mean", "p10", "p50", "p90"),
            *("std", "worst10", "cvar"),
        )
    }
    for r in records:
        due = r["round"] % 3 == 0 or r["round"] == 13
        panel = {n for n in r if n.startswith("drift_")}
        assert (len(panel) > 5) == (r["round"] in (1, 10))
        assert ("step_cosine" in r) == (r["round"] > 1)
        wanted = always | panel | (probed if due else set())
        assert set(r) == wanted | ({"step_cosine"} if r["round"] > 1 else set())
        # SCAFFOLD sends model and control, float32, to and from each of three clients.
        assert r["uplink_bytes"] == r["downlink_bytes"] == 3 * 2 * 4 * little.DIM
        assert r["cohort_present"] == 3 and r["client_steps"] >= 3
    summary = json.loads((out / "summary.json").read_text())
    assert summary == json.loads(json.dumps(run.summary))
    assert summary["status"] == "done" and summary["rounds"] == 13 and summary["seed"] == 0
    assert summary["plan"] == {"lanes": 1, "devices": 1, "chunk": 2}
    assert summary["final"]["test_loss"] == records[-1]["test_loss"]
    best = min(r["test_loss"] for r in records if "test_loss" in r)
    assert summary["best"]["test_loss"]["value"] == best
    assert summary["lane_efficiency"] == 1.0
    assert summary["client_steps"] == sum(r["client_steps"] for r in records)
    for name in ("steps_per_second", "compile_seconds", "peak_memory_bytes"):
        assert summary[name] > 0
    assert {"python", "jax", "numpy", "fedjax_sim"} <= summary["versions"].keys()
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["run"]["rounds"] == 13 and config["plan"]["chunk"] == 2


@pytest.mark.slow
def test_the_last_test_loss_is_that_of_the_final_model() -> None:
    fed = little.federation()
    run = little.session(federation=fed).run()
    assert run.model is not None and fed.central_test is not None
    x, y = fed.central_test
    distance = 0.5 * (x * (np.asarray(run.model.params["x"]) - y) ** 2).sum(axis=1)
    np.testing.assert_allclose(run.records[-1]["test_loss"], distance.mean(), rtol=1e-5)


def test_config_text_may_be_made_of_the_resolved_settings(tmp_path: Path) -> None:
    session = little.session(tmp_path / "run", config_text=lambda s: f"lanes = {s.lanes}\n")
    session.run()
    assert (tmp_path / "run/config.toml").read_text() == "lanes = 1\n"


def test_numbers_keep_every_digit_and_what_is_not_finite_is_named() -> None:
    buffers = {
        "train_loss": np.array([0.1, math.nan, 9.0], np.float32),
        "test_loss": np.array([0.0, math.inf, 0.0], np.float32),
        "probed": np.array([False, True, True]),
        "cohort_present": np.array([2, 3, 0], np.int32),
        "uplink_bytes_each": np.array([4_000_000_000] * 3, np.uint32),
        "lane_steps": np.array([5, 6, 0], np.int32),
    }
    first, second = chunk_records(
        buffers, ["test_loss"], first_round=7, rounds=2, seconds=(1.0, 2.0)
    )
    assert first == {
        "round": 7,
        "wall_time_s": 1.5,
        "train_loss": float(np.float32(0.1)),
        "uplink_bytes": 8_000_000_000,
        "cohort_present": 2,
    }
    assert second["train_loss"] is None and second["test_loss"] is None
    assert second["nonfinite"] == ["train_loss", "test_loss"]
    assert second["uplink_bytes"] == 12_000_000_000


def test_a_torn_last_line_is_left_out_and_truncated(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"round": 1}\n{"round": 2}\n{"rou')
    assert [r["round"] for r in read_records(path)] == [1, 2]
    file = RecordFile(path, keep=13)
    file.append([{"round": 2, "again": True}])
    file.close()
    assert read_records(path) == [{"round": 1}, {"round": 2, "again": True}]
    assert file.size == path.stat().st_size


@pytest.mark.parametrize("text", ['{"round": 2}\n', "nonsense\n", '{"round": 1}\n{"round": 1}\n'])
def test_damaged_records_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        read_records(path)
    with pytest.raises(InputError, match="bytes"):
        read_records(path, upto=999)


def test_the_longest_flag_governs() -> None:
    names = ["a", "a_b", "a_b_c", "ab", "a_measured", "a_b_measured"]
    wanted = {"a": "a_measured", "a_b": "a_b_measured", "a_b_c": "a_b_measured"}
    assert flags_of(names) == wanted
