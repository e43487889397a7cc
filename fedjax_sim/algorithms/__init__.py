"""Recipes: one algorithm each, a few lines of composition."""

from fedjax_sim.algorithms.baselines import centralized, local_only
from fedjax_sim.algorithms.fedavg import fedadagrad, fedadam, fedavg, fedavgm, fedyogi
from fedjax_sim.algorithms.fednova import fednova
from fedjax_sim.algorithms.fedprox import fedprox
from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.algorithms.median import median
from fedjax_sim.algorithms.negative_curvature import negative_curvature
from fedjax_sim.algorithms.perturbed import perturbed
from fedjax_sim.algorithms.scaffold import scaffold

__all__ = [
    "centralized",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fednova",
    "fedprox",
    "fedsgd",
    "fedyogi",
    "local_only",
    "median",
    "negative_curvature",
    "perturbed",
    "scaffold",
]
