"""Recipes: one algorithm each, a few lines of composition."""

from fedjax_sim.algorithms.afl import afl
from fedjax_sim.algorithms.apfl import apfl
from fedjax_sim.algorithms.baselines import centralized, local_only
from fedjax_sim.algorithms.cfl import cfl
from fedjax_sim.algorithms.depthfl import depthfl
from fedjax_sim.algorithms.ditto import ditto
from fedjax_sim.algorithms.fedacg import fedacg
from fedjax_sim.algorithms.fedadmm import fedadmm
from fedjax_sim.algorithms.fedala import fedala
from fedjax_sim.algorithms.fedamp import fedamp
from fedjax_sim.algorithms.fedavg import fedadagrad, fedadam, fedavg, fedavgm, fedyogi
from fedjax_sim.algorithms.fedbabu import fedbabu
from fedjax_sim.algorithms.fedbn import fedbn
from fedjax_sim.algorithms.fedcm import fedcm
from fedjax_sim.algorithms.feddf import feddf
from fedjax_sim.algorithms.feddyn import feddyn
from fedjax_sim.algorithms.fedem import fedem
from fedjax_sim.algorithms.fedexp import fedexp
from fedjax_sim.algorithms.fedfomo import fedfomo
from fedjax_sim.algorithms.fedlc import fedlc
from fedjax_sim.algorithms.fedlin import fedlin
from fedjax_sim.algorithms.fedmd import fedmd
from fedjax_sim.algorithms.fedmgda import fedmgda
from fedjax_sim.algorithms.fednova import fednova
from fedjax_sim.algorithms.fedntd import fedntd
from fedjax_sim.algorithms.fedper import fedper
from fedjax_sim.algorithms.fedphp import fedphp
from fedjax_sim.algorithms.fedproto import fedproto
from fedjax_sim.algorithms.fedprox import fedprox
from fedjax_sim.algorithms.fedrep import fedrep
from fedjax_sim.algorithms.fedrod import fedrod
from fedjax_sim.algorithms.fedrolex import fedrolex
from fedjax_sim.algorithms.fedsgd import fedsgd
from fedjax_sim.algorithms.fedsplit import fedsplit
from fedjax_sim.algorithms.fine_tune import fine_tune
from fedjax_sim.algorithms.fjord import fjord
from fedjax_sim.algorithms.grouped import grouped
from fedjax_sim.algorithms.heterofl import heterofl
from fedjax_sim.algorithms.hierfavg import hierfavg
from fedjax_sim.algorithms.hypcluster import hypcluster
from fedjax_sim.algorithms.ifca import ifca, ifca_gradient
from fedjax_sim.algorithms.knn_per import knn_per
from fedjax_sim.algorithms.lg_fedavg import lg_fedavg
from fedjax_sim.algorithms.lora import lora
from fedjax_sim.algorithms.median import median
from fedjax_sim.algorithms.mime import mime, mimelite
from fedjax_sim.algorithms.moon import moon
from fedjax_sim.algorithms.negative_curvature import negative_curvature
from fedjax_sim.algorithms.perfedavg import perfedavg
from fedjax_sim.algorithms.perturbed import perturbed
from fedjax_sim.algorithms.pfedme import pfedme
from fedjax_sim.algorithms.qfedavg import qfedavg
from fedjax_sim.algorithms.scaffold import scaffold
from fedjax_sim.algorithms.term import term

__all__ = [
    "afl",
    "apfl",
    "centralized",
    "cfl",
    "depthfl",
    "ditto",
    "fedacg",
    "fedadagrad",
    "fedadam",
    "fedadmm",
    "fedala",
    "fedamp",
    "fedavg",
    "fedavgm",
    "fedbabu",
    "fedbn",
    "fedcm",
    "feddf",
    "feddyn",
    "fedem",
    "fedexp",
    "fedfomo",
    "fedlc",
    "fedlin",
    "fedmd",
    "fedmgda",
    "fednova",
    "fedntd",
    "fedper",
    "fedphp",
    "fedproto",
    "fedprox",
    "fedrep",
    "fedrod",
    "fedrolex",
    "fedsgd",
    "fedsplit",
    "fedyogi",
    "fine_tune",
    "fjord",
    "grouped",
    "heterofl",
    "hierfavg",
    "hypcluster",
    "ifca",
    "ifca_gradient",
    "knn_per",
    "lg_fedavg",
    "local_only",
    "lora",
    "median",
    "mime",
    "mimelite",
    "moon",
    "negative_curvature",
    "perfedavg",
    "perturbed",
    "pfedme",
    "qfedavg",
    "scaffold",
    "term",
]
