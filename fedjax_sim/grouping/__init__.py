"""Who belongs together: similarities, clustering kernels, scores; pure functions of arrays."""

from fedjax_sim.grouping import assign, scores, similarity, soft
from fedjax_sim.grouping.assign import regroup
from fedjax_sim.grouping.balanced import balanced
from fedjax_sim.grouping.bipartition import bipartition, recursive_bipartition, separation
from fedjax_sim.grouping.conflict import conflict, negative_share
from fedjax_sim.grouping.count import count_groups, eigengap, silhouette, simplified_silhouette
from fedjax_sim.grouping.density import density
from fedjax_sim.grouping.hierarchical import agglomerative
from fedjax_sim.grouping.kmeans import kmeans
from fedjax_sim.grouping.minibatch import minibatch_kmeans
from fedjax_sim.grouping.scores import ari, nmi, purity, stability
from fedjax_sim.grouping.similarity import feature_sketches, label_histograms
from fedjax_sim.grouping.sketch import sketch_rows, sketch_tree
from fedjax_sim.grouping.soft import mixture
from fedjax_sim.grouping.spectral import spectral
from fedjax_sim.grouping.types import Grouper, Groups

__all__ = [
    "Grouper",
    "Groups",
    "agglomerative",
    "ari",
    "assign",
    "balanced",
    "bipartition",
    "conflict",
    "count_groups",
    "density",
    "eigengap",
    "feature_sketches",
    "kmeans",
    "label_histograms",
    "minibatch_kmeans",
    "mixture",
    "negative_share",
    "nmi",
    "purity",
    "recursive_bipartition",
    "regroup",
    "scores",
    "separation",
    "silhouette",
    "similarity",
    "simplified_silhouette",
    "sketch_rows",
    "sketch_tree",
    "soft",
    "spectral",
    "stability",
]
