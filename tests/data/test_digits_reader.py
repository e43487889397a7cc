"""The digits read from scikit-learn's file are what scikit-learn gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedjax_sim.data.readers import digits


def test_read_as_scikit_learn_reads_them() -> None:
    for ours, theirs in zip(digits.read_digits(), load_digits(return_X_y=True), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("content", [None, b"no gzip", b""])
def test_what_cannot_be_read_is_left_to_scikit_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    path = tmp_path / "digits.csv.gz"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(digits, "_bundled", lambda: None if content is None else path)
    x, y = digits.read_digits()
    assert x.shape == (1797, 64) and y.shape == (1797,)


def test_scikit_learn_is_not_imported() -> None:
    code = "import sys, fedjax_sim as fs; fs.data.digits(); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
