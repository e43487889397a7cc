"""The digits that scikit-learn carries, read without importing scikit-learn.

Importing `sklearn.datasets` takes half a second, nearly all of it for what is not needed here
(scipy.stats, scipy.optimize). The file is scikit-learn's own, found in its installed package.
"""

from __future__ import annotations

import gzip
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np

_FILE = Path("datasets") / "data" / "digits.csv.gz"
_ROW = 65


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 handwritten digits.

    Returns:
      `(x float64 [1797, 64], whole numbers 0 to 16; y int64 [1797], 0 to 9)`, as
      `sklearn.datasets.load_digits(return_X_y=True)` gives them. It is called where the
      installed scikit-learn does not keep the file where this reader knows it.
    """
    path = _bundled()
    table = np.empty((0, 0)) if path is None else _table(path)
    if table.shape[1:] != (_ROW,):
        from sklearn.datasets import load_digits

        found: Any = load_digits(return_X_y=True)
        return found
    return table[:, :-1], table[:, -1].astype(np.int64)


def _bundled() -> Path | None:
    """Where the file lies; finding a package does not import it."""
    spec = importlib.util.find_spec("sklearn")
    folders = [] if spec is None else spec.submodule_search_locations or []
    found = (Path(folder) / _FILE for folder in folders)
    return next((path for path in found if path.is_file()), None)


def _table(path: Path) -> np.ndarray:
    """The numbers of a compressed CSV; empty where it cannot be read as such."""
    try:
        with gzip.open(path, "rt") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a file without a line
            return np.loadtxt(file, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError):
        return np.empty((0, 0))
