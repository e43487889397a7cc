"""The round loop, the only one: many rounds in one dispatch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.core import keys, tree
from fedjax_sim.core.contracts import Algorithm, Sampler, Watch
from fedjax_sim.core.types import Array, Cohort, Info, Model, Moment, PyTree
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.engine import store


class RunState(NamedTuple):
    """All that a run is, between two rounds.

    Attributes:
      algorithm: the algorithm's own state, hyper-parameters included.
      rows: client states `[N, ...]`, a `store.Pool` of those that take part, or `()`.
      sampler: the sampler's state.
      round: int32, rounds done.
      sound: bool, False once a round came out with a number that is not finite; all else but
        `round` is then what it was before that round.
      watch: the state of diagnosis, or `()`.
    """

    algorithm: PyTree
    rows: PyTree
    sampler: PyTree
    round: Array
    sound: Array
    watch: PyTree = ()


def init_run(
    algorithm: Algorithm,
    sampler: Sampler,
    key: Array,
    model: Model,
    n_clients: int,
    hyper: dict[str, Any] | None = None,
    watch: Watch | None = None,
    *,
    n_rows: int | None = None,
) -> RunState:
    """The state before round 0; vmappable over `key` and `hyper`.

    There are `n_rows` rows, by default N: some more where that divides better. With 0 they are
    `()`: all rows lie elsewhere, and a dispatch gets a `store.Pool` of them.
    """
    n_rows = n_clients if n_rows is None else n_rows
    state = algorithm.init(key, model, n_clients, hyper)
    rows = store.init_rows(algorithm, key, model, state, n_rows) if n_rows else ()
    begun = RunState(
        algorithm=state,
        rows=rows,
        sampler=sampler.init(n_clients),
        round=jnp.zeros((), jnp.int32),
        sound=jnp.ones((), bool),
        watch=init_watch(algorithm, watch, state, n_clients),
    )
    return tree.strong(begun)


def init_watch(algorithm: Algorithm, watch: Watch | None, state: PyTree, n_clients: int) -> PyTree:
    """The state of diagnosis before its first round."""
    return () if watch is None else watch.init(_shared(algorithm, state), n_clients)


def _shared(algorithm: Algorithm, state: PyTree) -> Model | None:
    return None if algorithm.global_model is None else algorithm.global_model(state)


def run_round(
    algorithm: Algorithm,
    sampler: Sampler,
    key: Array,
    state: RunState,
    data: DeviceShards,
    watch: Watch | None = None,
) -> tuple[RunState, Cohort, Info]:
    """One federated round: sample, gather, step, observe, scatter.

    A round whose model is not finite, or in which no client's loss is, is undone, and so is
    every later one: the state stays the last good one, with `sound` False. Rounds are counted
    on, for where runs share a program they share its draws, which come of the round.
    """
    data = data.at(state.round)
    of_round = keys.round_key(key, state.round)
    sampled, cohort = draw_cohort(sampler, key, state.sampler, state.round)
    rows = store.gather(state.rows, cohort.members)
    after, new_rows, info = algorithm.step(of_round, state.algorithm, rows, cohort, data)
    observed, watched = sampler.observe(sampled, cohort, info), state.watch
    if sampler.tell is not None:
        info = info._replace(scalars=info.scalars | sampler.tell(observed))
    before, then = _shared(algorithm, state.algorithm), _shared(algorithm, after)
    if watch is not None:
        moment = Moment(of_round, state.round, before, then, cohort, info, data)
        watched, seen = watch.observe(state.watch, moment)
        info = info._replace(scalars=info.scalars | seen)
    watched_for = after if then is None and algorithm.models is None else then
    sound = state.sound & _finite(watched_for, info)
    new = tree.strong((after, observed, watched))
    after, observed, watched = tree.where(sound, new, (state.algorithm, state.sampler, state.watch))
    kept = cohort.members._replace(present=cohort.members.present & sound)
    rows = store.scatter(state.rows, kept, tree.strong(new_rows))
    info = info._replace(scalars=info.scalars | {"sound": sound})
    if isinstance(state.rows, store.Pool):
        lacking = {"rows_missing": store.missing(state.rows, cohort.members)}
        info = info._replace(scalars=info.scalars | lacking)
    done = tree.strong(RunState(after, rows, observed, state.round + 1, sound, watched))
    return done, cohort, info


def draw_cohort(
    sampler: Sampler, key: Array, state: PyTree, round_index: Array
) -> tuple[PyTree, Cohort]:
    """`(sampler state, cohort)` of a round; `key` is the run's."""
    draw = keys.server_key(keys.round_key(key, round_index), keys.Purpose.SAMPLE)
    return sampler.sample(draw, state, round_index)


