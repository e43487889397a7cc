"""The compiled program of a group of runs, and its data on the devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.types import PyTree
from fedjax_sim.engine import mesh as meshes
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.engine.sweep import Blocks, make_sweep
from fedjax_sim.experiment import sweep_plan
from fedjax_sim.experiment.prepare import Prepared
from fedjax_sim.experiment.probe import shards_for_device
from fedjax_sim.experiment.sweep_design import Setting
from fedjax_sim.experiment.sweep_plan import SweepPlan

_TARGET_S = 2.0
Buffers = dict[str, np.ndarray]


class Block(NamedTuple):
    """One seed with some settings of a group.

    Attributes:
      seed: position among the design's seeds.
      settings: positions among the design's settings, at most the plan's width.
    """

    seed: int
    settings: tuple[int, ...]


def blocks_of(settings: Sequence[int], n_seeds: int, width: int) -> list[Block]:
    """A group's runs as blocks, seed after seed: the same ones on every resume."""
    slices = [tuple(settings[i : i + width]) for i in range(0, len(settings), width)]
    return [Block(seed, part) for seed in range(n_seeds) for part in slices]


class SweepDispatch:
    """Runs blocks; compiled once ahead of time.

    Attributes:
      probes: names of what is measured on evaluation rounds.
      shapes: of one run's state.
      plan: how the devices are used.
      compile_seconds: spent by XLA, 0 before `compile`.
    """

    def __init__(
        self,
        prepared: Prepared,
        plan: Callable[[RunState], SweepPlan],
        seeds: Sequence[int],
        settings: Sequence[Setting],
    ) -> None:
        """Trace the program, which finds what is wrong with it, and compile nothing.

        Args:
          prepared: one run.
          plan: from the shapes of a run's state to the plan.
          seeds: of the design.
          settings: of the design; blocks name them by position.
        """
        self._prepared, self._seeds, self._settings = prepared, seeds, settings
        self.shapes: RunState = jax.eval_shape(prepared.init_state, prepared.init)
        self.probes = prepared.probe_names(self.shapes)
        self.plan = plan(self.shapes)
        self.compile_seconds = 0.0
        self._rounds = prepared.settings.rounds
        self._chunk = prepared.chunk
        self._mesh = meshes.make_mesh(self.plan.devices)
        self._seconds_a_round: float | None = None
        self._lower()

    def _lower(self) -> None:
        whole, cut = meshes.replicated(self._mesh), meshes.dealt(self._mesh)
        p, slots = self._prepared, self.plan.devices * self.plan.held
        program = make_sweep(p.init_state, p.simulate(), self._mesh, inner=self.plan.inner)
        numbers = [np.int32(p.settings.eval_every), np.int32(self._rounds)]
        self._shared: Any = [shards_for_device(p.federation.train), p.evaluation, *numbers]
        shared, init = (_abstract(t, whole) for t in (self._shared, p.init))
        blocks = _abstract(self._blocks([]), cut)
        begin = jax.jit(program.begin, out_shardings=cut)
        self._begin_lowered = begin.lower(blocks, init)
        states = _abstract(jax.eval_shape(program.begin, blocks, init), cut)
        counts = jax.ShapeDtypeStruct((self.plan.devices,), np.int32, sharding=cut)
        number = jax.ShapeDtypeStruct((), np.int32, sharding=whole)
        advance = jax.jit(program.advance, donate_argnums=1, out_shardings=cut)
        self._advance_lowered = advance.lower(blocks, states, counts, number, number, shared)
        self._slots = slots

    def compile(self) -> None:
        """Compile, and put the data on the devices."""
        start = time.perf_counter()
        self._begin = self._begin_lowered.compile()
        self._advance = self._advance_lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        self._placed = meshes.place((self._shared, self._prepared.init), self._mesh)

    def release(self) -> None:
        """Let go of the data and the program."""
        del self._placed, self._begin, self._advance, self._shared
        del self._begin_lowered, self._advance_lowered

    def next_wave(self, left: Sequence[Block]) -> Sequence[Block]:
        """The blocks to run next: about two seconds of work once the speed is known."""
        most = self.plan.held
        if self.plan.inner != "vmap":
            known = self._seconds_a_round
            each = 1 if known is None else int(_TARGET_S / max(known * self._rounds, 1e-9))
            most = max(1, min(most, each))
            # Waves of equal length keep all devices busy to the end.
            waves = -(-len(left) // (most * self.plan.devices))
            most = -(-len(left) // (waves * self.plan.devices))
        return left[: most * self.plan.devices]

    def run(
        self,
        wave: Sequence[Block],
        told: Callable[[int], None] = lambda done: None,
        *,
        rounds: int | None = None,
    ) -> Buffers:
        """All rounds of some blocks.

        Args:
          wave: at most as many as the devices hold.
          told: called with the rounds done after every dispatch; what it raises ends the wave.
          rounds: only the first ones, for a probe.

        Returns:
          `{name: [runs, R]}`, block after block.
        """
        at, counts = self._deal(wave)
        cut = meshes.dealt(self._mesh)
        blocks = jax.device_put(self._blocks(wave, at), cut)
        shared, init = self._placed
        states = self._begin(blocks, init)
        counts = jax.device_put(counts, cut)
        pieces: list[Buffers] = []
        done, deep = 0, 1 if self.plan.inner == "vmap" else -(-len(wave) // self.plan.devices)
        last_round = self._rounds if rounds is None else rounds
        while done < last_round:
            many = min(self._next_rounds(done, deep), last_round - done)
            start = time.perf_counter()
            number = meshes.place((np.int32(done), np.int32(many)), self._mesh)
            states, records = self._advance(blocks, states, counts, *number, shared)
            records = jax.device_get(records)
            self._seconds_a_round = (time.perf_counter() - start) / (many * deep)
            pieces.append(self._take(records, wave, at, many))
            done += many
            told(done)
        return {n: np.concatenate([p[n] for p in pieces], axis=1) for n in pieces[0]}

    def _next_rounds(self, done: int, deep: int) -> int:
        """All rounds at once where they take seconds; few at first where nothing is known."""
        left, known = self._rounds - done, self._seconds_a_round
        if known is None:
            return min(left, self._chunk, sweep_plan.first_rounds(self._prepared))
        return max(1, min(left, self._chunk, int(2 * _TARGET_S / max(known * deep, 1e-9))))

    def _deal(self, wave: Sequence[Block]) -> tuple[np.ndarray, np.ndarray]:
        """Slots of the blocks, and how many each device has."""
        devices, held = self.plan.devices, self.plan.held
        parts = np.array_split(np.arange(len(wave)), devices)
        slots = [held * d + np.arange(len(part)) for d, part in enumerate(parts)]
        return np.concatenate(slots), np.array([len(part) for part in parts], np.int32)

    def _blocks(self, wave: Sequence[Block], at: np.ndarray | None = None) -> Blocks:
        """Seeds and numbers in slots; what is left over repeats a block, and so do columns."""
        slots, width = self.plan.devices * self.plan.held, self.plan.width
        wave = wave or [Block(0, (0,))]
        table = np.zeros(slots, int)
        if at is not None:
            table[at] = np.arange(len(wave))
        rows = [wave[i] for i in table]
        numbers = self._prepared.hyper
        kind = jax.dtypes.canonicalize_dtype(float)
        hyper = {
            name: np.array([[self._number(b, j, name) for j in range(width)] for b in rows], kind)
            for name in numbers
        }
        return Blocks(np.array([self._seeds[b.seed] for b in rows], np.uint32), hyper)  # type: ignore[arg-type]

    def _number(self, block: Block, column: int, name: str) -> float:
        column = min(column, len(block.settings) - 1)
        # An empty slot holds setting 0, which may be another group's, without this number.
        hyper = self._settings[block.settings[column]].hyper
        return hyper[name] if name in hyper else float(self._prepared.hyper[name])

    def _take(
        self, records: Buffers, wave: Sequence[Block], at: np.ndarray, rounds: int
    ) -> Buffers:
        """`{name: [runs, rounds]}` of the slots that held something."""
        row = np.concatenate([[slot] * len(b.settings) for slot, b in zip(at, wave, strict=True)])
        column = np.concatenate([np.arange(len(b.settings)) for b in wave])
        return {n: v[row, column][:, :rounds] for n, v in records.items()}


def _abstract(tree: PyTree, sharding: Any) -> PyTree:
    def one(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = leaf.dtype
        if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)

    return jax.tree.map(one, tree)
