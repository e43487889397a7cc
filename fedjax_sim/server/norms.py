"""The server that takes measured batch statistics in calibration rounds."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import ServerUpdate
from fedjax_sim.core.types import Aggregate, Array, Member, Model, PyTree
from fedjax_sim.tasks import norms
from fedjax_sim.tasks.norms import Calibration


class CalibratedState(NamedTuple):
    """The wrapped server's state, and the rounds done as int32."""

    base: PyTree
    round: Array


def calibrates(base: ServerUpdate, calibration: Calibration) -> ServerUpdate:
    """In the rounds of `calibration` settle the statistics and do nothing else.

    No optimizer sees those rounds: moments, momentum and control variates stay as they are.

    Args:
      base: any server that keeps its model as a `Model`.
      calibration: as at the clients (`clients.calibrate.calibrating_norms`).
    """

    def init(model: Model, n_clients: int) -> CalibratedState:
        return CalibratedState(base.init(model, n_clients), jnp.zeros((), jnp.int32))

    def receive(sent: Any, member: Member) -> Any:
        return base.receive(sent, member)

    def update(state: CalibratedState, aggregate: Aggregate, key: Array) -> CalibratedState:
        at = norms.find(base.model(state.base))
        due = calibration.due(state.round, len(at.means))
        decrease = norms.model_in(aggregate.update, "client.batch_norm")
        settled = _over_models(lambda model: norms.settled(model, decrease, at), state.base)
        measured = tree.where(aggregate.weight > 0, settled, state.base)
        after = tree.as_before(base.update(state.base, aggregate, key), state.base)
        return CalibratedState(tree.where(due, measured, after), state.round + 1)

    def rescale(state: CalibratedState, factor: Array) -> CalibratedState:
        assert base.rescale is not None
        return state._replace(base=base.rescale(state.base, factor))

    return ServerUpdate(
        init=init,
        send=lambda state: base.send(state.base),
        receive=receive,
        update=update,
        model=lambda state: base.model(state.base),
        rescale=None if base.rescale is None else rescale,
    )


def _over_models(change: Any, state: PyTree) -> PyTree:
    """`state` with `change` applied to every `Model` that it holds."""

    def one(node: Any) -> Any:
        return change(node) if isinstance(node, Model) else node

    return jax.tree.map(one, state, is_leaf=lambda node: isinstance(node, Model))
