"""Runs on a virtual clock: what is recorded, gone on with, drawn, and refused."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from experiment import little
from experiment.test_resume import Crash, crash_at
from helpers import quick_jit

import fedjax_sim as fs
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment import config
from fedjax_sim.experiment.build import build
from fedjax_sim.experiment.prepare import prepare
from fedjax_sim.experiment.settings import UNWATCHED
from fedjax_sim.experiment.sweep_config import SweepText, make_design, request
from fedjax_sim.experiment.sweep_session import SweepSession
from fedjax_sim.experiment.system_model import fleet_of, load_of
from fedjax_sim.experiment.systems import Systems
from fedjax_sim.experiment.timeline_plot import panels, timeline_picture
from fedjax_sim.sampling.round_log import DROPPED, LATE, REPORTED, Rows, empty_log, log_round
from fedjax_sim.sampling.timed import TimedState
from fedjax_sim.sampling.uniform import uniform

# Everything that carries state: availability with a memory, credits, losses, latency, the clock.
BUSY = Systems(
    select="adaptive_tiers",
    tiers=2,
    tier_interval=2,
    retier_every=3,
    availability="markov",
    online=0.9,
    over_select=0.5,
    dropout=0.1,
    median_flops=1e3,
)


def session(out: Path | None = None, *, resume: bool = False, **changes: Any) -> Any:
    given = {"systems": BUSY, "cohort": 2, "stragglers": 0.0, "rounds": 9}
    return little.session(out, resume=resume, **(given | changes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run in a folder, cut off after its first checkpoint and gone on with."""
    out = tmp_path_factory.mktemp("systems") / "run"
    with pytest.raises(Crash):
        session(out).run(crash_at(6))
    return session(out, resume=True).run()


@pytest.mark.slow
def test_a_cut_run_goes_on_bitwise(whole: Any) -> None:
    assert whole.resumed_from == 4
    little.assert_same(whole, session().run())


def test_records_carry_virtual_time(whole: Any) -> None:
    time = 0.0
    for record in whole.records:
        time += record["round_seconds"]
        assert record["virtual_time_s"] == pytest.approx(time, rel=1e-6)
        assert record["tier"] in (0, 1)
        counted = sum(record[n] for n in ("cohort_present", "clients_late", "clients_dropped"))
        assert record["cohort_present"] <= 2 and counted == record["clients_chosen"] <= 3
        each = 4 * 2 * little.DIM  # Scaffold's model and control
        assert record["uplink_bytes"] == each * record["cohort_present"]
        assert record["downlink_bytes"] == each * record["clients_chosen"]
    assert whole.summary["virtual_seconds"] == whole.records[-1]["virtual_time_s"] > 0
    assert whole.summary["cohort"] == 2
    assert sum(r["clients_late"] for r in whole.records) > 0
    assert isinstance(whole.state.sampler, TimedState)


def test_the_folder_holds_the_time_line(whole: Any) -> None:
    assert (whole.out / "timeline.png").read_bytes()[:4] == b"\x89PNG"
    assert "[run.systems]" in (whole.out / "config.toml").read_text()


def test_without_the_section_nothing_changes() -> None:
    """No scalar, no state."""
    settings = fs.Settings(diagnosis=fs.Diagnosis(False, 0), lanes=1, devices=1)
    plain = prepare(little.recipe(), fs.tasks.quadratic(little.DIM), little.federation(), settings)
    assert plain.sampler.tell is None and plain.sampler.init(6) == ()


def test_a_sampler_of_the_users_own_is_put_on_the_clock() -> None:
    task, data, recipe = fs.tasks.quadratic(little.DIM), little.federation(), little.recipe()
    quiet = fs.Diagnosis(False, 0)

    def ready(asked: Systems) -> Any:
        settings = fs.Settings(systems=asked, diagnosis=quiet, lanes=1, devices=1)
        return prepare(recipe, task, data, settings, sampler=uniform(3, 6))

    made = ready(Systems(dropout=0.5))
    assert made.sampler.size == made.settings.cohort == 3
    state = made.sampler.init(6)
    assert isinstance(state, TimedState) and state.fleet.flops_per_s.shape == (6,)
    with pytest.raises(InputError, match=r"sampler = .*chooses by itself"):
        ready(Systems(select="tiers"))


