"""Rates of descent with momentum on quadratics, and exit times from a saddle, as published.

`optax.sgd(a, momentum=b)` is the heavy ball, `x+ = x - a g(x) + b (x - x_before)`.
`optax.sgd(a, momentum=b, nesterov=True)` is Nesterov's method, `y+ = x - a g(x)`,
`x+ = y+ + b (y+ - y)`: the parameters are its extrapolated points x, at which gradients are
taken, and the first step is `a (1 + b) g`.

All runs go through the engine: two clients that disagree about the curvature and whose mean is
the quadratic. Its optimum is 0, where floats are relatively exact down to 1e-308.
"""

import jax
import numpy as np
import optax
import pytest
from helpers import Run, shards
from sparing import few

from fedjax_sim import tasks
from fedjax_sim.algorithms import centralized, fedavg, fedavgm, fedsgd, local_only
from fedjax_sim.engine.plan import Plan
from fedjax_sim.sampling.uniform import uniform

KEY = jax.random.key(0)
KAPPA = (10, 100, 1000)
PUBLISHED = {
    "gd": (0.818182, 0.980198, 0.998002),
    "heavy ball": (0.519494, 0.818182, 0.938693),
    "nesterov": (0.683772, 0.9, 0.968377),
}
BETA = {
    "gd": (0, 0, 0),
    "heavy ball": (0.269874, 0.669421, 0.881145),
    "nesterov": (0.519494, 0.818182, 0.938693),
}


def setting(method, kappa):
    """`(rate, momentum)` for curvatures between 1 and kappa."""
    root = np.sqrt(kappa)
    if method == "gd":
        return 2 / (kappa + 1), 0.0
    if method == "heavy ball":
        return 4 / (root + 1) ** 2, ((root - 1) / (root + 1)) ** 2
    return 1 / kappa, (root - 1) / (root + 1)


def server(method, rate, beta):
    return optax.sgd(rate, momentum=beta, nesterov=method == "nesterov")


def halves(curvatures):
    """Two clients of curvatures 0.5 and 1.5 times the wanted ones, targets 0."""
    a = np.asarray(curvatures, float)[None] * np.array([[0.5], [1.5]])
    return shards(a, np.zeros_like(a), [1, 1])


def quadratic_run(recipe, curvatures, start, cohort=2):
    task = tasks.quadratic(len(start), np.asarray(start, float))
    return Run.of(recipe, task, halves(curvatures), uniform(cohort, 2), Plan())


def late_rate(run, step, data, hyper, contraction):
    """`|x_T+1| / |x_T|`, T late: 6,000 rounds, or where about 1e-240 is left.

    Double roots (the best momentum has them) make `|x_T|` fall as `T r^T`, so that the ratio
    is r (1 + 1 / T).
    """
    rounds = min(6000, int(240 * np.log(10) / -np.log(contraction)))
    early, _ = step(KEY, run.start(KEY, hyper), rounds, data)
    late, _ = step(KEY, early, 1, data)
    before, after = (np.abs(run.model(s)["x"]).max() for s in (early, late))
    assert before > 1e-290
    return after / before


def plain(lr):
    return optax.sgd(lr)


def heavy(lr, beta):
    return optax.sgd(lr, momentum=beta)


def nesterov(lr, beta):
    return optax.sgd(lr, momentum=beta, nesterov=True)


# A server's optimizer; server momentum over one local step; a client's own optimizer that
# outlives the round (of the data's owner, in `centralized`).
WHOLE = {"batch_size": None}
CASES = {
    "fedsgd, gd": lambda: fedsgd(plain, lr=1.0),
    "fedsgd, heavy ball": lambda: fedsgd(heavy, lr=1.0, beta=0.0),
    "fedsgd, nesterov": lambda: fedsgd(nesterov, lr=1.0, beta=0.0),
    "fedavg, gd": lambda: fedavg(plain, lr=1.0, steps=1, **WHOLE),
    "fedavgm, heavy ball": lambda: fedavgm(plain, lr=1.0, steps=1, **WHOLE),
    "centralized, gd": lambda: centralized(plain, lr=1.0, **WHOLE),
    "centralized, heavy ball": lambda: centralized(heavy, lr=1.0, beta=0.0, **WHOLE),
    "centralized, nesterov": lambda: centralized(nesterov, lr=1.0, beta=0.0, **WHOLE),
}


