"""The groups of a federation: features, their number, kernels, tables, pictures."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import optax
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import fedjax_sim as fs
from fedjax_sim.core.checks import InputError
from fedjax_sim.data.federated import Federation, Shards
from fedjax_sim.experiment import group_choice
from fedjax_sim.experiment.group import Grouping, group
from fedjax_sim.experiment.group_choice import count_groups
from fedjax_sim.experiment.group_features import by_features, by_labels, by_updates, dealt_anew

IID = fs.partition.iid(20)
WARD = "agglomerative"  # SciPy: nothing to compile where any kernel will do


@pytest.fixture(scope="module")
def plain() -> Federation:
    return fs.data.digits(IID, test_fraction=0.2)


@pytest.fixture(scope="module")
def skewed() -> Federation:
    return fs.data.digits(fs.partition.label_groups(20, 4))


@pytest.fixture(scope="module")
def rotated(plain: Federation) -> Federation:
    return fs.data.rotated(plain, 4)


def test_label_groups_are_counted_found_and_scored(skewed: Federation) -> None:
    found = group(skewed)
    assert (found.by, found.k, found.count.k) == ("labels", 4, 4)  # type: ignore[union-attr]
    assert found.scores["ari"] == found.scores["purity"] == 1.0
    assert found.cosines["within"] > 0.9 > 0.01 > found.cosines["across"]
    sizes = np.bincount(found.ids)
    assert (np.diff(sizes) <= 0).all() and sizes.sum() == 20  # largest first


def test_rotations_are_counted_found_and_scored(rotated: Federation) -> None:
    found = group(rotated, by="features")
    assert found.k == 4 and found.scores["ari"] == 1.0
    gains, bars = found.count.gains, found.count.bars  # type: ignore[union-attr]
    assert all(g > b for g, b in zip(gains[:3], bars[:3], strict=True)) and gains[3] <= bars[3]


@pytest.mark.parametrize("by", ["labels", "features"])
def test_where_all_are_alike_there_is_one_group(plain: Federation, by: str) -> None:
    found = group(plain, by=by)
    assert found.k == 1 and (found.ids == 0).all() and found.scores == {}
    assert "1 group" in found.table() and "by chance" in found.table()


def test_groups_that_are_not_there_are_hardly_ever_seen() -> None:
    measure, found = by_labels(10), []
    for seed in range(30):
        data = fs.data.digits(fs.partition.iid(20, size=40), seed=seed).train
        count = count_groups(measure, data, measure(data), most=10, draws=10, seed=seed)
        found.append(count.k)
    assert found.count(1) >= 29


def test_scores_are_those_of_scikit_learn(rotated: Federation) -> None:
    found = group(rotated, by="features", groups=3, kernel=WARD)
    truth = rotated.meta["group"]
    assert 0 < found.scores["ari"] < 1 and found.count is None
    assert found.scores["ari"] == pytest.approx(adjusted_rand_score(truth, found.ids), abs=1e-6)
    nmi = normalized_mutual_info_score(truth, found.ids)
    assert found.scores["nmi"] == pytest.approx(nmi, abs=1e-6)


@pytest.mark.parametrize("kernel", ["agglomerative", "spectral"])
def test_other_kernels_find_the_planted_groups(skewed: Federation, kernel: str) -> None:
    assert group(skewed, kernel=kernel, groups=4).scores["ari"] == 1.0


def test_kernels_that_find_the_number(skewed: Federation) -> None:
    cut = group(skewed, kernel="bipartition")
    assert cut.k == 4 and cut.scores["ari"] == 1.0 and cut.count is None
    dense = group(skewed, kernel="density")
    # HDBSCAN may leave clients out or cut finer; nobody shares a group with another kind.
    for i in range(dense.k):
        assert len(np.unique(skewed.meta["group"][dense.ids == i])) == 1
    own = group(skewed, kernel=fs.grouping.kmeans(4), groups=4)
    assert own.k == 4 and own.kernel == "own"


@pytest.mark.slow
def test_update_sketches_see_what_labels_and_inputs_do_not(plain: Federation) -> None:
    """Swapped labels, told by the first updates; a round is run and thrown away."""
    fed = fs.data.relabelled(plain, 3)
    task = fs.tasks.classifier(fs.models.mlp(), classes=10)
    recipe = fs.algorithms.fedavg(optax.sgd(0.1), steps=3, epochs=None, batch_size=None)
    measure = by_updates(recipe, task, fed, 128, 0, devices=1)
    features = measure(fed.train)
    assert features.shape == (20, 128)
    np.testing.assert_array_equal(measure(fed.train), features)
    ids = group_choice.fit(group_choice.grouper(WARD, 3), features, 0)[0]
    assert adjusted_rand_score(fed.meta["group"], ids) == 1.0
    # Clients with the same examples have the same update, whatever their id.
    x, y, at = fed.train.x.copy(), fed.train.y.copy(), fed.train.offsets
    x[at[1] : at[2]], y[at[1] : at[2]] = x[at[0] : at[1]], y[at[0] : at[1]]
    seen = measure(dataclasses.replace(fed.train, x=x, y=y))
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-5)
    assert np.linalg.norm(seen[0] - seen[2]) > 0.1
    bad = dataclasses.replace(fed.train, x=np.where(x > 2, x, 1e38).astype(np.float32))
    with pytest.raises(InputError, match="update of client 0 is not finite"):
        measure(bad)


def test_features_are_means_and_mean_squares_about_the_mean_client(plain: Federation) -> None:
    """Where the sketch is longer than the input, it keeps all distances."""
    data = plain.train
    found = by_features(64, 0)(data)
    means = np.stack([data.client(i)[0].mean(axis=0) for i in range(20)])
    squares = np.stack([(data.client(i)[0] ** 2).mean(axis=0) for i in range(20)])
    for part, want in zip(np.split(found, 2, axis=1), (means, squares), strict=True):
        about = want - want.mean(axis=0)
        about /= np.sqrt((about**2).sum(axis=1).mean())
        np.testing.assert_allclose(part @ part.T, about @ about.T, atol=1e-4)


def test_dealing_anew_keeps_sizes_and_what_a_group_holds(skewed: Federation) -> None:
    ids = skewed.meta["group"]
    anew = dealt_anew(skewed.train, ids, np.random.default_rng(0))
    np.testing.assert_array_equal(anew.sizes, skewed.train.sizes)

    def held(data: Shards, g: int) -> Any:
        rows = [np.column_stack([*data.client(i)][::-1]).tolist() for i in np.flatnonzero(ids == g)]
        return sorted(row for client in rows for row in client)

    for g in range(4):
        assert held(anew, g) == held(skewed.train, g)
    assert not np.array_equal(anew.y, skewed.train.y)


def test_identical_clients_and_a_single_one_are_one_group() -> None:
    same = fs.data.from_arrays(np.ones((8, 2)), np.zeros(8, int), fs.partition.iid(8))
    for by in ("labels", "features"):
        found = group(same, by=by)
        assert found.k == 1 and not found.count.limited  # type: ignore[union-attr]
        found.plot()
    alone = fs.data.from_arrays(np.ones((3, 2)), np.arange(3), fs.partition.iid(1))
    assert group(alone).ids.tolist() == [0] and "1 group" in group(alone).table()


def test_more_groups_than_are_tried_are_told(skewed: Federation) -> None:
    found = group(skewed, most=3, kernel=WARD)
    assert found.k == 3 and found.count.limited  # type: ignore[union-attr]
    assert "at least 3" in found.table()
    measure = by_labels(10)
    features = measure(skewed.train)
    count = count_groups(measure, skewed.train, features, most=1, draws=2, seed=0)
    assert (count.k, count.tried) == (1, ())


def test_many_clients_are_counted_by_some_of_them(monkeypatch: Any, skewed: Federation) -> None:
    monkeypatch.setattr("fedjax_sim.experiment.group._COUNTED", 16)
    asked: list[int] = []

    def count(measure: Any, data: Any, features: Any, **given: Any) -> Any:
        asked.extend((data.n_clients, len(features)))
        return count_groups(measure, data, features, **given)

    monkeypatch.setattr("fedjax_sim.experiment.group_choice.count_groups", count)
    found = group(skewed, kernel=WARD)
    assert asked == [16, 16] and found.k == 4 and found.scores["ari"] == 1.0


def test_the_answer_as_json_and_text(rotated: Federation) -> None:
    found = group(rotated, by="features", groups=4, kernel=WARD)
    facts = json.loads(json.dumps(found.facts(), allow_nan=False))
    assert facts["ids"] == found.ids.tolist() and facts["planted"] == rotated.meta["group"].tolist()
    assert sum(row["clients"] for row in facts["rows"]) == 20
    labels = np.array([row["labels"] for row in facts["rows"]])
    np.testing.assert_array_equal(labels.sum(axis=0), np.bincount(rotated.train.y, minlength=10))
    by_hand = np.bincount(rotated.train.client(3)[1], minlength=10)
    for i in np.flatnonzero(found.ids == found.ids[3]):
        if i != 3:
            by_hand = by_hand + np.bincount(rotated.train.client(i)[1], minlength=10)
    np.testing.assert_array_equal(labels[found.ids[3]], by_hand)
    said = found.table()
    assert "ARI 1.000" in said and "planted groups inside" in said


def drawn(found: Grouping) -> list[str]:
    figure = found.plot()
    figure.canvas.draw()
    return [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]


def test_the_picture_draws_every_client(rotated: Federation, monkeypatch: Any) -> None:
    found = group(rotated, by="features", kernel=WARD)
    figure = found.plot()
    figure.canvas.draw()
    points = sum(len(c.get_offsets()) for c in figure.axes[0].collections)
    assert points == 20 and len(drawn(found)) == 4
    shares = figure.axes[1].images[0].get_array()
    np.testing.assert_allclose(np.asarray(shares).sum(axis=1), np.ones(20), rtol=1e-6)
    cosines = np.asarray(figure.axes[2].images[0].get_array())
    np.testing.assert_allclose(np.diag(cosines), np.ones(20), rtol=1e-6)
    monkeypatch.setattr("fedjax_sim.experiment.group_plots._SQUARE", 10)
    assert len(drawn(group(rotated, by="features", groups=2, kernel=WARD))) == 2
    numbers = fs.data.mixture_of_regressions(20, 30, 4)
    assert drawn(group(numbers, groups=2, kernel=WARD))[0].startswith("clients by features")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"by": "colour"}, "by = colour: must be one of"),
    ({"groups": 21}, "groups = 21: must be at most 20"),
    ({"groups": "some"}, 'must be a whole number or "auto"'),
    ({"groups": 2.0}, "must be a whole number"),
    ({"kernel": "kmedians"}, "kernel = kmedians"),
    ({"kernel": "density", "groups": 2}, "is found by density"),
    ({"by": "updates"}, "task = None: is needed"),
    ({"most": 0}, "most = 0"),
    ({"by": "features", "dim": 0}, "dim = 0"),
    ({"seed": -1}, "seed = -1"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_input_is_named(plain: Federation, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        group(plain, **change)
    assert message in str(caught.value)


def test_what_cannot_be_compared_is_refused(plain: Federation, monkeypatch: Any) -> None:
    numbers = fs.data.from_arrays(np.ones((4, 4)), np.ones(4), fs.partition.iid(2))
    with pytest.raises(InputError, match="no labels"):
        group(numbers, by="labels")
    tokens = fs.data.from_arrays(np.ones((4, 4), int), np.arange(4) % 2, fs.partition.iid(2))
    with pytest.raises(InputError, match="tokens"):
        group(tokens, by="features")
    task = fs.tasks.classifier(fs.models.mlp(), classes=10)
    central = fs.algorithms.centralized(optax.sgd(0.1))
    with pytest.raises(InputError, match="send no updates of their own"):
        group(plain, by="updates", task=task, recipe=central)
    monkeypatch.setattr("fedjax_sim.experiment.group_choice._SQUARE", 10)
    with pytest.raises(InputError, match=r"makes 20 x 20 numbers .* give kmeans"):
        group(plain, kernel="spectral", groups=2)
