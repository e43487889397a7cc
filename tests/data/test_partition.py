"""Partitions: laws that hold for every rule, then the law of each rule."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from fedjax_sim.core.checks import InputError
from fedjax_sim.data import partition as P


def applied(partition: P.Partition, labels: Any, seed: int = 0, n: int | None = None) -> list[Any]:
    """The rows of each client, after checking that no row occurs twice."""
    n = len(labels) if n is None else n
    order, sizes = partition.assign(labels, n, np.random.default_rng(seed))
    assert order.dtype == np.int64 and sizes.dtype == np.int64
    assert len(sizes) == partition.clients and sizes.sum() == len(order)
    assert len(np.unique(order)) == len(order) and (len(order) == 0 or order.max() < n)
    return np.split(order, np.cumsum(sizes)[:-1])


def table(parts: list[Any], labels: Any, n_classes: int) -> np.ndarray:
    return np.array([np.bincount(labels[p], minlength=n_classes) for p in parts])


ALPHAS = st.sampled_from([1e-6, 1e-4, 1e-2, 0.3, 1.0, 100.0, 1e4, 1e12])
COVERING = {
    "iid": lambda n, d: P.iid(n),
    "dirichlet": lambda n, d: P.dirichlet(n, d(ALPHAS)),
    "balanced": lambda n, d: P.dirichlet(n, d(ALPHAS), balanced=True),
    "shards": lambda n, d: P.shards(n, 1),
    "powerlaw": lambda n, d: P.sizes_powerlaw(n, d(st.sampled_from([0.0, 0.5, 1.2, 50.0]))),
}


@pytest.mark.parametrize("rule", COVERING)
@given(data=st.data())
def test_every_example_goes_to_exactly_one_client_and_nobody_is_empty(rule: str, data: Any) -> None:
    clients = data.draw(st.integers(1, 60), "clients")
    n = data.draw(st.integers(clients, clients + 300), "examples")
    n_classes, seed = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 2**32))
    labels = np.random.default_rng(seed + 1).integers(0, n_classes, n)
    parts = applied(COVERING[rule](clients, data.draw), labels, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert min(map(len, parts)) >= 1


@given(st.integers(1, 40), st.integers(1, 6), ALPHAS, st.integers(0, 200), st.integers(0, 99))
def test_dirichlet_keeps_any_feasible_minimum(
    clients: int, least: int, alpha: float, spare: int, seed: int
) -> None:
    labels = np.arange(clients * least + spare) % 7
    parts = applied(P.dirichlet(clients, alpha, min_size=least), labels, seed)
    assert min(map(len, parts)) >= least


@given(st.integers(1, 50), st.integers(1, 6), st.integers(6, 10), st.integers(0, 99))
def test_classes_gives_k_classes_and_all_their_examples(
    clients: int, k: int, n_classes: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.arange(n_classes * 60) % n_classes)
    parts = applied(P.classes(clients, k), labels, seed)
    counts = table(parts, labels, n_classes)
    users = (counts > 0).sum(axis=0)
    assert ((counts > 0).sum(axis=1) == k).all()
    assert set(counts.sum(axis=0).tolist()) <= {0, 60}
    assert (counts.sum(axis=0) > 0).sum() == min(n_classes, clients * k)
    assert users.max() - users.min() <= 1
    spread = np.where(counts > 0, counts, 60 // np.maximum(users, 1))
    assert (np.abs(spread - 60 / np.maximum(users, 1)) < 1)[:, users > 0].all()


RULES = [
    P.iid(10),
    P.dirichlet(10, 0.1),
    P.dirichlet(10, 0.1, balanced=True),
    P.shards(10),
    P.classes(10),
    P.sizes_lognormal(10, mu=2.0, low=1),
    P.sizes_powerlaw(10),
    P.sizes([5] * 10),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.name}{len(r.params)}")
def test_the_seed_decides_everything(rule: P.Partition) -> None:
    labels = np.arange(600) % 10
    first, again, other = (np.concatenate(applied(rule, labels, s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_iid_sizes_differ_by_at_most_one_and_labels_are_spread() -> None:
    labels = np.arange(100_003) % 10
    counts = table(applied(P.iid(10), labels), labels, 10)
    assert set(counts.sum(axis=1).tolist()) == {10_000, 10_001}
    # Hypergeometric: each cell has mean 1000 and standard deviation 28.5; 100 cells, 5 sigma.
    assert np.abs(counts - 1000).max() < 5 * 28.5


@pytest.mark.parametrize("alpha", [0.1, 0.5, 2.0])
def test_dirichlet_class_shares_have_the_moments_of_the_law(alpha: float) -> None:
    """Shares of a class over N clients: E sum p^2 = (alpha + 1) / (N alpha + 1)."""
    clients, n_classes, per_class = 50, 400, 500
    labels = np.repeat(np.arange(n_classes), per_class)
    counts = table(applied(P.dirichlet(clients, alpha), labels), labels, n_classes)
    squares = ((counts / per_class) ** 2).sum(axis=0)
    expected = (alpha + 1) / (clients * alpha + 1)
    # Rounding to whole examples adds at most N / (4 n^2) = 5e-5.
    assert abs(squares.mean() - expected) < 4 * squares.std() / np.sqrt(n_classes) + 5e-5


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_balanced_dirichlet_has_equal_sizes_and_the_clients_own_mix(alpha: float) -> None:
    """q_i ~ Dirichlet_C(alpha): E sum q^2 = (alpha + 1) / (C alpha + 1)."""
    clients, n_classes = 4000, 10
    labels = np.arange(clients * 100) % n_classes
    counts = table(applied(P.dirichlet(clients, alpha, balanced=True), labels), labels, n_classes)
    assert (counts.sum(axis=1) == 100).all()
    squares = ((counts / 100) ** 2).sum(axis=1)
    expected = (alpha + 1) / (n_classes * alpha + 1)
    # Demand for a class is normal around its supply; the excess, .4 deviations, is met at random.
    variance = (n_classes - 1) / n_classes**2 / (n_classes * alpha + 1)
    unmet = 0.4 * np.sqrt(variance / clients) * n_classes
    assert unmet < 0.014
    assert squares.mean() == pytest.approx(expected * (1 - 2 * unmet), rel=0.02)


def test_dirichlet_extremes_are_one_owner_a_class_and_equal_shares() -> None:
    labels = np.repeat(np.arange(10), 1000)
    concentrated = table(applied(P.dirichlet(100, 1e-6), labels), labels, 10)
    # Each class goes to one client, which then gives at most 9 % away to the empty ones.
    assert (concentrated.max(axis=0) >= 900).all() and (concentrated.sum(axis=1) >= 1).all()
    flat = table(applied(P.dirichlet(100, 1e12), labels), labels, 10)
    assert np.abs(flat - 10).max() <= 1


def test_shards_on_equal_classes_give_two_labels_of_three_hundred() -> None:
    """McMahan's MNIST split in small: 200 shards of 30 from 10 classes of 600."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 600))
    counts = table(applied(P.shards(100, 2), labels), labels, 10)
    assert set(counts.ravel().tolist()) == {0, 30, 60}
    assert (counts.sum(axis=1) == 60).all()
    both_equal = (counts == 60).any(axis=1).mean()
    # Two shards of one class: (20 - 1) / (200 - 1) = 9.5 %, standard deviation 2.9 %.
    assert abs(both_equal - 19 / 199) < 4 * 0.029


