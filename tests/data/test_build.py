"""`from_arrays`, the bundled digits, reports and pictures."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from fedjax_sim import data as fd
from fedjax_sim.core.checks import InputError
from fedjax_sim.data import partition as P
from fedjax_sim.data.bundled import stratified
from fedjax_sim.data.report import facts, gini, label_skew


def rows(shards: fd.Shards | None) -> list[set[int]]:
    """Which examples each client has, where x is the example's number."""
    assert shards is not None
    return [set(shards.client(i)[0].ravel().tolist()) for i in range(shards.n_clients)]


@given(
    st.integers(1, 30),
    st.integers(0, 200),
    st.floats(0, 0.6),
    st.floats(0, 0.39),
    st.integers(0, 999),
)
def test_splits_are_disjoint_stay_with_the_client_and_leave_one_to_train_on(
    clients: int, spare: int, test: float, validation: float, seed: int
) -> None:
    n = clients + spare
    x, ids = np.arange(n), np.random.default_rng(seed).integers(0, clients, n)
    ids[:clients] = np.arange(clients)
    fed = fd.from_arrays(
        x, ids, P.natural(ids), test_fraction=test, validation_fraction=validation, seed=seed
    )
    windows = [rows(s) for s in (fed.train, fed.test, fed.validation) if s is not None]
    for client in range(clients):
        held = [w[client] for w in windows]
        assert set.union(*held) == set(np.flatnonzero(ids == client).tolist())
        assert sum(map(len, held)) == (ids == client).sum() and len(held[0]) >= 1
    for shards in (fed.train, fed.test, fed.validation):
        if shards is not None:
            owners = np.repeat(np.arange(clients), shards.sizes)
            np.testing.assert_array_equal(shards.y, owners)  # y is the client's id here


def test_the_share_of_a_split_is_right_for_small_clients_too() -> None:
    fed = fd.from_arrays(np.zeros((40_000, 1)), np.zeros(40_000), P.iid(10_000), test_fraction=0.1)
    assert fed.test is not None and set(fed.test.sizes.tolist()) == {0, 1}
    # Binomial(10000, .4): standard deviation 49.
    assert abs(int(fed.test.sizes.sum()) - 4000) < 5 * 49


