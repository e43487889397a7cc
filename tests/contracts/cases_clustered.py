"""Clustered algorithms, as the laws see them."""

import optax
from contracts.case import ORDERED, Case, sgd, weights

from fedjax_sim.algorithms.cfl import cfl
from fedjax_sim.algorithms.fedem import fedem
from fedjax_sim.algorithms.grouped import grouped
from fedjax_sim.algorithms.hierfavg import hierfavg
from fedjax_sim.algorithms.hypcluster import hypcluster
from fedjax_sim.algorithms.ifca import ifca, ifca_gradient

CASES: dict[str, Case] = {
    # Loose criteria, so that groups split and absent members are asked later.
    "cfl": Case(
        lambda: cfl(sgd, groups=4, eps1=3.0, eps2=0.3, gamma_max=0.1, norms="absolute", **ORDERED),
        {"eps1": 0.5, "lr": 0.1},
        shared=False,
    ),
    "fedem": Case(lambda: fedem(sgd, groups=2, **ORDERED), {"lr": 0.1}, rows=True, shared=False),
    "ifca": Case(
        lambda: ifca(sgd, groups=3, server=optax.sgd(0.5, momentum=0.5), **ORDERED),
        {"lr": 0.1},
        rows=True,
        shared=False,
    ),
    "ifca_gradient": Case(
        lambda: ifca_gradient(sgd, lr=0.3, groups=3, start="perturbed", weighting=weights),
        {"lr": 0.1, "spread": 0.3},
        rows=True,
        shared=False,
    ),
    "hypcluster": Case(
        lambda: hypcluster(sgd, groups=3, warmup=2, **ORDERED),
        {"lr": 0.1},
        rows=True,
        shared=False,
    ),
    # Groups are formed in the second round, and late clients join them.
    "grouped": Case(
        lambda: grouped(sgd, groups=2, warmup=2, every=3, sketch=32, separation=-1, **ORDERED),
        {"lr": 0.1},
        shared=False,
    ),
    "hierfavg": Case(lambda: hierfavg(sgd, edges=3, edge_rounds=2, **ORDERED), {"lr": 0.1}),
}
