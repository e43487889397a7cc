"""Planted groups: what each group sees is what was planted, and nothing else changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import numpy as np
import optax
import pytest
from hypothesis import given

import fedjax_sim as fs
from fedjax_sim.core.checks import InputError
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.data.federated import Federation, Shards, check_shards
from fedjax_sim.data.planted_base import membership
from fedjax_sim.experiment.probe import shards_for_device


@pytest.fixture(scope="module")
def plain() -> Federation:
    return fs.data.digits(fs.partition.iid(10, size=60), test_fraction=0.2)


def windows(fed: Federation, plain: Federation, client: int) -> Any:
    """`(x now, x before, y now, y before)` of a client, training and test examples."""
    for new, old in ((fed.train, plain.train), (fed.test, plain.test)):
        assert new is not None and old is not None
        (x, y), (x0, y0) = new.client(client), old.client(client)
        yield x, x0, y, y0


def test_quarter_turns_are_exact_and_turn_test_examples_too(plain: Federation) -> None:
    fed = fs.data.rotated(plain, groups=4, seed=3)
    group = fed.meta["group"]
    assert sorted(np.bincount(group)) == [2, 2, 3, 3] and fed.central_test is None
    for client in range(10):
        for x, x0, y, y0 in windows(fed, plain, client):
            turned = np.rot90(x0.reshape(-1, 8, 8), group[client], axes=(1, 2))
            np.testing.assert_array_equal(x.reshape(-1, 8, 8), turned)
            np.testing.assert_array_equal(y, y0)
    assert fed.train.x.dtype == plain.train.x.dtype and plain.central_test is not None


def test_other_angles_turn_the_same_way_as_quarter_turns() -> None:
    """A spot at (row, column) offset (-3, 0) goes to where the rotation matrix sends it."""
    spot = np.zeros((2, 15, 15))
    spot[:, 3:6, 6:9] = 1.0
    fed = fs.data.from_arrays(spot, np.zeros(2, int), fs.partition.iid(2), dtype="float64")
    for angle in (30.0, 90.0, 150.0, -60.0):
        turned = fs.data.rotated(fed, 2, angles=[0.0, angle], group=[0, 1])
        image = turned.train.client(1)[0][0]
        rows, columns = np.indices(image.shape) - 7
        center = np.array([(image * rows).sum(), (image * columns).sum()]) / image.sum()
        a = np.deg2rad(angle)  # counterclockwise as one sees it: up goes left
        np.testing.assert_allclose(center, [-3 * np.cos(a), -3 * np.sin(a)], atol=0.03)


def test_colours_shapes_and_oblong_images() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((6, 4, 4, 3))
    fed = fs.data.from_arrays(x.reshape(6, -1), np.arange(6) % 2, fs.partition.iid(2))
    turned = fs.data.rotated(fed, 2, angles=[0, 90], group=[0, 1]).train.client(1)[0]
    before = fed.train.client(1)[0].reshape(-1, 4, 4, 3)
    np.testing.assert_array_equal(turned.reshape(-1, 4, 4, 3), np.rot90(before, axes=(1, 2)))
    wide = fs.data.from_arrays(rng.random((6, 8)), np.arange(6) % 2, fs.partition.iid(2))
    half = fs.data.rotated(wide, 2, shape=[2, 4], group=[0, 1]).train.client(1)[0]
    np.testing.assert_array_equal(half, wide.train.client(1)[0][:, ::-1])
    with pytest.raises(InputError, match="turns only square images"):
        fs.data.rotated(wide, 2, shape=[2, 4], angles=[0, 90])
    with pytest.raises(InputError, match="no square images; give shape"):
        fs.data.rotated(wide, 2)
    with pytest.raises(InputError, match=r"shape = \[3, 3\]"):
        fs.data.rotated(wide, 2, shape=[3, 3])


def test_relabelled_groups_agree_on_no_class(plain: Federation) -> None:
    fed = fs.data.relabelled(plain, groups=5, seed=1)
    truth = np.array(fed.meta["permutations"])
    assert (np.sort(truth, axis=1) == np.arange(10)).all() and (truth[0] == np.arange(10)).all()
    for a in range(5):
        for b in range(a):
            assert not (truth[a] == truth[b]).any()
    for client in range(10):
        for x, x0, y, y0 in windows(fed, plain, client):
            np.testing.assert_array_equal(x, x0)
            np.testing.assert_array_equal(y, truth[fed.meta["group"][client]][y0])


@pytest.mark.parametrize(("groups", "pairs"), [(3, 1), (10, 5), (19, 2), (45, 1)])
def test_swaps_are_disjoint_pairs_that_no_two_groups_share(groups: int, pairs: int) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(450) % 10
    fed = fs.data.from_arrays(rng.random((450, 1)), y, fs.partition.iid(45))
    truth = np.array(fs.data.relabelled(fed, groups, pairs=pairs, seed=2).meta["permutations"])
    swapped: list[tuple[int, int]] = []
    for names in truth[1:]:
        moved = np.flatnonzero(names != np.arange(10))
        assert len(moved) == 2 * pairs and (names[names] == np.arange(10)).all()
        swapped += [(c, int(names[c])) for c in moved if c < names[c]]
    assert len(set(swapped)) == len(swapped) == pairs * (groups - 1)


def fitted(x: np.ndarray, x0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept of each column of x on that of x0, where x0 varies."""
    lines = [np.polyfit(a, b, 1) for a, b in zip(x0.T, x.T, strict=True)]
    return tuple(np.array(lines).T)  # type: ignore[return-value]


