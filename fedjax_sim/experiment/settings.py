"""How a run is driven: plain values, checked once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.experiment.evaluation import Evaluation
from fedjax_sim.experiment.policy import Policy
from fedjax_sim.experiment.systems import Systems

_CHECKPOINT_ROUNDS = 25

PROBE = "probe"
"""`lanes = "probe"`: time a few plans and take the fastest (`experiment/tuning.py`)."""


DEVICE, HOST, DISK, AUTO = "device", "host", "disk", "auto"
CLIENT_STATES = (DEVICE, HOST, DISK, AUTO)


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What is watched while a run trains.

    Attributes:
      verdict: keep what the verdict is drawn from, and give one at the end.
      drift_every: rounds between two readings of the drift panel; 0 for none.
      noise_scale: the panel also draws mini-batch gradients of a few clients, for the gradient
        noise scale and the batch size that it suggests. Off by default: the program takes a
        third longer to compile.
    """

    verdict: bool = True
    drift_every: int = 10
    noise_scale: bool = False

    def __post_init__(self) -> None:
        for name in ("verdict", "noise_scale"):
            if getattr(self, name) not in (True, False):
                remedy = "must be true or false"
                raise InputError(f"diagnosis.{name}", getattr(self, name), remedy)
        integer("diagnosis.drift_every", self.drift_every, least=0, most=2**31 - 1)
        if self.noise_scale and not self.drift_every:
            remedy = "is read with the drift panel: give diagnosis.drift_every too"
            raise InputError("diagnosis.noise_scale", True, remedy)


UNWATCHED = Diagnosis(verdict=False, drift_every=0)
"""Of sweeps, whose verdicts are drawn from their curves when they are done."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run needs besides algorithm, task and data.

    Attributes:
      rounds: R, federated rounds.
      cohort: K, clients a round; None is 10, or all clients where there are fewer. An
        algorithm that insists on a cohort (`centralized`) has its way.
      seed: of everything random: initial model, cohorts, shuffles, noise.
      eval_every: rounds between evaluations; the last round is always evaluated.
      eval_batch_size: examples an evaluation step.
      client_eval: evaluate on every client's own test examples where there are any.
      checkpoint_every: rounds between checkpoints; 0 is only at the end and on interruption.
        None: 25, and none that would follow within 2 s of training after another.
      keep_checkpoints: how many checkpoints are kept, the newest ones.
      chunk: rounds a dispatch; records and progress appear once a chunk. None: chosen from
        the size of the work, at most 25, never from a timing.
      lanes: clients at the same time on a device; None: chosen by rule; `"probe"`: chosen by
        timing a few plans, lanes and devices, whose answer is kept on disk.
      devices: devices of the mesh; None: all that the cohort can fill.
      lowering: rewrite slow operations of the local step; False runs the model as it is.
      client_state: where the states of clients lie between their rounds, of algorithms that
        have such: on the `device`, in `host` memory, or on `disk`; `auto`: the first of these
        that has room. The results are the same. Off the device the rows of a dispatch's
        cohorts are fetched while the one before it computes; where cohorts depend on results
        (`adaptive_tiers`), a dispatch is one round and nothing is fetched ahead.
      float64: compute in float64 (data and task say their own dtypes).
      stragglers: chance that a member of a cohort is a straggler.
      drop_stragglers: stragglers are absent instead of doing part of their steps.
      diagnosis: what is watched.
      policy: what the run does about its own course.
      systems: devices, links and a virtual clock; None: no time is simulated.
      evaluation: clients after local training, and clients that never take part.
    """

    rounds: int = 100
    cohort: int | None = None
    seed: int = 0
    eval_every: int = 1
    eval_batch_size: int = 256
    client_eval: bool = True
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2
    chunk: int | None = None
    lanes: int | str | None = None
    devices: int | None = None
    lowering: bool = True
    client_state: str = AUTO
    float64: bool = False
    stragglers: float = 0.0
    drop_stragglers: bool = False
    diagnosis: Diagnosis = Diagnosis()
    policy: Policy = Policy()  # noqa: RUF009 - frozen
    systems: Systems | None = None
    evaluation: Evaluation = Evaluation()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        integer("seed", self.seed, least=0, most=2**32 - 1)
        for name in ("rounds", "eval_every", "eval_batch_size", "keep_checkpoints"):
            integer(name, getattr(self, name), least=1, most=2**31 - 1)
        if self.checkpoint_every is not None:
            integer("checkpoint_every", self.checkpoint_every, least=0, most=2**31 - 1)
        for name in ("cohort", "chunk", "lanes", "devices"):
            if name == "lanes" and isinstance(self.lanes, str):
                if self.lanes != PROBE:
                    remedy = 'must be a whole number, or "probe"'
                    raise InputError("lanes", self.lanes, remedy)
            elif getattr(self, name) is not None:
                integer(name, getattr(self, name), least=1, most=2**31 - 1)
        choice("client_state", self.client_state, CLIENT_STATES)
        number("stragglers", self.stragglers, least=0, most=1)
        for name in ("client_eval", "lowering", "float64", "drop_stragglers"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(name, getattr(self, name), "must be true or false")
        kinds = {"diagnosis": Diagnosis, "policy": Policy, "evaluation": Evaluation}
        kinds |= {} if self.systems is None else {"systems": Systems}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise InputError(name, getattr(self, name), f"must be a {kind.__name__}")
        if self.systems is not None and self.stragglers > 0:
            remedy = "is what systems simulate: leave it at 0, or systems out"
            raise InputError("stragglers", self.stragglers, remedy)


def next_stop(done: int, settings: Settings, chunk: int, *, evaluates: bool = False) -> int:
    """Where the dispatch that starts after round `done` ends.

    Stops are absolute round numbers (multiples of `chunk`, of `checkpoint_every`, of
    `eval_every` where a policy acts, and the last round), so that a resumed run dispatches what
    an undisturbed one would.

    Args:
      done: rounds done.
      settings: of the run.
      chunk: rounds a dispatch.
      evaluates: whether something is evaluated between dispatches.
    """
    stops = [(done // chunk + 1) * chunk, settings.rounds]
    every = settings.eval_every if settings.policy.acts or evaluates else 0
    for step in filter(None, (checkpoint_rounds(settings), every)):
        stops.append((done // step + 1) * step)
    return min(stops)


def checkpoint_rounds(settings: Settings) -> int:
    """Rounds between places where a checkpoint may be; 0 for none."""
    every = settings.checkpoint_every
    return _CHECKPOINT_ROUNDS if every is None else every


ConfigText = str | Callable[[Settings], str]
"""What `config.toml` shall hold: text, or a function of the resolved settings."""
