"""What a run asks to be cited."""

import json

import pytest

import fedjax_sim as fs
from fedjax_sim.algorithms.registry import ALGORITHMS
from fedjax_sim.experiment.cite import citations


def test_an_algorithm_is_cited_with_its_paper_and_the_simulator():
    text = citations("scaffold")
    assert text.startswith("@inproceedings{karimireddy2020scaffold,")
    assert "1910.06378" in text and "@software{fedjax_sim," in text
    assert fs.__version__ in text and text.count("{") == text.count("}")
    assert citations("local_only").startswith("@software")


def test_a_folder_is_cited_by_its_summary(tmp_path, capsys):
    (tmp_path / "summary.json").write_text(json.dumps({"algorithm": "fedprox"}))
    fs.cite(tmp_path)
    assert capsys.readouterr().out == citations("fedprox") + "\n"
    (tmp_path / "summary.json").write_text(json.dumps({"algorithm": "my_pkg.mod:mine"}))
    assert "my_pkg" not in citations(str(tmp_path))


def test_anything_else_is_refused(tmp_path):
    with pytest.raises(fs.InputError, match="the folder of a finished run"):
        fs.cite(tmp_path / "none")


def test_no_two_papers_share_a_key():
    papers = {e.paper.key: e.paper for e in ALGORITHMS.values() if e.paper is not None}
    assert all(e.paper in (None, papers.get(e.paper and e.paper.key)) for e in ALGORITHMS.values())
