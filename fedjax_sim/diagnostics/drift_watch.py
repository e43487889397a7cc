"""The part of the drift panel that needs the model on both sides of the server's step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedjax_sim.clients.sgd import Weighting
from fedjax_sim.core import keys, tree
from fedjax_sim.core.checks import integer
from fedjax_sim.core.contracts import Task, Watch
from fedjax_sim.core.types import Array, Model, Moment, PyTree
from fedjax_sim.diagnostics.drift_statistics import capped, is_due, square_of, wide
from fedjax_sim.diagnostics.noise_scale import (
    Noise,
    no_noise,
    noise_scales,
    probe_noise,
    smoothed,
)
from fedjax_sim.engine.plan import Plan

MEASURED = "drift_measured"
DIRECTIONS = "drift_directions"
DECAY = 0.8
"""Of the running means from one reading to the next: about five readings count."""
SPACING = 5
"""Least rounds between two noise probes: a probe costs half of the panel, and is averaged."""
PROBED = "drift_probe_measured"


class Directions(NamedTuple):
    """The sum of the clients' directions, on its way from the panel to the watch.

    Attributes:
      total: `sum D_i / |D_i|`, shaped like params or `[G, ...]`.
      moved: how many clients it sums.
    """

    total: PyTree
    moved: Array


class DriftState(NamedTuple):
    """Decayed sums over the readings.

    Attributes:
      noise: of the noise probe.
      variance: of `drift_variance`.
      shared: of `drift_shared_square`.
    """

    noise: Noise
    variance: Array
    shared: Array


def drift_watch(
    task: Task,
    plan: Plan,
    mesh: Mesh,
    *,
    every: int,
    clients: int = 4,
    batch_size: int = 10,
    weighting: Weighting = "examples",
) -> Watch:
    """Alignment with the server's step, and the gradient noise scale, in the rounds that are due.

    Adds, beside the panel's own values:

    - `drift_alignment`: mean cosine between the clients' updates and the step that the server
      really took, momentum and all; 0 where it took none (only with `drift_panel`);
    - `drift_cohort_size`: clients at which the mean update's sampling noise is as long as what
      clients share, from running means of the panel's `drift_variance` and
      `drift_shared_square` (only with `drift_panel`);
    - those of `noise_scale.noise_scales`, from running means over the latest probes;
    - `drift_probe_square` and `drift_probe_client_square`: the latest probe's own `|grad f|^2`
      and mean `|grad f_i|^2`, for `dissimilarity.fit`; unbiased, hence below 0 at times. There
      is a probe (`drift_probe_measured`) in the rounds that are due, but no oftener than every
      fifth, where at least two clients are present.

    Args:
      task: what is learned.
      plan: lanes and lowering of the probe.
      mesh: the plan's devices.
      every: rounds from one reading to the next, as for `drift_panel`.
      clients: present members of the cohort that the probe asks; 0 for no probe.
      batch_size: examples of each of a client's two gradients.
      weighting: how the probe averages clients; `drift_panel` weighs as the algorithm does.

    Returns:
      `Watch`; without a shared model it says nothing.

    Cost: in a round that is due three reads of the parameters, with a probe `2 clients`
      gradients of `batch_size` examples; else nothing. Its state is six numbers.
    """
    integer("diagnosis.drift_every", every, least=1)
    integer("diagnosis.drift_clients", clients, least=0)
    integer("diagnosis.drift_batch_size", batch_size, least=1)

    def init(model: Model | None, n_clients: int) -> Any:
        del model, n_clients
        return tree.strong(DriftState(no_noise(), jnp.zeros(()), jnp.zeros(())))

    spacing = every * -(-SPACING // every)

    def probe(moment: Moment) -> Noise:
        assert moment.before is not None
        return probe_noise(
            task,
            moment.before,
            moment.cohort,
            moment.data,
            key=keys.server_key(moment.key, keys.Purpose.DIAGNOSIS),
            plan=plan,
            mesh=mesh,
            clients=clients,
            batch_size=batch_size,
            weighting=weighting,
        )

    def measure(state: DriftState, moment: Moment) -> tuple[DriftState, dict[str, Array]]:
        assert moment.before is not None and moment.after is not None
        values: dict[str, Array] = {}
        if DIRECTIONS in moment.info.trees:
            directions = moment.info.trees[DIRECTIONS]
            common = _common(directions, moment.before, moment.after)
            if common:
                values["drift_alignment"] = alignment(directions, common)
            state = _with_panel(state, moment.info.scalars)
            values["drift_cohort_size"] = capped(state.variance, state.shared)
        if clients:
            wanted = is_due(moment.round, spacing)
            new = jax.lax.cond(wanted, probe, lambda _: tree.strong(no_noise()), moment)
            state = state._replace(noise=smoothed(state.noise, new, DECAY))
            values |= noise_scales(state.noise) | {
                "drift_probe_square": new.square,
                "drift_probe_client_square": new.client_square,
                PROBED: new.weight > 0,
            }
        return tree.strong((state, values))

    def observe(state: DriftState, moment: Moment) -> tuple[DriftState, dict[str, Array]]:
        if moment.before is None or moment.after is None:
            return state, {}
        due = is_due(moment.round, every)
        shapes = jax.eval_shape(measure, state, moment)[1]
        state, values = jax.lax.cond(
            due, measure, lambda state, _: (state, tree.zeros(shapes)), state, moment
        )
        return state, values | {MEASURED: moment.info.scalars.get(MEASURED, due)}

    return Watch(init, observe)


def _with_panel(state: DriftState, scalars: dict[str, Array]) -> DriftState:
    """The state after a reading of the panel; one that measured nothing changes nothing."""
    measured = scalars[MEASURED]

    def averaged(old: Array, new: Array) -> Array:
        return jnp.where(measured, DECAY * old + new.astype(old.dtype), old)

    return state._replace(
        variance=averaged(state.variance, scalars["drift_variance"]),
        shared=averaged(state.shared, scalars["drift_shared_square"]),
    )


Leaves = list[tuple[Array, Array, Array]]


def _common(directions: Directions, before: Model, after: Model) -> Leaves:
    """`(clients' total, before, after)` of each leaf that is reported and is the model's own.

    Some report a part of the model; some (LoRA) what the model is made from, and no leaf of it.
    """
    told = dict(jax.tree.leaves_with_path(directions.total))
    ends = zip(jax.tree.leaves_with_path(before.params), jax.tree.leaves(after.params), strict=True)
    leaves = [(told.get(path), old, new) for (path, old), new in ends]
    return [
        (total, old, new)
        for total, old, new in leaves
        if total is not None and total.shape[total.ndim - old.ndim :] == old.shape
    ]


def alignment(directions: Directions, leaves: Leaves) -> Array:
    """Mean cosine of the clients' updates with the server's step, `before - after`.

    Args:
      directions: the clients'.
      leaves: `(total, before, after)` of each leaf.
    """
    along, square = jnp.zeros(()), jnp.zeros(())
    for total, old, new in leaves:
        step = wide(old) - wide(new)
        whole = jnp.sum(total, axis=0) if total.ndim > step.ndim else total
        along = along + jnp.vdot(whole.astype(step.dtype), step)
        square = square + square_of(step)
    length = jnp.sqrt(square) * directions.moved
    return jnp.clip(along / jnp.where(length > 0, length, 1), -1, 1)
