"""Every example in a public docstring prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import fedjax_sim

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(fedjax_sim.__path__, "fedjax_sim.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [t for n in MODULES for t in finder.find(importlib.import_module(n)) if t.examples]
    assert {t.name.split(".")[1] for t in found} >= {"data", "engine", "experiment", "tasks"}
