"""Recipes: one algorithm each, a few lines of composition."""

from fedjax_sim.algorithms.afl import afl
from fedjax_sim.algorithms.baselines import centralized, local_only
from fedjax_sim.algorithms.cfl import cfl
from fedjax_sim.algorithms.fedavg import fedadagrad, fedadam, fedavg, fedavgm, fedyogi
from fedjax_sim.algorithms.fedem import fedem
from fedjax_sim.algorithms.fedmgda import fedmgda
from fedjax_sim.algorithms.fednova import fednova
from fedjax_sim.algorithms.fedprox import fedprox
from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.algorithms.grouped import grouped
from fedjax_sim.algorithms.hierfavg import hierfavg
from fedjax_sim.algorithms.hypcluster import hypcluster
from fedjax_sim.algorithms.ifca import ifca, ifca_gradient
from fedjax_sim.algorithms.median import median
from fedjax_sim.algorithms.negative_curvature import negative_curvature
from fedjax_sim.algorithms.perturbed import perturbed
from fedjax_sim.algorithms.qfedavg import qfedavg
from fedjax_sim.algorithms.scaffold import scaffold
from fedjax_sim.algorithms.term import term

__all__ = [
    "afl",
    "centralized",
    "cfl",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedem",
    "fedmgda",
    "fednova",
    "fedprox",
    "fedsgd",
    "fedyogi",
    "grouped",
    "hierfavg",
    "hypcluster",
    "ifca",
    "ifca_gradient",
    "local_only",
    "median",
    "negative_curvature",
    "perturbed",
    "qfedavg",
    "scaffold",
    "term",
]
