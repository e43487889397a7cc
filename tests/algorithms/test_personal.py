"""Personal models: NumPy oracles on ragged clients, fixed points, and degenerate settings."""

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
    quadratic_task,
    quick_jit,
    script,
    shards,
    softmax_data,
    softmax_task,
    window,
)
from oracles import federated, personal
from oracles.federated import Client
from oracles.softmax import gradient

from fedjax_sim.algorithms import apfl, ditto, fine_tune, perfedavg, pfedme
from fedjax_sim.clients.kept import Kept, keep
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Context, Member, Model
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.plan import Plan
from fedjax_sim.sampling.uniform import uniform

SIZES = [7, 1, 12, 20, 5, 3, 16]  # partial batches under B = 4, one client below B
ROUNDS, RATE = 3, 0.3
KEY = jax.random.key(11)
START = np.random.default_rng(1).normal(size=DIM * CLASSES + CLASSES)
RULE = Batches(epochs=2, size=4, shuffle=False)
SETTING = {"lr": RATE, "epochs": 2, "batch_size": 4, "shuffle": False}
SCRIPT = script(ROUNDS, 4, len(SIZES), seed=3)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
SEEN = set(SCRIPT.ids[SCRIPT.present].tolist())
ABSENT = min(set(range(len(SIZES))) - SEEN)

A, B = np.array([1.0, 4.0]), np.array([0.0, 1.0])
FULL = {"batch_size": 1, "shuffle": False}  # one example a client: a batch is everything


def sgd(lr):
    return optax.sgd(lr)


def rounds_of(data, change=lambda rows, size: rows):
    """The oracle's view of the script: whoever is present, with its index lists."""
    rounds = []
    for r, members in enumerate(zip(*SCRIPT, strict=True)):
        rounds.append([])
        for i, here, work in zip(*members, strict=True):
            x, y = window(data, i)
            rows = orders(RULE, KEY, r, int(i), len(y), data.longest, work)
            if here:
                rounds[-1].append(Client(int(i), x, y, change(rows, len(y))))
    return rounds


class Trained:
    """A compiled program, to be run with other numbers."""

    def __init__(self, recipe):
        plan = Plan(2, 2)
        self.run = Run.of(recipe, softmax_task(START), softmax_data(SIZES), SCRIPT.sampler(), plan)
        self.program = self.run.compiled(ROUNDS)

    def __call__(self, **hyper):
        return self.program(KEY, self.run.start(KEY, hyper), ROUNDS)[0]

    def shared(self, state):
        return flat(self.run.model(state))

    def used(self, state, i, jit=lambda f: f):
        """The parameters that client `i` would use."""
        member = Member(jnp.int32(i), jnp.array(True), jnp.int32(0), jnp.ones(()))
        ctx, row = Context(KEY, jnp.int32(0), member), jax.tree.map(lambda v: v[i], state.rows)

        def of(state, row):
            data = self.run.data.client(jnp.int32(i))
            return self.run.algorithm.model_of(ctx, state, row, data)

        return flat(jit(of)(state.algorithm, row).params)


def test_the_script_has_newcomers_and_returners_and_one_who_never_comes():
    times = np.bincount(SCRIPT.ids[SCRIPT.present], minlength=len(SIZES))
    assert (times == 0).any() and (times > 1).any()
    assert SEEN - set(SCRIPT.ids[0][SCRIPT.present[0]].tolist())
    assert ((SCRIPT.work < 1) & SCRIPT.present).any()


def test_fine_tuning_goes_on_from_fedavg_on_the_own_examples(x64):
    made = Trained(fine_tune(sgd, tune_rate=0.2, tune_epochs=3, **SETTING))
    state = made()
    want = federated.fedavg(START, rounds_of(made.run.data), CLASSES, RATE)[-1]
    np.testing.assert_allclose(made.shared(state), want, **CLOSE)
    assert state.rows == ()
    i = 0  # 7 examples: a partial batch
    x, y = window(made.run.data, i)
    rows = orders(Batches(epochs=3, size=4, shuffle=False), KEY, 0, i, len(y), 20, 1.0)
    fitted = federated.local_sgd(want, Client(i, x, y, rows), CLASSES, 0.2)
    np.testing.assert_allclose(made.used(state, i, quick_jit), fitted, **CLOSE)
    assert np.abs(fitted - want).max() > 0.05


