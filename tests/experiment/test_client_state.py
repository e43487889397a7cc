"""Client rows on the device, on the host, on disk: the same run, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from experiment import little
from experiment.test_resume import Crash, crash_at, kill_when, start
from sparing import few

import fedjax_sim as fs
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Array, Cohort, Info, PyTree
from fedjax_sim.experiment import row_place
from fedjax_sim.experiment.client_rows import ClientRows, KeptRows
from fedjax_sim.experiment.run_result import Run
from fedjax_sim.experiment.session import Session
from fedjax_sim.experiment.settings import Settings
from fedjax_sim.sampling.uniform import uniform

CLIENTS = 20  # of which a dispatch of two rounds sees at most six


def session(out: Path | None = None, *, client_test: bool = False, **changes: Any) -> Any:
    federation = little.federation(clients=CLIENTS, client_test=client_test)
    quiet: dict[str, Any] = {"federation": federation, "eval_every": 4} | changes
    return little.session(out, **quiet)


def whole(run: Run) -> Run:
    """The run with all rows in its state, wherever they lay."""
    assert run.state is not None
    rows: Any = run.state.rows
    if isinstance(rows, KeptRows):
        object.__setattr__(run, "state", run.state._replace(rows=rows.whole()))
    return run


@pytest.fixture(scope="module")
def on_device() -> Iterator[Run]:
    yield session(client_state="device").run()


@pytest.mark.parametrize("form", few(["host", "disk"], "disk"))
def test_wherever_rows_lie_the_run_is_the_same(on_device: Run, tmp_path: Path, form: str) -> None:
    made = session(tmp_path / "run", client_state=form)
    pools: list[int] = []
    take = ClientRows.begin

    def begin(self: ClientRows, *given: Any) -> Any:
        pool = take(self, *given)
        pools.append(int(pool.ids.shape[0]))
        return pool

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClientRows, "begin", begin)
        run = made.run()
    little.assert_same(whole(run), on_device)
    assert set(pools) == {6}, "the device never held more rows than a dispatch needs"
    assert f'client_state = "{form}"' in (tmp_path / "run" / "config.toml").read_text()


@pytest.mark.parametrize("form", few(["host", "disk"], "disk"))
def test_a_crash_after_a_checkpoint_changes_no_row(
    on_device: Run, tmp_path: Path, form: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Crash):
        session(out, client_state=form).run(crash_at(6))
    again = session(out, resume=True).run()
    assert again.resumed_from == 4
    little.assert_same(whole(again), on_device)
    finished = session(out, resume=True).run()
    assert finished.finished_before
    little.assert_same(whole(finished), on_device)
    with pytest.raises(InputError, match=r"plan\.client_state"):
        session(out, resume=True, client_state="device")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["host", "disk"])
def test_sigkill_changes_no_row(tmp_path: Path, form: str) -> None:
    """Killed early, then in the middle of a write as likely as not, and run to its end."""
    out, same = tmp_path / "run", {"rounds": 60, "eval_every": 4}
    given = {"clients": CLIENTS, "client_state": form, "eval_every": 4}
    for lines, wait in ((10, 0.01), (24, 0.0), (40, 0.02)):
        kill_when(out, start(out, **given), lines, wait)
        assert any((out / "checkpoints").glob("round_*"))
    assert not (out / "summary.json").exists(), "the last kill came too late"
    assert start(out, **given).wait() == 0
    again = session(out, resume=True, client_state=form, **same).run()
    assert again.finished_before
    little.assert_same(whole(again), session(client_state="device", **same).run())


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_clients_own_models_are_evaluated_some_at_a_time(devices: int) -> None:
    recipe = fs.algorithms.local_only(optax.adam(0.05), batch_size=2)
    same: dict[str, Any] = {"recipe": recipe, "rounds": 6, "devices": devices}
    here = session(client_state="device", client_test=True, **same).run()
    away = session(client_state="host", client_test=True, **same).run()
    little.assert_same(whole(away), here)
    assert "client_loss_mean" in away.records[3] and "client_loss_mean" not in away.records[2]


@pytest.mark.slow
def test_two_devices_get_the_same_rows() -> None:
    here = session(client_state="device", devices=2).run()
    little.assert_same(whole(session(client_state="host", devices=2).run()), here)


def by_results(n: int) -> Sampler:
    """Cohorts of three that turn by what the last one's losses were."""
    plain = uniform(3, n)

    def sample(key: Array, state: PyTree, round_index: Array) -> tuple[PyTree, Cohort]:
        state, cohort = plain.sample(key, state, round_index)
        members = cohort.members
        return state, cohort._replace(members=members._replace(id=(members.id + state) % n))

    def observe(state: PyTree, cohort: Cohort, info: Info) -> PyTree:
        return state + jnp.argmax(info.rows["loss_sum"]).astype(jnp.int32)

    return plain._replace(init=lambda n: jnp.int32(0), sample=sample, observe=observe)


@pytest.mark.slow
def test_cohorts_that_depend_on_results_are_drawn_round_by_round() -> None:
    runs: dict[str, Run] = {}
    for form in ("device", "host"):
        federation = little.federation(clients=CLIENTS)
        settings = little.settings(stragglers=0.0, client_state=form)
        task = fs.tasks.quadratic(little.DIM)
        made = Session(little.recipe(), task, federation, settings, sampler=by_results(CLIENTS))
        assert made.settings.chunk == (2 if form == "device" else 1)
        runs[form] = made.run()
    little.assert_same(whole(runs["host"]), runs["device"])


def test_only_clients_that_took_part_cost_anything(tmp_path: Path) -> None:
    session(tmp_path / "run", client_state="disk", rounds=2, keep_checkpoints=1).run()
    slots = (tmp_path / "run" / "client_rows.bin").stat().st_size / 64  # a row is 12 bytes
    assert 3 <= np.ceil(slots) <= 6 < CLIENTS


def test_by_rule_rows_go_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_place.plans, "memory_bytes", lambda: 1000)
    monkeypatch.setattr(row_place, "host_bytes", lambda: 1000)
    row = {"c": jax.ShapeDtypeStruct((5,), np.float32)}  # 20 bytes

    def place(n: int, devices: int = 1, **s: Any) -> str:
        given: dict[str, Any] = {"rounds": 2} | s
        return row_place.place_rows(Settings(**given), row, n, 5, devices)

    assert [place(n) for n in (12, 13)] == ["device", "host"]
    assert place(12, devices=2) == "device", "each row once, however many devices there are"
    assert [place(1000, rounds=r) for r in (5, 6)] == ["host", "disk"]
    assert place(1000, client_state="device") == "device"
    assert place(1, client_state="disk") == "disk"
    assert row_place.place_rows(Settings(client_state="disk"), (), 9, 3, 1) == "device"
    best = fs.Policy(on_trouble="restore")
    assert place(1000, policy=best) == "device"
    with pytest.raises(InputError, match="client_state"):
        place(1000, policy=best, client_state="host")
    with pytest.raises(InputError, match="client_state"):
        Settings(client_state="tape")
    assert row_place.hold_here(Settings()) == "device"
    with pytest.raises(InputError, match="client_state"):
        row_place.hold_here(Settings(client_state="host"))
