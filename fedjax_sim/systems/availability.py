"""When clients can be reached: always, at random, by the hour, or on and off for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from fedjax_sim.core.checks import number
from fedjax_sim.core.types import Array, PyTree
from fedjax_sim.systems.fleet import Fleet
from fedjax_sim.systems.luck import luck_of_all

DAY_S = 86_400.0


class Availability(NamedTuple):
    """Who is online when a round begins.

    Attributes:
      init: `(Fleet) -> state`.
      draw: `(key, Fleet, state, time_s, elapsed_s) -> (state, online bool[N])`; `key` is of the
        round, `time_s` the virtual time, `elapsed_s` the time since the last draw (infinite at
        the first).
      constant: everyone is, always: no draw is needed.
    """

    init: Callable[[Fleet], PyTree]
    draw: Callable[..., tuple[PyTree, Array]]
    constant: bool = False


def always() -> Availability:
    """Everyone is online."""

    def draw(key: Array, fleet: Fleet, state: PyTree, time_s: Array, elapsed_s: Array) -> Any:
        del key, time_s, elapsed_s
        return state, jnp.ones(fleet.online.shape, bool)

    return Availability(lambda fleet: (), draw, constant=True)


def bernoulli() -> Availability:
    """Online with probability `fleet.online`, drawn anew each round, independent of the past.

    Cost: O(N) draws a round.
    """

    def draw(key: Array, fleet: Fleet, state: PyTree, time_s: Array, elapsed_s: Array) -> Any:
        del time_s, elapsed_s
        return state, _luck(key, fleet) < fleet.online

    return Availability(lambda fleet: (), draw)


def diurnal(swing: float = 1.0, period_s: float = DAY_S) -> Availability:
    """Online more at some hours: a sine about `fleet.online`, each client with its own phase.

    `p(t) = clip(online (1 + swing sin(2 pi (t / period + phase))), 0, 1)`, drawn anew each round.
    With phases all alike the whole fleet sleeps at once; `fleet` draws them uniformly.

    Args:
      swing: amplitude relative to `online`, in [0, 1].
      period_s: of the sine, virtual seconds.

    Cost: O(N) draws a round.
    """
    number("swing", swing, least=0, most=1)
    number("period_s", period_s, above=0)

    def draw(key: Array, fleet: Fleet, state: PyTree, time_s: Array, elapsed_s: Array) -> Any:
        del elapsed_s
        turn = 2 * jnp.pi * (jnp.mod(time_s / period_s, 1.0) + fleet.phase)
        return state, _luck(key, fleet) < fleet.online * (1.0 + swing * jnp.sin(turn))

    return Availability(lambda fleet: (), draw)


def markov(memory_s: float = 3600.0) -> Availability:
    """On and off for a while: a two-state Markov chain in continuous virtual time.

    After t seconds a client is online with probability
    `online + (was_online - online) exp(-t / memory)`. That is the chain with rates
    `online / memory` of coming and `(1 - online) / memory` of going, seen at the rounds' starts;
    its stationary share is `online`, from which it starts.

    Args:
      memory_s: time in which the past is forgotten to 37 %, virtual seconds.

    Cost: O(N) draws a round, and bool `[N]` in the state.
    """
    number("memory_s", memory_s, above=0)

    def draw(key: Array, fleet: Fleet, state: Array, time_s: Array, elapsed_s: Array) -> Any:
        del time_s
        left = jnp.exp(-elapsed_s / memory_s)
        was = state.astype(fleet.online.dtype)
        now = _luck(key, fleet) < fleet.online + (was - fleet.online) * left
        return now, now

    return Availability(lambda fleet: jnp.zeros(fleet.online.shape, bool), draw)


def _luck(key: Array, fleet: Fleet) -> Array:
    """One number for each client, whatever the cohort: entry i is client i's."""
    return luck_of_all(key, fleet.online.shape[0])
