"""The registry says what the builders take, and every entry runs a round."""

from __future__ import annotations

import inspect
import re

import pytest

from fedjax_sim.algorithms.aggregators import AGGREGATORS
from fedjax_sim.algorithms.registry import ALGORITHMS
from fedjax_sim.experiment.sections import BATCH_FIELDS


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_entry_is_its_builders_signature(name: str) -> None:
    entry = ALGORITHMS[name]
    parameters = dict(inspect.signature(entry.load()).parameters)
    assert next(iter(parameters)) == "optimizer"
    del parameters["optimizer"]
    assert ("server" in parameters) == entry.server
    parameters.pop("server", None)
    assert all((field in parameters) == entry.batches for field in BATCH_FIELDS)
    # What only Python can give, such as arrays, has None for a default.
    python_only = {n for n, p in parameters.items() if p.default is None}
    own = {n: p.default for n, p in parameters.items() if n not in BATCH_FIELDS}
    own = {n: d for n, d in own.items() if n not in python_only - set(entry.from_data)}
    for argument in (*entry.from_client, *entry.from_data):
        del own[argument]
    assert own == {n: p.default for n, p in entry.params.items()}


@pytest.mark.parametrize("name", [n for n, e in ALGORITHMS.items() if e.paper is not None])
def test_papers_are_cited_whole(name: str) -> None:
    paper = ALGORITHMS[name].paper
    assert paper is not None
    arxiv = re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv)
    doi = re.fullmatch(r"10\.\d{4,}/\S+", paper.doi)
    read = paper.url.startswith("https://openreview.net/forum?id=")
    assert arxiv or doi or read, "a paper is found by its arXiv number, its DOI or a review's page"
    assert str(paper.year) in paper.key
    text = paper.bibtex
    assert text.count("{") == text.count("}") and paper.arxiv in text and paper.title in text
    assert ("eprint" in text) == bool(paper.arxiv) and paper.doi in text
    assert paper.url in text


@pytest.mark.parametrize("name", AGGREGATORS)
def test_an_aggregator_is_where_it_is_said_to_be(name: str) -> None:
    import importlib

    module, _, attribute = AGGREGATORS[name].builder.partition(":")
    assert attribute == name
    assert callable(getattr(importlib.import_module(module), attribute))
