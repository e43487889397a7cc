"""What to cite after a run: its algorithm's paper, and this simulator."""

from __future__ import annotations

import json
from pathlib import Path

from fedjax_sim.algorithms.registry import ALGORITHMS
from fedjax_sim.core.checks import InputError
from fedjax_sim.experiment.run_result import Run

SIMULATOR = """\
@software{fedjax_sim,
  title         = {{fedjax_sim: a federated-learning simulator in JAX}},
  author        = {The fedjax_sim developers},
  version       = VERSION
}"""


def citations(what: Run | Path | str) -> str:
    """BibTeX entries of what a run used, one after another.

    Args:
      what: a run, a run's folder, or the name of an algorithm.

    Returns:
      The algorithm's paper, where the registry knows one, and the simulator.

    Raises:
      InputError: a text that is neither a run's folder nor an algorithm.
    """
    import fedjax_sim

    entry = ALGORITHMS.get(_name(what))
    paper = None if entry is None else entry.paper
    ours = SIMULATOR.replace("VERSION", f"{{{fedjax_sim.__version__}}}")
    return "\n\n".join([*([] if paper is None else [paper.bibtex]), ours])


def cite(what: Run | Path | str) -> None:
    """Print what to cite for a run, a run's folder or an algorithm; see `citations`.

    Example:
      >>> cite("fedprox")  # doctest: +ELLIPSIS
      @inproceedings{li2020federated,
      ...
    """
    print(citations(what))


def _name(what: Run | Path | str) -> str:
    """The algorithm's name; that of a recipe of one's own is in no registry."""
    if isinstance(what, Run):
        return str(what.summary["algorithm"])
    if isinstance(what, str) and what in ALGORITHMS:
        return what
    summary = Path(what) / "summary.json"
    if not summary.is_file():
        remedy = "must be a run, the folder of a finished run, or an algorithm of the registry"
        raise InputError("cite", str(what), remedy)
    return str(json.loads(summary.read_text())["algorithm"])
