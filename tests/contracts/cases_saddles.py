"""Algorithms that leave saddles, as the laws see them."""

from contracts.case import ORDERED, Case, sgd, weights

from fedjax_sim.algorithms.negative_curvature import negative_curvature
from fedjax_sim.algorithms.perturbed import perturbed

CASES: dict[str, Case] = {
    # Thresholds that softmax regression meets: rounds perturb, curvature steps are taken.
    "perturbed": Case(
        lambda: perturbed(sgd, radius=0.1, threshold=3.0, wait=1.0, **ORDERED),
        {"radius": 0.3, "wait": 2.0},
    ),
    "negative_curvature": Case(
        lambda: negative_curvature(sgd, lr=0.3, threshold=1.0, weighting=weights), {"lr": 0.1}
    ),
}
