"""One client's local step by its shapes: what a lane carries, and what a step computes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from fedjax_sim.core import tree
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Context, Member, PyTree, Report
from fedjax_sim.engine import liveness
from fedjax_sim.engine.compose import Recipe


class LaneShapes(NamedTuple):
    """What a lane works with.

    Attributes:
      work: shapes of what a client carries between steps.
      report: shapes of what it sends up.
      step: one local step of one client, traced.
      accumulator_bytes: of one device's accumulator.
    """

    work: PyTree
    report: PyTree
    step: ClosedJaxpr
    accumulator_bytes: int

    @property
    def flops(self) -> float:
        """Floating-point operations of one local step; see `program_flops`."""
        return program_flops(self.step.jaxpr)

    @property
    def bytes(self) -> int:
        """Of one more lane: its work, twice while it is replaced, and what a step holds."""
        return 2 * tree.n_bytes(self.work) + liveness.temporaries(self.step).bytes


def lane_shapes(
    recipe: Recipe, task: Task, state: PyTree, rows: PyTree, data: PyTree, cohort: int
) -> LaneShapes:
    """Trace one client's start, step and finish; computes nothing.

    Args:
      recipe: the algorithm.
      task: what is learned.
      state: shapes of the algorithm's state.
      rows: shapes of the client rows `[N, ...]`.
      data: shapes of the `DeviceShards`.
      cohort: K.
    """

    def setting(state: Any, data: Any) -> tuple[Any, ...]:
        built = recipe.build(**state.hyper)
        member = Member(jnp.int32(0), jnp.bool_(True), jnp.int32(0), jnp.ones(()))
        ctx = Context(jax.random.key(0), jnp.int32(0), member)
        received = built.server.receive(built.server.send(state.server), member)
        return built.client(task), ctx, received, data.client(member.id)

    def start(state: Any, rows: PyTree, data: Any) -> PyTree:
        client, ctx, received, window = setting(state, data)
        return tree.strong(client.start(ctx, received, tree.take(rows, jnp.int32(0)), window))

    def step(work: PyTree, state: Any, data: Any) -> PyTree:
        client, ctx, received, window = setting(state, data)
        return client.step(ctx, jnp.int32(0), work, received, window)

    def finish(work: PyTree, state: Any, rows: PyTree, data: Any) -> Report:
        client, ctx, received, window = setting(state, data)
        row = tree.take(rows, jnp.int32(0))
        return client.finish(ctx, work, received, row, window)[0]

    work = jax.eval_shape(start, state, rows, data)
    report = jax.eval_shape(finish, work, state, rows, data)
    held = recipe.build(**recipe.hyper).aggregator.bytes_held(report, cohort)
    return LaneShapes(work, report, jax.make_jaxpr(step)(work, state, data), held)


def program_flops(jaxpr: Any) -> float:
    """Multiply-adds of products and convolutions times two, and one a number written besides.

    A loop of known length counts that often, one of unknown length once, of a conditional the
    dearest branch.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        inner = [program_flops(sub) for sub in liveness.subjaxprs(eqn)]
        written = float(sum(v.aval.size for v in eqn.outvars if hasattr(v.aval, "size")))
        if inner:
            times = float(eqn.params.get("length", 1)) if name == "scan" else 1.0
            total += times * (max(inner) if name == "cond" else sum(inner))
        elif name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            size = 1
            for axis in contracted:
                size *= shape[axis]
            total += 2.0 * written * size
        elif name == "conv_general_dilated":
            kernel = eqn.invars[1].aval
            features = eqn.params["dimension_numbers"].rhs_spec[0]
            total += 2.0 * written * kernel.size / kernel.shape[features]
        else:
            total += written
    return total