def test_affine_shift_is_one_line_a_feature_and_group() -> None:
    x = np.random.default_rng(0).normal(2.0, 3.0, (400, 5))
    plain = fs.data.from_arrays(x, np.zeros(400, int), fs.partition.iid(8), dtype="float64")
    fed = fs.data.feature_shifted(plain, 3, strength=0.5, group=[0, 1, 2, 0, 1, 2, 0, 1])
    lines = [fitted(fed.train.client(i)[0], plain.train.client(i)[0]) for i in range(8)]
    for i, (slope, offset) in enumerate(lines):
        like, other = lines[i % 3], lines[(i + 1) % 3]
        np.testing.assert_allclose(slope, like[0], rtol=1e-9)
        np.testing.assert_allclose(offset, like[1], atol=1e-9)
        assert np.abs(slope - other[0]).max() > 0.1
    np.testing.assert_array_equal(fed.train.client(3)[0], plain.train.client(3)[0])


def test_noise_contrast_and_brightness_have_their_levels(plain: Federation) -> None:
    x = plain.train.x.astype(np.float64)
    middle, spread = x.mean(), x.std()
    group = [0, 1, 2] * 3 + [0]
    for kind in ("noise", "contrast", "brightness"):
        fed = fs.data.feature_shifted(plain, 3, kind=kind, strength=0.8, group=group, seed=1)
        for client, h in ((0, 0.0), (1, 0.4), (2, 0.8)):
            x, x0 = (f.train.client(client)[0].astype(np.float64) for f in (fed, plain))
            if kind == "noise":
                z = (x - x0) / spread
                # 48 x 64 numbers: the deviation has a standard error of h / 78.
                assert abs(z.std() - h) <= 5 * h / 78 and abs(z.mean()) <= 5 * h / 55
            elif kind == "contrast":
                want = middle + np.exp(-h) * (x0 - middle)
                np.testing.assert_allclose(x, want, atol=1e-6)
            else:
                np.testing.assert_allclose(x, x0 + h * spread, atol=1e-6)


def test_planting_twice_gives_the_combinations(plain: Federation) -> None:
    fed = fs.data.rotated(fs.data.relabelled(plain, 2), 2)
    first = fs.data.relabelled(plain, 2).meta["group"]
    second = fs.data.rotated(plain, 2).meta["group"]
    assert not np.array_equal(first, second)  # one seed, two draws
    np.testing.assert_array_equal(fed.meta["group"], 2 * first + second)
    both = fs.data.rotated(fs.data.relabelled(plain, 2), 2, group=first)
    np.testing.assert_array_equal(both.meta["group"], first)
    assert "permutations" in fed.meta and "angles" in fed.meta


@pytest.mark.parametrize("plant", [fs.data.rotated, fs.data.relabelled, fs.data.feature_shifted])
def test_the_seed_decides_and_the_original_stays(plain: Federation, plant: Any) -> None:
    before = plain.train.x.copy(), plain.train.y.copy()
    a, b, c = plant(plain, 3, seed=1), plant(plain, 3, seed=1), plant(plain, 3, seed=2)
    np.testing.assert_array_equal(a.train.x, b.train.x)
    np.testing.assert_array_equal(a.train.y, b.train.y)
    assert not np.array_equal(a.meta["group"], c.meta["group"])
    np.testing.assert_array_equal(plain.train.x, before[0])
    np.testing.assert_array_equal(plain.train.y, before[1])