def test_lognormal_sizes_follow_the_law_and_leave_the_rest_unused() -> None:
    sizes = [len(p) for p in applied(P.sizes_lognormal(4000), None, n=4_000_000)]
    logs = np.log(sizes)
    # Clipping moves the upper half little: compare quantiles, 5 standard errors (1.5 * .0202).
    assert abs(np.quantile(logs, 0.5) - 4.0) < 5 * 1.5 * 0.0202
    assert abs(np.quantile(logs, 0.8413) - 5.5) < 5 * 1.5 * 0.025
    assert min(sizes) == 10 and max(sizes) <= 5000 and sum(sizes) < 4_000_000


def test_lognormal_sizes_are_scaled_down_above_the_minimum_when_examples_are_few() -> None:
    rich = np.array([len(p) for p in applied(P.sizes_lognormal(50), None, n=10**6)])
    poor = np.array([len(p) for p in applied(P.sizes_lognormal(50), None, n=1500)])
    assert poor.sum() == 1500 and poor.min() == 10
    exact = 10 + (rich - 10) * 1000 / (rich - 10).sum()
    assert np.abs(poor - exact).max() < 1


def test_powerlaw_sizes_fall_with_rank_as_stated() -> None:
    parts = applied(P.sizes_powerlaw(100, exponent=1.0, min_size=3), None, n=100_000)
    sizes = np.sort([len(p) for p in parts])[::-1]
    harmonic = (1 / np.arange(1.0, 101)).sum()
    np.testing.assert_allclose(sizes, 3 + 99_700 / (harmonic * np.arange(1, 101)), atol=1)
    assert len(parts[0]) != sizes[0]  # the first id is not the largest client


