"""Fair aggregation: weights, tilted and balanced means, projections, the shortest mixture."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from oracles import fair as oracle

from fedjax_sim.aggregation.balanced import balanced
from fedjax_sim.aggregation.collect import collect
from fedjax_sim.aggregation.min_norm import min_norm
from fedjax_sim.aggregation.simplex import onto_box_simplex, onto_simplex, shortest_near
from fedjax_sim.aggregation.tilted import tilted
from fedjax_sim.clients.sgd import weigh
from fedjax_sim.clients.weights import by_group, capped, power
from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Context, Member, Model, Report

SEEDS = st.integers(0, 2**31 - 1)
K, M = 8, 3


def context(client=0):
    return Context(None, jnp.int32(0), Member(jnp.int32(client), True, jnp.int32(0), 1.0))


def test_weights_between_examples_and_uniform():
    sizes = [1, 30, 100, 5000]
    wanted = {
        "examples": sizes,
        "uniform": [1, 1, 1, 1],
        "capped:100": [1, 30, 100, 100],
        "power:0.5": np.sqrt(sizes),
        "power:1": sizes,
        "power:0": [1, 1, 1, 1],
        "power:-1": 1 / np.array(sizes),
    }
    for word, want in wanted.items():
        got = [weigh(word, jnp.int32(n), jnp.int32(9), context()) for n in sizes]
        np.testing.assert_allclose(got, want, rtol=1e-6, err_msg=word)
    for function in (capped(50), power(-1.0)):
        assert float(weigh(function, jnp.int32(0), jnp.int32(0), context())) == 0


def test_groups_weigh_the_same_whatever_their_clients_and_examples():
    groups, sizes = np.array([5, 5, 5, 2, 2, 9]), np.array([10, 20, 70, 1, 3, 400])
    for given in (sizes, None):
        weight = by_group(groups, given)
        got = np.array([weigh(weight, 1, 1, context(i)) for i in range(6)])
        for g in (2, 5, 9):
            np.testing.assert_allclose(got[groups == g].sum(), 1, rtol=1e-6)
        inside = got[:3] / got[0]
        np.testing.assert_allclose(inside, [1, 2, 7] if given is not None else [1, 1, 1], rtol=1e-6)


BAD = {
    "capped:0": "greater than 0",
    "power:x": "capped:N, power:A",
    "power:": "power:A",
    "cap:3": "must be examples, uniform",
    "capped": "must be examples, uniform",
    "power:nan": "finite",
    "groups": "by_group",
}


@pytest.mark.parametrize("word", BAD)
def test_words_that_are_no_weighting(word):
    with pytest.raises(InputError, match=BAD[word]) as told:
        weigh(word, jnp.int32(3), jnp.int32(1), context())
    assert told.value.field == "algorithm.weighting" and told.value.value == word


def test_groups_that_are_none():
    for groups, sizes in (([0.5], None), ([[1]], None), ([], None), ([0, 1], [3])):
        with pytest.raises(InputError):
            by_group(groups, sizes)


def reports(seed, absent=0.3, level=5.0):
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(K, 3)), "b": rng.normal(size=K)}
    update = Model(jax.tree.map(jnp.asarray, params), jnp.asarray(rng.normal(size=(K, 2))))
    weight = jnp.asarray(rng.uniform(0.5, 3, K) * (rng.uniform(size=K) >= absent))
    group = jnp.asarray(rng.integers(0, M, K), jnp.int32)
    aux = {
        "l": jnp.asarray(level * rng.normal(size=K)),
        "d": jnp.asarray(rng.uniform(1, 2, K)),
        "share": jnp.asarray(rng.uniform(0, 1, M))[group],
        "group": group,
    }
    return Report(update, weight, group, aux)


RULES = {
    "tilted": tilted("l", collect=("group",)),
    "stretched": tilted("l", stretch="d"),
    "balanced": balanced(M),
    "shares": balanced(M, share="share", collect=("d",)),
    "min norm": collect(min_norm(0.1)),
}


def fold(rule, many, cuts):
    """Pieces into accumulators of their own, which are then merged as devices do."""
    shape = tree.shapes(jax.tree.map(lambda x: x[0], many))
    parts = []
    for a, b in itertools.pairwise([0, *sorted(cuts), K]):
        piece = jax.tree.map(lambda x, a=a, b=b: x[a:b], many)
        zero = rule.zero(shape, K)
        parts.append(rule.accumulate(zero, piece, jnp.arange(a, b)) if b > a else zero)
    total = parts[0]
    for part in parts[1:]:
        total = (rule.merge or tree.add)(total, part)
    return rule.finalize(total)


CUTS = ((), (0, 3, 3, 5))
FOLDS = {
    (name, cuts): quick_jit(lambda many, r=rule, c=cuts: fold(r, many, c))
    for name, rule in RULES.items()
    for cuts in CUTS
}


@pytest.mark.parametrize("name", RULES)
def test_any_split_gives_the_same_and_the_weightless_are_not_heard(x64, name):
    for seed in range(5):
        many = reports(seed)
        whole, split = (FOLDS[name, c](many) for c in CUTS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), whole, split)
        gone = many.weight == 0
        bad = jax.tree.map(
            lambda x, gone=gone: jnp.where(gone.reshape((-1,) + (1,) * (x.ndim - 1)), jnp.nan, x),
            (many.update, {n: v for n, v in many.aux.items() if n != "group"}),
        )
        dirty = many._replace(update=bad[0], aux=many.aux | bad[1])
        jax.tree.map(np.testing.assert_array_equal, FOLDS[name, ()](dirty), whole)
    nobody = FOLDS[name, CUTS[1]](reports(0, absent=1.1))
    assert float(nobody.weight) == 0 and int(nobody.n_present) == 0
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(nobody.update))


def test_the_tilted_mean_is_numpys_at_any_level(x64):
    for seed, level in ((0, 1.0), (1, 30.0), (2, 2000.0)):
        many = reports(seed, level=level)
        level = np.asarray(many.aux["l"])
        w = np.where(np.asarray(many.weight) > 0, level, -np.inf)
        w = np.asarray(many.weight) * np.exp(w - w.max())
        plain, stretched = (FOLDS[n, ()](many) for n in ("tilted", "stretched"))
        for leaf, found in zip(
            jax.tree.leaves(many.update), jax.tree.leaves(plain.update), strict=True
        ):
            want = np.average(leaf, axis=0, weights=w)
            np.testing.assert_allclose(found, want, rtol=1e-11)
        longer = w @ np.asarray(many.aux["d"]) / w.sum()
        np.testing.assert_allclose(
            stretched.update.params["w"] * longer, plain.update.params["w"], rtol=1e-11
        )
        np.testing.assert_allclose(stretched.update.state, plain.update.state, rtol=1e-14)
        few = w.sum() ** 2 / (w**2).sum()
        np.testing.assert_allclose(plain.aux["effective_clients"], few, rtol=1e-11)
        shifted = many._replace(aux=many.aux | {"l": many.aux["l"] + 1e4})
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8),
            FOLDS["tilted", ()](shifted),
            plain,
        )


def test_a_tilt_of_minus_infinity_leaves_out_and_of_all_leaves_nothing(x64):
    many = reports(4, absent=0.0)
    out = jnp.arange(K) < 3
    some = many._replace(aux=many.aux | {"l": jnp.where(out, -jnp.inf, many.aux["l"])})
    absent = many._replace(weight=jnp.where(out, 0, many.weight))
    a, b = FOLDS["tilted", ()](some), FOLDS["tilted", ()](absent)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), a.update, b.update)
    # Left out of the mean, and heard all the same.
    assert int(a.n_present) == K and float(a.weight) == pytest.approx(float(many.weight.sum()))
    np.testing.assert_array_equal(a.aux["row_weight"], many.weight)
    none = many._replace(aux=many.aux | {"l": jnp.full(K, -jnp.inf)})
    end = FOLDS["tilted", CUTS[1]](none)
    assert float(end.weight) == 0 and int(end.n_present) == K
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(end.update))


def test_a_balanced_mean_is_the_mean_of_group_means(x64):
    for seed in range(4):
        many = reports(seed)
        weight, group = np.asarray(many.weight), np.asarray(many.group)
        heard = [g for g in range(M) if weight[group == g].sum() > 0]
        share = np.array([np.asarray(many.aux["share"])[group == g][0] for g in heard])
        for name, s in (("balanced", np.ones(len(heard))), ("shares", share)):
            got = FOLDS[name, ()](many)
            for leaf, found in zip(
                jax.tree.leaves(many.update), jax.tree.leaves(got.update), strict=True
            ):
                leaf = np.asarray(leaf)
                means = [
                    np.average(leaf[group == g], axis=0, weights=weight[group == g]) for g in heard
                ]
                want = np.average(means, axis=0, weights=s)
                np.testing.assert_allclose(found, want, rtol=1e-11)
            assert float(got.weight) == pytest.approx(weight.sum())


@hypothesis.given(seed=SEEDS)
def test_projections_are_the_closest_points(seed):
    rng = np.random.default_rng(seed)
    v = rng.normal(size=K) * rng.choice([0.1, 1, 100])
    centre = rng.dirichlet(np.ones(K))
    radius = rng.choice([0.0, 0.05, 0.3, 1.0])
    low, high = np.maximum(centre - radius, 0), np.minimum(centre + radius, 1)
    with jax.enable_x64(True):
        p, q = (np.asarray(x) for x in PROJECT(v, low, high))
    np.testing.assert_allclose(p, oracle.simplex_projection(v), atol=1e-12)
    # The optimality of a projection: <v - q, x - q> <= 0 for every x of the set.
    assert abs(q.sum() - 1) < 1e-9 and (q >= low - 1e-12).all() and (q <= high + 1e-12).all()
    bounds = list(zip(low, high, strict=True))
    best = oracle.vertex(-(v - q), bounds)
    assert (v - q) @ (best - q) <= 1e-7 * max(1, np.abs(v).max())


PROJECT = quick_jit(lambda v, low, high: (onto_simplex(v), onto_box_simplex(v, low, high)))
NEAR = quick_jit(shortest_near)


@pytest.mark.parametrize("radius", [0.0, 0.05, 0.3, 1.0])
def test_the_shortest_mixture_is_the_solvers(x64, radius):
    """SciPy's SLSQP finds nothing shorter, and the optimality condition holds to rounding."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        u = rng.normal(size=(K, 5 if seed % 2 else 30))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        centre, gram = rng.dirichlet(np.ones(K)), u @ u.T
        p = np.asarray(NEAR(gram, centre, radius))
        theirs = oracle.shortest_near(gram, centre, radius)
        assert p @ gram @ p <= theirs @ gram @ theirs + 1e-9
        bounds = [(max(c - radius, 0), min(c + radius, 1)) for c in centre]
        lowest = oracle.vertex(2 * gram @ p, bounds)
        assert 2 * gram @ p @ (p - lowest) < 1e-6
    assert radius or np.abs(p - centre).max() < 1e-12


def test_no_client_loses_by_the_min_norm_direction(x64):
    """With epsilon 1 every direction has at least |d|^2 of d in it: the point of the method."""
    many = reports(7, absent=0.0)
    d = quick_jit(lambda u, w: min_norm(1.0)(u, w))(many.update, many.weight)
    flat = lambda p: np.concatenate([np.asarray(p["w"]), np.asarray(p["b"])[..., None]], -1)  # noqa: E731
    u, d = flat(many.update.params), flat(d.params)
    u = u / np.linalg.norm(u, axis=1, keepdims=True)
    assert (u @ d >= d @ d - 1e-9).all()
    uniform = u.mean(axis=0)
    assert d @ d < uniform @ uniform


def test_min_norm_in_float32_and_of_a_client_that_does_not_move():
    many = jax.tree.map(
        lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, reports(3, absent=0.0)
    )
    still = jax.tree.map(lambda x: x.at[2].set(0), many.update)
    got = quick_jit(lambda u, w: min_norm(0.05)(u, w))(still, many.weight)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(got))
    assert got.params["w"].dtype == jnp.float32
    share = np.asarray(many.weight) / np.asarray(many.weight).sum()
    np.testing.assert_allclose(got.state, share @ np.asarray(still.state), rtol=1e-5)
