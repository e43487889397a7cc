"""Averages, server optimizers and baselines, as the laws see them."""

import optax
from contracts.case import LOCAL, ORDERED, WEIGHTED, Case, heavy, sgd, weights

from fedjax_sim.algorithms.baselines import centralized, local_only
from fedjax_sim.algorithms.fedavg import fedadagrad, fedadam, fedavg, fedavgm, fedyogi
from fedjax_sim.algorithms.fednova import fednova
from fedjax_sim.algorithms.fedprox import fedprox
from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.algorithms.median import median

CASES: dict[str, Case] = {
    "fedavg": Case(lambda: fedavg(sgd, **WEIGHTED), {"lr": 0.1}),
    "fedprox": Case(
        lambda: fedprox(heavy, mu=0.5, decay=0.5, **ORDERED), {"mu": 0.1, "decay": 0.2}
    ),
    "fedavgm": Case(lambda: fedavgm(sgd, **ORDERED), {"server_momentum": 0.5}),
    "fedadam": Case(lambda: fedadam(sgd, **ORDERED), {"server_rate": 0.1, "tau": 0.1}),
    "fedyogi": Case(lambda: fedyogi(sgd, **ORDERED), {"b1": 0.5, "b2": 0.9}),
    "fedadagrad": Case(lambda: fedadagrad(sgd, **ORDERED), {"server_rate": 0.3, "initial": 0.1}),
    "fednova": Case(
        lambda: fednova(lambda lr: optax.sgd(lr, momentum=0.5), momentum=0.5, **ORDERED),
        {"lr": 0.1},
    ),
    "fedsgd": Case(lambda: fedsgd(heavy, lr=0.3, decay=0.5, weighting=weights), {"decay": 0.9}),
    "median": Case(lambda: median(sgd, shuffle=False, **LOCAL), {"lr": 0.1}, weighted=False),
    "centralized": Case(
        lambda: centralized(heavy, decay=0.5, **LOCAL), {"lr": 0.1}, weighted=False, cohort=1
    ),
    "local_only": Case(
        lambda: local_only(heavy, decay=0.5, **LOCAL),
        {"lr": 0.1},
        weighted=False,
        rows=True,
        shared=False,
    ),
}