def test_what_a_round_asks_is_what_the_client_does() -> None:
    task, data = fs.tasks.quadratic(little.DIM), little.federation()
    recipe = fs.algorithms.fedavg(optax.sgd(0.1), epochs=3, batch_size=2)
    settings = fs.Settings(cohort=2, diagnosis=fs.Diagnosis(False, 0))
    bound = prepare(recipe, task, data, settings).task
    load = load_of(recipe, bound, data)
    np.testing.assert_array_equal(load.steps, 3 * -(-data.train.sizes // 2))
    assert load.down_bytes == load.up_bytes == 4 * little.DIM
    # Gradient of 0.5 sum a (p - b)^2 over two examples of three entries: some dozens.
    assert 2 * little.DIM < load.flops_per_step < 100 * little.DIM


def test_flops_of_a_network_are_those_of_its_products() -> None:
    data = fs.data.digits(fs.partition.iid(clients=5))
    task = fs.tasks.classifier(fs.models.mlp(50), classes=10)
    recipe = fs.algorithms.fedavg(optax.sgd(0.1), batch_size=10)
    settings = fs.Settings(cohort=2, diagnosis=fs.Diagnosis(False, 0))
    load = load_of(recipe, prepare(recipe, task, data, settings).task, data)
    forward = 2 * 10 * (64 * 50 + 50 * 10)
    products = 3 * forward - 2 * 10 * 64 * 50  # no gradient of the inputs
    assert products < load.flops_per_step < 1.35 * products


@pytest.mark.parametrize("models", [1, 2])
def test_a_client_that_measures_first_is_charged_for_each_kind_of_step(models: int) -> None:
    """By hand: forward passes over all examples, 100 at a time, then gradients of ten."""
    data = fs.data.digits(fs.partition.iid(clients=5))
    task = fs.tasks.classifier(fs.models.mlp(50), classes=10)
    make = fs.algorithms.qfedavg if models == 1 else fs.algorithms.ifca
    recipe = make(optax.sgd(0.1), batch_size=10)
    settings = fs.Settings(cohort=2, diagnosis=fs.Diagnosis(False, 0))
    load = load_of(recipe, prepare(recipe, task, data, settings).task, data)
    sizes = np.asarray(data.train.sizes)
    measured, trained = -(-sizes // 100), -(-sizes // 10)
    np.testing.assert_array_equal(load.steps, measured + trained)
    forward = 2 * (64 * 50 + 50 * 10)
    wanted = measured * 100 * models * forward + trained * 10 * (3 * forward - 2 * 64 * 50)
    np.testing.assert_allclose(load.flops_per_step * load.steps, wanted, rtol=0.3)


def test_without_clients_there_is_nothing_to_simulate() -> None:
    task, data = fs.tasks.quadratic(little.DIM), little.federation()
    settings = fs.Settings(systems=Systems(), diagnosis=fs.Diagnosis(False, 0))
    with pytest.raises(InputError, match="has no clients to simulate"):
        prepare(fs.algorithms.centralized(optax.sgd(0.1)), task, data, settings)


def test_fleets_as_asked() -> None:
    data = little.federation(clients=40)
    equal = fleet_of(Systems(fleet="equal", median_flops=5.0), data)
    assert set(equal.flops_per_s) == {5.0} and set(equal.down_sigma) == {0.0}
    assert set(fleet_of(Systems(availability="bernoulli", online=0.3), data).online) == {0.3}
    by_size = fleet_of(Systems(correlate=1.0), data)
    order = np.argsort(by_size.flops_per_s, kind="stable")
    assert (np.diff(data.train.sizes[order]) >= 0).mean() > 0.95
    with pytest.raises(InputError, match=r"correlate_with = group: needs data with planted"):
        fleet_of(Systems(correlate=0.5, correlate_with="group"), data)


FILE = {
    "data": {"name": "digits", "partition": {"name": "iid", "clients": 12}},
    "model": {"name": "logistic"},
    "client": {"epochs": 1},
    "run": {"cohort": 2, "rounds": 2},
    "systems": {"select": "tiers", "tiers": 2, "tier_probabilities": [3.0, 1.0], "deadline_s": 2.5},
}


def test_the_section_of_an_experiment_file(tmp_path: Path) -> None:
    first = build(config.resolve(FILE))
    assert first.settings.systems == Systems(
        select="tiers", tiers=2, tier_probabilities=[3.0, 1.0], deadline_s=2.5
    )
    path = tmp_path / "config.toml"
    path.write_text(first.config_text(first.settings), encoding="utf-8")
    assert build(config.resolve(config.read(path))).settings == first.settings
    without = {n: v for n, v in FILE.items() if n != "systems"}
    assert build(config.resolve(without)).settings.systems is None
    assert "systems" not in config.resolve(without).table


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fleet", "tanks", r"systems\.fleet = tanks: must be 'phones' or 'equal'"),
        ("deadline", 3.0, r"systems\.deadline = .*is not known; did you mean 'deadline_s'"),
        ("over_select", -1.0, r"systems\.over_select = -1\.0: must be at least 0"),
        ("dropout", "often", r"systems\.dropout = often: must be a number"),
    ],
)
def test_a_bad_section_is_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config.resolve(FILE | {"systems": {key: value}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"select": "best"}, r"systems\.select = best: must be one of"),
        ({"late": "partial"}, r"systems\.late = partial: .*give systems\.deadline_s too"),
        ({"deadline_s": 0.0}, r"systems\.deadline_s = 0"),
        ({"online": 1.5}, r"systems\.online = 1\.5"),
        ({"tiers": 2.5}, r"systems\.tiers = 2\.5: must be a whole number"),
        ({"tier_probabilities": (1.0,)}, r"systems\.tier_probabilities = .*select = \"tiers\""),
        (
            {"select": "tiers", "tiers": 2, "tier_probabilities": (1.0,)},
            r"systems\.tier_probabilities = .*2 numbers",
        ),
        ({"select": "tiers", "tier_probabilities": 3}, r"systems\.tier_probabilities = 3: .*5"),
        ({"select": "tiers", "tier_probabilities": ["a"] * 5}, r"systems\.tier_probabilities"),
    ],
)
def test_a_bad_system_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Systems(**given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stragglers": 0.5}, r"stragglers = 0\.5: is what systems simulate"),
        ({"systems": "phones"}, r"systems = phones: must be a Systems"),
        ({"cohort": 5, "systems": Systems(select="tiers", tiers=2)}, r"run\.cohort = 5: .* 3, the"),
        ({"cohort": 6, "systems": Systems(over_select=0.5)}, r"over_select = 0\.5: .*9 clients"),
        (
            {"cohort": 3, "systems": Systems(select="tiers", tiers=2, over_select=0.3)},
            r"systems\.over_select = 0\.3: chooses 4 clients, and one of systems\.tiers = 2 has 3",
        ),
    ],
)
def test_a_system_that_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        session(**changes)