@pytest.mark.parametrize("case", few(CASES, "fedsgd, nesterov", "fedavgm, heavy ball"))
def test_rates_are_the_published_ones(x64, case):
    """At the best rate and momentum; curvatures 1 (slowest), kappa, and one between."""
    side, method = case.split(", ")
    cohort = 1 if side == "centralized" else 2
    run = quadratic_run(CASES[case](), [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], cohort)
    step = run.compiled(6000)
    for kappa, want, published_beta in zip(KAPPA, PUBLISHED[method], BETA[method], strict=True):
        rate, beta = setting(method, kappa)
        assert abs(beta - published_beta) < 1e-6
        hyper = {"lr": rate}
        if method != "gd":
            hyper["server_momentum" if side == "fedavgm" else "beta"] = beta
        got = late_rate(run, step, halves([1, np.sqrt(kappa), kappa]), hyper, want)
        assert abs(got - want) < 1e-3, f"condition {kappa}: {got}, published {want}"
    assert step._cache_size() == 1


def recurrence(method, rate, beta, curvature, start, rounds):
    """The textbook's iterates on `curvature x^2 / 2`, gradients at x."""
    x = y = before = np.asarray(start, float)
    path = []
    for _ in range(rounds):
        gradient = curvature * x
        if method == "heavy ball":
            x, before = x - rate * gradient + beta * (x - before), x
        else:
            fresh = x - rate * gradient
            x, y = fresh + beta * (fresh - y), fresh
        path.append(x)
    return np.array(path)


@pytest.mark.parametrize("method", ["heavy ball", "nesterov"])
def test_optax_takes_the_textbooks_steps(x64, method):
    """Round by round, from the first; of the two Nesterov sequences params are the extrapolated."""
    curvature, start, rate, beta = np.array([1.0, 7.0]), [2.0, -1.0], 0.11, 0.6
    run = quadratic_run(fedsgd(server(method, rate, beta)), curvature, start)
    step, state = run.compiled(1), run.start(KEY)
    want = recurrence(method, rate, beta, curvature, start, 12)
    for r in range(12):
        state, _ = step(KEY, state, 1)
        np.testing.assert_allclose(run.model(state)["x"], want[r], rtol=1e-13, err_msg=f"round {r}")


@pytest.mark.parametrize("method", few(["heavy ball", "nesterov"], "nesterov"))
def test_a_client_alone_goes_on_with_its_momentum_and_a_sampled_one_starts_anew(x64, method):
    """K local steps: `local_only` is the textbook's, `fedavg` the textbook's begun each round."""
    rate, beta, k, rounds = 0.2, 0.7, 5, 3
    opt = server(method, rate, beta)
    local = {"steps": k, "batch_size": None}
    a = np.array([[1.5]])
    data = shards(a, np.zeros_like(a), [1])
    ends = {}
    for builder in (local_only, fedavg):
        task = tasks.quadratic(1, [1.0])
        run = Run.of(builder(opt, **local), task, data, uniform(1, 1), Plan())
        state, _ = run.simulate(KEY, rounds)
        model = state.rows.model.params["x"][0] if builder is local_only else run.model(state)["x"]
        ends[builder] = float(model[0])
    whole = recurrence(method, rate, beta, 1.5, [1.0], k * rounds)[-1, 0]
    anew = 1.0
    for _ in range(rounds):
        anew = recurrence(method, rate, beta, 1.5, [anew], k)[-1, 0]
    np.testing.assert_allclose(ends[local_only], whole, rtol=1e-12)
    np.testing.assert_allclose(ends[fedavg], anew, rtol=1e-12)
    assert abs(whole - anew) > 1e-3


def saddle_run(recipe, down, start, split=(1.0, 1.0)):
    """`x^2/2 - down y^2/2` as the mean of clients of curvatures `split x (1, -down)`."""
    a = np.outer(split, [1.0, -down])
    data = shards(a, np.zeros_like(a), [1] * len(split))
    task = tasks.quadratic(2, np.asarray(start, float))
    return Run.of(recipe, task, data, uniform(len(split), len(split)), Plan())


def heights(run, *rounds):
    """`|y|` after each number of rounds."""
    step = run.compiled(max(rounds))
    return [abs(float(run.model(step(KEY, run.start(KEY), r)[0])["x"][1])) for r in rounds]


RADIUS = 1.0