def test_listed_sizes_are_kept_in_order() -> None:
    assert [len(p) for p in applied(P.sizes([3, 1, 2]), None, n=9)] == [3, 1, 2]


def test_natural_ids_may_be_names_and_keep_the_stored_order() -> None:
    rule = P.natural(["b", "a", "b", "c", "a"])
    parts = applied(rule, None, n=5)
    assert [p.tolist() for p in parts] == [[1, 4], [0, 2], [3]]
    assert rule.names is not None and rule.names.tolist() == ["a", "b", "c"]


def test_labels_may_be_strings() -> None:
    labels = np.array(["cat", "dog"] * 30)
    parts = applied(P.shards(6, 1), labels)
    assert all(len(set(labels[p])) == 1 for p in parts)


BAD = [
    (lambda: P.iid(0), "partition.clients = 0: must be at least 1"),
    (lambda: P.iid(2.5), "partition.clients = 2.5: must be a whole number"),  # type: ignore[arg-type]
    (lambda: P.dirichlet(3, 0.0), "partition.alpha = 0.0: must be a finite number greater than 0"),
    (lambda: P.dirichlet(3, float("nan")), "partition.alpha = nan"),
    (lambda: P.dirichlet(3, 0.1, min_size=0), "partition.min_size = 0"),
    (lambda: P.shards(3, 0), "partition.per_client = 0"),
    (lambda: P.sizes([]), "one a client"),
    (lambda: P.sizes([1, 0]), "every size must be at least 1"),
    (lambda: P.sizes_lognormal(3, low=5, high=4), "partition.high = 4: must be at least 5"),
    (lambda: P.sizes_powerlaw(3, exponent=-1), "partition.exponent"),
    (lambda: P.natural([0.5, 1.5]), "one integer or string"),
    (
        lambda: applied(P.iid(11), None, n=10),
        "11 clients with at least 1 each need 11 examples, but there are 10; ask for at most 10",
    ),
    (lambda: applied(P.dirichlet(3, 0.1, min_size=4), np.zeros(11, int)), "need 12 examples"),
    (lambda: applied(P.shards(3, 4), np.zeros(11, int)), "need 12 examples"),
    (lambda: applied(P.dirichlet(3, 0.1), None, n=9), "this partition deals by label; give y"),
    (lambda: applied(P.shards(3), np.zeros(9)), "labels must be integers or strings"),
    (lambda: applied(P.shards(3), np.zeros((9, 2), int)), "one label an example"),
    (lambda: applied(P.classes(3, 4), np.arange(9) % 3), "partition.per_client = 4: must be at"),
    (lambda: applied(P.classes(4, 1), np.array([0] * 9 + [1])), "leaves 1 clients empty: class"),
    (lambda: applied(P.sizes([5, 6]), None, n=10), "sum to at most the 10 examples"),
    (lambda: applied(P.natural([1, 2]), None, n=3), "one client for each of the 3 examples"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_arguments_are_named_with_what_would_be_right(make: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("balanced", [False, True])
def test_a_million_clients(balanced: bool) -> None:
    labels = np.random.default_rng(0).integers(0, 10, 4_000_000)
    order, sizes = P.dirichlet(1_000_000, 0.3, balanced=balanced).assign(
        labels, len(labels), np.random.default_rng(1)
    )
    assert sizes.min() >= 1 and np.bincount(order, minlength=4_000_000).tolist() == [1] * 4_000_000
