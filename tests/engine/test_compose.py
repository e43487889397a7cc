"""Recipes: which numbers may vary, what is refused and with what words."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest
from helpers import Run, flat, script, softmax_data, softmax_task

from fedjax_sim.algorithms.baselines import centralized
from fedjax_sim.algorithms.fedavg import fedadam, fedavg
from fedjax_sim.algorithms.fednova import fednova
from fedjax_sim.algorithms.fedprox import fedprox
from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Context, Member
from fedjax_sim.engine.compose import compose
from fedjax_sim.engine.plan import Plan


def sgd(lr):
    return optax.sgd(lr)


def test_numbers_of_an_optimizer_function_are_sweepable_and_a_constants_are_not():
    assert fedavg(sgd, lr=0.1).hyper == {"lr": 0.1}
    assert fedavg(optax.sgd(0.1)).hyper == {}
    assert fedprox(optax.sgd(0.1), mu=0.5).hyper == {"mu": 0.5}
    heavy = lambda lr, rho: optax.sgd(lr, momentum=rho)  # noqa: E731
    assert fedavg(heavy, lr=0.1, rho=0.9).hyper == {"lr": 0.1, "rho": 0.9}
    assert fedavg(heavy, lr=0.1, rho=jnp.float32(0.9)).hyper["rho"] == jnp.float32(0.9)
    assert set(fedadam(sgd, lr=0.1).hyper) == {"lr", "server_rate", "b1", "b2", "tau"}


def test_an_argument_that_an_optimizer_function_may_do_without_stays_its_own():
    assert fedavg(lambda lr, rho=0.5: optax.sgd(lr, momentum=rho), lr=0.1).hyper == {"lr": 0.1}


def test_server_optimizers_may_be_functions_too():
    server = lambda rate: optax.sgd(rate)  # noqa: E731
    assert fedavg(sgd, lr=0.1, server=server, rate=2.0).hyper == {"lr": 0.1, "rate": 2.0}


def test_a_number_given_at_init_overrides_the_recipes(x64):
    """Half the rate at init equals a recipe of half the rate."""
    data, sampler = softmax_data([5, 9, 3]), script(2, 2, 3).sampler()
    key, ends = jax.random.key(1), []
    for lr, hyper in ((0.4, {"lr": 0.2}), (0.2, None)):
        run = Run.of(fedavg(sgd, lr=lr, shuffle=False), softmax_task(), data, sampler, Plan())
        ends.append(flat(run.model(run.simulate(key, 2, hyper)[0])))
    assert (ends[0] == ends[1]).all()


@pytest.mark.parametrize(
    ("recipe", "known"), [(fedavg(sgd, lr=0.1), "lr"), (fedavg(optax.sgd(0.1)), "none")]
)
def test_a_number_that_the_recipe_cannot_vary_is_refused(recipe, known):
    run = Run.of(recipe, softmax_task(), softmax_data([3]), script(1, 1, 1).sampler(), Plan())
    with pytest.raises(InputError, match=rf"^hyper.mu = 1.0: fedavg can vary: {known}"):
        run.start(jax.random.key(0), {"mu": 1.0})


def test_steps_alone_mean_no_bound_by_epochs():
    """`steps=7` on 2 examples with B = 1 is 7 steps, not one epoch's 2; with both, the smaller."""
    member = Member(jnp.int32(0), jnp.array(True), jnp.int32(0), jnp.ones(()))
    ctx = Context(jax.random.key(0), jnp.int32(0), member)
    window = softmax_data([2]).client(jnp.int32(0))
    wanted = (({"steps": 7}, 7), ({"steps": 7, "epochs": 2}, 4), ({"epochs": 3}, 6), ({}, 2))
    for given, want in wanted:
        parts = fedavg(sgd, lr=0.1, batch_size=1, **given).build(lr=0.1)
        assert int(parts.client(softmax_task()).steps(ctx, window)) == want, given


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: fedavg(sgd, lr=0.1, epoch=3),
            "algorithm.epoch = 3: fedavg takes optimizer, weighting, server, epochs, steps",
        ),
        (lambda: fedavg(optax.sgd(0.1), lr=0.1), "algorithm.lr = 0.1: fedavg takes optimizer"),
        (lambda: fedsgd(sgd, lr=0.1, epochs=3), "algorithm.epochs = 3: is not taken beside"),
        (
            lambda: fedavg(),
            "algorithm.fedavg = arguments: missing a required argument: 'optimizer'",
        ),
        (lambda: fedavg(sgd, lr=float("nan")), "algorithm.lr = nan: must be a finite number"),
        (
            lambda: fedprox(sgd, lr=0.1, mu=-1.0),
            "algorithm.mu = -1.0: must be a finite number at least 0",
        ),
        (
            lambda: fednova(sgd, lr=0.1, momentum=1.0),
            "algorithm.momentum = 1.0: must be a finite number at least 0 and less than 1",
        ),
        (lambda: fedavg(sgd, lr=0.1, epochs=0), "epochs = 0: must be at least 1"),
        (lambda: fedavg(sgd, lr=0.1, batch_size=2.5), "batch_size = 2.5: must be a whole number"),
        (
            lambda: fedavg(sgd, lr=0.1, last="drops"),
            "last = drops: must be one of: drop, partial, topup",
        ),
        (lambda: fedavg(sgd, lr=0.1, epochs=None), "epochs = None: give epochs, steps, or both"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(make, words):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("recipe", [fedavg, fedprox, centralized, fedsgd])
@pytest.mark.parametrize("wrong", [optax.sgd, sgd, 0.1, None])
def test_an_optimizer_that_is_none_is_told_what_one_is(recipe, wrong):
    """`fedavg(optax.sgd)` and `fedavg(lambda lr: ...)` forget the arguments."""
    with pytest.raises(InputError) as caught:
        recipe(wrong)
    assert str(caught.value).startswith("optimizer = ")
    assert "must be an optax transformation such as optax.sgd(0.1)" in str(caught.value)
    assert ("fedavg(lambda lr: optax.sgd(lr), lr=0.1)" in str(caught.value)) == callable(wrong)


def test_a_servers_optimizer_is_checked_likewise():
    with pytest.raises(InputError, match=r"^server = .*must be an optax transformation"):
        fedavg(sgd, lr=0.1, server=optax.adam)


def test_a_builder_shows_what_it_takes():
    names = list(inspect.signature(fedprox).parameters)
    assert names == [
        "optimizer",
        "mu",
        "weighting",
        "epochs",
        "steps",
        "batch_size",
        "last",
        "shuffle",
    ]
    assert "epochs" not in inspect.signature(fedsgd).parameters


def test_only_centralized_insists_on_a_cohort():
    assert centralized(sgd, lr=0.1).cohort == 1
    assert fedavg(sgd, lr=0.1).cohort is None


def test_compose_is_a_recipe_without_numbers():
    parts = fedavg(sgd, lr=0.1).build(lr=0.1)
    recipe = compose(parts.client, parts.aggregator, parts.server, cohort=3)
    assert (recipe.hyper, recipe.cohort) == ({}, 3)
    assert recipe.build().aggregator is parts.aggregator


def test_a_whole_number_for_a_float_is_traced_too():
    assert fedprox(optax.sgd(0.1), mu=1).hyper == {"mu": 1.0}


def test_an_unknown_weighting_is_refused_when_the_recipe_is_made():
    message = r"algorithm\.weighting = sizes: must be examples, uniform, steps, groups"
    with pytest.raises(InputError, match=message):
        fedavg(optax.sgd(0.1), weighting="sizes")
