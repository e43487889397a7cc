"""CONTRIBUTING's worked example is a real recipe: short, and exact at both of its ends."""

import ast
import pathlib
import re

import jax
import numpy as np
import optax
import pytest

import fedjax_sim as fs

ROOT = pathlib.Path(__file__).resolve().parents[2]


def code_blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)


def example():
    (source,) = code_blocks("CONTRIBUTING.md")
    space = {"__name__": "example"}
    exec(compile(source, "CONTRIBUTING.md", "exec"), space)
    return source, space["bounded"]


def train(recipe, clients=8, cohort=4, rounds=3):
    fed = fs.data.digits(fs.partition.iid(clients=clients))
    task = fs.tasks.classifier(fs.models.logistic(), classes=10)
    run = fs.run(recipe, task, fed, cohort=cohort, rounds=rounds, seed=0)
    return jax.device_get(run.model.params)


def test_the_example_is_at_most_twenty_lines():
    source, _ = example()
    (function,) = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    assert function.end_lineno - function.lineno + 1 <= 20


@pytest.mark.slow
def test_a_large_bound_is_fedavg():
    _, bounded = example()
    ours = train(bounded(optax.sgd(0.1), bound=1e6, batch_size=20))
    theirs = train(fs.algorithms.fedavg(optax.sgd(0.1), batch_size=20))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


def test_one_client_moves_the_model_by_the_bound():
    _, bounded = example()
    moved = train(bounded(optax.sgd(0.5), bound=0.25), clients=1, cohort=1, rounds=1)
    norm = np.sqrt(
        sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(moved))
    )
    np.testing.assert_allclose(norm, 0.25, rtol=1e-5)  # logistic regression starts at zero
