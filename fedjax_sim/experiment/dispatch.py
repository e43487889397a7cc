"""The compiled program of a run, and its data on the devices."""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.sharding import NamedSharding

from fedjax_sim.core.types import PyTree
from fedjax_sim.data.federated import Federation
from fedjax_sim.engine import plan as plans
from fedjax_sim.engine.bind import Panel
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.engine.forecast import Forecast, Pieces, forecast
from fedjax_sim.engine.lane_shapes import LaneShapes, lane_shapes
from fedjax_sim.engine.mesh import dealt, place, replicated
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.experiment import files
from fedjax_sim.experiment.outside import Outside, with_axis
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

    def __init__(self, prepared: Prepared, *, refuse: bool = True, out: Path | None = None) -> None:
        """Trace the program, which finds what is wrong with it, and compile nothing.

        Args:
          prepared: the run.
          refuse: refuse a plan whose forecast does not fit into memory.
          out: the run directory, where client rows that lie off the device have a file; or None.

        Raises:
          InputError: the plan cannot fit, with the figures by kind.
        """
        self._prepared, self._program = prepared, None
        self._home = replicated(prepared.mesh)
        self._init = jax.jit(functools.partial(prepared.init_state, n_rows=prepared.n_rows))
        self._first: RunState | None = None
        self.shapes: RunState = jax.eval_shape(self._init, prepared.init)
        self._all_rows = with_axis(prepared.row, prepared.federation.n_clients)
        self.probes = prepared.probe_names(self.shapes._replace(rows=self._all_rows))
        rows_at = None if out is None else out / files.ROWS
        self._outside = None if prepared.rows_here else Outside(prepared, rows_at)
        if self._outside is not None:
            self.shapes = self.shapes._replace(rows=self._outside.kept_shapes)
        self.compile_seconds = 0.0
        self._host = self._arguments()
        like = jax.tree.map(lambda v: _abstract(v, self._home), self._host)
        rounds = jax.ShapeDtypeStruct((), np.int32, sharding=self._home)
        state = self.shapes
        if self._outside is not None:
            state = state._replace(rows=self._outside.pool_shapes)
        homes = self._homes(state)
        state = jax.tree.map(_abstract, state, homes)
        jitted = jax.jit(prepared.simulate(), donate_argnums=1, out_shardings=(homes, self._home))
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
            recipe, p.task, self.shapes.algorithm, self._all_rows, data, p.sampler.size
        )
        records = self.program.out_avals[len(jax.tree.leaves(state)) :]
        pieces = Pieces(
            data=(data, evaluation),
            server=(self.shapes.algorithm, self.shapes.sampler, self.shapes.watch),
            rows=state.rows,
            work=shapes.work,
            model=shapes.report.update,
            accumulator_bytes=shapes.accumulator_bytes,
            cohort=p.sampler.size,
            records=records,
            host_bytes=_distinct_bytes((p.federation, data, evaluation)),
            rows_parts=p.plan.devices if self._outside is None else 1,
            host_rows=0 if self._outside is None else self._outside.host_bytes,
        )
        self.lane_shapes: LaneShapes = shapes
        return forecast(self.program, donated, pieces, p.plan, jax.default_backend())

    def _arguments(self) -> list[Any]:
        p = self._prepared
        numbers = [np.int32(p.settings.eval_every), np.int32(p.settings.rounds)]
        return [p.key, shards_for_device(p.federation.train), p.evaluation, *numbers]

    def _homes(self, state: PyTree) -> PyTree:
        """Where each leaf of a state lies: on every device, but of all rows each has its part."""
        homes = jax.tree.map(lambda _: self._home, state)
        if self._outside is not None:
            return homes
        part = dealt(self._prepared.mesh)
        return homes._replace(rows=jax.tree.map(lambda _: part, state.rows))

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
        Rows that lie elsewhere are taken up there, where a checkpoint kept them.
        """
        if self._outside is not None:
            state = self._outside.adopt(state)
        homes = jax.tree.leaves(self._homes(state))
        leaves, structure = jax.tree.flatten(state)
        del state
        for i, (leaf, home) in enumerate(zip(leaves, homes, strict=True)):
            leaves[i] = jax.block_until_ready(jax.device_put(_own(leaf), home))
        return jax.tree.unflatten(structure, leaves)

    def __call__(self, state: RunState, rounds: int) -> tuple[RunState, dict[str, np.ndarray]]:
        """Run `rounds` rounds (at most the chunk); `state` is consumed."""
        if self._outside is not None:
            return self._outside.run(self._launch, state, rounds, self._args[1])
        state, records = self._launch(state, rounds)
        return state, jax.device_get(records)

    def _launch(self, state: RunState, rounds: int) -> tuple[RunState, dict[str, Any]]:
        """Start the program; what it returns may not be there yet."""
        assert self._program is not None, "compile first"
        many = place(np.int32(rounds), self._prepared.mesh)
        key, *rest = self._args
        return self._program(key, state, many, *rest)

    def kept(self, state: RunState, done: int) -> RunState:
        """What a checkpoint after round `done` holds of a state."""
        return state if self._outside is None else self._outside.kept(state, done)

    def handed(self, state: RunState) -> RunState:
        """The state as it is handed to the user: N rows, or a way to where they lie."""
        if self._outside is not None:
            return self._outside.handed(state)
        n = self._prepared.federation.n_clients
        if self._prepared.n_rows == n:
            return state
        return state._replace(rows=jax.tree.map(lambda v: v[:n], state.rows))


def _abstract(leaf: Any, home: NamedSharding) -> jax.ShapeDtypeStruct:
    dtype = leaf.dtype
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=home)


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
