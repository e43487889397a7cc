"""Momentum over rounds and other losses, as the laws see them."""

from contracts.case import ORDERED, Case, sgd

from fedjax_sim.algorithms.fedacg import fedacg
from fedjax_sim.algorithms.fedcm import fedcm
from fedjax_sim.algorithms.fedexp import fedexp
from fedjax_sim.algorithms.fedlc import fedlc
from fedjax_sim.algorithms.fedntd import fedntd
from fedjax_sim.algorithms.moon import moon

CASES: dict[str, Case] = {
    "fedcm": Case(lambda: fedcm(sgd, alpha=0.3, **ORDERED), {"alpha": 0.8, "server_rate": 0.5}),
    "fedacg": Case(
        lambda: fedacg(sgd, momentum=0.5, beta=0.5, **ORDERED), {"momentum": 0.8, "beta": 0.1}
    ),
    # So small an epsilon that rounds are stretched.
    "fedexp": Case(lambda: fedexp(sgd, epsilon=1e-3, **ORDERED), {"epsilon": 1.0}),
    "fedlc": Case(lambda: fedlc(sgd, **ORDERED), {"tau": 0.3}),
    "fedntd": Case(lambda: fedntd(sgd, tau=2.0, **ORDERED), {"beta": 0.3, "tau": 1.0}),
    "moon": Case(lambda: moon(sgd, **ORDERED), {"mu": 3.0, "tau": 1.0}, rows=True),
}
