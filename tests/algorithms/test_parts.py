"""Models in two parts against NumPy: ragged clients, absent and partial members, what travels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    CLASSES,
    DIM,
    Run,
    assert_trees_close,
    cohort_of,
    flat,
    orders,
    script,
    shards,
    softmax_data,
    softmax_task,
    window,
)
from oracles import norms as norms_oracle
from oracles import parts as oracle
from oracles.federated import Client, continued_sgd
from oracles.federated import fedavg as fedavg_oracle

from fedjax_sim import tasks
from fedjax_sim.algorithms.batch_norm import batch_norm
from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.algorithms.fedbabu import fedbabu
from fedjax_sim.algorithms.fedbn import fedbn
from fedjax_sim.algorithms.fedper import fedper
from fedjax_sim.algorithms.fedrep import fedrep
from fedjax_sim.algorithms.fedrod import fedrod
from fedjax_sim.algorithms.lg_fedavg import lg_fedavg
from fedjax_sim.core import parts, tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Context, Member
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.plan import Plan
from fedjax_sim.tasks import models
from fedjax_sim.transforms.parts import hold

SIZES = [7, 1, 12, 20, 5, 3, 16]  # partial batches under B = 4, one client below B
N, ROUNDS, RATE, DECAY = len(SIZES), 4, 0.3, 0.5
KEY = jax.random.key(11)
START = np.random.default_rng(1).normal(size=DIM * CLASSES + CLASSES)
BIAS = np.arange(START.size) >= DIM * CLASSES  # the part `b`
RULE = Batches(epochs=2, size=4, shuffle=False)
LOCAL = {"lr": RATE, "epochs": 2, "batch_size": 4, "shuffle": False}
SCRIPT = script(ROUNDS, 4, N, seed=3)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def sgd(lr):
    return optax.sgd(lr)


def heavy(lr, decay):
    return optax.sgd(lr, momentum=decay)


def rounds_of(data, rule=RULE):
    """The oracle's view of the script: whoever is present, with its index lists."""
    rounds = []
    for r in range(ROUNDS):
        chosen = zip(*(v[r] for v in SCRIPT), strict=True)
        here = [(int(i), share) for i, present, share in chosen if present]
        rounds.append(
            [
                Client(i, *window(data, i), orders(rule, KEY, r, i, SIZES[i], data.longest, share))
                for i, share in here
            ]
        )
    return rounds


def simulate(recipe, plan):
    run = Run.of(recipe, softmax_task(START), softmax_data(SIZES), SCRIPT.sampler(), plan)
    return run, *run.simulate(KEY, ROUNDS)


def model_of(run, state, client):
    member = Member(*(v[0] for v in cohort_of([client]).members))
    ctx = Context(KEY, jnp.int32(ROUNDS), member)
    data = run.data.client(jnp.int32(client))
    return run.algorithm.model_of(ctx, state.algorithm, tree.take(state.rows, client), data)


def hold_to(run, state, theta, kept, name):
    """The shared part, every client's model, and a row of the personal part alone."""
    shared = state.algorithm.server.model.params
    assert shared[name] is None
    (other,) = {"w", "b"} - {name}
    wanted = {"w": theta[~BIAS].reshape(DIM, CLASSES), "b": theta[BIAS]}
    np.testing.assert_allclose(shared[other], wanted[other], **CLOSE)
    for client in range(N):
        np.testing.assert_allclose(flat(model_of(run, state, client).params), kept[client], **CLOSE)
    leaves = jax.tree.leaves(state.rows)
    assert [v.shape for v in leaves] == [(N, *wanted[name].shape)]


@pytest.mark.parametrize(("build", "name"), [(fedper, "b"), (lg_fedavg, "w")])
def test_fedper_and_lg_fedavg_are_each_others_complement(x64, build, name):
    plan = Plan(2, 2) if build is fedper else Plan()
    run, state, records = simulate(build(sgd, personal=f"re:^{name}$", **LOCAL), plan)
    own = BIAS if name == "b" else ~BIAS
    want = oracle.fedper(START, rounds_of(run.data), CLASSES, RATE, own, N)
    hold_to(run, state, *want, name)
    travels = 8 * int(np.sum(~own))
    np.testing.assert_array_equal(records["uplink_bytes_each"], travels)
    np.testing.assert_array_equal(records["downlink_bytes_each"], travels)


def test_fedper_that_keeps_everything_is_everyone_alone(x64):
    run, state, records = simulate(fedper(sgd, personal="all", **LOCAL), Plan())
    data = rounds_of(run.data)
    for i in range(N):
        mine = [c for clients in data for c in clients if c.id == i]
        want = continued_sgd(START, mine, CLASSES, RATE)
        got = flat(model_of(run, state, i).params)
        np.testing.assert_allclose(got, want[-1] if want else START, **CLOSE)
    np.testing.assert_array_equal(records["uplink_bytes_each"], 0)


