"""Adaptive servers against a plain one, under the same tuning budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax

import fedjax_sim as fs
from optimizer_effects.common import Arm, Bench, Measured, claim, course, measure, to_accuracy

CLIENT_RATES = (0.1, 0.3, 1.0)


def rows(bench: Bench) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows, and the curves for the picture; nine settings an arm."""
    data = bench.federation(fs.partition.dirichlet(clients=50, alpha=0.3))
    target, rounds = (0.9 if bench.data == "digits" else 0.85), bench.rounds(100)
    local = {"epochs": 1, "batch_size": 10}

    def sgd(lr: Any) -> Any:
        return optax.sgd(lr)

    recipes = {
        "SGD at the server": (
            fs.algorithms.fedavg(
                sgd, lr=0.1, server=lambda server_rate: optax.sgd(server_rate), server_rate=1.0,
                **local,
            ),
            (0.3, 1.0, 3.0),
        ),
        "FedAdam": (fs.algorithms.fedadam(sgd, lr=0.1, **local), (0.03, 0.1, 0.3)),
        "FedYogi": (fs.algorithms.fedyogi(sgd, lr=0.1, **local), (0.03, 0.1, 0.3)),
    }  # fmt: skip

    def arm(label: str) -> Measured:
        recipe, server_rates = recipes[label]
        grid = {"lr": CLIENT_RATES, "server_rate": server_rates}
        score = to_accuracy(target)
        return measure(Arm(label, recipe, fs.models.mlp(64), data, rounds, 5, grid, score), bench)

    plain, adam, yogi = map(arm, recipes)

    def to_target(m: Measured) -> np.ndarray:
        return np.floor(to_accuracy(target)(m.curves))

    name, limit = f"rounds to {100 * target:g} % test accuracy", float(rounds + 1)
    because = (
        "the gains of the paper are on sparse gradients (text); pixels reach every weight of a "
        "small network alike, and a tuned plain server has little left to gain"
    )
    table = [
        claim("adaptive server", f"{m.arm.label} is faster than a tuned plain server",
              m, plain, to_target, name, because=because, censored=limit)
        for m in (adam, yogi)
    ]  # fmt: skip
    return table, [course(m, "test_accuracy") for m in (plain, adam, yogi)]
