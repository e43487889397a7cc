"""The keyed bijection and the rules that turn examples into batches."""

import collections
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit, shards
from scipy import stats

from fedjax_sim.core import keys
from fedjax_sim.data.batching import Batches, shuffled

LONGEST = 300


@quick_jit
def permutation(words, epoch, size):
    """Where positions 0 .. 299 go, those beyond `size` included."""
    return shuffled(words, epoch, jnp.arange(LONGEST, dtype=jnp.int32), size)


def draw(seed, n):
    """`n` keys' words, uint32 `[n, 2]`."""
    return jax.vmap(keys.words)(jax.random.split(jax.random.key(seed), n))


@pytest.mark.parametrize("seed", [0, 1])
def test_every_size_is_permuted(seed):
    words = draw(seed, 1)[0]
    sizes = jnp.arange(1, LONGEST + 1)
    for epoch in range(3):
        table = np.asarray(jax.vmap(permutation, (None, None, 0))(words, epoch, sizes))
        for n, row in zip(sizes, table, strict=True):
            np.testing.assert_array_equal(np.sort(row[:n]), np.arange(n), err_msg=f"seed {seed}")
            assert row.max() < n, f"beyond the size, an index must still be valid: seed {seed}"


def test_a_large_size_is_permuted():
    n = 1_000_003
    words = draw(3, 1)[0]
    image = jax.jit(shuffled)(words, jnp.uint32(5), jnp.arange(n, dtype=jnp.int32), jnp.int32(n))
    np.testing.assert_array_equal(np.sort(np.asarray(image)), np.arange(n))
    moved = np.abs(np.asarray(image) - np.arange(n)).mean() / n
    assert abs(moved - 1 / 3) < 0.005  # mean distance of two uniform points


def counts(seed, n, n_keys=20_000, epoch=0):
    """Images `[n_keys, n]` of n positions under many keys."""
    of = jax.vmap(lambda w: shuffled(w, epoch, jnp.arange(n, dtype=jnp.int32), jnp.int32(n)))
    return np.asarray(quick_jit(of)(draw(seed, n_keys)))


# A right shuffle fails one test in 1e5 of these; there are 12.
LEVEL = 1e-5


@pytest.mark.parametrize("n", [2, 3, 5, 8, 17])
def test_every_position_is_uniform(n):
    seed = 100 + n
    images = counts(seed, n)
    for position in range(n):
        found = np.bincount(images[:, position], minlength=n)
        p = stats.chisquare(found).pvalue
        assert p > LEVEL, f"position {position} of {n}, seed {seed}: {found}"


def test_all_orders_of_four_are_equally_likely():
    seed = 7
    seen = collections.Counter(map(tuple, counts(seed, 4).tolist()))
    found = [seen[order] for order in itertools.permutations(range(4))]
    assert sum(found) == 20_000
    p = stats.chisquare(found).pvalue
    assert p > LEVEL, f"seed {seed}: {found}"


def test_pairs_of_ten_are_jointly_uniform():
    seed = 8
    images = counts(seed, 10)
    for i, j in ((0, 1), (0, 9), (4, 5)):
        found = np.bincount(images[:, i] * 10 + images[:, j], minlength=100).reshape(10, 10)
        assert np.trace(found) == 0
        p = stats.chisquare(found[~np.eye(10, dtype=bool)]).pvalue
        assert p > LEVEL, f"positions {i}, {j}, seed {seed}"


def test_two_epochs_of_one_key_are_jointly_uniform():
    seed = 9
    first, second = (counts(seed, 5, epoch=e)[:, 0] for e in (0, 1))
    found = np.bincount(first * 5 + second, minlength=25)
    p = stats.chisquare(found).pvalue
    assert p > LEVEL, f"seed {seed}: {found}"


def test_sizes_and_epochs_may_be_given_for_each_position():
    """As the docstring says: scalars and arrays shaped like `position` agree."""
    words, position = draw(14, 1)[0], jnp.array([0, 3, 2, 4], jnp.int32)
    sizes, epochs = jnp.array([5, 9, 5, 9]), jnp.array([0, 1, 1, 0])
    want = [int(shuffled(words, e, p, n)) for e, p, n in zip(epochs, position, sizes, strict=True)]
    np.testing.assert_array_equal(shuffled(words, epochs, position, sizes), want)
    for e, n in ((0, 5), (1, 9)):
        row = [int(shuffled(words, e, p, n)) for p in position]
        np.testing.assert_array_equal(shuffled(words, e, position, sizes * 0 + n), row)
        np.testing.assert_array_equal(shuffled(words, epochs * 0 + e, position, n), row)


def test_epochs_and_keys_have_their_own_orders():
    a, b = draw(10, 2)
    orders = {tuple(permutation(w, e, 300).tolist()) for w in (a, b) for e in range(4)}
    assert len(orders) == 8
    agree = np.mean(np.asarray(permutation(a, 0, 300)) == np.asarray(permutation(a, 1, 300)))
    assert agree < 0.03  # one in 300 by chance


# --- rules ---


