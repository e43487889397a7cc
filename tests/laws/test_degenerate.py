"""The lattice of degenerate equalities: a setting at which one algorithm is another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Run, assert_trees_close, script, softmax_data, softmax_task
from sparing import few

from fedjax_sim.algorithms import (
    centralized,
    fedavg,
    fedavgm,
    fednova,
    fedprox,
    fedsgd,
    local_only,
    median,
    scaffold,
)
from fedjax_sim.engine.plan import Plan
from fedjax_sim.sampling.uniform import uniform

RATE, ROUNDS = 0.2, 4
RAGGED, EQUAL = (7, 1, 12, 20, 5, 3), (8,) * 6


def train(recipe, sizes=RAGGED, rounds=ROUNDS, sampler=None):
    """The model after a few rounds of a fixed script, ragged, with absent and partial members."""
    data = softmax_data(sizes)
    sampler = sampler or script(rounds, 4, len(sizes)).sampler()
    run = Run.of(recipe, softmax_task(), data, sampler, Plan(2, 1))
    state, _ = run.simulate(jax.random.key(7), rounds)
    return run, state


def model(recipe, **options):
    run, state = train(recipe, **options)
    return run.model(state)


SGD = optax.sgd(RATE)
ORDERED = {"shuffle": False}  # compiles in half the time; one pair shuffles
PAIRS = {
    "FedProx(mu=0) = FedAvg": (fedprox(SGD, mu=0.0, epochs=2), fedavg(SGD, epochs=2)),
    "FedAvgM(beta=0) = FedAvg": (
        fedavgm(SGD, server_momentum=0.0, **ORDERED),
        fedavg(SGD, **ORDERED),
    ),
    "FedAvg(server sgd .5) = FedAvgM(rate .5, beta 0)": (
        fedavgm(SGD, server_momentum=0.0, server_rate=0.5, **ORDERED),
        fedavg(SGD, server=optax.sgd(0.5), **ORDERED),
    ),
    "FedSGD(lr) = FedAvg(one full-batch step of lr)": (
        fedsgd(SGD),
        fedavg(SGD, steps=1, batch_size=None),
    ),
    "FedAvg(steps=1, B=1..) weighting by a function = by examples": (
        fedavg(SGD, weighting=lambda size, steps, ctx: size, **ORDERED),
        fedavg(SGD, **ORDERED),
    ),
}


@pytest.mark.parametrize("name", few(PAIRS, *list(PAIRS)[:2], list(PAIRS)[3]))
def test_equal_models(name, x64):
    del x64
    ours, theirs = PAIRS[name]
    full = script(ROUNDS, 4, 6, ragged=False).sampler()
    sampler = full if name.startswith("FedSGD") else None  # one step has no part
    a, b = model(ours, sampler=sampler), model(theirs, sampler=sampler)
    assert_trees_close(a, b, rtol=1e-12, atol=1e-13, note=name)


def test_different_settings_do_differ(x64):
    del x64
    a = model(fedprox(SGD, mu=0.5, epochs=2, **ORDERED))
    b = model(fedavg(SGD, epochs=2, **ORDERED))
    assert np.abs(np.asarray(a["w"]) - np.asarray(b["w"])).max() > 1e-3


def test_fednova_of_equal_steps_is_fedavg(x64):
    del x64
    sampler = script(ROUNDS, 4, 6, ragged=False).sampler()
    a = model(fednova(SGD, batch_size=4, **ORDERED), sizes=EQUAL, sampler=sampler)
    b = model(fedavg(SGD, batch_size=4, **ORDERED), sizes=EQUAL, sampler=sampler)
    assert_trees_close(a, b, rtol=1e-12)


def test_fednova_with_momentum_of_equal_steps_is_fedavg(x64):
    del x64
    sampler = script(ROUNDS, 4, 6, ragged=False).sampler()
    heavy = optax.sgd(RATE, momentum=0.8)
    a = model(fednova(heavy, momentum=0.8, batch_size=4, **ORDERED), sizes=EQUAL, sampler=sampler)
    b = model(fedavg(heavy, batch_size=4, **ORDERED), sizes=EQUAL, sampler=sampler)
    assert_trees_close(a, b, rtol=1e-12)


def test_the_first_scaffold_round_is_uniform_fedavg(x64):
    del x64
    recipes = scaffold(SGD, **ORDERED), fedavg(SGD, weighting="uniform", **ORDERED)
    assert_trees_close(*(model(r, rounds=1) for r in recipes), rtol=1e-12)
    later = [model(r) for r in recipes]
    assert np.abs(np.asarray(later[0]["w"] - later[1]["w"])).max() > 1e-4


@pytest.mark.slow
def test_one_client_alone_is_everyone(x64):
    """With one client: centralized = local_only = FedAvg = its median, one round of plain SGD."""
    del x64
    options = {"sizes": (13,), "rounds": 3, "sampler": uniform(1, 1)}
    fed = model(fedavg(SGD, epochs=2), **options)
    assert_trees_close(model(centralized(SGD, epochs=2), **options), fed, rtol=1e-12)
    assert_trees_close(model(median(SGD, epochs=2), **options), fed, rtol=1e-12)
    _, state = train(local_only(SGD, epochs=2), **options)
    alone = jax.tree.map(lambda leaf: leaf[0], state.rows.model.params)
    assert_trees_close(alone, fed, rtol=1e-12)


def test_the_median_of_twins_is_their_mean(x64):
    """Clients with the same single example take the same steps, whatever their shuffles."""
    del x64
    data = softmax_data((1, 1, 1))
    same = data.__class__(
        jnp.repeat(data.x[:1], 3, axis=0),
        jnp.repeat(data.y[:1], 3),
        data.offsets,
        data.sizes,
        data.longest,
    )
    models = []
    for recipe in (median(SGD, steps=3), fedavg(SGD, steps=3)):
        run = Run.of(recipe, softmax_task(), same, uniform(3, 3), Plan(1, 1))
        models.append(run.model(run.simulate(jax.random.key(1), 2)[0]))
    assert_trees_close(*models, rtol=1e-12)


@pytest.mark.slow
def test_momentum_outlives_the_round_only_where_it_should(x64):
    """Centralized goes on with its momentum; FedAvg's clients start anew each round."""
    del x64
    heavy = optax.sgd(RATE, momentum=0.9)
    options = {"sizes": (13,), "sampler": uniform(1, 1)}
    one = [model(r(heavy), rounds=1, **options) for r in (centralized, fedavg)]
    two = [model(r(heavy), rounds=2, **options) for r in (centralized, fedavg)]
    assert_trees_close(one[0], one[1], rtol=1e-12)
    assert np.abs(np.asarray(two[0]["w"] - two[1]["w"])).max() > 1e-3
