"""Sweeps: whole runs dealt to devices, no collective between them.

The unit of work is a block: one seed with h settings of the traced numbers. A device takes
its blocks one after another, or all at once; the settings of a block with h > 1 run at once,
and what depends on the seed alone (cohorts, shuffles, gathered batches, trip counts of the
lane loop) is computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedjax_sim.core import tree
from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.engine import mesh as meshes
from fedjax_sim.engine.simulate import RunState

INNER = ("map", "hyper", "vmap")


class Blocks(NamedTuple):
    """Runs laid out for the devices, device after device.

    Attributes:
      seed: uint32 `[W]`, of each block.
      hyper: `{name: float [W, h]}`, the settings of each block.
    """

    seed: Array
    hyper: dict[str, Array]


class SweepProgram(NamedTuple):
    """The two pure functions of a sweep; jit both, the second with its states donated.

    Attributes:
      begin: `(Blocks, init) -> RunState [W, h, ...]`, the states before round 1.
      advance: `(Blocks, RunState [W, h, ...], counts [D], done, rounds, shared) ->
        (RunState [W, h, ...], {name: [W, h, chunk]})`: `rounds` more rounds of the first
        `counts[d]` blocks of device d, all of which have `done` rounds behind them.
    """

    begin: Callable[..., RunState]
    advance: Callable[..., tuple[RunState, dict[str, Array]]]


def make_sweep(
    init_state: Callable[[PyTree, Array, dict[str, Array]], RunState],
    simulate: Callable[..., tuple[RunState, dict[str, Array]]],
    mesh: Mesh,
    *,
    inner: str,
) -> SweepProgram:
    """The program of many runs.

    Args:
      init_state: `(init, key, hyper) -> RunState` of one run.
      simulate: `(key, RunState, rounds, *shared) -> (RunState, {name: [chunk]})` of one run,
        bound to one device.
      mesh: D devices; W is a multiple of D.
      inner: `map`, `hyper`: a device's blocks one after another, and as many as `counts`
        says (`map` is `hyper` with h = 1, which runs what a single run does, within a rounding);
        `vmap`: all of them at once, whatever `counts` says.

    Cost: memory W x h states; at work h runs a device, with `vmap` W / D x h.
    """

    def begin(blocks: Blocks, init: PyTree) -> RunState:
        def one(block: Blocks) -> RunState:
            key = jax.random.key(block.seed)
            return _settings(lambda hyper: init_state(init, key, hyper))(block.hyper)

        def body(shared: PyTree, mine: Blocks) -> tuple[PyTree, RunState]:
            del shared
            return (), jax.lax.map(one, mine)

        return meshes.map_devices(body, mesh)((), blocks)[1]

    def advance(
        blocks: Blocks, states: RunState, counts: Array, done: Array, rounds: Array, shared: PyTree
    ) -> tuple[RunState, dict[str, Array]]:
        def body(whole: PyTree, mine: PyTree) -> tuple[PyTree, PyTree]:
            done, rounds, shared = whole
            seeds, states, count = mine

            def one(seed: Array, states: RunState) -> tuple[RunState, dict[str, Array]]:
                key = jax.random.key(seed)

                def run(state: RunState) -> tuple[RunState, dict[str, Array]]:
                    # The round is every run's: as a state's own leaf it would be one a
                    # setting, and with it every draw.
                    return simulate(key, state._replace(round=done), rounds, *shared)

                return _settings(run)(states)

            if inner == "vmap":
                return (), jax.vmap(one)(seeds, states)
            return (), _in_turn(one, count[0], seeds, states)

        whole = (jnp.asarray(done, jnp.int32), rounds, shared)
        return meshes.map_devices(body, mesh)(whole, (blocks.seed, states, counts))[1]

    return SweepProgram(begin, advance)


def _settings(f: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
    """`f` over the settings of a block; one setting carries no axis inside."""

    def apply(values: PyTree) -> PyTree:
        leaves: list[Any] = jax.tree.leaves(values)
        if not leaves or leaves[0].shape[0] == 1:
            out = f(jax.tree.map(lambda x: x[0], values))
            return jax.tree.map(lambda x: x[None], out)
        return jax.vmap(f)(values)

    return apply


def _in_turn(
    one: Callable[[Array, RunState], tuple[RunState, dict[str, Array]]],
    count: Array,
    seeds: Array,
    states: RunState,
) -> tuple[RunState, dict[str, Array]]:
    """The first `count` blocks one after another; the others keep their states."""
    shape = jax.eval_shape(one, seeds[0], tree.take(states, jnp.int32(0)))[1]
    n = seeds.shape[0]
    records = {name: jnp.zeros((n, *s.shape), s.dtype) for name, s in shape.items()}

    def body(i: Array, carry: PyTree) -> PyTree:
        new = one(seeds[i], tree.take(carry[0], i))
        return jax.tree.map(lambda all_, x: all_.at[i].set(x), carry, new)

    return jax.lax.fori_loop(0, count, body, (states, records))
