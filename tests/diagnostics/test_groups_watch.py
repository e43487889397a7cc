"""The watch of clients' groups against a list kept in Python, and a run's summary of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import cohort_of
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import fedjax_sim as fs
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Info, Moment
from fedjax_sim.diagnostics.groups_watch import final_groups, groups_watch

N, M, TRUTH = 6, 3, np.array([0, 0, 1, 1, 2, 2])
ROUNDS = [
    ([0, 1, 2], [1, 1, 1], [-1, -1, -1]),  # no groups yet
    ([0, 2, 5], [1, 1, 1], [0, 1, 1]),
    ([0, 4, 2], [1, 1, 0], [2, 0, 2]),  # one absent
    ([1, 2, 3], [0, 0, 0], [0, 0, 0]),  # nobody
    ([0, 3, 5], [1, 1, 1], [2, 1, 3]),  # one out of range
]


def moment(ids, present, told):
    rows = {} if told is None else {"group": jnp.asarray(told, jnp.int32)}
    return Moment(None, jnp.int32(0), None, None, cohort_of(ids, present), Info({}, rows, {}), ())


def test_it_keeps_what_a_list_would():
    watch = groups_watch(M, TRUTH)
    state, observe = watch.init(None, N), jax.jit(watch.observe)
    last = [-1] * N
    for ids, present, told in ROUNDS:
        state, got = observe(state, moment(ids, present, told))
        here = [(i, g) for i, p, g in zip(ids, present, told, strict=True) if p and 0 <= g < M]
        known = [(i, g) for i, g in here if last[i] >= 0]
        moved = [g != last[i] for i, g in known]
        for i, g in here:
            last[i] = g
        assert state.ids.tolist() == last
        assert int(got["groups_used"]) == len({g for _, g in here})
        assert bool(got["group_switched_measured"]) == bool(known)
        np.testing.assert_allclose(got["group_switched"], np.mean(moved) if known else 0)
        seen = np.array(last) >= 0
        assert bool(got["group_ari_measured"]) == seen.any()
        if seen.any():
            want = adjusted_rand_score(TRUTH[seen], np.array(last)[seen])
            np.testing.assert_allclose(got["group_ari"], want, atol=1e-6)
    final = final_groups(state, M, TRUTH)
    assert final["sizes"] == [1, 3, 1] and final["without"] == 1
    seen = np.array(last) >= 0
    want = normalized_mutual_info_score(TRUTH[seen], np.array(last)[seen])
    np.testing.assert_allclose(final["nmi"], want, atol=1e-6)
    np.testing.assert_allclose(final["purity"], 4 / 5, atol=1e-6)


def test_where_clients_move_the_truth_is_that_of_the_round():
    stages = np.array([TRUTH, TRUTH[::-1], [0, 1, 2, 0, 1, 2]])
    watch = groups_watch(M, stages, starts=[0, 2, 5])
    ids, told = [*range(N)], [0, 0, 1, 2, 2, 1]
    for round_index, stage in ((0, 0), (1, 0), (2, 1), (4, 1), (5, 2), (9, 2)):
        seen = moment(ids, [1] * N, told)._replace(round=jnp.int32(round_index))
        _, got = watch.observe(watch.init(None, N), seen)
        want = adjusted_rand_score(stages[stage], told)
        np.testing.assert_allclose(got["group_ari"], want, atol=1e-6)


@pytest.mark.slow
def test_a_run_is_scored_against_the_groups_of_its_last_round():
    fed = fs.data.digits(fs.partition.iid(clients=8), test_fraction=0.2)
    fed = fs.data.rotated(fed, 2, moves_at=[2], movers=0.5)
    first, then = fed.meta["group_stages"]
    task = fs.tasks.classifier(fs.models.logistic(), classes=10)
    told = fs.algorithms.grouped(optax.sgd(0.1), groups=2, ids=first, batch_size=50)
    plain = fs.Diagnosis(verdict=False, drift_every=0)
    run = fs.run(told, task, fed, cohort=8, rounds=3, diagnosis=plain, devices=1, client_eval=False)
    moved = adjusted_rand_score(then, first)
    assert moved < 0.6
    np.testing.assert_allclose([r["group_ari"] for r in run.records], [1, 1, moved], atol=1e-6)
    np.testing.assert_allclose(run.summary["groups"]["ari"], moved, atol=1e-6)


def test_without_reported_groups_or_truth_it_says_less():
    watch = groups_watch(M)
    state = watch.init(None, N)
    assert watch.observe(state, moment([0], [1], None)) == (state, {})
    _, got = watch.observe(state, moment([0], [1], [1]))
    assert set(got) == {"groups_used", "group_switched", "group_switched_measured"}
    assert final_groups(state, M, TRUTH) == {}


@pytest.mark.parametrize("truth", [[0.5] * N, [-1] * N, [[0]], []])
def test_a_truth_that_is_none_is_refused(truth):
    with pytest.raises(InputError, match="groups"):
        groups_watch(M, truth)


def test_a_truth_of_other_clients_is_refused():
    with pytest.raises(InputError, match="groups"):
        groups_watch(M, TRUTH).init(None, N + 1)


def test_a_run_records_groups_and_sums_them_up():
    """Planted groups, found in round 2 and kept; FedAvg beside it tells nothing of groups."""
    fed = fs.data.planted_groups(clients=9, groups=3, features=6, examples=30, seed=1)
    task = fs.tasks.classifier(fs.models.logistic(), classes=fed.n_classes)
    setting = {"cohort": 9, "rounds": 4, "seed": 0, "client_eval": False}
    local = {"epochs": 2, "batch_size": 10}
    recipe = fs.algorithms.grouped(optax.sgd(0.3), groups=3, **local)
    run = fs.run(recipe, task, fed, **setting)
    assert "group_ari" not in run.records[0]
    assert [r["group_ari"] for r in run.records[1:]] == [1.0] * 3
    assert [r["groups_used"] for r in run.records] == [0, 3, 3, 3]
    assert [r.get("group_switched") for r in run.records] == [None, None, 0.0, 0.0]
    found = run.summary["groups"]
    assert sum(found["sizes"]) == 9 and found["without"] == 0
    assert found["ari"] == found["nmi"] == found["purity"] == 1.0
    assert run.model is None
