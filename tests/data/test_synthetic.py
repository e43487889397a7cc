"""Synthetic federations against their formulas and against the FedProx authors' own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedjax_sim import data as fd
from fedjax_sim.core.checks import InputError


def within_variance(fed: fd.Federation) -> np.ndarray:
    """Pooled within-client variance of each feature `[d]`."""
    owner = np.repeat(np.arange(fed.n_clients), fed.train.sizes)
    sums = np.zeros((fed.n_clients, fed.train.x.shape[1]))
    np.add.at(sums, owner, fed.train.x)
    centered = fed.train.x - (sums / fed.train.sizes[:, None])[owner]
    return (centered**2).sum(axis=0) / (len(owner) - fed.n_clients)


def client_means(fed: fd.Federation) -> np.ndarray:
    return np.array([fed.train.client(i)[0].mean(axis=0) for i in range(fed.n_clients)])


def largest_share(fed: fd.Federation) -> float:
    counts = fd.holdings_table(fed)
    return float((counts.max(axis=1) / counts.sum(axis=1)).mean())


@pytest.mark.parametrize("iid", [False, True])
def test_features_vary_within_a_client_as_j_to_minus_1_2(iid: bool) -> None:
    fed = fd.synthetic(1, 1, clients=60, iid=iid, seed=2)
    degrees = fed.train.sizes.sum() - fed.n_clients
    ratio = within_variance(fed) * np.arange(1, 61) ** 1.2
    # A variance estimate has relative deviation sqrt(2 / degrees); 60 features, 5 sigma.
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / degrees)


@pytest.mark.parametrize(
    ("convention", "expected"), [("variance", np.sqrt(0.25)), ("deviation", 0.25)]
)
def test_beta_is_read_as_the_convention_says(convention: str, expected: float) -> None:
    fed = fd.synthetic(0, 0.25, clients=800, convention=convention, seed=1)
    per_client = client_means(fed).mean(axis=1)  # B_k plus N(0, 1/60) and a little noise
    found = np.sqrt(per_client.var() - 1 / 60)
    assert found == pytest.approx(expected, abs=5 * expected / np.sqrt(2 * 800))


def test_conventions_agree_at_zero_and_one() -> None:
    for value in (0.0, 1.0):
        pair = [fd.synthetic(value, value, convention=c) for c in ("variance", "deviation")]
        np.testing.assert_array_equal(pair[0].train.x, pair[1].train.x)
        np.testing.assert_array_equal(pair[0].train.y, pair[1].train.y)


def linear_accuracy(x: np.ndarray, y: np.ndarray) -> float:
    """Training accuracy of a least-squares classifier on at most 3000 examples."""
    x = np.concatenate([x[:3000], np.ones((len(x[:3000]), 1))], axis=1)
    fit = np.linalg.lstsq(x, np.eye(10)[y[:3000]], rcond=None)[0]
    return float((np.argmax(x @ fit, axis=1) == y[:3000]).mean())


def test_iid_clients_share_one_linear_model_and_others_have_their_own() -> None:
    pooled = {}
    for iid in (True, False):
        fed = fd.synthetic(1, 1, iid=iid, seed=3)
        rows = np.random.default_rng(0).permutation(len(fed.train.y))
        pooled[iid] = linear_accuracy(fed.train.x[rows], fed.train.y[rows])
    own = np.mean([linear_accuracy(*fed.train.client(i)) for i in range(fed.n_clients)])
    print(pooled, own)
    assert pooled[True] > 0.65 and own > pooled[False] + 0.1


FILES = {
    "iid": (805, 0.45, {"alpha": 0, "beta": 0, "iid": True}),
    "0_0": (897, 0.80, {"alpha": 0, "beta": 0}),
    "0.5_0.5": (912, 0.76, {"alpha": 0.5, "beta": 0.5, "convention": "deviation"}),
    "1_1": (1084, 0.79, {"alpha": 1, "beta": 1}),
}


@pytest.mark.parametrize("case", FILES)
def test_against_the_fedprox_files(case: str, data_dir: Path) -> None:
    path = data_dir / "fedprox_synthetic" / f"synthetic_{case}_mytest.json"
    if not path.exists():
        pytest.skip(f"{path} is missing: take it from the FedProx repository, data/synthetic_*")
    total, share, settings = FILES[case]
    theirs = fd.leaf(str(path))
    assert theirs.train.sizes.sum() == total and theirs.n_clients == 30 and theirs.n_classes == 10
    assert largest_share(theirs) == pytest.approx(share, abs=0.006)
    # Theirs is the test tenth of 30 clients; ours, many seeds of the same.
    runs = [fd.synthetic(seed=s, test_fraction=0.9, **settings) for s in range(25)]
    ours = np.array([largest_share(f) for f in runs])
    assert abs(ours.mean() - largest_share(theirs)) < 4 * ours.std()
    ratio = within_variance(theirs) * np.arange(1, 61) ** 1.2
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / (total - 30))
    spread = np.array([client_means(f).mean(axis=1).std() for f in runs])
    assert abs(spread.mean() - client_means(theirs).mean(axis=1).std()) < 4 * spread.std()
    medians = np.array([np.median(f.train.sizes) for f in runs])
    assert abs(medians.mean() - np.median(theirs.train.sizes)) < 4 * medians.std()


def test_planted_labels_disagree_everywhere_between_groups() -> None:
    fed = fd.planted_groups(3, clients=31, classes=5, separation=60.0, features=6, seed=4)
    names = fed.meta["permutations"]
    assert sorted(np.bincount(fed.meta["group"]).tolist()) == [10, 10, 11]
    np.testing.assert_array_equal(np.sort(names, axis=1), np.tile(np.arange(5), (3, 1)))
    assert all(len(set(names[:, c].tolist())) == 3 for c in range(5))
    # At this separation inputs tell the class: undo each group's names, all centres coincide.
    centers = np.full((31, 5, 6), np.nan)
    for i in range(31):
        x, y = fed.train.client(i)
        for c in range(5):
            centers[i, c] = x[y == names[fed.meta["group"][i], c]].mean(axis=0)
    assert np.abs(centers - centers.mean(axis=0)).max() < 2


def test_planted_rotations_turn_the_inputs_by_the_stated_angle() -> None:
    fed = fd.planted_groups(4, clients=8, kind="rotation", separation=200.0, features=6, seed=5)
    angles = fed.meta["angles"]
    np.testing.assert_allclose(angles, [0, np.pi / 2, np.pi, 3 * np.pi / 2])
    upright = []
    for i in range(8):
        x, y = fed.train.client(i)
        plane = x[:, ::2] + 1j * x[:, 1::2]
        plane = plane * np.exp(-1j * angles[fed.meta["group"][i]])
        upright.append([plane[y == c].mean(axis=0) for c in range(4)])
    assert np.abs(np.array(upright) - np.mean(upright, axis=0)).max() < 2


def test_quadratics_have_the_closed_forms_optimum() -> None:
    fed = fd.quadratics(a=[1, 4], b=[0, 1])
    assert fed.meta["optimum"].tolist() == [0.8] and fed.train.x.dtype == np.float64
    assert fed.train.x.tolist() == [[1.0], [4.0]] and fed.train.y.tolist() == [[0.0], [1.0]]
    assert fed.meta["value"] == pytest.approx(0.5 * (0.5 * 0.64 + 0.5 * 4 * 0.04))
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 3)), rng.standard_normal((5, 3))
    many = fd.quadratics(a, b, copies=[1, 2, 3, 4, 5])
    w = many.meta["optimum"]
    gradient = (np.arange(1, 6)[:, None] / 15 * a * (w - b)).sum(axis=0)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)
    assert many.train.sizes.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(many.train.client(3)[0], np.tile(a[3], (4, 1)))
    listed = fd.quadratics(a, b, weights=[1, 2, 3, 4, 5])
    np.testing.assert_allclose(listed.meta["optimum"], w)
    assert listed.train.sizes.tolist() == [1] * 5


BAD = [
    (lambda: fd.synthetic(-1, 0), "alpha"),
    (lambda: fd.synthetic(convention="sigma"), "must be one of: deviation, variance"),
    (lambda: fd.planted_groups(5, classes=4), "can only disagree everywhere on 5 classes or more"),
    (lambda: fd.planted_groups(kind="rotation", features=3), "turned in pairs"),
    (lambda: fd.planted_groups(9, clients=8), "clients = 8: must be at least 9"),
    (lambda: fd.quadratics([1, 2], [1]), "must have the shape of a: (2, 1)"),
    (lambda: fd.quadratics([0, 0], [1, 1]), "every coordinate needs a client with curvature"),
    (lambda: fd.quadratics([1, -2], [1, 1]), "must be a finite number at least 0"),
    (lambda: fd.quadratics([1, 2], [1, 1], copies=[1, 0]), "must be 2 whole numbers"),
    (lambda: fd.quadratics(["a"], [1]), "must be numbers, [N] or [N, d]"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_arguments_are_named(make: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()  # type: ignore[operator]
    assert message in str(caught.value)
