"""Models and tasks by name."""

import inspect

import jax
import numpy as np
import pytest

from fedjax_sim import tasks
from fedjax_sim.core.checks import InputError
from fedjax_sim.tasks import models
from fedjax_sim.tasks.registry import MODELS, TASKS, model_from, task_from

KEY = jax.random.key(0)


def test_a_table_builds_what_the_function_builds():
    by_name = model_from({"name": "mlp", "widths": [5, 4], "init": "torch"})
    task = task_from({"name": "classification", "classes": 3}, by_name).bind((6,))
    direct = tasks.classifier(models.mlp(5, 4, init="torch"), 3, x_shape=(6,))
    jax.tree.map(np.testing.assert_array_equal, task.init(KEY), direct.init(KEY))


@pytest.mark.parametrize("entry", [*MODELS.values(), *TASKS.values()])
def test_entries_are_introspectable(entry):
    parameters = inspect.signature(entry.build).parameters.values()
    kinds = {p.kind for p in parameters}
    assert kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert entry.doc and all(p.annotation is not p.empty for p in parameters)


@pytest.mark.parametrize(
    ("config", "field", "words"),
    [
        ({"name": "mpl"}, "model.name", "cnn_mcmahan"),
        ({}, "model.name", "one of"),
        ({"name": "mlp", "width": 3}, "model.width", "norm_momentum, widths"),
        ({"name": "lstm_chars"}, "model.vocab", "is needed"),
        ({"name": "mlp", "widths": [0]}, "model.widths", "at least 1"),
        ({"name": "mlp", "widths": 3}, "model.widths", "list"),
        ({"name": "mlp_exits", "widths": []}, "model.widths", "at least one layer"),
        ({"name": "mlp_exits", "widths": 3}, "model.widths", "list"),
    ],
)
def test_bad_tables_name_the_field(config, field, words):
    with pytest.raises(InputError) as caught:
        model_from(config)
    assert caught.value.field == field and words in str(caught.value)


def test_bad_task_tables_name_the_field():
    with pytest.raises(InputError) as caught:
        task_from({"name": "classification", "classes": 1}, models.logistic())
    assert caught.value.field == "task.classes" and str(caught.value).count("at least 2") == 1
