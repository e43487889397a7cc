"""IFCA, HypCluster, HierFAVG and grouped against NumPy loops, FedAvg, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    CLASSES,
    DIM,
    Run,
    assert_trees_equal,
    flat,
    orders,
    script,
    softmax_data,
    softmax_task,
    unflat,
    window,
)
from oracles import clustered as oracle
from oracles import servers
from oracles.federated import Client
from sparing import few

from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.algorithms.grouped import grouped
from fedjax_sim.algorithms.hierfavg import hierfavg
from fedjax_sim.algorithms.hypcluster import hypcluster
from fedjax_sim.algorithms.ifca import ifca, ifca_gradient
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Context, Member, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.plan import Plan

SIZES = [7, 2, 12, 20, 5, 3, 16, 9]
N, ROUNDS, RATE, M = len(SIZES), 6, 0.3, 2
TRUTH = np.array([0, 1, 0, 1, 1, 0, 0, 1])
KEY = jax.random.key(11)
RNG = np.random.default_rng(1)
START = RNG.normal(size=DIM * CLASSES + CLASSES)
STARTS = RNG.normal(size=(M, START.size))
THREE = np.concatenate([STARTS, STARTS[:1] + RNG.normal(size=(1, START.size))])
RULE = Batches(epochs=2, size=4, shuffle=False)
SETTING = {"lr": RATE, "epochs": 2, "batch_size": 4, "shuffle": False}
SCRIPT = script(ROUNDS, 5, N, seed=2)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def sgd(lr):
    return optax.sgd(lr)


def data():
    """Two groups of clients whose labels contradict each other."""
    plain = softmax_data(SIZES)
    owner = np.repeat(np.arange(N), SIZES)
    turned = np.argmax(np.asarray(plain.x) @ STARTS[0][: DIM * CLASSES].reshape(DIM, CLASSES), 1)
    y = (turned + 2 * TRUTH[owner]) % CLASSES
    return type(plain)(plain.x, jnp.asarray(y, jnp.int32), plain.offsets, plain.sizes, 20)


def rounds_of(shards, full=False):
    """The oracle's view of the scripted rounds; `full`: of one step on all examples."""
    rounds = []
    for r in range(ROUNDS):
        present = []
        for i, here, share in zip(*(v[r] for v in SCRIPT), strict=True):
            x, y = window(shards, i)
            rows = [np.arange(len(y))]
            if here and not full:
                rows = orders(RULE, KEY, r, int(i), len(y), shards.longest, share)
            if here:
                present.append(Client(int(i), x, y, rows))
        rounds.append(present)
    return rounds


def simulate(recipe, plan=Plan(2, 2), start=START):  # noqa: B008 - frozen
    run = Run.of(recipe, softmax_task(start), data(), SCRIPT.sampler(), plan)
    state, records = run.simulate(KEY, ROUNDS)
    return run, state, {n: np.asarray(v) for n, v in records.items()}


def stack(rows):
    """Flat models `[M, P]` as a `Model` of leaves `[M, ...]`."""
    return Model(jax.vmap(unflat)(jnp.asarray(rows)))


def context(client):
    member = Member(jnp.int32(client), jnp.bool_(True), jnp.int32(0), jnp.ones(()))
    return Context(KEY, jnp.int32(0), member)


def personal(run, state, client):
    """The flat model that a client would use."""
    row = jax.tree.map(lambda v: v[client], state.rows)
    window = run.data.client(jnp.int32(client))
    return flat(run.algorithm.model_of(context(client), state.algorithm, row, window).params)


def last_groups(told):
    return {client: group for mine in told for client, group in mine.items()}


def test_the_script_has_what_the_oracles_are_held_to():
    """Absent and partial members; clients that come late; two present in every round."""
    seen = [set(SCRIPT.ids[r][SCRIPT.present[r]]) for r in range(ROUNDS)]
    assert not SCRIPT.present.all()
    assert ((SCRIPT.work < 1) & SCRIPT.present).any()
    assert min(map(len, seen)) >= 2
    assert set.union(*seen) - set.union(*seen[:2]), "nobody comes late"