def _finite(model: PyTree, info: Info) -> Array:
    """Whether a round's model is finite, and the loss of any of the clients that trained.

    Where no model is shared it is the server's state that must be, unless groups have models.

    One client that is lost does not end a run whose aggregation leaves it out.
    """
    leaves = [x for x in jax.tree.leaves(model) if jnp.issubdtype(x.dtype, jnp.inexact)]
    checks = [jnp.all(jnp.isfinite(x)) for x in leaves]
    if "loss_sum" in info.rows:
        trained = info.rows["loss_count"] > 0
        checks.append(jnp.any(trained & jnp.isfinite(info.rows["loss_sum"])) | ~jnp.any(trained))
    return jnp.all(jnp.stack(checks)) if checks else jnp.ones((), bool)


def make_simulate(
    algorithm: Algorithm,
    sampler: Sampler,
    *,
    chunk: int,
    probe: Callable[..., dict[str, Array]] | None = None,
    watch: Watch | None = None,
) -> Callable[..., tuple[RunState, dict[str, Array]]]:
    """A function that runs up to `chunk` rounds.

    Args:
      algorithm: what `bind` returned.
      sampler: who takes part.
      chunk: rows of the record buffers (static); the number of rounds is a traced bound.
      probe: `(key, RunState, data, probe_data) -> {name: scalar}`, run on the rounds that
        `probe_every` divides and on `last_round`; its records carry `probed`.
      watch: diagnosis of every round.

    Returns:
      `(key, RunState, rounds, data, probe_data, probe_every, last_round) ->
      (RunState, {name: [chunk]})`. Pure; jit it with the state donated, or vmap it.
    """
    measure = None if probe is None else jax.jit(probe, inline=True)

    def probed(
        state: RunState, key: Array, data: DeviceShards, probe_data: PyTree, due: Array
    ) -> dict[str, Array]:
        if measure is None:
            return {}
        take: Callable[..., dict[str, Array]] = measure
        shapes = jax.eval_shape(take, key, state, data, probe_data)
        values = jax.lax.cond(
            due,
            lambda s: tree.strong(take(key, s, data, probe_data)),
            lambda s: tree.zeros(shapes),
            state,
        )
        return values | {"probed": due}

    # The shapes of a round's records are needed before its loop; by jit's cache one trace
    # serves both, and so it does for the probe. Inlined, the program has no trace of it.
    @functools.partial(jax.jit, inline=True)
    def one(
        state: RunState,
        key: Array,
        data: DeviceShards,
        probe_data: PyTree,
        every: Array,
        last: Array,
    ) -> tuple[RunState, dict[str, Array]]:
        state, _, info = run_round(algorithm, sampler, key, state, data, watch)
        due = ((state.round % every == 0) | (state.round == last)) & state.sound
        return state, info.scalars | probed(state, key, data, probe_data, due)

    def simulate(
        key: Array,
        state: RunState,
        rounds: Array,
        data: DeviceShards,
        probe_data: PyTree = (),
        probe_every: Array | int = 1,
        last_round: Array | int = -1,
    ) -> tuple[RunState, dict[str, Array]]:
        every, last = jnp.maximum(probe_every, 1), jnp.asarray(last_round, jnp.int32)
        given = (key, data, probe_data, every, last)
        shapes = jax.eval_shape(one, state, *given)[1]
        records = {n: jnp.zeros((chunk, *s.shape), s.dtype) for n, s in shapes.items()}

        def body(i: Array, carry: tuple[RunState, dict[str, Array]]) -> Any:
            state, records = carry
            state, new = one(state, *given)
            return state, {n: records[n].at[i].set(v) for n, v in new.items()}

        rounds = jnp.minimum(jnp.asarray(rounds, jnp.int32), chunk)
        return jax.lax.fori_loop(0, rounds, body, (state, records))

    return simulate