def test_ditto(x64):
    made = Trained(ditto(sgd, penalty=0.7, **SETTING))
    data = rounds_of(made.run.data)
    for penalty in (0.7, 0.0):
        state = made(penalty=penalty)
        path, own = personal.ditto(START, data, CLASSES, RATE, penalty=penalty)
        np.testing.assert_allclose(made.shared(state), path[-1], **CLOSE)
        for i, v in own.items():
            np.testing.assert_allclose(made.used(state, i), v, **CLOSE)
    np.testing.assert_array_equal(made.used(state, ABSENT), made.shared(state))
    assert set(np.flatnonzero(state.rows.rounds)) == SEEN
    # Nothing but FedAvg at the server; without a tie everyone trains alone.
    want = federated.fedavg(START, data, CLASSES, RATE)[-1]
    np.testing.assert_allclose(made.shared(state), want, **CLOSE)
    first = data[0][0].id
    mine = [c for clients in data for c in clients if c.id == first]
    alone = federated.continued_sgd(START, mine, CLASSES, RATE)[-1]
    np.testing.assert_allclose(made.used(state, first), alone, **CLOSE)


def test_pfedme(x64):
    made = Trained(pfedme(sgd, penalty=1.5, rate=0.4, server_rate=1.3, inner=3, **SETTING))
    state = made()
    numbers = {"inner_rate": RATE, "penalty": 1.5, "rate": 0.4, "beta": 1.3, "inner": 3}
    path, own = personal.pfedme(START, rounds_of(made.run.data), CLASSES, **numbers)
    np.testing.assert_allclose(made.shared(state), path[-1], **CLOSE)
    for i, theta in own.items():
        np.testing.assert_allclose(made.used(state, i), theta, **CLOSE)
    np.testing.assert_array_equal(made.used(state, ABSENT), made.shared(state))


def test_apfl(x64):
    made = Trained(apfl(sgd, alpha=0.4, alpha_rate=0.5, **SETTING))
    data = rounds_of(made.run.data)
    fedavg = federated.fedavg(START, data, CLASSES, RATE, weighting="uniform")[-1]
    settings = ((0.4, 20.0), (0.4, 0.5), (0.0, 0.0))  # the first overshoots 0 and 1
    for numbers in ({"alpha": a, "alpha_rate": r} for a, r in settings):
        state = made(**numbers)
        path, own = personal.apfl(START, data, CLASSES, RATE, **numbers)
        np.testing.assert_allclose(made.shared(state), path[-1], **CLOSE)
        np.testing.assert_allclose(path[-1], fedavg, rtol=1e-12)
        for i, (v, share) in own.items():
            np.testing.assert_allclose(state.rows.alpha[i], share, **CLOSE)
            mean = share * v + (1 - share) * path[-1]
            np.testing.assert_allclose(made.used(state, i), mean, **CLOSE)
        shares = {share for _, share in own.values()}
        if numbers["alpha"]:
            assert max(shares) - min(shares) > 0.05
            assert ({0.0, 1.0} <= shares) == (numbers["alpha_rate"] == 20.0)
            moved = state
    for i in SEEN:  # a share of 0 is the global model
        np.testing.assert_allclose(made.used(state, i), fedavg, **CLOSE)
    np.testing.assert_array_equal(made.used(moved, ABSENT), made.shared(moved))


def three(rows, size):
    """`(D, D', D'')` of each local step: 4 + 4 + 4 examples on from the last step's."""
    steps = np.arange(len(rows))[:, None, None] * 12 + np.arange(12).reshape(3, 4)
    return [tuple(of_step) for of_step in steps % size]


PER = {
    "exact": ({"hessian": "exact"}, three, True),
    "one batch": ({"draws": 1}, lambda rows, size: [(r, r, r) for r in rows], False),
}


@pytest.mark.parametrize("name", PER)
def test_perfedavg(x64, name):
    options, change, second_order = PER[name]
    made = Trained(perfedavg(sgd, adapt_rate=0.25, **options, **SETTING))
    state, data = made(), rounds_of(made.run.data, change)
    want = personal.perfedavg(
        START, data, CLASSES, RATE, adapt_rate=0.25, second_order=second_order
    )[-1]
    np.testing.assert_allclose(made.shared(state), want, **CLOSE)
    if name == "one batch":
        plain = rounds_of(made.run.data)
        fedavg = federated.fedavg(START, plain, CLASSES, RATE, weighting="uniform")[-1]
        np.testing.assert_allclose(made.shared(made(adapt_rate=0.0)), fedavg, **CLOSE)
        x, y = window(made.run.data, 3)
        adapted = want - 0.25 * gradient(want, x[:4], y[:4], CLASSES)
        np.testing.assert_allclose(made.used(state, 3, quick_jit), adapted, **CLOSE)