@given(st.integers(1, 8), st.integers(0, 40), st.floats(0, 0.9), st.integers(0, 99))
def test_label_groups_deal_everything_and_keep_to_their_labels(
    groups: int, spare: int, mix: float, seed: int
) -> None:
    clients = groups + spare
    y = np.random.default_rng(seed).integers(0, 8, 60 * clients + 200)
    fed = fs.data.from_arrays(
        np.arange(len(y)), y, fs.partition.label_groups(clients, groups, mix, seed), seed=seed
    )
    group = fed.meta["group"]
    assert sorted(fed.train.x.tolist()) == list(range(len(y)))
    assert np.ptp(np.bincount(group, minlength=groups)) <= 1
    counts = fs.data.holdings_table(fed)
    by_group = np.array([counts[group == g].sum(axis=0) for g in range(groups)])
    sizes = fed.train.sizes
    assert all(np.ptp(sizes[group == g]) <= 1 for g in range(groups))
    if mix == 0 or groups == 1:
        assert ((by_group > 0).sum(axis=0) <= 1).all()
    elif mix < 1 - 1 / groups:
        own = by_group.max(axis=0).sum() / len(y)
        # Binomial with mean 1 - mix; the largest group of a class is its own but for chance.
        assert own > 1 - mix - 5 * np.sqrt(0.25 / len(y))


def test_mixture_of_regressions_is_the_model_that_it_says() -> None:
    fed = fs.data.mixture_of_regressions(12, 40, 6, groups=3, sigma=0.01, radius=2.0, seed=4,
                                         test_fraction=0.25, dtype="float64")  # fmt: skip
    theta, group = fed.meta["theta"], fed.meta["group"]
    np.testing.assert_allclose(np.linalg.norm(theta, axis=1), 2.0)
    assert all(len(np.unique(np.round(row, 12))) <= 2 for row in theta)  # 0 or one number
    assert np.bincount(group).tolist() == [4, 4, 4] and fed.test.sizes.tolist() == [10] * 12
    rest = []
    for client in range(12):
        x, y = fed.train.client(client)
        found = np.linalg.lstsq(x, y)[0]
        assert np.linalg.norm(theta - found, axis=1).argmin() == group[client]
        rest.append(y - x @ theta[group[client]])
    # 360 residuals: their deviation has a standard error of 3.7 %.
    assert abs(np.concatenate(rest).std() / 0.01 - 1) < 0.2


@given(st.integers(2, 50), st.integers(2, 5), st.floats(0.05, 1.0), st.integers(0, 9))
def test_members_move_to_other_groups_at_the_given_rounds(
    clients: int, groups: int, movers: float, seed: int
) -> None:
    count = round(movers * clients)
    if not count:
        with pytest.raises(InputError, match=f"movers = .*moves none of {clients} clients"):
            membership(clients, groups, moves_at=[3, 7], movers=movers, seed=seed)
        return
    stages = membership(clients, groups, moves_at=[3, 7], movers=movers, seed=seed)
    assert stages.shape == (3, clients) and stages.min() >= 0 and stages.max() < groups
    moved = (np.diff(stages, axis=0) != 0).sum(axis=1)
    assert moved.tolist() == [count] * 2


