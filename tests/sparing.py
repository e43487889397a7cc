"""Which of many alike cases run by default: each compiles a program, and programs take time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], *quick: Any, several: bool = False) -> list[Any]:
    """All cases for `parametrize`, those that are not in `quick` marked slow.

    Args:
      cases: the values, or tuples of values.
      quick: those that run by default, each one of the cases.
      several: cases are tuples of several arguments.
    """
    cases = list(cases)
    unknown = [q for q in quick if q not in cases]
    assert not unknown, f"no such case: {unknown}"
    marks = pytest.mark.slow

    def param(case: Any) -> Any:
        values = case if several else (case,)
        return pytest.param(*values) if case in quick else pytest.param(*values, marks=marks)

    return [param(case) for case in cases]