@pytest.mark.parametrize("down", [1.0, 0.05])
@pytest.mark.parametrize("y0", [1e-3, -1e-9])
def test_exit_time_from_a_saddle_is_the_closed_form(x64, down, y0):
    """The first round with |y| >= R is ceil(log(R/|y0|) / log(1 + rate down)), to the round."""
    rate = 0.1
    exit_round = int(np.ceil(np.log(RADIUS / abs(y0)) / np.log1p(rate * down)))
    run = saddle_run(fedsgd(optax.sgd(rate)), down, [1.0, y0], split=(0.4, 1.6))
    inside, outside = heights(run, exit_round - 1, exit_round)
    assert inside < RADIUS <= outside
    np.testing.assert_allclose(outside, abs(y0) * (1 + rate * down) ** exit_round, rtol=1e-9)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(lambda: fedsgd(optax.sgd(0.1)), marks=pytest.mark.slow),
        pytest.param(lambda: fedsgd(optax.sgd(0.1, momentum=0.9)), marks=pytest.mark.slow),
        lambda: fedsgd(optax.adam(0.01)),
        lambda: fedavg(optax.sgd(0.1), steps=5, batch_size=None),
    ],
)
def test_from_the_stable_manifold_nothing_leaves_in_ten_thousand_rounds(x64, recipe):
    (height,) = heights(saddle_run(recipe(), 1.0, [1.0, 0.0], split=(0.4, 1.6)), 10_000)
    assert height == 0.0


@pytest.mark.parametrize("k", few([2, 10], 10))
def test_local_steps_multiply_the_exponent(x64, k):
    """K averaged local steps of equal clients: |y| = |y0| (1 + rate down)^(K t)."""
    rate, down, y0 = 0.05, 0.5, 1e-6
    run = saddle_run(fedavg(optax.sgd(rate), steps=k, batch_size=None), down, [1.0, y0])
    exit_round = int(np.ceil(np.log(RADIUS / y0) / (k * np.log1p(rate * down))))
    inside, outside = heights(run, exit_round - 1, exit_round)
    assert inside < RADIUS <= outside
    np.testing.assert_allclose(outside, y0 * (1 + rate * down) ** (k * exit_round), rtol=1e-9)


def test_unequal_clients_leave_faster_by_local_steps_than_their_mean_would(x64):
    """A round multiplies y by the mean of (1 + rate g_i)^K, at least (1 + rate mean g)^K."""
    rate, down, y0, k = 0.05, 0.5, 1e-6, 10
    split = np.array([0.2, 1.8])
    run = saddle_run(
        fedavg(optax.sgd(rate), steps=k, batch_size=None), down, [1.0, y0], split=split
    )
    growth = np.mean((1 + rate * down * split) ** k)
    assert growth > 1.01 * (1 + rate * down) ** k
    exit_round = int(np.ceil(np.log(RADIUS / y0) / np.log(growth)))
    inside, outside = heights(run, exit_round - 1, exit_round)
    assert inside < RADIUS <= outside


@pytest.mark.parametrize("method", ["heavy ball", "nesterov"])
def test_momentum_leaves_at_the_rate_of_its_larger_root(x64, method):
    """Heavy ball: `z^2 - (1 + b + a g) z + b = 0`; Nesterov: `z^2 - (1 + b) q z + b q = 0`.

    With q = 1 + a g. From rest `y_t = c1 z1^t + c2 z2^t`, whose constants come of the first step.
    """
    rate, beta, down, y0 = 0.05, 0.9, 0.5, 1e-8
    q = 1 + rate * down
    whole, last = (1 + beta + rate * down, beta)
    first = q
    if method == "nesterov":
        whole, last, first = (1 + beta) * q, beta * q, 1 + rate * down * (1 + beta)
    z1, z2 = np.sort(np.roots([1, -whole, last]))[::-1]
    c1 = (first - z2) / (z1 - z2)
    path = lambda t: y0 * (c1 * z1**t + (1 - c1) * z2**t)  # noqa: E731
    exit_round = next(t for t in range(10_000) if path(t) >= RADIUS)
    run = saddle_run(fedsgd(server(method, rate, beta)), down, [1.0, y0])
    inside, outside, later = heights(run, exit_round - 1, exit_round, exit_round + 1)
    assert inside < RADIUS <= outside
    np.testing.assert_allclose(outside, path(exit_round), rtol=1e-9)
    np.testing.assert_allclose(later / outside, z1, rtol=1e-9)
    plain = np.log(RADIUS / y0) / np.log1p(rate * down)
    assert exit_round < 0.45 * plain
