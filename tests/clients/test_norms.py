"""Batch-norm policies: NumPy loops, degenerate equalities, layouts, pooled statistics, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contracts.table import told
from flax import linen
from helpers import Run, assert_trees_close, cohort_of, quick_jit, script, shards
from oracles import norms as oracle
from sparing import few

from fedjax_sim import tasks
from fedjax_sim.algorithms.baselines import local_only
from fedjax_sim.algorithms.batch_norm import batch_norm, recalibrate
from fedjax_sim.algorithms.fedavg import fedadam, fedavg, fedavgm
from fedjax_sim.algorithms.fedprox import fedprox
from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.algorithms.median import median
from fedjax_sim.algorithms.scaffold import scaffold
from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Context, Member, Model
from fedjax_sim.engine.mesh import make_mesh, place, replicated
from fedjax_sim.engine.plan import Plan
from fedjax_sim.tasks import models, norms

SIZES = (6, 3, 7, 4, 5)
N, DIM, KEEP, RATE = len(SIZES), 4, 0.7, 0.3
KEY = jax.random.key(1)
LOCAL = {"epochs": 2, "batch_size": 3, "shuffle": False}


def sgd(lr):
    return optax.sgd(lr)


def data(sizes=SIZES, seed=0):
    """Clients with labels and features of their own kind."""
    draw, owner = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    x = draw.normal(size=(len(owner), DIM)) * (1 + owner[:, None] % 3) + np.sin(owner)[:, None]
    return shards(x, ((draw.integers(0, 2, len(owner)) + owner) % 3).astype(np.int32), sizes)


def task_of(*widths, norm="batch", momentum=KEEP):
    model = models.mlp(*widths, norm=norm, norm_momentum=momentum if norm == "batch" else None)
    return tasks.classifier(model, 3, x_shape=(DIM,), dtype=jnp.float64)


def run_of(recipe, *, cohort=N, plan=Plan(2, 2), task=None, given=None):  # noqa: B008
    given = data() if given is None else given
    return Run.of(recipe, task or task_of(4, 6), given, told(cohort, given.n_clients), plan)


def window(client):
    start = sum(SIZES[:client])
    given = data()
    return tuple(np.asarray(v)[start : start + SIZES[client]] for v in (given.x, given.y))


def batches(client):
    x, y = window(client)
    return 2 * [(x[i : i + 3], y[i : i + 3]) for i in range(0, len(y), 3)]


def numbers(value):
    return jax.tree.map(lambda v: np.asarray(v, float), value)


def model_of(run, state):
    return run.algorithm.global_model(state.algorithm)


def norm_part(params, state):
    return {n: {**params[n], **state[n]} for n in state}


@pytest.mark.parametrize("mu", few([0.0, 0.4], 0.4))
def test_local_norms_equal_a_numpy_loop(x64, mu):
    """FedBN, and FedProx under it, over three rounds of two clients each, one absent once."""
    base = fedprox(sgd, lr=RATE, mu=mu, **LOCAL) if mu else fedavg(sgd, lr=RATE, **LOCAL)
    ids, present = [[0, 1, 2], [1, 3, 0], [4, 1, 2]], [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    plan = script(3, 3, N)._replace(ids=np.array(ids), present=np.array(present, bool))
    plan = plan._replace(work=np.ones((3, 3)))
    run = Run.of(batch_norm(base, "local"), task_of(4, 6), data(), plan.sampler(), Plan(2, 2))
    first = run.start(KEY)
    state, _ = run.compiled(3)(KEY, first, 3)
    p, s = numbers(model_of(run, first).params), numbers(model_of(run, first).state)
    own = {}
    for who, here in zip(ids, present, strict=True):
        who = [c for c, there in zip(who, here, strict=True) if there]
        after = []
        for c in who:
            ps, ss = own.get(c, (p, s))
            mine = {n: ps[n] if n.startswith("norm") else p[n] for n in p}
            after.append(oracle.train(mine, ss, batches(c), rate=RATE, momentum=KEEP, mu=mu))
        own |= dict(zip(who, after, strict=True))
        weights = [SIZES[c] for c in who]
        p, s = (oracle.averaged([a[i] for a in after], weights) for i in (0, 1))
    assert_trees_close(model_of(run, state), Model(p, s), rtol=1e-8, atol=1e-11)
    np.testing.assert_array_equal(state.rows.begun, [True] * N)
    for c in range(N):
        ctx = Context(KEY, jnp.int32(3), cohort_member(c))
        mine = run.algorithm.model_of(ctx, state.algorithm, tree.take(state.rows, c), None)
        shared = {n: p[n] for n in p if not n.startswith("norm")}
        assert_trees_close({n: mine.params[n] for n in shared}, shared, rtol=1e-8, atol=1e-11)
        wanted = norm_part(*own[c])
        assert_trees_close(norm_part(mine.params, mine.state), wanted, rtol=1e-8, atol=1e-11)


def cohort_member(client):
    return Member(*(v[0] for v in cohort_of([client]).members))


@pytest.mark.slow
def test_a_client_that_never_trained_has_the_servers_norms(x64):
    run = run_of(batch_norm(fedavg(sgd, lr=RATE, **LOCAL), "local"), cohort=2)
    state, _ = run.simulate(KEY, 2)
    np.testing.assert_array_equal(state.rows.begun, [1, 1, 0, 0, 0])
    for client, same in ((0, False), (3, True)):
        row = tree.take(state.rows, client)
        ctx = Context(KEY, jnp.int32(2), cohort_member(client))
        mine = run.algorithm.model_of(ctx, state.algorithm, row, None)
        pairs = zip(*map(jax.tree.leaves, (mine, model_of(run, state))), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs) == same


FREEZING = [(0, False), (0, True), (1, False), (1, True)]


@pytest.mark.parametrize(("after", "affine"), few(FREEZING, FREEZING[3], several=True))
def test_frozen_norms_equal_a_numpy_loop(x64, after, affine):
    recipe = batch_norm(fedavg(sgd, lr=RATE, **LOCAL), "frozen", after=after, affine=affine)
    run = run_of(recipe)
    first = run.start(KEY)
    state, _ = run.compiled(3)(KEY, first, 3)
    p, s = numbers(model_of(run, first).params), numbers(model_of(run, first).state)
    for r in range(3):
        late = {"frozen": r >= after, "affine": not (affine and r >= after)}
        done = [oracle.train(p, s, batches(c), rate=RATE, momentum=KEEP, **late) for c in range(N)]
        p, s = (oracle.averaged([d[i] for d in done], list(SIZES)) for i in (0, 1))
    assert_trees_close(model_of(run, state), Model(p, s), rtol=1e-8, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("policy", few(["local", "recalibrated"], "local"))
def test_policies_are_averaging_where_all_clients_are_alike(x64, policy):
    """One client's data five times over, full batches: nothing tells the clients apart."""
    x, y = window(2)
    alike = shards(np.tile(x, (N, 1)), np.tile(y, N), [len(y)] * N)
    base = fedavg(sgd, lr=RATE, steps=2, batch_size=None)
    usual = run_of(base, given=alike)
    wanted = model_of(usual, usual.simulate(KEY, 3)[0])
    rounds = 5 if policy == "recalibrated" else 3
    run = run_of(batch_norm(base, policy, rounds=rounds), given=alike)
    got = model_of(run, run.simulate(KEY, rounds)[0])
    assert_trees_close(got.params, wanted.params, rtol=1e-9, atol=1e-12)
    if policy == "local":
        assert_trees_close(got.state, wanted.state, rtol=1e-9, atol=1e-12)
    else:
        exact = oracle.pooled(numbers(wanted.params), numbers(wanted.state), x)
        assert_trees_close(got.state, exact, rtol=1e-8, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("build", few([fedavg, fedavgm, fedadam, scaffold], scaffold))
def test_recalibrated_statistics_are_those_of_the_pooled_examples(x64, build):
    """Params, momentum and rows are those before calibration; the statistics are exact."""
    base = build(sgd, lr=RATE, **LOCAL)
    usual, run = run_of(base), run_of(batch_norm(base, "recalibrated", rounds=4))
    before, _ = usual.simulate(KEY, 2)
    after, records = run.simulate(KEY, 4)
    model = model_of(run, after)
    exact = oracle.pooled(
        numbers(model.params), numbers(model_of(usual, before).state), np.asarray(data().x)
    )
    assert_trees_close(model.state, exact, rtol=1e-9, atol=1e-11)
    held = (after.algorithm.server.base, before.algorithm.server)
    assert_trees_close(*map(_without_statistics, held), rtol=1e-12, atol=1e-14)
    assert_trees_close(after.rows, before.rows, rtol=1e-12, atol=1e-14)
    # The loss recorded while calibrating is that of evaluation.
    steps = np.asarray(records["client_steps"])
    assert steps[2] == steps[3] == N and np.all(np.isfinite(records["train_loss"]))


def _without_statistics(state):
    is_model = lambda node: isinstance(node, Model)  # noqa: E731
    return jax.tree.map(
        lambda node: node.params if is_model(node) else node, state, is_leaf=is_model
    )


def test_calibration_every_few_rounds_trains_in_the_others(x64):
    recipe = batch_norm(fedavg(sgd, lr=RATE, **LOCAL), "recalibrated", rounds=9, every=4)
    _, records = run_of(recipe).simulate(KEY, 9)
    measured = np.asarray(records["client_steps"]) == N
    np.testing.assert_array_equal(measured, [0, 0, 1, 1, 0, 0, 1, 1, 1])


@pytest.mark.parametrize(("lanes", "devices"), few([(1, 1), (3, 2), (8, 8)], (3, 2), several=True))
def test_recalibrate_over_everyone_is_exact(x64, lanes, devices):
    task, plan = task_of(4, 6), Plan(lanes, devices)
    model = task.init(KEY)
    mesh = make_mesh(devices)
    run = quick_jit(
        recalibrate(task, place(data(), mesh), plan=plan, mesh=mesh), out_shardings=replicated(mesh)
    )
    got = run(place(model, mesh))
    exact = oracle.pooled(numbers(model.params), numbers(model.state), np.asarray(data().x))
    assert_trees_close(got, Model(model.params, exact), rtol=1e-9, atol=1e-11)


class Linen(linen.Module):
    """One batch norm."""

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(not train, momentum=0.8, name="calm")(linen.Dense(4)(x))
        return linen.Dense(3)(linen.relu(x))


def test_a_flax_models_first_norm_is_recalibrated_exactly(x64):
    """Equal clients: padding rows repeat examples, and this module takes no mask."""
    task = tasks.classifier(Linen(), 3, x_shape=(DIM,), dtype=jnp.float64)
    model, given = task.init(KEY), data([5] * N)
    got = quick_jit(recalibrate(task, given, plan=Plan(), mesh=make_mesh(1)))(model)
    dense = numbers(model.params["Dense_0"])
    hidden = np.asarray(given.x) @ dense["kernel"] + dense["bias"]
    at = norms.find(got)
    np.testing.assert_allclose(norms.pick(got, at.means)[0], hidden.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norms.pick(got, at.variances)[0], hidden.var(0), rtol=1e-5)


POLICIES = {
    "average": {},
    "local": {},
    "frozen": {"after": 2},
    "recalibrated": {"rounds": 5, "every": 3},
}


LAYOUTS = [(policy, *plan) for policy in POLICIES for plan in ((4, 2), (16, 8))]


@pytest.mark.parametrize(
    ("policy", "lanes", "devices"),
    few(LAYOUTS, ("recalibrated", 4, 2), several=True),
)
def test_the_layout_changes_nothing(x64, policy, lanes, devices):
    """Ragged cohorts with absent and partial members."""
    recipe = batch_norm(fedadam(sgd, lr=RATE, **LOCAL), policy, **POLICIES[policy])
    sampler = script(5, 4, N, seed=3).sampler()

    def learned(plan):
        run = Run.of(recipe, task_of(4, 6), data(), sampler, plan)
        state, records = run.simulate(KEY, 5)
        kept = {n: v for n, v in records.items() if "lane" not in n}
        return state.algorithm.server, state.rows, kept

    assert_trees_close(learned(Plan(lanes, devices)), learned(Plan()), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("policy", few(POLICIES, "local", "recalibrated"))
def test_an_empty_cohort_changes_nothing(x64, policy):
    recipe = batch_norm(fedavgm(sgd, lr=RATE, **LOCAL), policy, **POLICIES[policy])
    nobody = script(5, 4, N)._replace(present=np.zeros((5, 4), bool))
    run = Run.of(recipe, task_of(4, 6), data(), nobody.sampler(), Plan(2, 2))
    first = run.start(KEY)
    state, _ = run.compiled(5)(KEY, first, 5)
    jax.tree.map(np.testing.assert_array_equal, model_of(run, state), model_of(run, first))
    jax.tree.map(np.testing.assert_array_equal, state.rows, first.rows)


@pytest.mark.slow
def test_a_convolutional_model_is_lowered_without_a_difference():
    """Training, then calibration, in one program: stock operations or rewritten ones."""
    draw = np.random.default_rng(5)
    x, y = draw.normal(size=(12, 8, 8, 1)).astype(np.float32), draw.integers(0, 3, 12)
    task = tasks.classifier(models.cnn_w1(norm="batch"), 3, x_shape=(8, 8, 1))
    base = fedavg(sgd, lr=0.05, epochs=1, batch_size=4, shuffle=False)
    recipe = batch_norm(base, "recalibrated", rounds=4)

    def after(lowering):
        plan = Plan(2, 1, lowering=lowering)
        run = run_of(recipe, cohort=3, plan=plan, task=task, given=shards(x, y, (6, 4, 2)))
        return model_of(run, run.simulate(KEY, 4)[0])

    assert_trees_close(after(True), after(False), rtol=2e-3, atol=2e-4)


BASE = fedavg(sgd, lr=RATE, **LOCAL)
REFUSED = [
    (lambda: batch_norm(BASE, "avrage"), "must be one of"),
    (lambda: batch_norm(BASE, "recalibrated"), "is needed"),
    (lambda: batch_norm(local_only(sgd, lr=RATE), "local").build(lr=RATE), "personal models"),
    (lambda: batch_norm(local_only(sgd, lr=RATE), "recalibrated", rounds=9).build(lr=RATE), "one"),
]
REFUSED_LATER = [
    (batch_norm(fedsgd(sgd, lr=RATE), "local"), {}, "train one plain model"),
    (batch_norm(scaffold(sgd, lr=RATE), "local"), {}, "train one plain model"),
    (batch_norm(median(sgd, lr=RATE), "recalibrated", rounds=9), {}, "weighted mean"),
    (batch_norm(BASE, "recalibrated", rounds=2), {}, "2 rounds calibrate"),
    (batch_norm(BASE, "recalibrated", rounds=9, every=2), {}, "2 rounds calibrate"),
    (batch_norm(BASE, "local"), {"norm": "group"}, "batch norm"),
    (batch_norm(BASE, "frozen"), {"norm": "none"}, "batch norm"),
    (batch_norm(BASE, "recalibrated", rounds=9), {"norm": "layer"}, "batch norm"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_what_no_policy_suits_is_refused_at_once(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize(("recipe", "model", "words"), REFUSED_LATER)
def test_what_a_policy_does_not_suit_is_refused_when_traced(x64, recipe, model, words):
    widths = (8, 8) if model else (4, 6)
    run = run_of(recipe, task=task_of(*widths, **model))

    def trace():
        state = run.start(KEY)
        return run.compiled(1).__wrapped__(KEY, state, 1, run.data)

    with pytest.raises(InputError, match=words):
        jax.eval_shape(trace)
