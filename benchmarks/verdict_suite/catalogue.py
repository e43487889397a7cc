"""All families. What is held out is fixed here and in the families' own files.

Held out, whole families, at least a third of all runs: three optimizers (Nesterov, FedAdam with
FedYogi, SCAFFOLD), three tasks (the deep chain, logistic cycles, the digits MLP) and two kinds of
heterogeneity (shards, swapped labels).
"""

from __future__ import annotations

from verdict_suite import (
    adaptive,
    conflict,
    cycles,
    digits_fedadam,
    digits_fedavg,
    digits_gd,
    digits_mlp,
    digits_swapped,
    drift,
    momentum,
    noise,
    quadratics,
    saddles,
    schedules,
)
from verdict_suite.suite import Family

FAMILIES: tuple[Family, ...] = (
    quadratics.FAMILY,
    momentum.HEAVY_BALL,
    saddles.WELL,
    noise.FAMILY,
    drift.FEDAVG,
    conflict.FAMILY,
    cycles.WELLS,
    schedules.FAMILY,
    adaptive.ADAGRAD,
    digits_gd.FAMILY,
    digits_fedavg.FAMILY,
    momentum.NESTEROV,
    saddles.CHAIN,
    drift.SCAFFOLD,
    cycles.LOGISTIC,
    adaptive.ADAM,
    adaptive.YOGI,
    digits_mlp.FAMILY,
    digits_fedavg.SHARDS,
    digits_swapped.FAMILY,
    digits_fedadam.FAMILY,
)