@pytest.mark.slow
def test_ifca_with_momentum_at_each_group(x64):
    server = optax.sgd(0.7, momentum=0.9)
    run, state, records = simulate(
        ifca(sgd, groups=3, start=stack(THREE), server=server, **SETTING)
    )
    rules = [servers.Momentum(0.7, 0.9) for _ in THREE]
    want, told = oracle.ifca(THREE, rounds_of(run.data), CLASSES, RATE, server=rules)
    got = state.algorithm.server.model.params
    np.testing.assert_allclose(flat(got), want, **CLOSE)
    last = last_groups(told)
    assert len({m for mine in told for m in mine.values()}) == 3
    assert any(len(set(mine.values())) < 3 for mine in told), "no round leaves a group unheard"
    np.testing.assert_array_equal(state.rows, [last.get(i, -1) for i in range(N)])
    for client, group in last.items():
        np.testing.assert_allclose(personal(run, state, client), want[group], **CLOSE)
    assert records["uplink_bytes_each"][0] == 8 * START.size
    assert records["downlink_bytes_each"][0] == 3 * 8 * START.size


@pytest.mark.slow
def test_a_client_that_never_took_part_uses_the_model_of_lowest_loss(x64):
    run = Run.of(
        ifca(sgd, groups=M, start=stack(STARTS), **SETTING),
        softmax_task(START),
        data(),
        SCRIPT.sampler(),
        Plan(),
    )
    state = run.start(KEY)
    chosen = []
    for client in range(N):
        x, y = window(run.data, client)
        losses = [oracle.loss(m, x, y, CLASSES) for m in STARTS]
        chosen.append(int(np.argmin(losses)))
        np.testing.assert_allclose(personal(run, state, client), STARTS[chosen[-1]], **CLOSE)
    assert len(set(chosen)) == M


def test_ifca_by_gradients(x64):
    recipe = ifca_gradient(sgd, lr=RATE, groups=M, start=stack(STARTS))
    run, state, _ = simulate(recipe, Plan())
    assert (SCRIPT.work[SCRIPT.present] > 0).all()
    full = [[c for c in r] for r in rounds_of(run.data, full=True)]
    want, told = oracle.ifca(STARTS, full, CLASSES, RATE, averaging="gradients")
    got = flat(state.algorithm.server.model.params)
    np.testing.assert_allclose(got, want, **CLOSE)
    assert len(set(last_groups(told).values())) == M


def test_hypcluster_begins_at_random_and_goes_on_by_losses(x64):
    recipe = hypcluster(sgd, groups=M, warmup=2, start=stack(STARTS), **SETTING)
    run, state, _ = simulate(recipe, Plan(2, 1))

    def drawn(r, client):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(KEY, r), client), 11)
        return int(jax.random.randint(key, (), 0, M, jnp.int32))

    forced = [{i: drawn(r, i) for i in range(N)} for r in range(2)]
    rounds = rounds_of(run.data)
    want, told = oracle.ifca(STARTS, rounds, CLASSES, RATE, weighting="examples", forced=forced)
    free, _ = oracle.ifca(STARTS, rounds, CLASSES, RATE, weighting="examples")
    assert np.abs(want - free).max() > 1e-3, "the random rounds changed nothing"
    np.testing.assert_allclose(flat(state.algorithm.server.model.params), want, **CLOSE)
    last = last_groups(told)
    np.testing.assert_array_equal(state.rows, [last.get(i, -1) for i in range(N)])


