"""Clients after local training, and clients that never take part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sparing import few

import fedjax_sim as fs
from fedjax_sim.experiment.evaluation import Evaluation, strangers
from fedjax_sim.experiment.probe import spreads

ROUNDS, N = 2, 12


@pytest.fixture(scope="module")
def fed():
    part = fs.partition.dirichlet(clients=N, alpha=0.3)
    return fs.data.digits(part, test_fraction=0.3, central_fraction=0.0)


def trained(fed, recipe, **settings):
    task = fs.tasks.classifier(fs.models.logistic(), classes=10)
    quiet = fs.Diagnosis(verdict=False, drift_every=0)
    return fs.run(
        recipe, task, fed, rounds=ROUNDS, cohort=4, eval_every=ROUNDS, diagnosis=quiet, **settings
    )


def accuracy(params, x, y):
    return np.mean(np.argmax(x @ params["w"] + params["b"], axis=1) == y)


def by_hand(fed, params, epochs, rate):
    """Full-batch gradient descent of softmax regression, by client; then its test accuracy."""
    found = []
    for i in range(N):
        x, y = fed.train.client(i)
        w, b = params["w"].astype(float), params["b"].astype(float)
        for _ in range(epochs):
            z = x @ w + b
            p = np.exp(z - z.max(1, keepdims=True))
            p = p / p.sum(1, keepdims=True) - np.eye(10)[y]
            w, b = w - rate * x.T @ p / len(y), b - rate * p.mean(0)
        found.append(accuracy({"w": w, "b": b}, *fed.test.client(i)))
    return np.array(found)


def leaves(model):
    """Kernel and bias of the one layer."""
    w, b = sorted(jax.tree.leaves(model.params), key=lambda v: -np.ndim(v))
    return {"w": np.asarray(w), "b": np.asarray(b)}


def test_adapted_and_unseen_are_those_of_a_plain_loop(fed):
    rule = Evaluation(unseen=0.25, adapt_epochs=3, adapt_rate=0.5, adapt_batch_size=1000)
    run = trained(fed, fs.algorithms.fedavg(optax.sgd(0.2)), evaluation=rule, seed=3)
    record, unseen = run.records[-1], strangers(rule, N, 3)
    assert unseen is not None and unseen.sum() == 3
    model = leaves(run.model)
    before = np.array([accuracy(model, *fed.test.client(i)) for i in range(N)])
    after = by_hand(fed, model, 3, 0.5)
    for name, value in (
        ("client_accuracy_mean", before[~unseen].mean()),
        ("unseen_accuracy_mean", before[unseen].mean()),
        ("client_adapted_accuracy_mean", after[~unseen].mean()),
        ("unseen_adapted_accuracy_mean", after[unseen].mean()),
    ):
        np.testing.assert_allclose(record[name], value, atol=1e-5, err_msg=name)
    assert record["client_adapted_accuracy_mean"] != record["client_accuracy_mean"]
    assert "unseen clients' accuracy, adapted" in run.table()


@pytest.mark.parametrize("where", few(["device", "host"]))
def test_models_of_ones_own_are_adapted_too_and_strangers_keep_the_first(fed, where):
    rule = Evaluation(unseen=0.5, adapt_epochs=1, adapt_batch_size=1000)
    recipe = fs.algorithms.local_only(optax.sgd(0.2))
    run = trained(fed, recipe, evaluation=rule, client_state=where)
    unseen = strangers(rule, N, 0)
    record = run.records[-1]
    names = [f"{w}_{a}accuracy_mean" for w in ("client", "unseen") for a in ("", "adapted_")]
    assert all(0 <= record[n] <= 1 for n in names)
    if where == "host":
        return
    first = jax.tree.map(lambda v: v[np.flatnonzero(unseen)], run.state.rows.model)
    for leaf in jax.tree.leaves(first):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))


def test_shares_are_of_those_who_can_take_part(fed):
    """SCAFFOLD's control variate is the mean of the seen clients' own, once all took part."""
    quiet = fs.Diagnosis(verdict=False, drift_every=0)
    task = fs.tasks.classifier(fs.models.logistic(), classes=10)
    rule = Evaluation(unseen=0.5)
    recipe = fs.algorithms.scaffold(optax.sgd(0.05))
    run = fs.run(
        recipe, task, fed, rounds=3, cohort=6, evaluation=rule, diagnosis=quiet, eval_every=3
    )
    seen = np.flatnonzero(~strangers(rule, N, 0))
    assert len(seen) == 6
    mean = jax.tree.map(lambda v: np.mean(v[seen], axis=0), run.state.rows)
    for a, b in zip(
        jax.tree.leaves(run.state.algorithm.server.control), jax.tree.leaves(mean), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_only_the_seen_are_sampled():
    """Ids of many rounds, without training."""
    from fedjax_sim.sampling.subset import among
    from fedjax_sim.sampling.uniform import uniform

    unseen = strangers(Evaluation(unseen=0.4), 10, 5)
    sampler = among(uniform(3, 6), np.flatnonzero(~unseen), 10)
    draw = jax.jit(
        jax.vmap(lambda s: sampler.sample(jax.random.key(s), sampler.init(10), 0)[1].members.id)
    )
    assert set(np.unique(draw(jnp.arange(50)))) == set(np.flatnonzero(~unseen))


def test_spreads_leave_the_unseen_out_of_clients_and_groups():
    sums = {"accuracy_sum": jnp.array([1.0, 0.0, 4.0]), "accuracy_count": jnp.array([1.0, 2, 4])}
    told = spreads(sums, np.array([0, 1, 1]), np.array([False, False, True]))
    assert told["client_accuracy_mean"] == 0.5 and told["unseen_accuracy_mean"] == 1
    assert told["group_accuracy_min"] == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda fed: Evaluation(unseen=1.0), "evaluation.unseen = 1.0"),
        (lambda fed: Evaluation(adapt_rate=0.0), "evaluation.adapt_rate"),
        (lambda fed: strangers(Evaluation(unseen=0.01), N, 0), "leaves out none of 12"),
        (
            lambda fed: trained(
                fed, fs.algorithms.fedavg(optax.sgd(0.1)), evaluation=Evaluation(unseen=0.9)
            ),
            "leaves 1 of 12 clients to take part, and the cohort is 4",
        ),
        (
            lambda fed: trained(
                fed, fs.algorithms.centralized(optax.sgd(0.1)), evaluation=Evaluation(unseen=0.5)
            ),
            "trains on everyone's examples",
        ),
        (
            lambda fed: trained(
                dataclasses.replace(fed, test=None),
                fs.algorithms.fedavg(optax.sgd(0.1)),
                evaluation=Evaluation(adapt_epochs=1),
            ),
            "are of clients' own test examples",
        ),
    ],
)
def test_what_cannot_be_is_refused(fed, make, words):
    with pytest.raises(fs.InputError, match=words):
        make(fed)