_QUICK_LOG = quick_jit(log_round)


def a_log(tiers: bool = False, deadline_s: float = 3.0) -> Any:
    log = empty_log(4, deadline_s)
    for r in range(3):
        rows = Rows(
            id=jnp.array([7, 3, 9, 1], jnp.int32) + r,
            status=jnp.array([REPORTED, LATE, DROPPED, 0], jnp.int32),
            group=jnp.full(4, r if tiers else 0, jnp.int32),
            down_s=jnp.array([1.0, 0.5, 0.1, 0.0]),
            compute_s=jnp.array([0.5, 4.0, 0.2, 0.0]),
            up_s=jnp.array([0.25, 0.5, 0.1, 0.0]),
        )
        log = _QUICK_LOG(log, jnp.int32(r), jnp.float32(3.0), rows)
    return jax.tree.map(np.asarray, log)


def test_the_time_line_shows_what_the_log_holds() -> None:
    found = panels(a_log())
    assert [p.round for p in found] == [1, 2, 3]
    assert [b.client for b in found[1].bars] == [10, 8, 4]  # the soonest done first, one absent
    np.testing.assert_allclose(found[0].bars[1].ends, (1.0, 1.5, 1.75))
    times = [{"round": i, "virtual_time_s": 3.0 * i, "clients_late": 1} for i in (1, 2, 3)]
    tiered = [t | {"tier": 0} for t in times]
    for records, tiers in ((times, False), (tiered, True)):
        figure = timeline_picture(a_log(tiers), records, {"algorithm": "fedavg", "cohort": 4})
        figure.savefig(io.BytesIO(), format="png")  # lays out; a fault of drawing shows here
        titles = [ax.get_title(loc="left") for ax in figure.axes if ax.axison]
        tier = ", tier 2" if tiers else ""
        assert titles[1] == f"round 2{tier}: 3 s, 1 of 3 report"
        words = {t.get_text() for ax in figure.axes for t in ax.texts}
        assert words == {"late: 5 s", "dropped out"}
        legend = {t.get_text() for t in figure.legends[0].get_texts()}
        assert "deadline" in legend and ("works, tier 3" in legend) == tiers
        # A member's bar and its waiting end at the round's end, which the deadline is.
        waits = [p for p in figure.axes[0].patches if p.get_x() == pytest.approx(1.75)]
        assert waits and waits[0].get_width() == pytest.approx(1.25)


@pytest.mark.slow
def test_a_sweep_on_a_system_is_its_single_runs() -> None:
    """Seeds together in one program, and two systems in two."""
    file = config.merge(FILE, {"run": {"rounds": 4, "eval_every": 2}, "plan": {"lanes": 1}})
    asked = request(file, {}, {"systems.dropout": [0.0, 0.3]}, seeds=2)
    design = make_design(asked)
    result = SweepSession(design, text=SweepText(asked, design), inner="vmap", devices=1).run()
    for i, record in enumerate(result.records):
        over = {"systems": {"dropout": record["systems.dropout"]}, "run": {"seed": record["seed"]}}
        over["plan"] = {"devices": 1}
        built = build(config.resolve(file, over))
        settings = dataclasses.replace(built.settings, diagnosis=UNWATCHED)
        alone = fs.Session(built.recipe, built.task, built.federation, settings).run()
        for name in ("virtual_time_s", "clients_dropped", "train_loss"):
            wanted = [np.nan if r[name] is None else r[name] for r in alone.records]
            np.testing.assert_allclose(result.curves[name][i], wanted, rtol=1e-5)
    dropped = result.curves["clients_dropped"].sum(1)
    assert (dropped[:2] == 0).all() and dropped[2:].sum() > 0
