"""Diagnosis as a run has it: verdicts by group, and what is known for naming causes."""

from __future__ import annotations

import dataclasses

import numpy as np
import optax
import pytest
from experiment import little

import fedjax_sim as fs
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.diagnosis import facts_of, floor_of


def halves(rate: float, rounds: int = 40, **changes):
    """Two clients near the start are at rest at once; two far ones pull them away for ever."""
    made = little.federation(clients=4)
    ones = np.ones_like(made.train.x)
    owner = np.repeat(np.arange(4), made.train.sizes)
    targets = np.where(owner < 2, 0.0, 4.0)[:, None].astype(ones.dtype) * ones
    train = dataclasses.replace(made.train, x=ones, y=targets)
    data = dataclasses.replace(made, train=train, central_test=None)
    recipe = fs.algorithms.fedavg(optax.sgd(rate), epochs=1, batch_size=None, weighting="uniform")
    given = {"recipe": recipe, "federation": data, "cohort": 4, "stragglers": 0.0}
    return little.session(**(given | {"rounds": rounds, "chunk": 10} | changes))


def test_groups_have_verdicts_of_their_own():
    """The model rests at 2: the far group's loss has fallen to a quarter, the near one's rose."""
    run = halves(0.2, groups=[0, 0, 1, 1]).run()
    near, far = run.summary["group_verdicts"]
    np.testing.assert_allclose(run.model.params["x"], 2.0, rtol=1e-3)
    assert near["name"] == far["name"] == "stagnating"
    np.testing.assert_allclose(near["evidence"]["end"], 6.0, rtol=1e-3)
    np.testing.assert_allclose(far["evidence"]["first"], 24.0, rtol=1e-6)
    np.testing.assert_allclose(far["evidence"]["end"], 6.0, rtol=1e-3)


def test_without_groups_there_are_none():
    assert "group_verdicts" not in halves(0.2, rounds=12).run().summary


def test_groups_must_be_one_a_client():
    with pytest.raises(InputError, match="groups"):
        halves(0.2, groups=[0, 1])


def test_facts_are_what_is_known():
    recipe = fs.algorithms.fedavgm(optax.sgd(0.1), server_momentum=0.7, batch_size=2)
    session = little.session(recipe=recipe, stragglers=0.0)
    records = [{"client_steps": 6, "cohort_present": 3}, {"client_steps": 3, "cohort_present": 3}]
    assert facts_of(session.prepared, records) == {"server_momentum": 0.7, "local_steps": 1.5}


def test_a_loss_that_was_never_negative_has_the_floor_zero():
    assert (floor_of(0.0), floor_of(3.0), floor_of(-1e-3)) == (0.0, 0.0, None)