def test_stages_show_each_client_what_its_group_then_sees(plain: Federation) -> None:
    fed = fs.data.rotated(plain, 4, moves_at=[5, 9], movers=0.5, seed=2)
    groups = fed.meta["group_stages"]
    np.testing.assert_array_equal(fed.meta["group"], groups[0])
    assert fed.meta["moves_at"] == [5, 9]
    data = shards_for_device(fed.train)
    for round_, stage in ((0, 0), (4, 0), (5, 1), (8, 1), (9, 2), (1000, 2)):
        now = data.at(np.int32(round_))
        for client in range(10):
            window = now.client(client)
            rows = slice(int(window.offset), int(window.offset + window.size))
            turned = np.rot90(
                plain.train.client(client)[0].reshape(-1, 8, 8), groups[stage, client], (1, 2)
            )
            np.testing.assert_array_equal(data.x[rows].reshape(-1, 8, 8), turned)
        whole = now.client(3).whole()
        own = fed.train.at(round_)
        assert own.stages is None and fed.train.stage(round_) == stage
        np.testing.assert_array_equal(own.client(3)[0], data.x[int(now.offsets[3]) :][:48])
        total = plain.train.sizes.sum()
        assert (int(whole.offset), int(whole.size)) == (stage * total, total)
    with pytest.raises(InputError, match="plant what changes over time last"):
        fs.data.relabelled(fed, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": None}, "are given together"),
        ({"stage_rounds": np.array([0, 2, 4])}, "stages = "),
        ({"stage_rounds": np.array([1, 2])}, "must rise, from 0 on"),
        ({"stage_rounds": np.array([0, 0])}, "must rise, from 0 on"),
        ({"stages": np.array([[0, 1], [3, 2]])}, "must be the offsets in block t"),
    ],
)
def test_stages_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    at = np.arange(2)
    good = {"stages": np.stack([at, at + 2]), "stage_rounds": np.array([0, 3])}
    x, each = np.ones((4, 1)), np.ones(2, np.int64)
    check_shards("train", Shards(x, x, at, each, **good))
    with pytest.raises(InputError, match=message):
        check_shards("train", Shards(x, x, at, each, **(good | change)))


def own_plant(fed: Federation, times: float = 2.0) -> Federation:
    """A user's own plant, whose first argument has another name than ours."""
    train = dataclasses.replace(fed.train, x=times * fed.train.x)
    return dataclasses.replace(fed, train=train)


def test_a_plant_of_the_users_own(monkeypatch: Any) -> None:
    from fedjax_sim.experiment import pieces
    from fedjax_sim.experiment.build import federation
    from fedjax_sim.experiment.config import overrides_table, read, resolve

    monkeypatch.setattr(pieces, "load_own", lambda field, name: own_plant)
    given = {"data.plant.name": "mine:own_plant", "data.plant.times": 3.0}
    made = federation(resolve(read(None), overrides_table(given)))
    partition = fs.partition.dirichlet(100, 0.3)
    want = fs.data.digits(partition, test_fraction=0.2).train.x
    np.testing.assert_array_equal(made.train.x, 3 * want)


def test_data_that_never_change_have_no_more_leaves(plain: Federation) -> None:
    import jax

    data = shards_for_device(plain.train)
    assert len(jax.tree.leaves(data)) == 4 and data.at(np.int32(3)) is data
    assert isinstance(data, DeviceShards)


def test_a_run_trains_and_evaluates_on_the_stage_of_its_round() -> None:
    """`f = (x - b)^2 / 2` with b = 0, from round 3 (of 0 ..) on b = 8; a step halves x - b."""
    targets = np.array([[0.0], [0.0], [8.0], [8.0]], np.float32)
    at, each = np.arange(2), np.ones(2, np.int64)
    shards = Shards(np.ones_like(targets), targets, at, each, np.stack([at, at + 2]),
                    np.array([0, 3]))  # fmt: skip
    fed = Federation(shards, shards)
    watched = fs.Diagnosis(verdict=False, drift_every=0)
    run = fs.run(
        fs.algorithms.fedavg(optax.sgd(0.5), steps=1, batch_size=None), fs.tasks.quadratic(1), fed,
        cohort=2, rounds=6, diagnosis=watched, lanes=1, devices=1, seed=1,
    )  # fmt: skip
    x, losses, tests = 0.0, [], []
    for round_ in range(6):
        b = 0.0 if round_ < 3 else 8.0
        losses.append((x - b) ** 2 / 2)
        x = (x + b) / 2
        tests.append((x - b) ** 2 / 2)
    np.testing.assert_allclose([r["train_loss"] for r in run.records], losses, atol=1e-6)
    np.testing.assert_allclose([r["client_loss_mean"] for r in run.records], tests, atol=1e-6)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("rotated", {"groups": 11}, "groups = 11: must be at most the 10 clients"),
    ("rotated", {"groups": 0}, "groups = 0"),
    ("rotated", {"angles": [1.0]}, "must be 4 angles"),
    ("rotated", {"angles": [0, 1, 2, float("nan")]}, "angles"),
    ("rotated", {"group": [0] * 9}, "must be 10 whole numbers"),
    ("rotated", {"group": [4] * 10}, "group = 4: must lie in 0 .. 3"),
    ("rotated", {"moves_at": [5, 5]}, "must be rising rounds"),
    ("rotated", {"moves_at": [0]}, "moves_at = 0"),
    ("rotated", {"moves_at": [3], "movers": 0.0}, "movers = 0.0"),
    ("rotated", {"moves_at": [3], "movers": 0.04}, "movers = 0.04: moves none of 10 clients"),
    ("rotated", {"moves_at": 5}, "moves_at = 5: must be a list of rounds"),
    ("rotated", {"angles": 5}, "angles = 5: must be a list of 4 angles"),
    ("rotated", {"angles": [[0, 1], 2, 3, 4]}, "must be a list of 4 angles"),
    ("rotated", {"shape": 8}, "shape = 8: must be [H, W]"),
    ("rotated", {"groups": 1, "moves_at": [3]}, "needs at least 2 groups"),
    ("relabelled", {"groups": 4, "pairs": 6}, "pairs = 6"),
    ("relabelled", {"groups": 10, "pairs": 5, "seed": -1}, "seed = -1"),
    ("feature_shifted", {"kind": "blur"}, "must be one of: affine"),
    ("feature_shifted", {"strength": 0}, "strength = 0"),
]