@pytest.mark.slow
def test_fedrep_with_clients_too_small_for_a_batch(x64):
    """`drop` leaves clients below B without a step: they report nothing new and keep their head."""
    setting = LOCAL | {"epochs": 1, "last": "drop"}
    recipe = fedrep(heavy, personal="re:^b$", head_epochs=3, decay=DECAY, **setting)
    run, state, _ = simulate(recipe, Plan(2, 2))
    rule = dataclasses.replace(RULE, epochs=1, last="drop")
    rounds = rounds_of(run.data, rule)
    longer = rounds_of(run.data, dataclasses.replace(rule, epochs=3))
    firsts = [[c.batches for c in clients] for clients in longer]
    assert any(not c.batches for clients in rounds for c in clients)
    want = oracle.fedrep(START, rounds, firsts, CLASSES, RATE, BIAS, N, DECAY)
    hold_to(run, state, *want, "b")


def test_fedbabu_never_moves_the_head_and_tunes_everything(x64):
    """Neither do decaying weights at the server."""
    decaying = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(1.0))
    tuning = {"tune_epochs": 2, "tune_scale": 0.6}
    recipe = fedbabu(heavy, personal="re:^b$", decay=DECAY, server=decaying, **tuning, **LOCAL)
    run, state, _ = simulate(recipe, Plan(2, 1))
    want = oracle.fedbabu(START, rounds_of(run.data), CLASSES, RATE, BIAS, DECAY, 0.1)
    got = run.model(state)
    np.testing.assert_allclose(flat(got), want, **CLOSE)
    np.testing.assert_array_equal(got["b"], START[BIAS])
    for client in (1, 3):
        x, y = window(run.data, client)
        rows = orders(RULE, KEY, ROUNDS, client, len(y), run.data.longest, 1.0)
        mine = Client(client, x, y, rows)
        tuned = oracle.train(want, mine, rows, CLASSES, 0.6 * RATE, np.ones_like(want), DECAY)
        np.testing.assert_allclose(flat(model_of(run, state, client).params), tuned, **CLOSE)


def test_fedrod_with_labels_that_clients_lack(x64):
    """The own head in its row; the prediction is the sum of two models' logits."""
    run, state, records = simulate(fedrod(sgd, personal="re:^b$", **LOCAL), Plan(2, 2))
    rounds = rounds_of(run.data)
    lacking = [len(set(c.y)) < CLASSES for clients in rounds for c in clients]
    assert all(lacking)
    theta, heads = oracle.fedrod(START, rounds, CLASSES, RATE, BIAS, N)
    np.testing.assert_allclose(flat(run.model(state)), theta, **CLOSE)
    (own,) = jax.tree.leaves(state.rows)
    np.testing.assert_allclose(own, heads, **CLOSE)
    x, _ = window(run.data, 3)
    w, b = theta[~BIAS].reshape(DIM, CLASSES), theta[BIAS]
    logits = run.algorithm.predict(model_of(run, state, 3), jnp.asarray(x))
    np.testing.assert_allclose(logits, 2 * (x @ w) + b + heads[3], **CLOSE)
    np.testing.assert_allclose(
        run.algorithm.predict(run.algorithm.global_model(state.algorithm), x), x @ w + b, **CLOSE
    )
    np.testing.assert_array_equal(records["uplink_bytes_each"], 8 * START.size)


def test_fedrod_on_equally_frequent_labels_trains_fedavgs_model(x64):
    draw = np.random.default_rng(2)
    x, y = draw.normal(size=(24, DIM)), np.tile(np.arange(CLASSES), 6).astype(np.int32)
    data = shards(x, y, (8, 12, 4))
    clients = []
    for i, size in enumerate((8, 12, 4)):
        rows = orders(RULE, KEY, 0, i, size, 12, 1.0)
        clients.append(Client(i, *window(data, i), rows))
    table = script(1, 3, 3, ragged=False)._replace(ids=np.arange(3)[None])
    recipe = fedrod(sgd, personal="re:^b$", **LOCAL)
    run = Run.of(recipe, softmax_task(START), data, table.sampler(), Plan())
    state, _ = run.simulate(KEY, 1)
    want = fedavg_oracle(START, [clients], CLASSES, RATE)[-1]
    np.testing.assert_allclose(flat(run.model(state)), want, **CLOSE)


def test_decay_of_weights_does_not_reach_what_is_held():
    params = {"dense_0": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(3)}}
    opt = optax.chain(optax.adamw(0.1, weight_decay=0.5), hold(parts.masked("head")))
    updates, _ = opt.update(params, opt.init(params), params)
    assert np.all(np.asarray(updates["head"]["w"]) == 0)
    assert np.all(np.asarray(updates["dense_0"]["w"]) < 0)


