"""Carries out a policy: judges the course of a run, keeps its best state, goes back to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core import tree
from fedjax_sim.core.checks import InputError
from fedjax_sim.engine.simulate import RunState, init_watch
from fedjax_sim.experiment.policy import CUT, RESTORE, STOP, Course, Policy, decide, score_of
from fedjax_sim.experiment.prepare import Prepared
from fedjax_sim.experiment.records import Record

Judge = Callable[[RunState], str]


class Keeper:
    """The policy of one run, and what it must remember.

    Attributes:
      course: what is known so far, JSON-ready.
      best: host copy of the best state, or None where the policy needs none.
    """

    def __init__(self, policy: Policy, prepared: Prepared, judge: Judge) -> None:
        """Check that the policy can be carried out.

        Args:
          policy: the user's.
          prepared: the run.
          judge: from a state to the name of the verdict on what it has seen.

        Raises:
          InputError: the algorithm's server has no rate that could be cut.
        """
        if not prepared.settings.diagnosis.verdict:
            remedy = "must be true for a policy to act on it"
            raise InputError("diagnosis.verdict", False, remedy)
        if policy.cuts and prepared.algorithm.rescale is None:
            remedy = f"{prepared.name}'s server has no step to shorten; take stop or go_on"
            raise InputError("policy.on_trouble", policy.on_trouble, remedy)
        self._policy, self._prepared, self._judge = policy, prepared, judge
        self.course = Course()
        self.best: RunState | None = None
        algorithm = prepared.algorithm
        self._rescale = jax.jit(algorithm.rescale) if policy.cuts and algorithm.rescale else None

    @property
    def keeps_best(self) -> bool:
        """Whether the best state is kept."""
        return self._policy.on_trouble == RESTORE

    def begin(self, state: RunState) -> None:
        """Remember the first state, so that there is one to go back to."""
        if self.keeps_best:
            self.best = _copy(state)

    def take_up(self, course: Mapping[str, Any], best: RunState | None) -> None:
        """Go on from what a checkpoint kept."""
        values = dict(course)
        values["events"] = tuple(values["events"])
        self.course, self.best = Course(**values), best

    def after(
        self, state: RunState, records: Sequence[Record], new: int, *, sound: bool
    ) -> tuple[RunState, str]:
        """What follows a dispatch.

        Args:
          state: after it, or the last good one where it was not sound.
          records: of all rounds so far.
          new: how many of them the dispatch added.
          sound: whether every number was finite.

        Returns:
          `(state to go on from, action)`.
        """
        done = len(records)
        self.course = self.course.judged(self._judge(state), done - new)
        if sound and self.keeps_best:
            score = score_of(records[-new:])
            if self.course.beaten_by(score):
                self.course, self.best = self.course.scored(score, done), _copy(state)
        action = decide(self._policy, self.course, done, sound=sound)
        if action == STOP:
            self.course = self.course.acted(STOP, done)
        elif action == CUT:
            self.course = self.course.acted(CUT, done, factor=self._policy.cut)
            state = self._shortened(state, self._policy.cut, done)
        elif action == RESTORE:
            state = self._restored(state, done)
        return state, action

    def _restored(self, state: RunState, done: int) -> RunState:
        """The best state; only the sampler goes on, for time that has passed has passed."""
        assert self.best is not None
        course, cut = self.course, self._policy.cut
        self.course = course.acted(RESTORE, done, factor=cut, back_to=course.best_round)
        more = self.course.cuts - course.best_cuts
        best = self.best._replace(sampler=state.sampler)
        return self._shortened(best, cut**more, done)

    def _shortened(self, state: RunState, factor: float, done: int) -> RunState:
        """The state with shorter server steps, at round `done`, its diagnosis begun anew."""
        assert self._rescale is not None
        p = self._prepared
        algorithm = self._rescale(state.algorithm, jnp.asarray(factor, float))
        watch = init_watch(p.algorithm, p.watch, algorithm, p.federation.n_clients)
        return state._replace(
            algorithm=algorithm,
            watch=tree.strong(watch),
            round=jnp.asarray(done, jnp.int32),
            sound=jnp.ones((), bool),
        )

    def facts(self) -> dict[str, Any]:
        """The course for a checkpoint and the summary."""
        return dataclasses.asdict(self.course)


def _plain(leaf: Any) -> bool:
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _copy(state: RunState) -> RunState:
    """A copy on the host, for the program consumes the state."""
    return jax.tree.map(lambda v: np.array(v, copy=True) if _plain(v) else jnp.copy(v), state)
