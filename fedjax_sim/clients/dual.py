"""Clients that keep a dual variable: FedDyn, FedADMM, FedSplit.

All three train on `f_i(y) + <correction, y> + strength/2 |y - x|^2`, and differ in what the
row holds and in how the round's decrease `x - y` moves it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_sim.clients.sgd import LocalWork, Weighting, local
from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData
from fedjax_sim.transforms.correction import add_correction, add_proximal

Number = Array | float


class Rule(NamedTuple):
    """What a row is and does.

    Attributes:
      init: `(Model) -> row`.
      correct: `(row, x) -> correction`, trees of params; fixed for the round.
      settle: `(row, x, decrease) -> (row, update)`: after local training, `decrease = x - y`;
        the update is what params report.
      begin: `(row, x) -> params` where local training starts; x by default.
    """

    init: Callable[[Model], PyTree]
    correct: Callable[[PyTree, PyTree], PyTree]
    settle: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
    begin: Callable[[PyTree, PyTree], PyTree] | None = None


def dual(
    optimizer: Any,
    rule: Rule,
    strength: Number,
    batches: Batches | None = None,
    *,
    weighting: Weighting = "uniform",
) -> Callable[[Task], ClientUpdate]:
    """Local training on `g + strength (y - x) + correction`, with a row of the rule's.

    A client that takes no local step keeps its row and reports no update.

    Args:
      optimizer: any optax transformation.
      rule: see `Rule`.
      strength: of the tie to the received model.
      batches: how examples become steps.
      weighting: see `sgd.weigh`.

    Returns:
      `Task -> ClientUpdate` with `received` a `Model`.
    """
    steer = optax.chain(
        add_proximal(strength), add_correction(), optax.with_extra_args_support(optimizer)
    )
    base_of = local(steer, batches, weighting=weighting)

    def build(task: Task) -> ClientUpdate:
        base = base_of(task)

        def start(ctx: Context, received: Model, row: PyTree, data: ClientData) -> LocalWork:
            work = base.start(ctx, received, (), data)
            work = work._replace(extra={"correction": rule.correct(row, received.params)})
            if rule.begin is None:
                return work
            first = rule.begin(row, received.params)
            return work._replace(model=work.model._replace(params=first))

        def finish(
            ctx: Context, work: LocalWork, received: Model, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            report, _ = base.finish(ctx, work, received, (), data)
            after, told = rule.settle(row, received.params, report.update.params)
            did = base.steps(ctx, data) > 0
            told = tree.where(did, told, tree.zeros(told))
            report = report._replace(update=report.update._replace(params=told))
            return report, tree.where(did, after, row)

        return base._replace(init=lambda key, model: rule.init(model), start=start, finish=finish)

    return build


def dynamic(alpha: Number) -> Rule:
    """FedDyn: the row is h_i, the gradient at the client's last model as optimality tells it.

    `correct = -h_i`, `h_i <- h_i + alpha (x - y)`; the decrease is reported. A row costs P.
    """

    def settle(row: PyTree, x: PyTree, decrease: PyTree) -> tuple[PyTree, PyTree]:
        del x
        return tree.add(row, tree.scale(decrease, alpha)), decrease

    return Rule(_nothing, lambda row, x: jax.tree.map(jnp.negative, row), settle)


class Pair(NamedTuple):
    """A row of FedADMM: the client's last model w_i and its dual variable y_i."""

    primal: PyTree
    dual: PyTree


def alternating(rho: Number, *, warm: bool) -> Rule:
    """FedADMM: `correct = y_i`, `y_i <- y_i + rho (w - x)`; the row is `Pair(w_i, y_i)`, 2 P.

    Reported is the decrease of the augmented model `w_i + y_i / rho`.

    Args:
      rho: strength.
      warm: local training starts from the client's last model instead of the received one.
    """

    def settle(row: Pair, x: PyTree, decrease: PyTree) -> tuple[Pair, PyTree]:
        trained = tree.sub(x, decrease)
        moved = tree.sub(row.primal, trained)
        after = tree.sub(row.dual, tree.scale(decrease, rho))
        return Pair(trained, after), tree.add(moved, decrease)

    return Rule(
        lambda model: Pair(model.params, _nothing(model)),
        lambda row, x: row.dual,
        settle,
        (lambda row, x: row.primal) if warm else None,
    )


def reflected(strength: Number) -> Rule:
    """FedSplit: the row is z_i, one P; `correct = strength (z_i - x)`, `z_i <- z_i + 2 (y - x)`.

    With the tie to x this is the proximal problem of z_i's reflection `2 x - z_i`. Reported is the
    decrease of z_i.

    Args:
      strength: one over the proximal step.
    """

    def settle(row: PyTree, x: PyTree, decrease: PyTree) -> tuple[PyTree, PyTree]:
        del x
        told = tree.scale(decrease, 2)
        return tree.sub(row, told), told

    return Rule(
        lambda model: model.params,
        lambda row, x: tree.scale(tree.sub(row, x), strength),
        settle,
    )


def _nothing(model: Model) -> PyTree:
    return tree.zeros(model.params)
