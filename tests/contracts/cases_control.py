"""Corrections against client drift, as the laws see them."""

import optax
from contracts.case import ORDERED, WEIGHTED, Case, heavy, sgd

from fedjax_sim.algorithms.fedadmm import fedadmm
from fedjax_sim.algorithms.feddyn import feddyn
from fedjax_sim.algorithms.fedlin import fedlin
from fedjax_sim.algorithms.fedsplit import fedsplit
from fedjax_sim.algorithms.mime import mime, mimelite
from fedjax_sim.algorithms.scaffold import scaffold

CASES: dict[str, Case] = {
    "scaffold": Case(lambda: scaffold(sgd, **WEIGHTED), {"server_rate": 0.5}, rows=True),
    "feddyn": Case(lambda: feddyn(sgd, alpha=0.5, **ORDERED), {"alpha": 1.0}, rows=True),
    "fedadmm": Case(
        lambda: fedadmm(sgd, rho=0.5, start="own", **ORDERED),
        {"rho": 1.0, "server_rate": 0.5},
        rows=True,
    ),
    "fedsplit": Case(lambda: fedsplit(sgd, strength=0.5, **ORDERED), {"strength": 1.0}, rows=True),
    "fedlin": Case(lambda: fedlin(sgd, **ORDERED), {"server_rate": 0.5}),
    "mime": Case(lambda: mime(heavy, decay=0.5, **ORDERED), {"decay": 0.2}),
    "mimelite": Case(
        lambda: mimelite(lambda lr, b1: optax.adam(lr, b1=b1), b1=0.9, **ORDERED), {"b1": 0.5}
    ),
}
