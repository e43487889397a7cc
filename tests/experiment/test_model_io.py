"""Saved models: every tree and dtype comes back, and nothing that does not belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_sim as fs
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Model
from fedjax_sim.experiment.model_io import save_model
from fedjax_sim.tasks.quadratic import quadratic


class Normed(nn.Module):
    """A network with batch statistics."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        return nn.Dense(10)(x)


class Pair(NamedTuple):
    left: Any
    right: Any


def assert_equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_trees_and_dtypes_come_back(tmp_path: Path) -> None:
    params = {
        "w": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "half": jnp.ones(3, jnp.bfloat16),
        "deep": [{"b": np.int32(3)}, (np.array([True, False]), None), ()],
    }
    model = Model(params, {"mean": np.zeros((0, 2), np.float32)})
    loaded = fs.load(save_model(tmp_path, model, {"name": "n"}))
    assert_equal(loaded.model, model)
    assert loaded.facts == {"name": "n"} and loaded.params["deep"][2] == ()
    with pytest.raises(InputError, match="load"):
        loaded.predict(np.zeros((1, 3)))


def test_a_key_in_the_state_comes_back(tmp_path: Path) -> None:
    loaded = fs.load(save_model(tmp_path, Model({}, {"rng": jax.random.key(7)})))
    assert loaded.state["rng"] == jax.random.key(7)


def test_containers_of_the_models_own_come_back_with_the_task(tmp_path: Path) -> None:
    model = Model(Pair(np.ones(2, np.float32), {"x": np.zeros(3, np.float32)}))
    save_model(tmp_path, model)
    assert set(fs.load(tmp_path).params) == {"left", "right/x"}
    task = quadratic(1)._replace(init=lambda key: jax.tree.map(jnp.asarray, model))
    assert_equal(fs.load(tmp_path, task=task).model, model)
    with pytest.raises(InputError, match="does not belong"):
        fs.load(tmp_path, task=quadratic(1))


@pytest.mark.slow
def test_a_run_with_batch_statistics_is_saved_loaded_and_predicts(tmp_path: Path) -> None:
    fed = fs.data.digits(fs.partition.iid(clients=4), central_fraction=0.8)
    task = fs.tasks.classifier(Normed(), classes=10)
    recipe = fs.algorithms.fedavg(optax.sgd(0.1), steps=2, batch_size=20)
    run = fs.run(recipe, task, fed, cohort=2, rounds=3, devices=1, lanes=1, out=tmp_path / "run")
    assert run.model is not None and fed.central_test is not None
    x = fed.central_test[0][:300]
    loaded = fs.load(tmp_path / "run", task=task)
    assert jax.tree.leaves(loaded.state) and np.asarray(jax.tree.leaves(loaded.state)[0]).any()
    assert_equal(loaded.model, run.model)
    np.testing.assert_array_equal(loaded.predict(x), run.predict(x))
    assert_equal(fs.load(run.save(tmp_path / "copy")).model, loaded.model)
    with pytest.raises(InputError, match="x = "):
        run.predict(x[:, :5])


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trained model"):
        fs.load(tmp_path)
    save_model(tmp_path, Model({"w": np.ones(100, np.float32)}))
    tensors = tmp_path / "model.safetensors"
    whole = tensors.read_bytes()
    for bad in (whole[:-8], b"", whole.replace(b"F32", b"I32")):
        tensors.write_bytes(bad)
        with pytest.raises(InputError, match=r"damaged|not what"):
            fs.load(tmp_path)
