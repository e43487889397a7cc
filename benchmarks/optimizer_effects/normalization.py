"""Batch norm on clients that differ: the failure, and what each policy repairs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjax_sim as fs
from fedjax_sim.algorithms.batch_norm import batch_norm, recalibrate
from fedjax_sim.engine.mesh import make_mesh
from fedjax_sim.engine.plan import Plan
from fedjax_sim.experiment.probe import shards_for_device
from fedjax_sim.experiment.settings import Diagnosis
from optimizer_effects.common import Arm, Bench, Measured, claim, course, measure
from optimizer_effects.intervals import late

CLIENTS, RATE = 40, 0.1
POLICIES: dict[str, dict[str, Any]] = {
    "local": {},
    "frozen": {"after": 20},
    "recalibrated": {},
}


def rows(bench: Bench) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows, and the curves for the picture; one rate for all, none tuned."""
    partitions = {
        "alike": fs.partition.iid(clients=CLIENTS),
        "label skew": fs.partition.shards(clients=CLIENTS, per_client=2),
    }
    held = {n: bench.federation(p, test_fraction=0.25) for n, p in partitions.items()}
    rounds = bench.rounds(80)

    def arm(who: str, norm: str, policy: str = "average", **more: Any) -> Measured:
        base = fs.algorithms.fedavg(
            lambda lr: optax.sgd(lr), lr=RATE, epochs=2, batch_size=8, last="topup"
        )
        recipe = batch_norm(base, policy, rounds=rounds, **more)
        label = {"none": "no norm", "group": "group norm"}.get(norm, f"batch norm, {policy}")
        model = fs.models.mlp(64, 64, norm=norm)
        return measure(
            Arm(f"{label}, {who}", recipe, model, held[who], rounds, 10, {"lr": (RATE,)}), bench
        )

    usual = {(w, n): arm(w, n) for w in partitions for n in ("none", "batch", "group")}
    repaired = {p: arm("label skew", "batch", p, **_quick(bench, m)) for p, m in POLICIES.items()}
    broken, group = usual["label skew", "batch"], usual["label skew", "group"]
    effect, unit = "batch norm", "test error over the last tenth of the rounds"
    own = "error on clients' own test examples, last tenth"
    final = "test error after the last round"
    weights = (
        "new statistics mend the mismatch of weights and statistics, not the weights, whose "
        "gradients came from batches of two classes"
    )
    before, exact = _same_weights(bench, broken, held["label skew"], rounds - 2)
    table = [
        claim(effect, "where clients are alike, batch norm does no harm against none",
              usual["alike", "batch"], usual["alike", "none"], _error, unit, ratio=False,
              because="it does no harm here if the interval holds 0; less error is not promised"),
        claim(effect, "label skew harms batch norm", usual["alike", "batch"], broken, _error, unit,
              ratio=False),
        claim(effect, "and more than it harms group norm", *_harm(usual, "group"), unit,
              ratio=False),
        claim(effect, "and more than it harms no norm", *_harm(usual, "none"), unit, ratio=False),
        claim(effect, "group norm in its place repairs it", group, broken, _error, unit,
              ratio=False),
        claim(effect, "frozen statistics repair it", repaired["frozen"], broken, _error, unit,
              ratio=False),
        claim(effect, "statistics recalibrated on the last cohorts repair it (same weights)",
              repaired["recalibrated"], before, _final_error, final, ratio=False,
              because=weights + "; ten skewed clients are also a poor sample of all"),
        claim(effect, "statistics recalibrated on everyone's examples repair it (same weights)",
              exact, before, _final_error, final, ratio=False, because=weights),
        claim(effect, "local batch norms (FedBN) repair it for the clients themselves",
              repaired["local"], broken, _own_error, own, ratio=False),
    ]  # fmt: skip
    shown = [*usual.values(), *repaired.values()]
    bars = [
        course(m, "test_accuracy")
        | {"own": [round(float(v), 5) for v in 1 - _own_error(m)]}
        | {"final": [round(float(v), 5) for v in 1 - _final_error(m)]}
        for m in shown
    ]
    return table, bars


def _same_weights(
    bench: Bench, broken: Measured, data: Any, rounds: int
) -> tuple[Measured, Measured]:
    """The averaged model after `rounds`, and the same with everyone's pooled statistics."""
    arm = dataclasses.replace(broken.arm, rounds=rounds)
    task = fs.tasks.classifier(arm.model, classes=10).bind(data.train.x.shape[1:])
    settle = jax.jit(
        recalibrate(
            task,
            jax.tree.map(jnp.asarray, shards_for_device(data.train)),
            plan=Plan(),
            mesh=make_mesh(1),
        )
    )
    x, y = data.central_test
    ends = []
    for seed in bench.seeds:
        run = fs.run(
            arm.recipe, task, data, cohort=arm.cohort, rounds=rounds, seed=seed, lanes=1,
            devices=1, eval_every=rounds, diagnosis=Diagnosis(verdict=False, drift_every=0),
        )  # fmt: skip
        assert run.model is not None
        guesses = [np.argmax(task.predict(m, x), 1) for m in (run.model, settle(run.model))]
        ends.append([np.mean(guess == y) for guess in guesses])
    labels = ("batch norm, averaged statistics", "batch norm, everyone's statistics")
    curves = [{"test_accuracy": accuracy[:, None]} for accuracy in np.transpose(ends)]
    first, second = (
        broken._replace(arm=dataclasses.replace(arm, label=label), curves=curve)
        for label, curve in zip(labels, curves, strict=True)
    )
    return first, second


def _quick(bench: Bench, more: dict[str, Any]) -> dict[str, Any]:
    return more | {"after": 2} if bench.quick and "after" in more else more


def _error(m: Measured) -> np.ndarray:
    return 1 - late(m.curves["test_accuracy"])


def _final_error(m: Measured) -> np.ndarray:
    return 1 - m.curves["test_accuracy"][:, -1]


def _own_error(m: Measured) -> np.ndarray:
    return 1 - late(m.curves["client_accuracy_mean"])


def _harm(usual: dict[tuple[str, str], Measured], norm: str) -> tuple[Measured, Measured, Any]:
    """Two arms whose values are what label skew adds to the error, for `claim`."""

    def arm(kind: str) -> Measured:
        skewed, alike = usual["label skew", kind], usual["alike", kind]
        added = _error(skewed) - _error(alike)
        label = skewed.arm.label.replace(", label skew", ": error added by label skew")
        named = dataclasses.replace(skewed.arm, label=label)
        return skewed._replace(arm=named, curves=skewed.curves | {"added": added})

    return arm(norm), arm("batch"), lambda m: m.curves["added"]
