"""Every kernel by the same laws: planted groups, masks, NaN, k > N, one client, jit, vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit
from oracles.grouping import blobs, same_partition

from fedjax_sim import grouping
from fedjax_sim.core.checks import InputError
from fedjax_sim.grouping import similarity

N, D, K = 30, 4, 3
KEY = jax.random.key(5)
X, TRUTH = blobs(0, N, D, K, apart=12.0)
X = X.astype(np.float32)

KERNELS = {
    "kmeans": grouping.kmeans(K),
    "spherical": grouping.kmeans(K, metric="cosine"),
    "minibatch": grouping.minibatch_kmeans(K, batch=16, steps=20),
    "balanced": grouping.balanced(K, least=2, most=N),
    "balanced greedy": grouping.balanced(K, most=N, exact=False),
    "agglomerative": grouping.agglomerative(K),
    "agglomerative in jit": grouping.agglomerative(K, linkage="complete", host=False),
    "mixture": grouping.mixture(K, iterations=50),
    "spectral": grouping.spectral(K),
    "agglomerative of similarities": grouping.agglomerative(K, takes="similarity"),
    "recursive bipartition": grouping.recursive_bipartition(0.5),
    "dbscan": grouping.density(5.0, least=3),
    "hdbscan": grouping.density(method="hdbscan", least=3),
}
FIXED = [n for n in KERNELS if n not in ("recursive bipartition", "dbscan", "hdbscan")]
IN_JIT = [n for n, g in KERNELS.items() if not g.host]
ON_HOST = [n for n, g in KERNELS.items() if g.host]


JITTED = {n: quick_jit(lambda x, mask, g=g: g.fit(KEY, x, mask)) for n, g in KERNELS.items()}
ALL = jnp.ones(N, bool)


def fit(name, x, mask=ALL):
    """In jit where the kernel can: one program for all tests of a kernel."""
    return KERNELS[name].fit(KEY, x, mask) if KERNELS[name].host else JITTED[name](x, mask)


def given(kernel, x):
    """`x` as the kernel takes it."""
    if kernel.takes == "features":
        return jnp.asarray(x)
    return similarity.rbf(jnp.asarray(x), gamma=0.02)


@pytest.mark.parametrize("name", KERNELS)
def test_planted_groups_are_found(name):
    kernel = KERNELS[name]
    groups = fit(name, given(kernel, X))
    assert groups.ids.dtype == jnp.int32 and groups.ids.shape == (N,)
    assert same_partition(groups.ids, TRUTH), np.asarray(groups.ids)
    sizes = np.asarray(groups.info["sizes"])
    np.testing.assert_array_equal(sizes, np.bincount(np.asarray(groups.ids), minlength=len(sizes)))


@pytest.mark.parametrize("name", KERNELS)
def test_absent_clients_are_never_read(name):
    """Same groups of the others whatever an absent client holds, NaN included."""
    kernel = KERNELS[name]
    mask = np.arange(N) % 5 != 0
    x = np.asarray(given(kernel, X)).copy()
    if kernel.takes == "features":
        x[~mask] = np.nan
    else:
        x[~mask], x[:, ~mask] = np.nan, np.nan
    ids = np.asarray(fit(name, jnp.asarray(x), jnp.asarray(mask)).ids)
    assert (ids[~mask] == -1).all()
    assert same_partition(ids[mask], TRUTH[mask]), ids


@pytest.mark.parametrize("name", KERNELS)
def test_nan_is_refused_with_the_clients_number(name):
    kernel = KERNELS[name]
    x = np.asarray(given(kernel, X)).copy()
    x[7, 1] = np.nan
    if kernel.takes == "similarity":
        x[7], x[:, 7] = np.nan, np.nan
    with pytest.raises(InputError, match="not finite at client 7 "):
        kernel.fit(KEY, x)


@pytest.mark.parametrize("name", IN_JIT)
def test_in_jit_a_client_that_is_not_finite_is_left_out(name):
    kernel = KERNELS[name]
    x = np.asarray(given(kernel, X)).copy()
    x[7] = np.inf
    if kernel.takes == "similarity":
        x[:, 7] = np.inf
    ids = np.asarray(fit(name, jnp.asarray(x)).ids)
    assert ids[7] == -1
    rest = np.arange(N) != 7
    assert same_partition(ids[rest], TRUTH[rest]), ids


LONG = ("spectral", "spherical", "minibatch", "balanced greedy", "mixture")  # a second program each


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in IN_JIT]
)
def test_jit_and_no_jit_agree(name):
    kernel = KERNELS[name]
    x = given(kernel, X)
    inside, outside = fit(name, x), kernel.fit(KEY, x)
    np.testing.assert_array_equal(inside.ids, outside.ids)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        {n: inside.info[n] for n in inside.info if n != "embedding"},
        {n: outside.info[n] for n in outside.info if n != "embedding"},
    )


@pytest.mark.parametrize("name", ON_HOST)
def test_host_kernels_refuse_to_be_traced(name):
    kernel = KERNELS[name]
    with pytest.raises(InputError, match="outside jit"):
        jax.jit(lambda v: kernel.fit(KEY, v).ids)(given(kernel, X))


@pytest.mark.parametrize("name", FIXED)
def test_more_groups_than_clients_are_refused(name):
    kernel = KERNELS[name]
    with pytest.raises(InputError, match="at most the 2 clients there are"):
        kernel.fit(KEY, given(kernel, X[:2]))
    if name in IN_JIT:
        with pytest.raises(InputError, match="at most the 2 clients there are"):
            jax.jit(lambda v: kernel.fit(KEY, v).ids)(given(kernel, X[:2]))
    mask = jnp.asarray(np.arange(N) < 2)
    with pytest.raises(InputError, match="at most the 2 clients that are present"):
        kernel.fit(KEY, given(kernel, X), mask)


@pytest.mark.parametrize("name", IN_JIT)
def test_in_jit_fewer_present_clients_than_groups_leave_groups_empty(name):
    kernel = KERNELS[name]
    for there in ((4,), ()):
        mask = np.isin(np.arange(N), there)
        groups = fit(name, given(kernel, X), jnp.asarray(mask))
        ids = np.asarray(groups.ids)
        assert ((ids >= 0) == mask).all() and (ids < K).all()
        assert int(groups.info["sizes"].sum()) == len(there)
        assert all(np.isfinite(v).all() for v in jax.tree.leaves(groups.info))


@pytest.mark.parametrize("name", KERNELS)
def test_wrong_shapes_are_refused(name):
    kernel = KERNELS[name]
    with pytest.raises(InputError, match="must be"):
        kernel.fit(KEY, np.zeros((N, D, 1)))
    with pytest.raises(InputError, match="mask"):
        kernel.fit(KEY, given(kernel, X), np.ones(N - 1, bool))
    with pytest.raises(InputError, match="mask"):
        kernel.fit(KEY, given(kernel, X), np.ones(N))


ONE = {
    "kmeans": grouping.kmeans(1),
    "minibatch": grouping.minibatch_kmeans(1, batch=4, steps=2),
    "balanced": grouping.balanced(1, most=1),
    "agglomerative": grouping.agglomerative(1),
    "agglomerative in jit": grouping.agglomerative(1, host=False),
    "mixture": grouping.mixture(1),
    "spectral": grouping.spectral(1),
    "recursive bipartition": grouping.recursive_bipartition(0.5),
    "dbscan": grouping.density(1.0, least=1),
}


@pytest.mark.parametrize("name", ONE)
def test_a_single_client_is_group_0(name):
    kernel = ONE[name]
    fit_one = kernel.fit if kernel.host else quick_jit(kernel.fit)
    x = np.full((1, 1), 3.0, np.float32) if kernel.takes == "features" else np.ones((1, 1))
    groups = fit_one(KEY, x)
    assert groups.ids.tolist() == [0] and groups.info["sizes"].tolist() == [1]


def test_a_single_client_is_noise_where_one_is_no_crowd():
    one = np.zeros((1, 2))
    assert grouping.density(1.0, least=2).fit(KEY, one).ids.tolist() == [-1]
    assert grouping.density(method="hdbscan", least=2).fit(KEY, one).ids.tolist() == [-1]


@pytest.mark.parametrize("name", KERNELS)
def test_identical_clients(name):
    """Distance kernels keep them together and leave other groups empty; what must make k groups
    makes them of any clients, and no cut of a graph of equals is the best."""
    kernel = KERNELS[name]
    x = np.full((N, D), 2.5, np.float32)
    groups = fit(name, given(kernel, x))
    ids = np.asarray(groups.ids)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(groups.info) if np.ndim(v) < 2)
    made = len(np.unique(ids))
    if name.startswith("agglomerative"):
        assert made == K
    elif name == "balanced":
        assert np.bincount(ids, minlength=K).min() >= 2
    elif name == "spectral":
        assert (ids >= 0).all() and (ids < K).all()
    elif name == "hdbscan":  # no place is denser than another
        assert made == 1
    else:
        assert (ids == 0).all()


@pytest.mark.parametrize("name", ["kmeans", "agglomerative in jit"])
def test_vmap_is_the_loop(name):
    kernel = KERNELS[name]
    many = [blobs(s, N, D, K, apart=12.0)[0].astype(np.float32) for s in range(3)]
    x = jnp.stack([given(kernel, m) for m in many])
    together = quick_jit(jax.vmap(lambda v: kernel.fit(KEY, v, ALL).ids))(x)
    for v, ids in zip(x, together, strict=True):
        np.testing.assert_array_equal(fit(name, v).ids, ids)


@pytest.mark.parametrize("name", [n for n, g in KERNELS.items() if g.assign is not None])
def test_new_clients_are_assigned_without_a_fit(name):
    kernel = KERNELS[name]
    groups = fit(name, given(kernel, X))
    new, truth = blobs(9, 12, D, K, apart=12.0)
    name_of = {t: int(groups.ids[np.flatnonzero(t == TRUTH)[0]]) for t in range(K)}
    expected = [name_of[t] for t in truth]
    if kernel.takes == "features":
        assert kernel.assign(groups, new.astype(np.float32)).tolist() == expected
    else:
        square = ((new[:, None] - X[None]) ** 2).sum(2)
        assert kernel.assign(groups, np.exp(-0.02 * square)).tolist() == expected


def test_a_similarity_must_be_symmetric():
    table = np.eye(4) + np.triu(np.ones((4, 4)), 1)
    with pytest.raises(InputError, match="symmetric"):
        grouping.spectral(2).fit(KEY, table)
