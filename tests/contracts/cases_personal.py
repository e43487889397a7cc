"""Algorithms with a model of its own for each client, as the laws see them."""

from contracts.case import ORDERED, Case, heavy, sgd

from fedjax_sim.algorithms.apfl import apfl
from fedjax_sim.algorithms.ditto import ditto
from fedjax_sim.algorithms.fine_tune import fine_tune
from fedjax_sim.algorithms.perfedavg import perfedavg
from fedjax_sim.algorithms.pfedme import pfedme

CASES: dict[str, Case] = {
    "fine_tune": Case(lambda: fine_tune(sgd, **ORDERED), {"lr": 0.1}, personal=True),
    "ditto": Case(
        lambda: ditto(heavy, penalty=0.5, decay=0.5, **ORDERED),
        {"penalty": 0.1, "decay": 0.2},
        rows=True,
        personal=True,
    ),
    "pfedme": Case(
        lambda: pfedme(sgd, penalty=2.0, rate=0.2, inner=3, **ORDERED),
        {"penalty": 1.0, "rate": 0.1, "server_rate": 0.5},
        rows=True,
        personal=True,
    ),
    "apfl": Case(
        lambda: apfl(heavy, decay=0.5, **ORDERED),
        {"alpha": 0.2, "alpha_rate": 0.3},
        rows=True,
        personal=True,
    ),
    "perfedavg": Case(
        lambda: perfedavg(sgd, hessian="exact", **ORDERED), {"adapt_rate": 0.3}, personal=True
    ),
}
