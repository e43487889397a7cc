"""Keys are told apart by round, client and purpose; checks say field, value and remedy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core import checks, keys, tree
from fedjax_sim.core.checks import InputError


def test_every_round_client_and_purpose_has_its_own_key():
    run = jax.random.key(3)
    seen = set()
    for r, c, p in itertools.product((0, 1, 7), (0, 1, 2, keys.SERVER), list(keys.Purpose)[:4]):
        of_client = keys.client_key(keys.round_key(run, r), jnp.uint32(c))
        seen.add(tuple(np.asarray(keys.words(keys.for_purpose(of_client, p)))))
    assert len(seen) == 3 * 4 * 4


def test_the_server_has_the_reserved_id():
    of_round = keys.round_key(jax.random.key(0), 5)
    direct = jax.random.fold_in(jax.random.fold_in(of_round, jnp.uint32(2**32 - 1)), 3)
    ours = keys.server_key(of_round, keys.Purpose.SAMPLE)
    np.testing.assert_array_equal(keys.words(ours), keys.words(direct))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_fold_in_is_jax_s_own_bit_for_bit(impl):
    for seed, data in itertools.product(range(4), (0, 1, 77, 2**31, 2**32 - 1)):
        key = jax.random.key(seed, impl=impl)
        want = jax.random.key_data(jax.random.fold_in(key, jnp.uint32(data)))
        got = jax.random.key_data(keys.fold_in(key, jnp.uint32(data)))
        np.testing.assert_array_equal(got, want, err_msg=f"seed {seed}, data {data}")


def test_words_are_the_same_for_old_and_new_keys():
    np.testing.assert_array_equal(keys.words(jax.random.key(9)), keys.words(jax.random.PRNGKey(9)))


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (-1, {"least": 0}, r"mu = -1: must be a finite number at least 0"),
        (float("nan"), {}, r"mu = nan: must be a finite number"),
        (float("inf"), {"above": 0}, r"mu = inf: must be a finite number greater than 0"),
        (1.0, {"least": 0, "below": 1}, r"mu = 1.0: .*at least 0 and less than 1"),
        (True, {}, r"mu = True: must be a number"),
        ("2", {}, r"mu = 2: must be a number"),
    ],
)
def test_numbers_out_of_bounds(value, bounds, message):
    with pytest.raises(InputError, match=message) as caught:
        checks.number("mu", value, **bounds)
    assert caught.value.field == "mu"


def test_numbers_within_bounds_pass_also_traced():
    checks.number("mu", 0.5, least=0, most=1)
    checks.number("mu", np.array([0.1, 0.2]), above=0)
    doubled = jax.jit(lambda v: (checks.number("mu", v, least=0), v * 2)[1])(-1.0)
    assert float(doubled) == -2


@pytest.mark.parametrize("value", [2.0, True, "3", None])
def test_whole_numbers_only(value):
    with pytest.raises(InputError, match="must be a whole number"):
        checks.integer("clients", value)


def test_whole_numbers_bounds_and_choice():
    assert checks.integer("clients", np.int64(4), least=1, most=4) == 4
    with pytest.raises(InputError, match="clients = 0: must be at least 1"):
        checks.integer("clients", 0, least=1)
    with pytest.raises(InputError, match="last = keep: must be one of: drop, partial"):
        checks.choice("last", "keep", ("partial", "drop"))


def test_tree_arithmetic():
    a = {"x": jnp.array([1.0, 2.0]), "y": jnp.array(3.0)}
    assert float(tree.squared_norm(a)) == 14
    assert tree.n_entries(a) == 3
    assert tree.n_bytes(a) == 12
    rows = tree.where_rows(
        jnp.array([True, False]), {"x": jnp.ones((2, 3))}, {"x": jnp.zeros((2, 3))}
    )
    np.testing.assert_array_equal(rows["x"], [[1, 1, 1], [0, 0, 0]])
    kept = tree.where(jnp.array(False), a, tree.scale(a, 2.0))
    np.testing.assert_array_equal(kept["x"], [2.0, 4.0])