@pytest.mark.parametrize(("plant", "change", "message"), BAD, ids=[m for _, _, m in BAD])
def test_bad_input_is_named(
    plain: Federation, plant: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        getattr(fs.data, plant)(plain, **change)
    assert message in str(caught.value)


def test_what_cannot_be_planted_is_refused() -> None:
    numbers = fs.data.from_arrays(np.ones((4, 4)), np.ones(4), fs.partition.iid(2))
    with pytest.raises(InputError, match="targets that are classes"):
        fs.data.relabelled(numbers, 2)
    whole = fs.data.from_arrays(np.ones((4, 4), int), np.ones(4), fs.partition.iid(2))
    with pytest.raises(InputError, match="needs floats"):
        fs.data.feature_shifted(whole, 2)
    with pytest.raises(InputError, match="must be a Federation"):
        fs.data.rotated("digits")
    few = fs.data.from_arrays(np.ones((12, 1)), np.arange(12) % 3, fs.partition.iid(12))
    with pytest.raises(InputError, match="at most 3 groups can disagree"):
        fs.data.relabelled(few, 4)
    with pytest.raises(InputError, match="3 classes give 4 groups that swap 1 own pairs"):
        fs.data.relabelled(few, 5, pairs=1)
    with pytest.raises(InputError, match="leaves client"):
        fs.data.from_arrays(np.ones((9, 1)), np.array([0] * 8 + [1]),
                            fs.partition.label_groups(6, 2))  # fmt: skip
    with pytest.raises(InputError, match=r"partition\.groups = 3"):
        fs.data.from_arrays(np.ones((9, 1)), np.arange(9) % 2, fs.partition.label_groups(6, 3))


def test_an_experiment_plants_by_its_file() -> None:
    from fedjax_sim.experiment.build import federation
    from fedjax_sim.experiment.config import overrides_table, read, resolve

    given = {"data.plant.name": "rotated", "data.plant.groups": 2, "data.partition.clients": 6}
    experiment = resolve(read(None), overrides_table(given))
    made = federation(experiment)
    partition = fs.partition.dirichlet(6, 0.3)
    want = fs.data.rotated(fs.data.digits(partition, test_fraction=0.2), groups=2)
    np.testing.assert_array_equal(made.train.x, want.train.x)
    np.testing.assert_array_equal(made.meta["group"], want.meta["group"])
    assert 'name = "rotated"' in experiment.to_toml()
    for change, message in (
        ({"data.plant.angles": [1.0]}, r"data\.plant\.angles"),
        ({"data.plant.name": "rotates"}, "did you mean 'rotated'"),
        ({"data.plant.pairs": 1}, r"data\.plant\.pairs = 1: is not known"),
    ):
        with pytest.raises(InputError, match=message):
            federation(resolve(read(None), overrides_table(given | change)))
    with pytest.raises(InputError, match=r"data\.plant\.name = \(nothing\)"):
        resolve(read(None), overrides_table({"data.plant.groups": 2}))


@pytest.mark.slow
def test_rotated_mnist_is_one_expression(data_dir: Any) -> None:
    del data_dir
    fed = fs.data.rotated(fs.data.mnist(fs.partition.iid(100, size=400), test_fraction=0.2), 4)
    assert fed.train.sizes.tolist() == [320] * 100 and fed.train.x.shape == (32_000, 784)
    assert np.bincount(fed.meta["group"]).tolist() == [25] * 4
