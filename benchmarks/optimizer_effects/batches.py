"""Small against large batches: rounds, client steps, noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optax

import fedjax_sim as fs
from optimizer_effects.common import Arm, Bench, Measured, claim, course, measure, to_accuracy
from optimizer_effects.intervals import swing

RATES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
TARGET = {"digits": 0.93, "mnist": 0.9}
SMALL, MIDDLE = 4, 16
NOISE_RATE = 0.2


def rows(bench: Bench) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows, and the curves for the picture."""
    data = bench.federation(fs.partition.iid(clients=20))
    target, rounds = TARGET[bench.data], bench.rounds(150)

    def arm(label: str, batch: int | None, rates: Sequence[float], **more: Any) -> Measured:
        recipe = fs.algorithms.fedavg(
            lambda lr: optax.sgd(lr), lr=0.1, **({"epochs": 1} | more), batch_size=batch
        )
        grid, score = {"lr": rates}, to_accuracy(target)
        return measure(Arm(label, recipe, fs.models.mlp(64), data, rounds, 10, grid, score), bench)

    small, middle = (arm(f"B = {b}", b, RATES) for b in (SMALL, MIDDLE))
    full = arm("B = all", None, RATES)

    def to_target(m: Measured) -> np.ndarray:
        return np.floor(to_accuracy(target)(m.curves))

    def steps(m: Measured) -> np.ndarray:
        """Steps of one client up to the round of the target."""
        a_round = m.curves["client_steps"].mean(1) / m.arm.cohort
        return to_target(m) * a_round

    noisy, calm = (
        arm(f"one step of B = {b}", b, (NOISE_RATE,), epochs=None, steps=1) for b in (2, 32)
    )
    name, limit = f"rounds to {100 * target:g} % test accuracy", float(rounds + 1)
    step_name = f"steps of a client to {100 * target:g} %"
    table = [
        claim("batches", "at one epoch a round, small batches need fewer rounds: more steps each",
              small, full, to_target, name, censored=limit),
        claim("batches", "and so do middling ones", middle, full, to_target, name, censored=limit),
        claim("batches", "large batches need fewer steps: each follows a better gradient",
              full, small, steps, step_name,
              because="a full batch is one step a round from the averaged model; its rate is "
              "bounded by curvature, so that it may need as many steps as small batches do"),
        claim("batches", "at the same rate the noise falls with the batch (about 1 / sqrt B)",
              calm, noisy, lambda m: swing(m.curves["test_loss"]),
              f"swing of the test loss between rounds, rate {NOISE_RATE:g}"),
        claim("batches", "and with it the length of the update late in the run",
              calm, noisy, _late_update, "root mean square of the update's norm, last third"),
    ]  # fmt: skip
    return table, [course(m, "test_accuracy") for m in (small, middle, full)]


def _late_update(m: Measured) -> np.ndarray:
    norm = m.curves["update_norm"]
    return np.sqrt(np.mean(norm[:, -norm.shape[1] // 3 :] ** 2, axis=1))