def test_a_whole_share_is_exact_and_the_seed_decides_which() -> None:
    def made(seed: int) -> fd.Federation:
        return fd.from_arrays(np.arange(400), np.zeros(400), P.natural(np.arange(400) // 100),
                              test_fraction=0.25, seed=seed)  # fmt: skip

    assert made(1).test.sizes.tolist() == [25] * 4  # type: ignore[union-attr]
    assert rows(made(1).test) == rows(made(1).test) != rows(made(2).test)


def test_dtypes_are_those_that_devices_use() -> None:
    y = np.array([0, 1, 2], np.uint8)
    single = fd.from_arrays(np.ones((3, 2)), y, P.iid(1))
    assert (single.train.x.dtype, single.train.y.dtype) == (np.float32, np.int32)
    assert single.n_classes == 3
    double = fd.from_arrays(np.ones((3, 2)), np.ones(3), P.iid(1), dtype="float64")
    assert (double.train.x.dtype, double.train.y.dtype) == (np.float64, np.float64)
    assert double.n_classes is None
    tokens = fd.from_arrays(np.ones((3, 2), np.int64), np.ones((3, 2), np.int64), P.iid(1))
    assert (tokens.train.x.dtype, tokens.train.y.dtype) == (np.int32, np.int32)


X, Y = np.ones((4, 2)), np.array([0, 1, 0, 1])
BAD: list[tuple[dict[str, Any], str]] = [
    ({"x": X[:3]}, "data.y = 4: must have as many rows as x: 3"),
    ({"x": np.array([[1.0], [2.0], [np.nan], [3.0]])}, "row 2 is the first that is not"),
    ({"n_classes": 1}, "data.y = 1: labels must lie in 0 .. 0"),
    ({"y": Y - 1}, "data.y = -1: labels must lie in 0 .. 0"),
    ({"test": (X, Y + 7), "n_classes": 2}, "test.y = 8: labels must lie in 0 .. 1"),
    ({"test": (np.ones((4, 3)), Y)}, "rows must have the training rows' shape (2,)"),
    ({"test": X}, "must be a pair (x, y)"),
    ({"test_fraction": 1.0}, "test_fraction = 1.0"),
    ({"test_fraction": 0.5, "validation_fraction": 0.5}, "must be less than 1"),
    ({"partition": "iid"}, "must be a Partition such as"),
    ({"partition": P.iid(5)}, "5 clients with at least 1 each need 5 examples, but there are 4"),
    ({"dtype": "float16"}, "must be one of: float32, float64"),
    ({"seed": -1}, "seed = -1: must be at least 0"),
    ({"y": np.array(["a", "b", "a", "b"])}, "encode names as integers"),
    ({"x": X * 1e300}, "is too large for float32"),
    ({"y": Y + 2**40}, "integers must fit into int32"),
    ({"y": Y + 0.5, "n_classes": 2}, "class labels must be integers"),
    ({"x": X[:0], "y": Y[:0]}, "needs at least one example"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_arrays_are_named_with_what_would_be_right(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        fd.from_arrays(**{"x": X, "y": Y, "partition": P.iid(2), **change})
    assert message in str(caught.value)


def test_digits_are_the_real_ones_with_a_stratified_central_test() -> None:
    from sklearn.datasets import load_digits

    fed = fd.digits(test_fraction=0.2)
    assert fed.n_clients == 100 and fed.central_test is not None and fed.test is not None
    x, y = fed.central_test
    assert len(y) == 359 and fed.train.sizes.sum() + fed.test.sizes.sum() + 359 == 1797
    everything = np.concatenate([fed.train.x, fed.test.x, x])
    original = load_digits().data
    assert everything.dtype == np.float32 and everything.max() == 1.0
    order, back = (np.lexsort(v.T) for v in (original, everything))
    np.testing.assert_array_equal(everything[back] * 16, original[order])
    shares = np.bincount(y, minlength=10) / np.bincount(load_digits().target)
    assert np.abs(shares - 0.2).max() < 0.006  # one example of a class is 0.0055
    image = fd.digits(image=True, test_fraction=0.2)
    np.testing.assert_array_equal(image.train.x.reshape(-1, 64), fed.train.x)


@given(st.lists(st.integers(0, 5), min_size=1), st.floats(0, 0.99), st.integers(0, 99))
def test_stratified_picks_the_share_of_every_class(
    labels: list[int], fraction: float, seed: int
) -> None:
    y = np.array(labels)
    picked = stratified(y, fraction, np.random.default_rng(seed))
    for c in set(labels):
        n = (y == c).sum()
        assert abs(picked[y == c].sum() - fraction * n) < 1 + 1e-9


def test_skew_measures_against_hand_computed_values() -> None:
    skew = label_skew(np.array([[5, 0], [2, 2], [3, 1]]))
    h = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(skew["entropy"], [0, np.log(2), h], atol=1e-15)
    np.testing.assert_allclose(skew["effective"], [1, 2, np.exp(h)])
    np.testing.assert_allclose(skew["largest"], [1, 0.5, 0.75])
    sizes = np.array([1, 1, 2, 8])
    pairs = np.abs(sizes[:, None] - sizes).sum() / (2 * 16 * sizes.mean())
    assert gini(sizes) == pytest.approx(pairs) and gini(np.full(9, 4)) == 0


def test_report_and_table_say_what_is_held() -> None:
    y = np.array([0, 0, 2, 2, 2, 0])
    fed = fd.from_arrays(np.zeros((6, 1)), y, P.natural([0, 0, 0, 1, 1, 1]), n_classes=4)
    assert fd.holdings_table(fed).tolist() == [[2, 0, 1, 0], [1, 0, 2, 0]]
    assert fd.holdings_table(fed, np.array([1])).tolist() == [[1, 0, 2, 0]]
    assert facts(fed)["empty_classes"] == [1, 3]
    assert facts(fed)["largest_label_share_mean"] == pytest.approx(2 / 3)
    text = fd.federation_report(fed)
    assert "2 clients" in text and "classes 1, 3 occur nowhere" in text and "Gini 0.000" in text
    numbers = fd.from_arrays(np.zeros((6, 1)), y + 0.5, P.iid(2))
    assert "labels" not in fd.federation_report(numbers)
    with pytest.raises(InputError, match="targets are not classes"):
        fd.holdings_table(numbers)


@pytest.mark.parametrize("clients", [1, 2, 100, 5000])
@pytest.mark.parametrize("kind", ["few", "many", "none"])
def test_the_picture_shows_the_shares_of_the_clients_it_draws(clients: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    y = {
        "few": rng.integers(0, 10, 6000),
        "many": rng.integers(0, 40, 6000),
        "none": rng.random(6000),
    }
    fed = fd.from_arrays(np.zeros((6000, 1)), y[kind], P.sizes_powerlaw(clients))
    figure = fd.plot_holdings(fed)
    figure.canvas.draw()
    axes = figure.axes[0]
    shown = min(clients, 120)
    if kind == "none":
        drawn = sorted(bar.get_height() for bar in axes.patches)
        assert len(drawn) == shown and (clients > 120 or drawn == sorted(fed.train.sizes))
        return
    boxes = np.array([p.vertices[:4] for p in axes.collections[0].get_paths()])
    sides = boxes[:, 2] - boxes[:, 0]
    np.testing.assert_allclose(sides[:, 0], 1)
    columns = np.bincount((boxes[:, 0, 0] + 0.5).astype(int), sides[:, 1])
    np.testing.assert_allclose(columns, np.ones(shown))  # every client's column is full
    if clients <= 120:
        assert len(boxes) == (fd.holdings_table(fed) > 0).sum()


def test_importing_the_room_starts_neither_jax_nor_matplotlib_nor_sklearn() -> None:
    code = (
        "import sys, fedjax_sim.data.registry; print([m for m in ('jax', 'matplotlib', 'sklearn')"
    )
    code += " if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_registry_says_what_each_builder_takes() -> None:
    from fedjax_sim.data.registry import REQUIRED

    assert fd.PARTITIONS["dirichlet"].params["alpha"] is REQUIRED
    assert fd.PARTITIONS["shards"].params == {"clients": REQUIRED, "per_client": 2}
    assert fd.DATASETS["digits"].takes_partition and not fd.DATASETS["shakespeare"].takes_partition
    assert fd.DATASETS["synthetic"].types["alpha"] == "float"
    for name, entry in {**fd.DATASETS, **fd.PARTITIONS}.items():
        assert entry.doc.endswith("."), f"{name} lacks a one-line description"
    fed = fd.DATASETS["digits"].builder(
        partition=fd.PARTITIONS["iid"].builder(clients=7), seed=3, central_fraction=0.0
    )
    assert fed.n_clients == 7 and fed.central_test is None
