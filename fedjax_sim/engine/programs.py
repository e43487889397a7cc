"""Facts about equations that hold programs, the same for every jax that is supported."""

from __future__ import annotations

from typing import Any


def scan_counts(eqn: Any) -> tuple[int, int]:
    """How many of a `scan` equation's inputs are constants, and how many are carried.

    jax before 0.12 has the numbers among the parameters; later ones have the inputs' grouping.
    """
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    groups = eqn.params["ft_in"].update(tuple(range(len(eqn.invars)))).unpack()
    consts, carry, _ = (len(list(group)) for group in groups)
    return consts, carry
