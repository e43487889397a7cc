"""Cohorts from a part of the population."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quick_jit

from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Info
from fedjax_sim.sampling.subset import among
from fedjax_sim.sampling.uniform import uniform

SEEN = [9, 2, 5, 7]


def test_only_those_take_part_each_as_often():
    sampler = among(uniform(2, 4), SEEN, 12)
    state = sampler.init(12)
    draw = quick_jit(
        jax.vmap(lambda s: sampler.sample(jax.random.key(s), state, jnp.int32(0))[1].members.id)
    )
    ids = np.asarray(draw(jnp.arange(4000)))
    assert set(ids.ravel()) == set(SEEN) and (ids[:, 0] != ids[:, 1]).all()
    counts = np.bincount(ids.ravel(), minlength=12)[SEEN]
    assert ((counts - 2000) ** 2 / 1000).sum() < 16.3  # 99.9 %, 3 degrees of freedom


def test_a_sampler_that_learns_hears_of_its_own_numbers():
    """What is observed and told is in the ids of the part."""
    base = uniform(2, 4)._replace(
        init=lambda n: jnp.zeros(n, jnp.int32),
        observe=lambda state, cohort, info: state.at[cohort.members.id].add(1),
        tell=lambda state: {"seen": jnp.sum(state)},
    )
    sampler = among(base, SEEN, 12)
    state, cohort = sampler.sample(jax.random.key(1), sampler.init(12), jnp.int32(0))
    after = sampler.observe(state, cohort, Info({}, {}, {}))
    heard = np.flatnonzero(after[0])
    assert set(np.array(SEEN)[heard]) == set(np.asarray(cohort.members.id))
    assert sampler.tell is not None and int(sampler.tell(after)["seen"]) == 2


@pytest.mark.parametrize("clients", [[], [1, 1], [12], [-1]])
def test_clients_that_are_none_are_refused(clients):
    with pytest.raises(InputError, match="distinct client ids"):
        among(uniform(1, 4), clients, 12)
