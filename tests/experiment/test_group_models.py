"""Where clients share one of several models, all of them are kept, and each comes back."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from experiment.little import DIM, session

import fedjax_sim as fs
from fedjax_sim.algorithms import grouped
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.run_result import Run
from fedjax_sim.tasks.quadratic import quadratic


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("groups") / "run"
    recipe = grouped(optax.sgd(0.05), groups=2, ids=np.arange(6) // 3, batch_size=2)
    return session(out, recipe=recipe, rounds=3, stragglers=0.0).run()


def test_every_groups_model_comes_back_from_disk(done: Run) -> None:
    assert done.model is None and done.models is not None and done.out is not None
    for m in range(2):
        kept = fs.load(done.out, task=quadratic(DIM), group=m).model
        jax.tree.map(lambda a, b, m=m: np.testing.assert_array_equal(a, b[m]), kept, done.models)
    first, second = (np.asarray(v) for v in jax.tree.leaves(done.models)[0])
    assert np.abs(first - second).max() > 1e-3
    x = np.ones((4, DIM), np.float32)
    np.testing.assert_allclose(done.predict(x, group=1), np.broadcast_to(second, (4, DIM)))


@pytest.mark.parametrize("group", [None, 2, -1])
def test_which_group_must_be_said(done: Run, group: int | None) -> None:
    assert done.out is not None
    with pytest.raises(InputError, match="group"):
        fs.load(done.out, task=quadratic(DIM), group=group)
    with pytest.raises(InputError, match="group"):
        done.predict(np.ones((1, DIM), np.float32), group=group)


def test_one_model_has_no_groups(tmp_path: Path) -> None:
    run = session(tmp_path / "run", rounds=2).run()
    with pytest.raises(InputError, match="group = 0"):
        fs.load(tmp_path / "run", group=0)
    with pytest.raises(InputError, match="group = 0"):
        run.save(tmp_path / "model", group=0)