def test_the_oracles_hessian_is_the_derivative_of_its_gradient():
    rng = np.random.default_rng(0)
    x, y, v = rng.normal(size=(9, DIM)), rng.integers(0, CLASSES, 9), rng.normal(size=START.size)
    slopes = [gradient(START + s * 1e-5 * v, x, y, CLASSES) for s in (1, -1)]
    got = personal.hessian_times(START, v, x, CLASSES)
    np.testing.assert_allclose(got, (slopes[0] - slopes[1]) / 2e-5, atol=1e-9)


def toy(recipe, rounds):
    """`(x, states)` of the two quadratics, run from one program with several numbers."""
    data = shards(A[:, None], B[:, None], [1, 1])
    run = Run.of(recipe, quadratic_task(), data, uniform(2, 2), Plan())
    program = run.compiled(rounds)

    def at(**hyper):
        state = program(KEY, run.start(KEY, hyper), rounds)[0]
        return float(run.model(state)["x"][0]), state

    return at


MAML = {"none": 0.727272727, "exact": 0.64, "difference": 0.64}


@pytest.mark.parametrize("hessian", MAML)
def test_perfedavg_stops_where_one_step_is_best(x64, hessian):
    weight = A * (1 - 0.1 * A) ** (1 if hessian == "none" else 2)
    point = np.sum(weight * B) / np.sum(weight)
    assert abs(point - MAML[hessian]) < 1e-9
    at = toy(perfedavg(sgd, lr=0.3, adapt_rate=0.1, hessian=hessian, steps=1, **FULL), 120)
    assert abs(at()[0] - point) < 1e-11


MOREAU = {0.1: 0.517647059, 1.0: 0.615384615, 10.0: 0.758620690}


def test_pfedme_stops_at_the_proximal_average_with_its_personal_models_around_it(x64):
    """Enough inner steps to solve each problem to 1e-12; three lambda, one program."""
    at = toy(pfedme(sgd, lr=0.07, inner=400, steps=1, penalty=1.0, rate=1.0, **FULL), 150)
    for penalty, printed in MOREAU.items():
        point = np.sum(A * B / (A + penalty)) / np.sum(A / (A + penalty))
        assert abs(point - printed) < 1e-9
        x, state = at(penalty=penalty, rate=1 / penalty)
        assert abs(x - point) < 1e-11, f"lambda = {penalty}"
        theta = (A * B + penalty * point) / (A + penalty)
        np.testing.assert_allclose(state.rows.model.params["x"][:, 0], theta, atol=1e-11)
        if penalty == 1.0:
            np.testing.assert_allclose(theta, [0.307692, 0.923077], atol=1e-6)


def test_pfedme_of_one_inner_step_is_fedavg_where_w_goes_all_the_way(x64):
    at = toy(pfedme(sgd, lr=0.1, inner=1, steps=1, penalty=2.0, rate=0.5, **FULL), 5)
    x = 0.0
    for _ in range(5):
        x = np.mean(x - 0.1 * A * (x - B))
    assert abs(at()[0] - x) < 1e-14


def test_ditto_stops_between_the_own_optimum_and_the_global_model(x64):
    """`v_i = (a b + lambda w) / (a + lambda)`, w the fixed point of FedAvg with two local steps."""
    at = toy(ditto(sgd, lr=0.1, penalty=1.0, steps=2, **FULL), 400)
    for penalty in (0.0, 1.0, 5.0):
        x, state = at(penalty=penalty)
        assert abs(x - 0.771084337) < 1e-9
        v = (A * B + penalty * x) / (A + penalty)
        np.testing.assert_allclose(state.rows.model.params["x"][:, 0], v, atol=1e-11)


def test_a_row_stays_as_it_is_where_no_step_was_done():
    row = Kept(Model({"x": jnp.ones(2)}), jnp.int32(3))
    broken = Model({"x": jnp.full(2, jnp.nan)})
    assert_trees_equal(keep(row, broken, jnp.int32(0)), row)
    after = keep(row, Model({"x": jnp.zeros(2)}), jnp.int32(1))
    assert_trees_equal(after, Kept(Model({"x": jnp.zeros(2)}), jnp.int32(4)))


def test_what_cannot_be_is_refused():
    for build, field in (
        (lambda: fine_tune(sgd, lr=0.1, tune_epochs=0), "tune_epochs"),
        (lambda: ditto(sgd, lr=0.1, penalty=-1.0), "penalty"),
        (lambda: pfedme(sgd, lr=0.1, inner=0), "inner"),
        (lambda: pfedme(sgd, lr=0.1, rate=0.0), "rate"),
        (lambda: apfl(sgd, lr=0.1, alpha=1.5), "alpha"),
        (lambda: perfedavg(sgd, lr=0.1, hessian="half"), "hessian"),
        (lambda: perfedavg(sgd, lr=0.1, draws=4), "draws"),
    ):
        with pytest.raises(InputError, match=field):
            build()