@pytest.mark.parametrize("edge_rounds", [4])
def test_hierfavg(x64, edge_rounds):
    """Six rounds: one meeting after four, two rounds apart after it."""
    edge_of = np.array([0, 1, 2, 1, 0, 2, 1, 0])
    run, state, _ = simulate(
        hierfavg(sgd, edges=3, edge_rounds=edge_rounds, ids=edge_of, **SETTING)
    )
    edges, weight = oracle.hierfavg(
        START, rounds_of(run.data), CLASSES, RATE, edge_of, 3, edge_rounds
    )
    np.testing.assert_allclose(flat(state.algorithm.server.edges.model.params), edges, **CLOSE)
    np.testing.assert_allclose(state.algorithm.server.weight, weight, **CLOSE)
    assert np.abs(edges[0] - edges[1]).max() > 1e-3
    cloud = weight @ edges / weight.sum()
    np.testing.assert_allclose(flat(run.model(state)), cloud, **CLOSE)


def test_grouped_with_late_clients_and_a_survey(x64):
    """Two rounds in common, groups, a survey in round 5; 16 numbers are their own sketch."""
    recipe = grouped(sgd, groups=M, warmup=2, every=3, sketch=32, separation=-1, **SETTING)
    run, state, records = simulate(recipe)
    models, ids, common, told = oracle.grouped(
        START, rounds_of(run.data), CLASSES, RATE, M, N, warmup=2, every=3
    )
    server = state.algorithm.server
    got = np.asarray(server.ids)
    names = oracle.same_names(got, ids, M)
    np.testing.assert_array_equal(names, ids)
    assert "common" in told[2].values() and set(told[2].values()) & {0, 1}
    assert set(told[4].values()) == {"common"}
    assert np.abs(models[0] - models[1]).max() > 1e-2
    for client in range(N):
        want = common if ids[client] < 0 else models[ids[client]]
        np.testing.assert_allclose(personal(run, state, client), want, **CLOSE)
    assert records["uplink_bytes_each"][0] == 8 * START.size


@pytest.mark.slow
def test_groups_that_are_not_apart_are_not_believed(x64, fedavg_end):
    """All stay in one group, late clients join it, and it goes on as FedAvg."""
    recipe = grouped(sgd, groups=M, warmup=2, sketch=32, separation=1.0, **SETTING)
    run, state, _ = simulate(recipe)
    server = state.algorithm.server
    assert bool(server.formed) and -1 < float(server.silhouette) < 1
    assert set(np.asarray(server.ids)) <= {-1, 0}
    late = np.setdiff1d(SCRIPT.ids[2:][SCRIPT.present[2:]], SCRIPT.ids[:2][SCRIPT.present[:2]])
    assert late.size and (np.asarray(server.ids)[late] == 0).all()
    model, _ = fedavg_end
    np.testing.assert_allclose(personal(run, state, 0), model, rtol=1e-12, atol=1e-13)


@pytest.fixture(scope="module")
def fedavg_end():
    with jax.enable_x64(True):
        run, state, records = simulate(fedavg(sgd, **SETTING), Plan())
        return flat(run.model(state)), records


ONE = {
    "ifca": lambda: ifca(sgd, groups=1, weighting="examples", **SETTING),
    "hypcluster": lambda: hypcluster(sgd, groups=1, warmup=2, **SETTING),
    "grouped": lambda: grouped(sgd, groups=1, sketch=16, **SETTING),
    "grouped given": lambda: grouped(sgd, groups=1, ids=np.zeros(N, int), **SETTING),
    "hierfavg": lambda: hierfavg(sgd, edges=3, edge_rounds=1, **SETTING),
}


@pytest.mark.parametrize("name", few(ONE, "hypcluster"))
def test_one_group_or_edges_that_always_meet_are_fedavg(x64, fedavg_end, name):
    model, records = fedavg_end
    run, state, got = simulate(ONE[name](), Plan())
    for client in (0, 5):
        np.testing.assert_allclose(personal(run, state, client), model, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got["train_loss"], records["train_loss"], rtol=1e-12)
    np.testing.assert_array_equal(got["uplink_bytes_each"], records["uplink_bytes_each"])
    if name != "hierfavg":  # whose clients' decreases are averaged edge by edge
        np.testing.assert_allclose(got["update_norm"], records["update_norm"], rtol=1e-12)


