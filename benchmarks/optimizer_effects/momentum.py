"""Momentum and Nesterov against plain descent, at the client and at the server."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax

import fedjax_sim as fs
from optimizer_effects.common import (
    Arm,
    Bench,
    Measured,
    claim,
    course,
    fixed,
    measure,
    to_accuracy,
    to_loss,
)

BETA = 0.9
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "heavy ball": {"momentum": BETA},
    "Nesterov": {"momentum": BETA, "nesterov": True},
}


def _sgd(kind: str) -> Any:
    return lambda lr: optax.sgd(lr, **KINDS[kind])


def at_the_client(bench: Bench) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Momentum inside local training; it starts anew each round."""
    data = bench.federation(fs.partition.iid(clients=20))
    rates = (0.03, 0.1, 0.3, 1.0, 3.0)
    target, rounds = (0.95 if bench.data == "digits" else 0.9), bench.rounds(80)

    def arm(kind: str) -> Measured:
        recipe = fs.algorithms.fedavg(_sgd(kind), lr=0.1, epochs=2, batch_size=16)
        grid, score = {"lr": rates}, to_accuracy(target)
        return measure(Arm(kind, recipe, fs.models.mlp(64), data, rounds, 10, grid, score), bench)

    plain, heavy, nesterov = map(arm, KINDS)

    def to_target(m: Measured) -> np.ndarray:
        return np.floor(to_accuracy(target)(m.curves))

    same = [fixed(m, 0.03) for m in (plain, heavy, nesterov)]
    name, limit = f"rounds to {100 * target:g} % test accuracy", float(rounds + 1)
    effect = "client momentum"
    anew = (
        "a client takes about ten steps a round and its momentum starts anew each time, so that "
        "beta mostly lengthens the step, which a tuned rate does as well"
    )
    table = [
        claim(effect, "at the same small rate, heavy ball is faster: its steps are longer",
              same[1], same[0], to_target, f"{name}, rate 0.03", censored=limit),
        claim(effect, "and so is Nesterov",
              same[2], same[0], to_target, f"{name}, rate 0.03", censored=limit),
        claim(effect, "with tuned rates heavy ball is faster than plain",
              heavy, plain, to_target, name, because=anew, censored=limit),
        claim(effect, "with tuned rates Nesterov is faster than plain",
              nesterov, plain, to_target, name, because=anew, censored=limit),
    ]  # fmt: skip
    return table, [course(m, "test_accuracy") for m in (plain, heavy, nesterov)]


def exact(bench: Bench) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Momentum on the exact gradient of a convex loss, where the theory is at home."""
    data = bench.federation(fs.partition.dirichlet(clients=20, alpha=0.3))
    rates = (0.8, 1.6, 3.2, 6.4, 12.8)
    target, rounds = (0.2 if bench.data == "digits" else 0.45), bench.rounds(300)

    def arm(kind: str) -> Measured:
        recipe = fs.algorithms.fedsgd(_sgd(kind), lr=0.1)
        model = fs.models.logistic(init="lecun")
        label, grid, score = f"{kind}, exact gradient", {"lr": rates}, to_loss(target)
        return measure(Arm(label, recipe, model, data, rounds, 20, grid, score), bench)

    plain, heavy, nesterov = map(arm, KINDS)

    def to_target(m: Measured) -> np.ndarray:
        return np.floor(to_loss(target)(m.curves))

    name, limit = f"rounds to test loss {target:g}", float(rounds + 1)
    effect = "server momentum"
    table = [
        claim(effect, "on exact gradients heavy ball is faster than tuned plain descent",
              heavy, plain, to_target, name, censored=limit),
        claim(effect, "on exact gradients Nesterov is faster than tuned plain descent",
              nesterov, plain, to_target, name, censored=limit),
        claim(effect, "on exact gradients Nesterov takes no more rounds than heavy ball",
              nesterov, heavy, to_target, name, censored=limit,
              because="heavy ball's best rate on a quadratic is (sqrt k - 1) / (sqrt k + 1), "
              "smaller than Nesterov's; Nesterov is the safer one, not the faster"),
    ]  # fmt: skip
    return table, [course(m, "test_loss") for m in (plain, heavy, nesterov)]


def at_the_server(bench: Bench) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Momentum on the mean update of clients with label skew (FedAvgM)."""
    data = bench.federation(fs.partition.dirichlet(clients=50, alpha=0.1))
    target, rounds = (0.88 if bench.data == "digits" else 0.8), bench.rounds(100)

    def arm(kind: str) -> Measured:
        recipe = fs.algorithms.fedavg(
            lambda lr: optax.sgd(lr), lr=0.1,
            server=lambda server_lr: optax.sgd(server_lr, **KINDS[kind]), server_lr=1.0,
            epochs=1, batch_size=10,
        )  # fmt: skip
        grid = {"lr": (0.1, 0.3), "server_lr": (0.3, 1.0, 3.0)}
        label, score = f"{kind} at the server", to_accuracy(target)
        return measure(Arm(label, recipe, fs.models.mlp(64), data, rounds, 5, grid, score), bench)

    plain, heavy, nesterov = map(arm, KINDS)

    def to_target(m: Measured) -> np.ndarray:
        return np.floor(to_accuracy(target)(m.curves))

    name, limit = f"rounds to {100 * target:g} % test accuracy", float(rounds + 1)
    effect = "server momentum"
    few = (
        "with five of fifty clients a round the mean update is mostly noise; momentum of 0.9 "
        "makes steps ten times as long on noise as well, and the rate that suits it is lower"
    )
    table = [
        claim(effect, "under label skew FedAvgM is faster than tuned FedAvg",
              heavy, plain, to_target, name, because=few, censored=limit),
        claim(effect, "under label skew Nesterov at the server is faster than tuned FedAvg",
              nesterov, plain, to_target, name, because=few, censored=limit),
    ]  # fmt: skip
    return table, [course(m, "test_accuracy") for m in (plain, heavy, nesterov)]