# Batch norm: 3 clients, one hidden layer, against `oracles.norms`.
BN_SIZES, BN_DIM, KEEP = (6, 3, 7), 4, 0.7
BN_LOCAL = {"lr": RATE, "epochs": 1, "batch_size": 3, "shuffle": False}


def bn_data():
    draw, owner = np.random.default_rng(0), np.repeat(np.arange(3), BN_SIZES)
    x = draw.normal(size=(len(owner), BN_DIM)) * (1 + owner[:, None]) + np.sin(owner)[:, None]
    return shards(x, ((draw.integers(0, 2, len(owner)) + owner) % 3).astype(np.int32), BN_SIZES)


def bn_run(recipe, present, norm="batch"):
    momentum = KEEP if norm == "batch" else None
    network = models.mlp(8, norm=norm, norm_momentum=momentum)
    task = tasks.classifier(network, 3, x_shape=(BN_DIM,), dtype=jnp.float64)
    table = script(len(present), 3, 3, ragged=False)
    table = table._replace(ids=np.tile(np.arange(3), (len(present), 1)), present=present)
    return Run.of(recipe, task, bn_data(), table.sampler(), Plan(2, 1))


def bn_batches(client):
    x, y = window(bn_data(), client)
    return [(x[i : i + 3], y[i : i + 3]) for i in range(0, len(y), 3)]


def test_fedbn_equals_a_numpy_loop_and_the_policy_where_all_take_part(x64):
    """The second client is absent at first: it begins with the first norms, not the others'."""
    present = np.array([[1, 0, 1], [1, 1, 1]], bool)
    run = bn_run(fedbn(sgd, **BN_LOCAL), present)
    first = run.start(KEY)
    task = run.task.init(KEY)
    p, s = (jax.tree.map(np.asarray, v) for v in task)
    own = {i: ({"norm_0": p["norm_0"]}, s) for i in range(3)}
    state, records = run.compiled(2)(KEY, first, 2)
    for here in present:
        who, after = np.flatnonzero(here), []
        for c in who:
            mine = p | own[c][0]
            after.append(
                norms_oracle.train(mine, own[c][1], bn_batches(c), rate=RATE, momentum=KEEP)
            )
            own[c] = ({"norm_0": after[-1][0]["norm_0"]}, after[-1][1])
        weights = [BN_SIZES[c] for c in who]
        p = norms_oracle.averaged([a[0] for a in after], weights)
    for c in range(3):
        mine = model_of(run, state, c)
        assert_trees_close(mine.params, p | own[c][0], **CLOSE)
        assert_trees_close(mine.state, own[c][1], **CLOSE)
    sent = 8 * sum(v.size for n in ("dense_0", "head") for v in p[n].values())
    np.testing.assert_array_equal(records["uplink_bytes_each"], sent)
    np.testing.assert_array_equal(records["downlink_bytes_each"], sent)


@pytest.mark.slow
def test_fedbn_is_the_policy_local_where_all_take_part(x64):
    present = np.ones((3, 3), bool)
    runs = [
        bn_run(recipe, present)
        for recipe in (fedbn(sgd, **BN_LOCAL), batch_norm(fedavg(sgd, **BN_LOCAL), "local"))
    ]
    ends = [run.simulate(KEY, 3)[0] for run in runs]
    for c in range(3):
        assert_trees_close(*(model_of(*pair, c) for pair in zip(runs, ends, strict=True)), **CLOSE)


def test_fedbn_keeps_scale_and_bias_of_group_norms_and_refuses_a_model_without_norms(x64):
    run = bn_run(fedbn(sgd, **BN_LOCAL), np.ones((1, 3), bool), norm="group")
    rows = jax.eval_shape(lambda: run.start(KEY)).rows
    assert [v.shape for v in jax.tree.leaves(rows)] == [(3, 8), (3, 8)]
    with pytest.raises(InputError, match=r'fedbn.*model.norm = "batch"'):
        bn_run(fedbn(sgd, **BN_LOCAL), np.ones((1, 3), bool), norm="none").start(KEY)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="head_epochs"):
        fedrep(sgd, head_epochs=0, **LOCAL)
    with pytest.raises(InputError, match="tune_epochs"):
        fedbabu(sgd, tune_epochs=-1, **LOCAL)
    with pytest.raises(InputError, match=r"algorithm.personal.*re:PATTERN.*b, w"):
        run = Run.of(
            fedper(sgd, **LOCAL), softmax_task(), softmax_data(SIZES), SCRIPT.sampler(), Plan()
        )
        run.start(KEY)


def test_the_entries_know_the_words_of_the_rules():
    from fedjax_sim.algorithms.entries.parts import ENTRIES

    for entry in ENTRIES.values():
        assert entry.params["personal"].choices == parts.WORDS
