"""A rate that falls, or rises first, against a constant one."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax

import fedjax_sim as fs
from fedjax_sim.experiment.optimizers import factor
from fedjax_sim.experiment.sections import Schedule
from fedjax_sim.transforms.schedule import scale_by_round
from optimizer_effects.common import Arm, Bench, Measured, claim, course, measure
from optimizer_effects.intervals import late, swing

RATE, HIGH = 0.5, 0.7


def rows(bench: Bench) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows, and the curves for the picture; no arm is tuned, all have the same peak.

    The warm-up was tried at a peak of 1.0 first, where both arms were lost.
    """
    data = bench.federation(fs.partition.dirichlet(clients=50, alpha=0.3))
    rounds = bench.rounds(120)
    schedules = {
        "constant": Schedule(),
        "cosine": Schedule(name="cosine", final=0.0),
        "step": Schedule(name="step", rate=0.3, every=max(rounds // 3, 1)),
    }

    def arm(label: str, schedule: Schedule, *, at_server: bool = False, peak: float = RATE) -> Any:
        by_round = factor(schedule, rounds)

        def client(lr: Any) -> Any:
            made = optax.sgd(lr)
            return made if at_server else optax.chain(made, scale_by_round(by_round))

        server = optax.sgd(1.0)
        if at_server:
            server = optax.chain(server, optax.scale_by_schedule(by_round))
        recipe = fs.algorithms.fedavg(client, lr=peak, server=server, epochs=1, batch_size=5)
        return measure(
            Arm(label, recipe, fs.models.mlp(64), data, rounds, 5, {"lr": (peak,)}), bench
        )

    constant, cosine, step = (arm(f"{n} rate", s) for n, s in schedules.items())
    server = arm("cosine at the server", schedules["cosine"], at_server=True)
    warm = Schedule(warmup=min(20, rounds))
    cold_high = arm(f"constant rate {HIGH:g}", Schedule(), peak=HIGH)
    warm_high = arm(f"rate {HIGH:g} after a warm-up", warm, peak=HIGH)

    def level(m: Measured) -> np.ndarray:
        return late(m.curves["test_loss"])

    def fit(m: Measured) -> np.ndarray:
        return late(m.curves["train_loss"])

    def swings(m: Measured) -> np.ndarray:
        return np.maximum(swing(m.curves["test_loss"]), 1e-12)

    def early_peak(m: Measured) -> np.ndarray:
        first = m.curves["test_loss"][:, :20]
        return np.where(np.isfinite(first).all(1), np.nanmax(first, axis=1), np.inf)

    end, between = "test loss over the last tenth", "swing of the test loss between rounds"
    effect = "schedules"
    limit = (
        "in these rounds noise is not yet what bounds the level, in training or on held-out "
        "examples: what the falling rate saves in noise it gives up in progress"
    )
    young = (
        "in both the largest loss is about ln 10, that of guessing: five clients of few classes "
        "make it in the first rounds, whatever the rate"
    )
    trained = "loss in local training over the last tenth"
    table = [
        claim(effect, "cosine ends lower than a constant rate of the same peak",
              cosine, constant, level, end, because=limit),
        claim(effect, "cosine ends lower in training", cosine, constant, fit, trained,
              because=limit),
        claim(effect, "steps end lower in training", step, constant, fit, trained, because=limit),
        claim(effect, "cosine ends steadier", cosine, constant, swings, between),
        claim(effect, "steps end lower", step, constant, level, end, because=limit),
        claim(effect, "steps end steadier", step, constant, swings, between),
        claim(effect, "cosine at the server ends lower", server, constant, level, end,
              because=limit),
        claim(effect, "cosine at the server ends steadier", server, constant, swings, between),
        claim(effect, "a warm-up keeps the first rounds of a high rate from leaping",
              warm_high, cold_high, early_peak, "largest test loss of the first 20 rounds",
              because=young),
        claim(effect, "and the end is no worse for it", warm_high, cold_high, level, end,
              because="both end with one rate and its noise; no worse is all that is hoped for"),
    ]  # fmt: skip
    shown = (constant, cosine, step, server)
    return table, [course(m, "test_loss") for m in shown]
