"""What a run does about its own course: stop early, cut the server's rate, go back to the best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.experiment.direction import better

STOPS = ("converged", "stagnating", "oscillating", "diverging")
TROUBLE = ("diverging", "oscillating")
GO_ON, STOP, CUT, RESTORE = "go_on", "stop", "cut", "restore"
_SCORES = ("test_loss", "client_loss_mean", "test_accuracy", "client_accuracy_mean")


@dataclasses.dataclass(frozen=True)
class Policy:
    """When a run acts on its verdict, and how.

    A verdict is given after every dispatch. It counts once it has stood for `patience` rounds.

    Attributes:
      stop_on: verdicts that end the run early: `converged`, `stagnating`, `oscillating`,
        `diverging`.
      patience: rounds that a verdict must have stood.
      on_trouble: what follows on `diverging`, `oscillating` or a number that is not finite.
        `go_on`: nothing (a number that is not finite ends the run). `stop`: the run ends.
        `cut`: the server's steps are multiplied by `cut` from then on. `restore`: the same,
        going on from the best state that was seen.
      cut: the factor, between 0 and 1.
      most_cuts: after so many the next trouble ends the run.
    """

    stop_on: tuple[str, ...] = ()
    patience: int = 20
    on_trouble: str = GO_ON
    cut: float = 0.5
    most_cuts: int = 3

    def __post_init__(self) -> None:
        if isinstance(self.stop_on, str):
            remedy = f'must be a list of words, such as ["{self.stop_on}"]'
            raise InputError("policy.stop_on", self.stop_on, remedy)
        for name in self.stop_on:
            choice("policy.stop_on", name, STOPS)
        object.__setattr__(self, "stop_on", tuple(self.stop_on))
        choice("policy.on_trouble", self.on_trouble, (GO_ON, STOP, CUT, RESTORE))
        integer("policy.patience", self.patience, least=1)
        integer("policy.most_cuts", self.most_cuts, least=1)
        number("policy.cut", self.cut, above=0, below=1)

    @property
    def acts(self) -> bool:
        """Whether it can do anything at all."""
        return bool(self.stop_on) or self.on_trouble != GO_ON

    @property
    def cuts(self) -> bool:
        """Whether it may cut the server's rate."""
        return self.on_trouble in (CUT, RESTORE)


@dataclasses.dataclass(frozen=True)
class Course:
    """What a policy knows of a run so far; JSON-ready by `dataclasses.asdict`.

    Attributes:
      verdict: the newest, or "".
      since: the round after which it has been that verdict.
      cuts: how many were made.
      best_score: of the best state, less is better; None before the first.
      best_round: rounds done in the best state.
      best_cuts: cuts made before it.
      events: what was done, in order.
    """

    verdict: str = ""
    since: int = 0
    cuts: int = 0
    best_score: float | None = None
    best_round: int = 0
    best_cuts: int = 0
    events: tuple[dict[str, Any], ...] = ()

    def judged(self, verdict: str, before: int) -> Course:
        """After a new verdict; the one before it was given after `before` rounds."""
        if verdict == self.verdict:
            return self
        return dataclasses.replace(self, verdict=verdict, since=before)

    def stood(self, done: int) -> int:
        """Rounds that the verdict has stood."""
        return done - self.since

    def beaten_by(self, score: float) -> bool:
        """Whether a state of this score is the best so far."""
        return math.isfinite(score) and (self.best_score is None or score < self.best_score)

    def scored(self, score: float, done: int) -> Course:
        """With a new best state."""
        return dataclasses.replace(self, best_score=score, best_round=done, best_cuts=self.cuts)

    def acted(self, action: str, done: int, **facts: Any) -> Course:
        """With one more event; a cut starts verdicts afresh."""
        event = {"round": done, "action": action, "verdict": self.verdict} | facts
        after = dataclasses.replace(self, events=(*self.events, event))
        if action == STOP:
            return after
        return dataclasses.replace(after, cuts=self.cuts + 1, verdict="", since=done)


def decide(policy: Policy, course: Course, done: int, *, sound: bool) -> str:
    """What follows: `go_on`, `stop`, `cut` or `restore`.

    Args:
      policy: the user's.
      course: with the newest verdict.
      done: rounds done.
      sound: False where the last round was not finite and was undone.
    """
    stands = course.stood(done) >= policy.patience
    trouble = not sound or (stands and course.verdict in TROUBLE)
    if trouble and policy.cuts:
        return policy.on_trouble if course.cuts < policy.most_cuts else STOP
    if not sound or (trouble and policy.on_trouble == STOP):
        return STOP
    return STOP if stands and course.verdict in policy.stop_on else GO_ON


def score_of(records: Sequence[Mapping[str, Any]]) -> float:
    """How good the state after the last of `records` is; less is better.

    The loss of the last record's evaluation, else minus its accuracy, else the mean training
    loss of all `records`; infinite where nothing finite was measured.
    """
    last = records[-1]
    for name in _SCORES:
        value = last.get(name)
        if value is not None and math.isfinite(value):
            return -better(name) * value
    losses = [r["train_loss"] for r in records if r.get("train_loss") is not None]
    return sum(losses) / len(losses) if losses else math.inf