def by_hand(size, rule):
    """The steps of a client: lists of (epoch, place in the epoch's order)."""
    if size == 0:
        return []
    most = rule.steps if rule.steps is not None else 10**9
    epochs = rule.epochs if rule.epochs is not None else 10**9
    width = rule.size or size
    batches, batch = [], []
    for epoch in range(epochs):
        for place in range(size):
            batch.append((epoch, place))
            if len(batch) == width:
                batches.append(batch)
                batch = []
            if len(batches) == most:
                return batches
        if rule.last == "partial" and batch:
            batches.append(batch)
            batch = []
        elif rule.last == "drop":
            if width > size:
                return []
            batch = []
        if len(batches) == most:
            return batches
    if batch and rule.last == "topup":  # the last batch runs on into one more epoch
        more = ((epochs + i // size, i % size) for i in itertools.count())
        batches.append(batch + list(itertools.islice(more, width - len(batch))))
    return batches[:most]


AMOUNTS = [(1, None), (3, None), (None, 5), (2, 4), (2, 1000)]
MOST = 64  # local steps looked at; 2 epochs of 30 examples one by one fit


@pytest.mark.parametrize("last", ["partial", "drop", "topup"])
@pytest.mark.parametrize("width", [1, 3, 7, 10, None])
@pytest.mark.parametrize(("epochs", "steps"), AMOUNTS)
def test_rules_equal_a_plain_loop(epochs, steps, width, last):
    """Sizes 0 .. 60: the number of steps, and each step's examples with exact masks."""
    rule, longest = Batches(epochs=epochs, steps=steps, size=width, last=last), 60
    sizes = jnp.arange(longest + 1, dtype=jnp.int32)
    found = np.asarray(rule.count(sizes, longest))
    t = jnp.arange(MOST, dtype=jnp.int32)
    of_step = jax.vmap(lambda t, n: rule.positions(t, n, longest), (0, None))
    tables = quick_jit(jax.vmap(of_step, (None, 0)))(t, sizes)
    epoch, position, mask = (np.asarray(v) for v in tables)
    epoch = np.broadcast_to(epoch if epoch.ndim == 3 else epoch[..., None], mask.shape)
    for n in range(longest + 1):
        want = by_hand(n, rule)
        assert found[n] == len(want), f"{n} examples"
        for step, batch in enumerate(want[:MOST]):
            m = mask[n, step]
            got = list(zip(epoch[n, step][m].tolist(), position[n, step][m].tolist(), strict=True))
            assert got == batch, f"{n} examples, step {step}"


@pytest.fixture(scope="module")
def federation():
    """Three clients; x is the example's row, y its client."""
    sizes = [5, 1, 23]
    owner = np.repeat(np.arange(3), sizes).astype(np.int32)
    return shards(np.arange(29, dtype=np.float32), owner, sizes)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("client", [0, 1, 2])
def test_each_epoch_covers_every_example_once(federation, client, shuffle):
    rule = Batches(epochs=3, size=4, shuffle=shuffle)
    data, words = federation.client(client), draw(11, 1)[0]
    size, per_epoch = int(data.size), -(-int(data.size) // 4)
    steps = jnp.arange(3 * per_epoch, dtype=jnp.int32)
    batches = quick_jit(jax.vmap(lambda t: data.batch(rule, words, t)))(steps)
    assert (batches.y == client).all(), "padding rows repeat the client's own examples"
    assert batches.x.shape == (3 * per_epoch, 4)
    mine, seen = np.arange(int(data.offset), int(data.offset) + size), []
    for epoch in range(3):
        window = slice(epoch * per_epoch, (epoch + 1) * per_epoch)
        x, mask = np.asarray(batches.x[window]), np.asarray(batches.mask[window])
        np.testing.assert_array_equal(np.sort(x[mask]), mine)
        seen.append(x[mask].tolist())
    if not shuffle:
        assert seen == [mine.tolist()] * 3
    elif size == 23:
        assert len({tuple(s) for s in seen}) == 3


@pytest.mark.parametrize("longest", [23, 2000])
@pytest.mark.parametrize("rule", [Batches(epochs=3, size=4), Batches(steps=9, epochs=None, size=4)])
def test_a_feed_hands_out_the_batches_of_every_step(federation, rule, longest):
    """A short client's order is held whole, a long one's a step ahead: the same batches."""
    data, words = dataclasses.replace(federation.client(2), longest=longest), draw(15, 1)[0]
    feed = data.feed(rule, words)
    whole = rule.most_steps(longest)
    assert feed.rows.shape[0] == (whole if whole * 4 <= 256 else 1)
    for t in range(9):
        want = data.batch(rule, words, jnp.int32(t))
        got, feed = data.next(rule, feed, jnp.int32(t))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"step {t}")


def test_topup_goes_on_in_the_same_stream(federation):
    """23 examples by 4: batch 5 ends epoch 0 and begins epoch 1; every 23 rows are all."""
    rule = Batches(epochs=4, size=4, last="topup")
    data, words = federation.client(2), draw(12, 1)[0]
    batches = quick_jit(jax.vmap(lambda t: data.batch(rule, words, t)))(jnp.arange(23))
    assert batches.mask.all()
    stream = np.asarray(batches.x).ravel().reshape(4, 23)
    orders = [np.asarray(permutation(words, e, 23))[:23] for e in range(4)]
    np.testing.assert_array_equal(stream - 6, orders)


def test_the_union_of_all_clients_is_one_window(federation):
    whole = federation.client(1).whole()
    assert (int(whole.offset), int(whole.size), whole.longest) == (0, 29, 29)
    batch = whole.batch(Batches(size=None), draw(13, 1)[0], jnp.int32(0))
    np.testing.assert_array_equal(np.sort(batch.x), np.arange(29))
