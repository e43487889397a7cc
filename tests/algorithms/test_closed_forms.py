"""Fixed points and error sequences of a two-client quadratic, known to nine digits.

f_i(x) = a_i (x - b_i)^2 / 2 with a = (1, 4), b = (0, 1), equal weights, rate 0.1, full local
gradients; the optimum is 0.8. FedNova's toy has a = (1, 1) and 2 against 8 local steps.
"""

import jax
import numpy as np
import optax
import pytest
from helpers import Run, quadratic_task, shards

from fedjax_sim.algorithms.baselines import centralized, local_only
from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.algorithms.fednova import fednova
from fedjax_sim.algorithms.fedprox import fedprox
from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.algorithms.median import median
from fedjax_sim.algorithms.scaffold import scaffold
from fedjax_sim.engine.plan import Plan
from fedjax_sim.sampling.uniform import uniform

A, B, RATE, OPTIMUM = np.array([1.0, 4.0]), np.array([0.0, 1.0]), 0.1, 0.8
KEY = jax.random.key(0)
FULL = {"batch_size": 1, "shuffle": False}  # one example a client: a batch is everything


def sgd(lr):
    return optax.sgd(lr)


def final(recipe, rounds, hyper=None, plan=Plan(), data=None):  # noqa: B008 - frozen
    """x after each number of rounds in `rounds`, all from one compiled program."""
    data = shards(A[:, None], B[:, None], [1, 1]) if data is None else data
    run = Run.of(recipe, quadratic_task(), data, uniform(2, 2), plan)
    step, state = run.compiled(max(rounds)), run.start(KEY, hyper)
    return [float(run.model(step(KEY, state, r)[0])["x"][0]) for r in rounds]


FEDAVG = {1: 0.8, 2: 0.771084337, 5: 0.692502347, 10: 0.604126008, 50: 0.501291773}


@pytest.mark.parametrize("steps", FEDAVG)
def test_fedavg_stops_where_its_local_steps_pull_it(x64, steps):
    c = 1 - (1 - RATE * A) ** steps
    point = np.sum(c * B) / np.sum(c)
    assert abs(point - FEDAVG[steps]) < 1e-9
    plan = Plan(2, 1) if steps == 5 else Plan(1, 2) if steps == 10 else Plan()
    (x,) = final(fedavg(sgd, lr=RATE, steps=steps, **FULL), [2000], plan=plan)
    assert abs(x - point) < 1e-12


def test_fedprox_stops_at_the_exact_proximal_average(x64):
    """Enough local steps to solve each proximal problem to 1e-12; three mu, one program."""
    want = {0.1: 0.517647059, 1.0: 0.615384615, 10.0: 0.758620690}
    data = shards(A[:, None], B[:, None], [1, 1])
    recipe = fedprox(sgd, lr=0.06, mu=1.0, steps=500, **FULL)
    run = Run.of(recipe, quadratic_task(), data, uniform(2, 2), Plan())
    step = run.compiled(400)
    for mu, printed in want.items():
        x = run.model(step(KEY, run.start(KEY, {"mu": mu}), 400)[0])["x"][0]
        point = np.sum(A * B / (A + mu)) / np.sum(A / (A + mu))
        assert abs(point - printed) < 1e-9
        assert abs(x - point) < 1e-11, f"mu = {mu}"
    assert step._cache_size() == 1


NOVA = {
    0.1: (0.749846218, 0.428370623),
    0.01: (0.795173306, 0.492525932),
    0.001: (0.799519728, 0.499250251),
}