def test_given_groups_are_as_many_runs_of_fedavg_apart(x64):
    """Each group's model is FedAvg on its own clients, at its own rate."""
    from oracles.federated import fedavg as oracle_fedavg

    recipe = grouped(sgd, groups=M, ids=TRUTH, rates=[1.0, 0.5], **SETTING)
    run, state, _ = simulate(recipe, Plan(3, 1))
    for m, rate in ((0, 1.0), (1, 0.5)):
        theta = START
        for clients in rounds_of(run.data):
            own = [c for c in clients if TRUTH[c.id] == m]
            if own:
                theta = theta + rate * (oracle_fedavg(theta, [own], CLASSES, RATE)[0] - theta)
        got = flat(state.algorithm.server.model.params)[m]
        np.testing.assert_allclose(got, theta, **CLOSE)
        np.testing.assert_allclose(personal(run, state, int(np.argmax(m == TRUTH))), theta, **CLOSE)


def test_first_models_are_drawn_by_the_runs_key(x64):
    def begun(seed, start):
        run = Run.of(
            ifca(sgd, groups=3, start=start, spread=0.5, **SETTING),
            softmax_task(),
            data(),
            SCRIPT.sampler(),
            Plan(),
        )
        return flat(run.start(jax.random.key(seed)).algorithm.server.model.params)

    for start in ("fresh", "perturbed"):
        once, again, other = begun(0, start), begun(0, start), begun(1, start)
        np.testing.assert_array_equal(once, again)
        assert np.abs(once - other).min() > 1e-6
        distance = np.linalg.norm(once[:, None] - once[None], axis=-1)
        assert (distance[~np.eye(3, dtype=bool)] > 0.1).all()
    same = begun(0, "same")
    np.testing.assert_array_equal(same, np.broadcast_to(same[:1], same.shape))
    np.testing.assert_array_equal(begun(0, "fresh")[0], same[0])
    noise = (begun(0, "perturbed") - same)[1:]
    assert 0.3 < noise.std() < 0.7


REFUSED = {
    "groups": lambda: grouped(sgd, groups=0, **SETTING),
    "start": lambda: ifca(sgd, start="random", **SETTING),
    "warmup": lambda: grouped(sgd, warmup=0, **SETTING),
    "algorithm.warmup": lambda: hypcluster(sgd, warmup=-1, **SETTING),
    "edge_rounds": lambda: hierfavg(sgd, edge_rounds=0, **SETTING),
    "ids": lambda: hierfavg(sgd, edges=2, ids=[0, 1, 2], **SETTING),
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_be_is_refused_by_name(field):
    with pytest.raises(InputError) as caught:
        REFUSED[field]()
    assert caught.value.field == field


LATER = {
    "ids": lambda: hierfavg(sgd, edges=2, ids=[0, 1, 1], **SETTING),
    "groups": lambda: grouped(sgd, groups=N + 1, **SETTING),
    "rates": lambda: grouped(sgd, groups=2, rates=[1.0], **SETTING),
    "start": lambda: ifca(sgd, groups=3, start=Model({"w": np.zeros(3)}), **SETTING),
}


@pytest.mark.parametrize("field", LATER)
def test_what_does_not_fit_the_federation_is_refused_before_the_first_round(field):
    run = Run.of(LATER[field](), softmax_task(), softmax_data(SIZES), SCRIPT.sampler(), Plan())
    with pytest.raises(InputError) as caught:
        run.start(KEY)
    assert caught.value.field == field


def test_a_group_that_nobody_reported_to_stays_to_the_bit(x64):
    recipe = grouped(sgd, groups=2, ids=np.zeros(N, int), server=optax.adam(0.1), **SETTING)
    run = Run.of(recipe, softmax_task(START), data(), SCRIPT.sampler(), Plan())
    before = run.start(KEY)
    after, _ = run.compiled(3)(KEY, before, 3)
    one = lambda s, m: jax.tree.map(lambda v: v[m], s.algorithm.server)  # noqa: E731
    assert_trees_equal(one(after, 1), one(before, 1))
    assert np.abs(flat(one(after, 0).model.params) - START).max() > 1e-2
