"""Who is online: the shares, the hours and the memory that were asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit

from fedjax_sim.core.checks import InputError
from fedjax_sim.systems.availability import DAY_S, always, bernoulli, diurnal, markov
from fedjax_sim.systems.fleet import fleet

N = 20_000
SIGMA = 4.0


def rounds(rule, elapsed_s, count, online=0.3, phase=None):
    """Who is online in `count` rounds `elapsed_s` apart, bool `[count, N]`, and the times."""
    drawn = jax.tree.map(jnp.asarray, fleet(N, online=online))
    drawn = drawn if phase is None else drawn._replace(phase=jnp.full(N, phase))

    def one(carry, i):
        time, state = carry
        since = jnp.where(i == 0, jnp.inf, elapsed_s)
        state, on = rule.draw(jax.random.key(i), drawn, state, time, since)
        return (time + elapsed_s, state), on

    start = (jnp.zeros(()), rule.init(drawn))
    _, on = quick_jit(lambda s: jax.lax.scan(one, s, jnp.arange(count)))(start)
    return np.asarray(on), np.arange(count) * elapsed_s


def near(found, wanted, n=N):
    return abs(found - wanted) < SIGMA * np.sqrt(wanted * (1 - wanted) / n) + 1e-6


def test_always_and_bernoulli():
    on, _ = rounds(always(), 10.0, 2)
    assert on.all()
    on, _ = rounds(bernoulli(), 10.0, 2)
    assert near(on[0].mean(), 0.3) and near(on[1].mean(), 0.3)
    assert near((on[0] & on[1]).mean(), 0.09)


def test_diurnal_follows_the_hour_of_each_client():
    on, times = rounds(diurnal(0.8), DAY_S / 8, 9, phase=0.125)
    for share, time in zip(on.mean(1), times, strict=True):
        assert near(share, 0.3 * (1 + 0.8 * np.sin(2 * np.pi * (time / DAY_S + 0.125))))
    spread, _ = rounds(diurnal(1.0), DAY_S / 8, 3)
    assert all(near(share, 0.3) for share in spread.mean(1))


def test_markov_forgets_at_its_rate_and_keeps_its_share():
    elapsed_s, memory_s, p = 600.0, 900.0, 0.3
    on, _ = rounds(markov(memory_s), elapsed_s, 6)
    assert all(near(share, p) for share in on.mean(1))
    for lag in (1, 2):
        left = np.exp(-lag * elapsed_s / memory_s)
        stayed = on[3 + lag][on[3]].mean()
        assert near(stayed, p + (1 - p) * left, on[3].sum())
        came = on[3 + lag][~on[3]].mean()
        assert near(came, p - p * left, (~on[3]).sum())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: diurnal(1.5), r"swing = 1\.5"),
        (lambda: diurnal(period_s=0), r"period_s = 0"),
        (lambda: markov(-1.0), r"memory_s = -1"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(InputError, match=message):
        build()