@pytest.mark.parametrize("builder", [fedavg, fednova])
def test_fednova_removes_the_pull_of_busy_clients(x64, builder):
    """Client 0 takes 2 steps a round, client 1 takes 8; FedAvg leans on the busy one."""
    target = np.repeat([0.0, 1.0], [2, 8])[:, None]
    data = shards(np.ones((10, 1)), target, [2, 8])
    recipe = builder(sgd, lr=RATE, epochs=1, weighting="uniform", **FULL)
    run = Run.of(recipe, quadratic_task(), data, uniform(2, 2), Plan())
    step = run.compiled(10_000)
    for rate, printed in NOVA.items():
        x = run.model(step(KEY, run.start(KEY, {"lr": rate}), 10_000)[0])["x"][0]
        pull = 1 - (1 - rate) ** np.array([2, 8])
        pull = pull if builder is fedavg else pull / np.array([2, 8])
        assert abs(pull[1] / pull.sum() - printed[builder is fednova]) < 1e-9
        assert abs(x - pull[1] / pull.sum()) < 1e-11, f"rate {rate}"


SCAFFOLD = {
    1: (0.6, 0.1898, 0.04505, 0.002537),
    2: (0.48, 0.04396, 0.002111, 4.862e-6),
    5: (0.3389, 0.007158, 4.826e-5, 3.974e-9),
    10: (0.3030, 0.006238, 4.864e-5, 2.957e-9),
}


def scaffold_by_hand(steps, rounds):
    """Karimireddy et al. 2019, option II, both clients in every round."""
    x, c, own = 0.0, 0.0, np.zeros(2)
    errors = {}
    for r in range(1, rounds + 1):
        y = np.full(2, x)
        for _ in range(steps):
            y = y - RATE * (A * (y - B) - own + c)
        fresh = own - c + (x - y) / (steps * RATE)
        x, c, own = y.mean(), c + np.mean(fresh - own), fresh
        errors[r] = abs(x - OPTIMUM)
    return errors


@pytest.mark.parametrize("steps", SCAFFOLD)
def test_scaffold_reaches_the_optimum_along_the_known_errors(x64, steps):
    rounds = [1, 5, 10, 20, 400]
    errors = np.abs(np.array(final(scaffold(sgd, lr=RATE, steps=steps, **FULL), rounds)) - OPTIMUM)
    np.testing.assert_allclose(errors[:4], SCAFFOLD[steps], rtol=5e-4)
    known = scaffold_by_hand(steps, 20)
    np.testing.assert_allclose(errors[:4], [known[r] for r in rounds[:4]], rtol=1e-6, atol=1e-14)
    assert errors[4] < 1e-13


def test_median_of_two_is_fedavg(x64):
    (x,) = final(median(sgd, lr=RATE, steps=5, **FULL), [2000])
    assert abs(x - FEDAVG[5]) < 1e-9


def test_fedsgd_reaches_the_optimum_at_gradient_descents_rate(x64):
    """Mean curvature 2.5: the error shrinks by 1 - 2.5 rate a round."""
    path = final(fedsgd(sgd, lr=RATE), [1, 2, 10])
    expected = OPTIMUM * (1 - 2.5 * RATE) ** np.array([1, 2, 10])
    np.testing.assert_allclose(OPTIMUM - np.array(path), expected, rtol=1e-12)


def test_centralized_reaches_the_optimum(x64):
    data = shards(A[:, None], B[:, None], [1, 1])
    recipe = centralized(sgd, lr=RATE, batch_size=2)
    run = Run.of(recipe, quadratic_task(), data, uniform(1, 2), Plan())
    state, _ = run.simulate(KEY, 200)
    assert abs(run.model(state)["x"][0] - OPTIMUM) < 1e-13


def test_local_only_leaves_everyone_at_its_own_optimum(x64):
    data = shards(A[:, None], B[:, None], [1, 1])
    recipe = local_only(sgd, lr=RATE, steps=5, **FULL)
    run = Run.of(recipe, quadratic_task(), data, uniform(2, 2), Plan())
    state, _ = run.simulate(KEY, 3)
    want = B * (1 - (1 - RATE * A) ** 15)
    np.testing.assert_allclose(state.rows.model.params["x"][:, 0], want, rtol=1e-13)
