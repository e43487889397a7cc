"""The compiled program of a run, and its data on the devices."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from fedjax_sim.core.types import PyTree
from fedjax_sim.data.federated import Federation
from fedjax_sim.engine import plan as plans
from fedjax_sim.engine.bind import Panel
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.engine.forecast import Forecast, Pieces, forecast
from fedjax_sim.engine.lane_shapes import LaneShapes, lane_shapes
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
      forecast: bytes by kind that a run will hold.
      program: the traced round loop.
      compile_seconds: spent by XLA, 0 before `compile`.
    """

    def __init__(self, prepared: Prepared, *, refuse: bool = True) -> None:
        """Trace the program, which finds what is wrong with it, and compile nothing.

        Args:
          prepared: the run.
          refuse: refuse a plan whose forecast does not fit into memory.

        Raises:
          InputError: the plan cannot fit, with the figures by kind.
        """
        self._prepared, self._program = prepared, None
        self._home = replicated(prepared.mesh)
        self._init = jax.jit(prepared.init_state)
        self._first: RunState | None = None
        self.shapes: RunState = jax.eval_shape(self._init, prepared.init)
        self.probes = prepared.probe_names(self.shapes)
        self.compile_seconds = 0.0
        jitted = jax.jit(prepared.simulate(), donate_argnums=1, out_shardings=self._home)
        self._host = self._arguments()
        like = jax.tree.map(self._abstract, self._host)
        rounds = jax.ShapeDtypeStruct((), np.int32, sharding=self._home)
        state = jax.tree.map(self._abstract, self.shapes)
        self._traced = jitted.trace(like[0], state, rounds, *like[1:])
        self.program: ClosedJaxpr = self._traced.jaxpr
        self.forecast: Forecast = self._forecast(state)
        if refuse:
            self.forecast.refuse_oversize(plans.memory_bytes())

    def _forecast(self, state: RunState) -> Forecast:
        p = self._prepared
        donated = frozenset(range(1, 1 + len(jax.tree.leaves(state))))  # the key comes first
        data, evaluation = self._host[1:3]
        recipe = p.recipe if p.panel is None else _measured(p.recipe, p.panel)
        shapes = lane_shapes(
            recipe, p.task, self.shapes.algorithm, self.shapes.rows, data, p.sampler.size
        )
        records = self.program.out_avals[len(jax.tree.leaves(state)) :]
        pieces = Pieces(
            data=(data, evaluation),
            server=(self.shapes.algorithm, self.shapes.sampler, self.shapes.watch),
            rows=self.shapes.rows,
            work=shapes.work,
            model=shapes.report.update,
            accumulator_bytes=shapes.accumulator_bytes,
            cohort=p.sampler.size,
            records=records,
            host_bytes=_distinct_bytes((p.federation, data, evaluation)),
        )
        self.lane_shapes: LaneShapes = shapes
        return forecast(self.program, donated, pieces, p.plan, jax.default_backend())

    def _arguments(self) -> list[Any]:
        p = self._prepared
        numbers = [np.int32(p.settings.eval_every), np.int32(p.settings.rounds)]
        return [p.key, shards_for_device(p.federation.train), p.evaluation, *numbers]

    def _abstract(self, leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = leaf.dtype
        if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=self._home)

    def compile(self, *, draw: bool = True) -> None:
        """Compile, and put the data on the devices.

        Args:
          draw: also make the first state, for `first_state`, while the program compiles
            (XLA compiles one program on one core).
        """
        start = time.perf_counter()
        with ThreadPoolExecutor(1) as worker:
            # Lowering reads this thread's configuration (float64); compiling does not.
            program = worker.submit(self._traced.lower().compile)
            if draw:
                self._first = self._init(self._prepared.init)
            self._args = place(self._host, self._prepared.mesh)
            self._program = program.result()
        self.compile_seconds = time.perf_counter() - start

    def planned_bytes(self) -> int:
        """Temporaries of one device as XLA planned them; 0 before `compile`."""
        found = None if self._program is None else self._program.memory_analysis()
        return 0 if found is None else int(found.temp_size_in_bytes)

    def first_state(self) -> RunState:
        """The state before round 1, on the devices."""
        return self.adopt(self._take_first())

    def _take_first(self) -> RunState:
        first, self._first = self._first, None
        return self._init(self._prepared.init) if first is None else first

    def adopt(self, state: PyTree) -> RunState:
        """Put a state on the devices in buffers of its own, since dispatches donate them.

        One leaf after another, so that a state that nobody else holds is never here twice.
        """
        leaves, structure = jax.tree.flatten(state)
        del state
        for i, leaf in enumerate(leaves):
            leaves[i] = jax.block_until_ready(place(_own(leaf), self._prepared.mesh))
        return jax.tree.unflatten(structure, leaves)

    def __call__(self, state: RunState, rounds: int) -> tuple[RunState, dict[str, np.ndarray]]:
        """Run `rounds` rounds (at most the chunk); `state` is consumed."""
        assert self._program is not None, "compile first"
        many = place(np.int32(rounds), self._prepared.mesh)
        key, *rest = self._args
        state, records = self._program(key, state, many, *rest)
        return state, jax.device_get(records)


def _measured(recipe: Recipe, panel: Panel) -> Recipe:
    """The recipe with the panel's accumulators, for their sizes."""
    return recipe._replace(build=lambda **hyper: panel(recipe.build(**hyper), jnp.int32(0)))


def _distinct_bytes(held: tuple[Federation, PyTree, PyTree]) -> int:
    """Bytes of host arrays, each memory counted once."""
    federation, *trees = held
    arrays: list[Any] = [x for x in jax.tree.leaves(trees) if isinstance(x, np.ndarray)]
    for shards in (federation.train, federation.test, federation.validation):
        arrays += [] if shards is None else [shards.x, shards.y]
    arrays += list(federation.central_test or ())
    return sum({(a.ctypes.data, a.nbytes): a.nbytes for a in arrays}.values())


def _own(leaf: Any) -> Any:
    """A copy; by way of the host, where nothing is compiled."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.copy(leaf)
    return np.array(leaf, copy=True)
