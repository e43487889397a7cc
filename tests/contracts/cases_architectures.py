"""Algorithms for unrelated architectures, as the laws see them."""

import numpy as np
from contracts.case import ORDERED, Case, sgd
from helpers import DIM

from fedjax_sim.algorithms.feddf import feddf
from fedjax_sim.algorithms.fedmd import fedmd
from fedjax_sim.algorithms.fedproto import fedproto

_PUBLIC = np.random.default_rng(3).normal(size=(5, DIM))

CASES: dict[str, Case] = {
    "fedmd": Case(
        lambda: fedmd(
            sgd, public=_PUBLIC, digest_steps=3, digest_batch=2, most_classes=6, **ORDERED
        ),
        {"lr": 0.1},
        rows=True,
        shared=False,
    ),
    "feddf": Case(
        lambda: feddf(
            sgd, public=_PUBLIC, distill_rate=0.03, distill_steps=3, distill_batch=2, **ORDERED
        ),
        {"distill_rate": 0.1},
    ),
    "fedproto": Case(
        lambda: fedproto(sgd, most_classes=5, most_features=7, **ORDERED),
        {"strength": 0.2},
        rows=True,
        shared=False,
    ),
}
