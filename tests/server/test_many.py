"""Servers of many models: steps, rates, shares, starts, edges, and what newcomers bring."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_trees_equal

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Aggregate, Member, Model
from fedjax_sim.grouping.kmeans import kmeans
from fedjax_sim.server.edges import cloud_model, mixed, server_edges
from fedjax_sim.server.many import fixed_groups, own, server_many
from fedjax_sim.server.optimizer import server_opt
from fedjax_sim.server.regroup import server_regroup
from fedjax_sim.server.separation import silhouette

M, KEY = 3, jax.random.key(0)


def model():
    """In the default float of the moment."""
    return Model({"w": jnp.arange(2.0)}, {"mean": jnp.ones(2), "count": jnp.int32(4)})


def member(client):
    return Member(jnp.int32(client), jnp.bool_(True), jnp.int32(0), jnp.ones(()))


def aggregate(update, weight, **aux):
    weight = jnp.asarray(weight, float)
    n = jnp.sum(weight > 0, dtype=jnp.int32)
    aux = {"group_weight": weight, "group_heard": (weight > 0).astype(jnp.int32)} | aux
    return Aggregate(update, jnp.sum(weight), n, aux)


def decreases(seed):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    return Model({"w": draw(M, 2)}, {"mean": draw(M, 2), "count": jnp.array([1.0, 0.6, -2.0])})


@pytest.mark.parametrize("rates", [None, [1.0, 0.5, 2.0]])
def test_each_group_is_a_server_of_its_own(x64, rates):
    """As M separate servers, of which those nobody reported to do nothing."""
    many = server_many(optax.adam(0.1), M, start="same", rates=rates)
    step_all = jax.jit(many.update)
    alone = [server_opt(optax.adam(0.1 * r)) for r in (rates or [1.0] * M)]
    state, states = many.init(model(), 5), [s.init(model(), 5) for s in alone]
    for step, heard in enumerate([(1, 1, 1), (2, 0, 1), (0, 3, 0), (0, 0, 0)]):
        update = decreases(step)
        state = step_all(state, aggregate(update, heard), KEY)
        for m, server in enumerate(alone):
            one = jax.tree.map(lambda v, m=m: v[m], update)
            report = Aggregate(one, jnp.float64(heard[m]), jnp.int32(heard[m] > 0), {})
            states[m] = server.update(states[m], report, KEY)
        for m in range(M):
            got = jax.tree.map(lambda v, m=m: v[m], state)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
                (got.model, got.opt),
                (states[m].model, states[m].opt),
            )


def test_silence_keeps_a_group_to_the_bit():
    server = server_many(optax.sgd(1.0, momentum=0.9), M, start="same")
    state = server.update(server.init(model(), 5), aggregate(decreases(0), (1, 1, 1)), KEY)
    after = server.update(state, aggregate(decreases(1), (1, 0, 1)), KEY)
    one = lambda s, m: jax.tree.map(lambda v: v[m], s)  # noqa: E731
    assert_trees_equal(one(after, 1), one(state, 1))
    assert np.abs(after.model.params["w"] - state.model.params["w"])[0].min() > 1e-3


def test_a_share_shortens_the_step_by_the_groups_part_of_the_weight(x64):
    whole, part = (server_many(optax.sgd(1.0), M, start="same", share=s) for s in (False, True))
    state, report = whole.init(model(), 5), aggregate(decreases(0), (1, 3, 4))
    a, b = (s.update(state, report, KEY).model.params["w"] for s in (whole, part))
    start = np.asarray(model().params["w"])[None]
    np.testing.assert_allclose(b - start, (a - start) * np.array([1, 3, 4])[:, None] / 8)


def test_steps_are_rescaled_in_every_group(x64):
    server = server_many(optax.sgd(1.0), M, start="same", rates=[1.0, 2.0, 3.0])
    state, report = server.init(model(), 5), aggregate(decreases(0), (1, 1, 1))
    full = server.update(state, report, KEY).model.params["w"]
    half = server.update(server.rescale(state, 0.5), report, KEY).model.params["w"]
    start = np.asarray(model().params["w"])[None]
    np.testing.assert_allclose(half - start, (full - start) / 2)


def test_given_models_are_taken_and_checked():
    given = jax.tree.map(lambda v: jnp.stack([v, v + 1, v + 2]), model())
    assert_trees_equal(server_many(optax.sgd(1.0), M, start=given).init(model(), 5).model, given)
    short = jax.tree.map(lambda v: v[:2], given)
    with pytest.raises(InputError, match="start"):
        server_many(optax.sgd(1.0), M, start=short).init(model(), 5)


def test_a_perturbation_leaves_the_first_model_and_all_states():
    server = server_many(optax.adam(1.0), M, start="perturbed", spread=0.1)
    begun = server.draw(KEY, None, server.init(model(), 5))
    w = np.asarray(begun.model.params["w"])
    np.testing.assert_array_equal(w[0], model().params["w"])
    assert (np.abs(w[1:] - w[:1]) > 1e-4).all()
    np.testing.assert_array_equal(begun.model.state["mean"], np.ones((M, 2)))
    np.testing.assert_array_equal(begun.opt[0].count, np.zeros(M))


def test_members_receive_all_models_or_their_own():
    state = server_many(optax.sgd(1.0), M, start="same").init(model(), 5)
    distinct = jax.tree.map(
        lambda v: v + jnp.arange(M, dtype=v.dtype).reshape((M,) + (1,) * (v.ndim - 1)), state.model
    )
    everything = server_many(optax.sgd(1.0), M).receive(distinct, member(4))
    assert_trees_equal(everything, distinct)
    mine = server_many(optax.sgd(1.0), M, of=fixed_groups(M)).receive(distinct, member(4))
    assert_trees_equal(mine, own(distinct, jnp.int32(1)))
    assert int(fixed_groups(M, [2, 2, 0, 1, 2])(member(4))) == 2


@pytest.mark.parametrize("ids", [[0, 3], [-1, 0], [0.5], [[0]], []])
def test_ids_that_are_no_groups_are_refused(ids):
    with pytest.raises(InputError, match="ids"):
        fixed_groups(M, ids)


def test_the_cloud_weighs_edges_by_what_they_heard_since_the_last_meeting(x64):
    server = server_edges(M, edge_rounds=3)
    state = server.init(model(), 6)
    assert_trees_equal(cloud_model(state), model())
    x, weights = np.tile(np.asarray(model().params["w"]), (M, 1)), np.zeros(M)
    for step, heard in enumerate([(2, 1, 0), (0, 0, 0), (0, 5, 0), (4, 0, 0)]):
        update = decreases(step)
        before = state
        state = server.update(state, aggregate(update, heard), KEY)
        if not any(heard):
            assert_trees_equal(state, before)
            continue
        weights += heard
        x = x - np.where(np.array(heard)[:, None] > 0, update.params["w"], 0)
        cloud = weights @ x / weights.sum()
        np.testing.assert_allclose(server.model(state).params["w"], cloud, rtol=1e-12)
    np.testing.assert_allclose(state.edges.model.params["w"], np.tile(cloud, (M, 1)), rtol=1e-12)
    np.testing.assert_array_equal(state.weight, 0)
    assert state.edges.model.state["count"].dtype == jnp.int32


def test_a_model_without_a_share_is_not_looked_at():
    models = Model({"w": jnp.array([[1.0, 2.0], [jnp.nan, 0.0], [3.0, 6.0]])})
    np.testing.assert_allclose(mixed(models, jnp.array([0.5, 0.0, 0.5])).params["w"], [2.0, 4.0])


def told(clients, sketches, groups, weights):
    return {
        "client": jnp.asarray(clients, jnp.int32),
        "sketch": jnp.asarray(sketches, float),
        "group": jnp.asarray(groups, jnp.int32),
        "row_weight": jnp.asarray(weights, float),
    }


@pytest.fixture(scope="module")
def regrouping():
    server = server_regroup(optax.sgd(1.0), 2, dim=2, warmup=1, separation=-1)
    return server.init(model(), 4), jax.jit(server.update)


def test_sketches_that_are_not_finite_or_of_weight_zero_are_not_kept(regrouping):
    state, update = regrouping
    decrease = jax.tree.map(lambda v: v[:2], decreases(0))
    rows = told([3, 1, 0, 2], [[1, 0], [0, 1], [jnp.nan, 0], [1, 1]], [-1] * 4, [1, 2, 1, 0])
    after = update(state, aggregate(decrease, (4, 0), **rows), KEY)
    assert bool(after.formed)
    np.testing.assert_array_equal(after.seen, [False, True, False, True])
    assert after.ids[0] == after.ids[2] == -1
    assert sorted(np.asarray(after.ids)[[1, 3]]) == [0, 1]
    np.testing.assert_allclose(after.centers[after.ids[1]], [0, 1])


def slow_silhouette(unit, ids):
    """Client by client, as the definition says."""
    values = []
    for i in np.flatnonzero(ids >= 0):
        far = {}
        for g in set(ids[ids >= 0]):
            others = [j for j in np.flatnonzero(ids == g) if j != i]
            if others:
                center = unit[others].sum(0)
                far[g] = 1 - unit[i] @ center / np.linalg.norm(center)
        if ids[i] not in far:
            values.append(0.0)
            continue
        a = far.pop(ids[i])
        b = min(far.values())
        values.append((b - a) / max(a, b))
    return np.mean(values)


def test_the_silhouette_is_its_definition(x64):
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(9, 4))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    ids = np.array([0, 0, 0, 3, 3, 3, 1, -1, 0])  # one alone, one of none, group 2 empty
    got = silhouette(jnp.asarray(unit), jnp.asarray(ids), 4)
    np.testing.assert_allclose(got, slow_silhouette(unit, ids), rtol=1e-12)
    apart = np.repeat(np.eye(2), 4, axis=0)
    np.testing.assert_allclose(
        silhouette(jnp.asarray(apart), jnp.repeat(jnp.arange(2), 4), 2), 1, rtol=1e-12
    )


def test_groups_wait_for_as_many_clients_as_there_are_groups(regrouping):
    state, update = regrouping
    decrease = jax.tree.map(lambda v: v[:2], decreases(0))

    def alone(client):
        return aggregate(
            decrease, (1, 0), **told([client] * 4, [[client, 1]] * 4, [-1] * 4, [1, 0, 0, 0])
        )

    state = update(state, alone(3), KEY)
    assert not bool(state.formed)
    w = state.groups.model.params["w"]
    np.testing.assert_array_equal(w[0], w[1])
    assert bool(update(state, alone(2), KEY).formed)


def test_a_group_that_appears_later_begins_at_the_mean_and_not_at_an_old_model():
    server = server_regroup(optax.sgd(1.0), 2, dim=2, warmup=1, every=2, separation=0.9)
    state, update = server.init(model(), 4), jax.jit(server.update)
    decrease = jax.tree.map(lambda v: v[:2], decreases(0))
    clients, alike, apart = [0, 1, 2, 3], [[1, 0]] * 4, [[1, 0], [1, 0], [0, 1], [0, 1]]

    def heard(state, sketches, groups):
        rows = told(clients, sketches, groups, [1] * 4)
        return update(state, aggregate(decrease, (4, 0), **rows), KEY)

    state = heard(state, alike, [-1] * 4)
    np.testing.assert_array_equal(state.ids, [0] * 4)
    state = heard(state, alike, [0] * 4)
    w = np.asarray(state.groups.model.params["w"])
    assert np.abs(w[0] - w[1]).max() > 0.1
    state = heard(state, apart, [0] * 4)
    assert sorted(np.asarray(state.ids)) == [0, 0, 1, 1]
    np.testing.assert_array_equal(state.groups.model.params["w"], [w[0], w[0]])


def test_a_grouper_of_more_groups_is_refused():
    server = server_regroup(optax.sgd(1.0), 2, dim=2, grouper=kmeans(3))
    with pytest.raises(InputError, match="grouper"):
        server.init(model(), 4)


def test_a_host_kernel_is_refused():
    from fedjax_sim.grouping.types import Grouper

    host = Grouper(lambda *a: None, "features", None, host=True)
    with pytest.raises(InputError, match="grouper"):
        server_regroup(optax.sgd(1.0), 2, grouper=host)
