"""Corrections against client drift, as the laws see them."""

from contracts.case import WEIGHTED, Case, sgd

from fedjax_sim.algorithms.scaffold import scaffold

CASES: dict[str, Case] = {
    "scaffold": Case(lambda: scaffold(sgd, **WEIGHTED), {"server_rate": 0.5}, rows=True),
}
