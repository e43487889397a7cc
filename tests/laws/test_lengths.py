"""A recipe fits on a screen, and no piece of an algorithm is longer than a page."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "fedjax_sim"
RECIPE, KERNEL = 20, 60
KERNEL_ROOMS = ("aggregation", "clients", "server", "transforms")


def without_docstring(function):
    first = function.body[0]
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return function.body[text:]


def lines(function):
    """Lines of a function's body, docstrings within left out."""
    body = without_docstring(function)
    total = body[-1].end_lineno - body[0].lineno + 1 if body else 0
    for inner in ast.walk(function):
        if isinstance(inner, ast.FunctionDef) and inner is not function:
            kept = without_docstring(inner)
            total -= (kept[0] if kept else inner.body[-1]).lineno - inner.body[0].lineno
    return total


def functions(room):
    for path in sorted((PACKAGE / room).glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                yield f"{room}/{path.name}: {node.name}", node


def is_recipe(function):
    return any(getattr(d, "id", "") == "recipe" for d in function.decorator_list)


def test_a_recipe_has_at_most_20_lines():
    found = {name: lines(f) for name, f in functions("algorithms") if is_recipe(f)}
    assert len(found) >= 55
    assert {name: n for name, n in found.items() if n > RECIPE} == {}


@pytest.mark.parametrize("room", KERNEL_ROOMS)
def test_a_kernel_has_at_most_60_lines(room):
    assert {name: n for name, f in functions(room) if (n := lines(f)) > KERNEL} == {}


def test_docstrings_are_not_counted():
    text = 'def f():\n    """One."""\n\n    def g():\n        """Two."""\n        return 1\n\n'
    text += "    return g\n"
    assert lines(ast.parse(text).body[0]) == 4
