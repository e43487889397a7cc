"""The page of the catalogue is what registry and record make of it."""

import importlib.util
import re
from pathlib import Path

from fedjax_sim.algorithms.registry import ALGORITHMS

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("catalogue", ROOT / "docs" / "catalogue.py")
assert spec is not None and spec.loader is not None
catalogue = importlib.util.module_from_spec(spec)
spec.loader.exec_module(catalogue)


def test_the_page_is_up_to_date():
    assert catalogue.PAGE.read_text() == catalogue.page(catalogue.results()), (
        "run python docs/catalogue.py"
    )


def test_every_algorithm_has_its_section_and_its_equation():
    text = catalogue.PAGE.read_text()
    assert re.findall(r"^### (\w+)$", text, re.M) == list(ALGORITHMS)
    assert [n for n, e in ALGORITHMS.items() if not e.equation or not e.cost] == []


def test_figures_are_those_of_the_record():
    made = catalogue.page({"fedavg": {("digits", "client"): [90.0, 92.0, 94.0]}})
    assert "| [fedavg](#fedavg) | 92.0 (90.0 to 94.0) | - | - | - |" in made
