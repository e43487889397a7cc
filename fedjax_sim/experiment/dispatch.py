"""The compiled program of a run, and its data on the devices."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.types import PyTree
from fedjax_sim.engine.mesh import place, replicated
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.experiment.prepare import Prepared
from fedjax_sim.experiment.probe import shards_for_device


class Dispatch:
    """`state, records = dispatch(state, rounds)`, compiled once ahead of time.

    A call that would need another compile is an error of the ahead-of-time program, never a
    silent second compile.

    Attributes:
      probes: names of what is measured on evaluation rounds.
      shapes: of the run's state.
      compile_seconds: spent by XLA, 0 before `compile`.
    """

    def __init__(self, prepared: Prepared) -> None:
        """Trace the program, which finds what is wrong with it, and compile nothing."""
        self._prepared, self._program = prepared, None
        self._home = replicated(prepared.mesh)
        self.shapes: RunState = jax.eval_shape(prepared.init_state, prepared.init)
        self.probes = prepared.probe_names(self.shapes)
        self.compile_seconds = 0.0
        jitted = jax.jit(prepared.simulate(), donate_argnums=1, out_shardings=self._home)
        self._host = self._arguments()
        like = jax.tree.map(self._abstract, self._host)
        rounds = jax.ShapeDtypeStruct((), np.int32, sharding=self._home)
        state = jax.tree.map(self._abstract, self.shapes)
        self._lowered = jitted.lower(like[0], state, rounds, *like[1:])

    def _arguments(self) -> list[Any]:
        p = self._prepared
        numbers = [np.int32(p.settings.eval_every), np.int32(p.settings.rounds)]
        return [p.key, shards_for_device(p.federation.train), p.evaluation, *numbers]

    def _abstract(self, leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = leaf.dtype
        if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=self._home)

    def compile(self) -> None:
        """Compile, and put the data on the devices."""
        start = time.perf_counter()
        self._program = self._lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        self._args = place(self._host, self._prepared.mesh)

    def first_state(self) -> RunState:
        """The state before round 1, on the devices."""
        init = jax.jit(self._prepared.init_state)(self._prepared.init)
        return self.adopt(init)

    def adopt(self, state: PyTree) -> RunState:
        """Put a state on the devices in buffers of its own, since dispatches donate them."""
        return place(jax.tree.map(_own, state), self._prepared.mesh)

    def __call__(self, state: RunState, rounds: int) -> tuple[RunState, dict[str, np.ndarray]]:
        """Run `rounds` rounds (at most the chunk); `state` is consumed."""
        assert self._program is not None, "compile first"
        many = place(np.int32(rounds), self._prepared.mesh)
        key, *rest = self._args
        state, records = self._program(key, state, many, *rest)
        return state, jax.device_get(records)


def _own(leaf: Any) -> Any:
    """A copy; by way of the host, where nothing is compiled."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.copy(leaf)
    return np.array(leaf, copy=True)
