"""CFL against its NumPy oracle, and on quadratics on both sides of each of its criteria."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contracts.table import told
from helpers import (
    CLASSES,
    DIM,
    Run,
    assert_trees_close,
    flat,
    orders,
    quadratic_task,
    quick_jit,
    script,
    shards,
    softmax_data,
    softmax_task,
    window,
)
from oracles import cfl as oracle
from oracles.federated import Client, local_sgd

from fedjax_sim.algorithms.cfl import cfl
from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Context
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.plan import Plan
from fedjax_sim.server.split import Branch

SIZES, ROUNDS, RATE = [7, 1, 12, 20, 5, 3, 16], 7, 0.3
KEY = jax.random.key(5)
START = np.random.default_rng(1).normal(size=DIM * CLASSES + CLASSES)
RULE = Batches(epochs=1, size=4, shuffle=False)
LOCAL = {"epochs": 1, "batch_size": 4, "shuffle": False}


class Weighed(NamedTuple):
    """A client of the oracle, with its weight."""

    id: int
    weight: int
    data: Client


@pytest.mark.parametrize(
    ("norms", "criteria", "plan"),
    [
        ("relative", {"eps1": 0.9, "eps2": 0.2, "gamma_max": 0.2, "gap": -0.9}, Plan(2, 2)),
        pytest.param(
            "absolute",
            {"eps1": 0.9, "eps2": 0.2, "gamma_max": 0.3},
            Plan(1, 1),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_whole_algorithm_is_the_oracles(x64, norms, criteria, plan):
    """Ragged clients, stragglers and absent members; several splits, and some asked later."""
    n, table = len(SIZES), script(ROUNDS, 5, len(SIZES), seed=2)
    recipe = cfl(optax.sgd(RATE), groups=4, norms=norms, **criteria, **LOCAL)
    run = Run.of(recipe, softmax_task(START), softmax_data(SIZES), table.sampler(), plan)
    state, _ = run.simulate(KEY, ROUNDS)

    rounds = []
    for r in range(ROUNDS):
        rounds.append([])
        for i, here, work in zip(*(v[r] for v in table), strict=True):
            x, y = window(run.data, i)
            rows = orders(RULE, KEY, r, int(i), len(y), run.data.longest, work)
            if here:
                rounds[-1].append(Weighed(int(i), len(y), Client(int(i), x, y, rows)))
    want = oracle.cfl(
        START,
        rounds,
        lambda theta, c: local_sgd(theta, c.data, CLASSES, RATE),
        n,
        4,
        relative=norms == "relative",
        **criteria,
    )
    assert len(want.splits) >= 2
    heard = [c.id for clients in rounds[want.splits[0][0] + 1 :] for c in clients]
    absent = set(range(n)) - {c.id for c in rounds[want.splits[0][0]]}
    assert absent & set(heard), "nobody was asked later"

    server = state.algorithm.server
    np.testing.assert_array_equal(server.ids, want.ids)
    np.testing.assert_array_equal(server.asked, want.asked)
    assert int(server.used) == len(want.models)
    for slot, theta in want.models.items():
        np.testing.assert_allclose(
            flat(server.models.model.params)[slot], theta, rtol=1e-9, atol=1e-11
        )
    for slot, fork in want.forks.items():
        assert int(server.forks.parent[slot]) == fork.parent
        apart = fork.leaves - fork.stays
        np.testing.assert_allclose(flat(server.forks.apart)[slot], apart, atol=1e-11)


def test_one_group_is_fedavg(x64):
    """Also where the criteria for a split are met in every round."""
    targets = np.random.default_rng(0).normal(size=(sum(SIZES), 2))
    data, table = shards(np.ones_like(targets), targets, SIZES), script(4, 4, len(SIZES))
    ends = []
    for recipe in (
        cfl(optax.sgd(RATE), groups=1, eps1=9.0, eps2=0.0, norms="absolute", **LOCAL),
        fedavg(optax.sgd(RATE), **LOCAL),
    ):
        run = Run.of(recipe, quadratic_task(2), data, table.sampler(), Plan(2, 1))
        ends.append(run.simulate(KEY, 4))
    (ours, records), (theirs, theirs_records) = ends
    got = jax.tree.map(lambda v: v[0], ours.algorithm.server.models.model)
    assert_trees_close(got, theirs.algorithm.server.model, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(records["train_loss"], theirs_records["train_loss"], rtol=1e-12)


# Quadratics |x - b_i|^2 / 2, one step of 1/2: client i's update is (x - b_i) / 2, and with equal
# weights x goes half of the way to the mean of the b_i in every round, from 0.
N, SLOTS, LONG = 6, 4, 12


class Play(NamedTuple):
    """Rounds of one compiled program, from 0: `ids [R, 6]`, `models [R, 4, 2]`, records `[R]`."""

    ids: np.ndarray
    models: np.ndarray
    losses: np.ndarray
    state: Any


@pytest.fixture(scope="module")
def quadratics():
    """`(targets [6, 2], present bool [R, 6], **numbers) -> Play`."""
    with jax.enable_x64(True):
        recipe = cfl(optax.sgd(0.5), groups=SLOTS, norms="absolute", batch_size=1, shuffle=False)
        data = shards(np.ones((N, 2)), np.zeros((N, 2)), [1] * N)
        run = Run.of(recipe, quadratic_task(2), data, told(N, N), Plan(3, 1))
        start, compiled = quick_jit(run.start), run.compiled(1)

        def play(targets, present=np.ones((LONG, N), bool), **numbers):  # noqa: B008
            hyper = {"eps1": 1e-3, "eps2": 0.1, "gamma_max": 0.3, "gap": -2.0} | numbers
            state = start(KEY, {name: jnp.asarray(value, float) for name, value in hyper.items()})
            here = shards(np.ones((N, 2)), np.asarray(targets, float), [1] * N)
            ids, models, losses = [], [], []
            for who in present:
                table = state.sampler._replace(present=jnp.asarray(who))
                state, records = compiled(KEY, state._replace(sampler=table), 1, here)
                server = state.algorithm.server
                ids.append(np.asarray(server.ids))
                models.append(np.asarray(server.models.model.params["x"]))
                losses.append(float(records["train_loss"][0]))
            return Play(np.array(ids), np.array(models), np.array(losses), (run, state))

        yield play


def at_angles(degrees):
    turned = np.deg2rad(np.asarray(degrees, float))
    return np.stack([np.cos(turned), np.sin(turned)], axis=1)


def first_split(play):
    """The round (from 0) of the first split, or None."""
    split = np.flatnonzero(play.ids.any(axis=1))
    return int(split[0]) if len(split) else None


def opposed(spread):
    """Three targets within +-`spread` degrees, three opposite: mean 0, at rest from the start."""
    return at_angles([0, spread, -spread, 180, 180 + spread, 180 - spread])


OPPOSED = opposed(5)


def test_clients_that_pull_apart_are_split_and_each_side_goes_to_its_own_optimum(x64, quadratics):
    play = quadratics(OPPOSED)
    assert first_split(play) == 0
    np.testing.assert_array_equal(play.ids[-1], [0, 0, 0, 1, 1, 1])
    means = OPPOSED[:3].mean(axis=0), OPPOSED[3:].mean(axis=0)
    np.testing.assert_allclose(play.models[-1, :2], means, atol=1.01 * 0.5 ** (LONG - 1))


@pytest.mark.parametrize(("factor", "later"), [(0.999, 1), (1.001, 0)])
@pytest.mark.parametrize("wait", [1, 3])
def test_no_group_is_split_before_it_is_at_rest(x64, quadratics, factor, later, wait):
    """With the mean at distance 1 the mean update of round t (from 0) is 2^-(t+1) long."""
    play = quadratics(OPPOSED + np.array([[1.0, 0.0]]), eps1=factor * 0.5 ** (wait + 1))
    assert first_split(play) == wait + later


@pytest.mark.parametrize(("factor", "splits"), [(0.999, True), (1.001, False)])
def test_no_group_is_split_whose_clients_are_at_rest(x64, quadratics, factor, splits):
    """At the mean the longest update is half of the largest distance from it: 1/2."""
    play = quadratics(OPPOSED, eps2=factor * 0.5)
    assert (first_split(play) is not None) == splits


@pytest.mark.parametrize("spread", [10, 25, 40])
@pytest.mark.parametrize(("beyond", "splits"), [(-1e-6, True), (1e-6, False)])
def test_no_group_is_split_whose_sides_are_too_alike(x64, quadratics, spread, beyond, splits):
    """The most alike across are 180 - 2 s degrees apart, so that sqrt((1 - cos) / 2) = cos(s)."""
    gamma_max = np.cos(np.deg2rad(spread)) + beyond
    play = quadratics(opposed(spread), gamma_max=gamma_max)
    assert (first_split(play) is not None) == splits
    np.testing.assert_array_equal(play.ids[-1], [0, 0, 0, 1, 1, 1] if splits else [0] * N)


@pytest.mark.parametrize("spread", [10, 40])
@pytest.mark.parametrize(("beyond", "splits"), [(-1e-6, True), (1e-6, False)])
def test_no_group_is_split_whose_sides_are_not_separated(x64, quadratics, spread, beyond, splits):
    """The least cosine within is cos(2 s), the largest across cos(180 - 2 s)."""
    gap = np.cos(np.deg2rad(2 * spread)) - np.cos(np.deg2rad(180 - 2 * spread))
    play = quadratics(opposed(spread), gap=gap + beyond)
    assert (first_split(play) is not None) == splits


def test_clients_of_one_optimum_are_never_split(x64, quadratics):
    """Their updates are all the mean, which is not at rest before they are."""
    play = quadratics(np.full((N, 2), 0.7), eps1=0.1, eps2=0.1, gamma_max=0.01)
    assert first_split(play) is None
    np.testing.assert_allclose(play.models[-1, 0], 0.7, atol=0.7 * 1.01 * 0.5**LONG)


def test_three_groups_are_two_splits_one_after_the_other(x64, quadratics):
    """One against the other two at first; the two part when they have come to rest, not before."""
    apart = 0.01 * np.tile([[1, 0], [-1, 0]], (3, 1))
    targets = np.repeat(at_angles([0, 120, 240]), 2, axis=0) + apart
    play = quadratics(targets, eps1=0.05)
    counts = [len(set(ids)) for ids in play.ids]
    assert counts[0] == 2 and counts[-1] == 3 and counts.index(3) > 1
    mine, truth = play.ids[-1], np.repeat(range(3), 2)
    np.testing.assert_array_equal(mine[:, None] == mine[None], truth[:, None] == truth[None])
    want = targets.reshape(3, 2, 2).mean(axis=1)
    np.testing.assert_allclose(play.models[-1][mine[::2]], want, atol=0.02)


def test_when_the_slots_are_full_nobody_is_split(x64, quadratics):
    """Six optima, four slots."""
    play = quadratics(at_angles(np.arange(N) * 60), eps1=0.05, eps2=0.01, gamma_max=0.1)
    assert set(play.ids[-1]) == set(range(SLOTS))
    assert int(play.state[1].algorithm.server.used) == SLOTS


def test_who_was_absent_chooses_a_side_when_next_heard_and_moves_nothing_then(x64, quadratics):
    """Clients 2 and 5 miss the split; each trains the old common model once and goes its way."""
    here, away = [True] * N, [2, 5]
    present = np.array([here, here, here])
    present[0, away], present[1] = False, np.isin(range(N), away)
    play = quadratics(OPPOSED, present, eps1=0.05)
    np.testing.assert_array_equal(play.ids[0], [0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(play.ids[1], [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(play.models[1], play.models[0])
    np.testing.assert_allclose(play.losses[1], 0.5, rtol=1e-12)  # both at 0, where it was split
    moved = play.models[2] - play.models[1]  # now they count in the means of their groups
    for slot, members in enumerate((OPPOSED[:3], OPPOSED[3:])):
        step = (members.mean(axis=0) - play.models[1, slot]) / 2
        np.testing.assert_allclose(moved[slot], step, rtol=1e-12, atol=1e-15)
    run, state = play.state
    ctx = Context(KEY, jnp.int32(3), jax.tree.map(lambda v: v[5], state.sampler))
    mine = run.algorithm.model_of(ctx, state.algorithm, (), run.data.client(ctx.member.id))
    np.testing.assert_array_equal(mine.params["x"], play.models[2, 1])


@pytest.mark.parametrize("group", [2, -1])
def test_a_report_tells_its_slot_and_goes_to_no_mean_from_a_fork(group):
    parts = cfl(optax.sgd(0.5), batch_size=1, shuffle=False).build(eps1=1.0, eps2=0.0)
    client, task = parts.client(quadratic_task(2)), quadratic_task(2)
    data = shards(np.ones((N, 2), np.float32), np.ones((N, 2), np.float32), [1] * N)
    member = jax.tree.map(lambda v: v[4], told(N, N).init(N))
    ctx, window = Context(KEY, jnp.int32(0), member), data.client(member.id)

    def one(received):
        work = client.start(ctx, received, (), window)
        work = client.step(ctx, jnp.int32(0), work, received, window)
        return client.finish(ctx, work, received, (), window)[0]

    report = quick_jit(one)(Branch(task.init(KEY), jnp.int32(group), jnp.int32(2)))
    assert (int(report.group), int(report.aux["group"]), int(report.aux["client"])) == (group, 2, 4)
    np.testing.assert_allclose(report.update.params["x"], [-0.5, -0.5])


@pytest.mark.parametrize(
    ("field", "value"),
    [("groups", 0), ("eps1", -1.0), ("gamma_max", 1.0), ("norms", "other")],
)
def test_bad_numbers_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        cfl(optax.sgd(0.1), **{field: value})
