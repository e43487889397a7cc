"""Fair algorithms, as the laws see them."""

import optax
from contracts.case import ORDERED, Case, sgd

from fedjax_sim.algorithms.afl import afl
from fedjax_sim.algorithms.fedmgda import fedmgda
from fedjax_sim.algorithms.qfedavg import qfedavg
from fedjax_sim.algorithms.term import term

_GROUPS = [0, 1, 0, 2, 1, 2, 3, 3]

CASES: dict[str, Case] = {
    "qfedavg": Case(lambda: qfedavg(sgd, q=2.0, rate=0.3, **ORDERED), {"q": 0.5}),
    "term": Case(lambda: term(sgd, t=1.0, **ORDERED), {"t": 3.0}),
    # Shares reach 0, so that some clients have no part in some rounds.
    "afl": Case(lambda: afl(sgd, groups=_GROUPS, lambda_rate=1.0, **ORDERED), {"lambda_rate": 2.0}),
    "fedmgda": Case(
        lambda: fedmgda(sgd, epsilon=0.2, server=optax.sgd(0.3), **ORDERED), {"epsilon": 0.05}
    ),
}
