"""`run` and `resume`: a session in one call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Model
from fedjax_sim.data.federated import Federation
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.experiment.cache_dir import keeping_programs
from fedjax_sim.experiment.evaluation import Evaluation
from fedjax_sim.experiment.policy import Policy
from fedjax_sim.experiment.run_result import Run
from fedjax_sim.experiment.session import OnProgress, Progress, Session
from fedjax_sim.experiment.settings import ConfigText, Diagnosis, Settings
from fedjax_sim.experiment.systems import Systems


@keeping_programs()
def run(
    recipe: Recipe,
    task: Any,
    federation: Federation,
    *,
    cohort: int | None = None,
    rounds: int = 100,
    seed: int = 0,
    out: str | Path | None = None,
    init: Model | None = None,
    sampler: Sampler | None = None,
    hyper: dict[str, Any] | None = None,
    progress: bool | OnProgress = False,
    eval_every: int = 1,
    eval_batch_size: int = 256,
    client_eval: bool = True,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 2,
    chunk: int | None = None,
    lanes: int | str | None = None,
    devices: int | None = None,
    lowering: bool = True,
    client_state: str = "auto",
    float64: bool = False,
    stragglers: float = 0.0,
    drop_stragglers: bool = False,
    diagnosis: Diagnosis = Diagnosis(),  # noqa: B008 - frozen
    policy: Policy = Policy(),  # noqa: B008 - frozen
    systems: Systems | None = None,
    evaluation: Evaluation | None = None,
    groups: Any = None,
) -> Run:
    """Train a recipe on a federation.

    Args:
      recipe: the algorithm, such as `algorithms.fedavg(optax.sgd(0.1))`.
      task: what is learned, such as `tasks.classifier(models.mlp(200), classes=10)`.
      federation: the data.
      cohort: clients a round; None is 10, or all where there are fewer.
      rounds: federated rounds.
      seed: of everything random.
      out: run directory to make; None writes nothing.
      init: a model to start from.
      sampler: who takes part; uniform by default.
      hyper: numbers in place of the recipe's own.
      progress: True prints a line to stderr; or a function of `Progress`.
      eval_every: see `Settings`, like all that follow.
      eval_batch_size: examples an evaluation step.
      client_eval: evaluate on clients' own test examples.
      checkpoint_every: rounds between checkpoints.
      keep_checkpoints: how many are kept.
      chunk: rounds a dispatch.
      lanes: clients at the same time on a device, or `"probe"`.
      devices: devices of the mesh.
      lowering: rewrite slow operations of the local step.
      client_state: where clients' states lie: `device`, `host`, `disk` or `auto`.
      float64: compute in float64.
      stragglers: chance that a member is a straggler.
      drop_stragglers: stragglers are absent.
      diagnosis: what is watched: `Diagnosis(verdict=True, drift_every=10)`.
      policy: what the run does about its own course, such as
        `Policy(stop_on=("converged",))` or `Policy(on_trouble="restore")`.
      systems: devices, links and a virtual clock, such as
        `Systems(select="tiers", dropout=0.1)`; records then carry `virtual_time_s`.
      evaluation: `Evaluation(unseen=0.2, adapt_epochs=5)` keeps a fifth of the clients out of
        training and evaluates all after local training too.
      groups: int `[N]`, each client's group, for diagnosis by group; those planted in the
        federation by default.

    Returns:
      A `Run`.

    Cost: one compile, seconds to tens of them, kept on disk for the next run of the same program
      (`fedjax-sim doctor` says where; `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing).

    Raises:
      InputError: naming the field; nothing was written.
      Interrupted: on Ctrl-C or SIGTERM.
    """
    settings = Settings(
        rounds=rounds,
        cohort=cohort,
        seed=seed,
        eval_every=eval_every,
        eval_batch_size=eval_batch_size,
        client_eval=client_eval,
        checkpoint_every=checkpoint_every,
        keep_checkpoints=keep_checkpoints,
        chunk=chunk,
        lanes=lanes,
        devices=devices,
        lowering=lowering,
        client_state=client_state,
        float64=float64,
        stragglers=stragglers,
        drop_stragglers=drop_stragglers,
        diagnosis=diagnosis,
        policy=policy,
        systems=systems,
        evaluation=evaluation or Evaluation(),
    )
    session = Session(
        recipe,
        task,
        federation,
        settings,
        out=out,
        init=init,
        sampler=sampler,
        hyper=hyper,
        groups=groups,
    )
    return session.run(_listener(progress))


@keeping_programs()
def resume(
    out: str | Path,
    recipe: Recipe,
    task: Any,
    federation: Federation,
    settings: Settings | None = None,
    *,
    config_text: ConfigText | None = None,
    facts: dict[str, Any] | None = None,
    init: Model | None = None,
    sampler: Sampler | None = None,
    hyper: dict[str, Any] | None = None,
    groups: Any = None,
    progress: bool | OnProgress = False,
) -> Run:
    """Go on with the run in `out`, bitwise as if it had not been cut off.

    Recipe, task, federation and settings must be those that the run began with. A run
    without a checkpoint starts over; a finished one is handed back (`finished_before`).

    Args:
      out: the run directory.
      recipe: see `run`.
      task: see `run`.
      federation: see `run`.
      settings: those of the run; the plan may be left to the checkpoint.
      config_text: not needed: the text in `out` counts.
      facts: JSON-ready values for `summary.json`.
      init: see `run`.
      sampler: see `run`.
      hyper: see `run`.
      groups: see `run`.
      progress: see `run`.

    Returns:
      A `Run`.

    Raises:
      InputError: no run there, a damaged checkpoint, or one of another experiment.
      Interrupted: on Ctrl-C or SIGTERM.
    """
    session = Session(
        recipe,
        task,
        federation,
        settings,
        out=out,
        config_text=config_text,
        facts=facts,
        init=init,
        sampler=sampler,
        hyper=hyper,
        groups=groups,
        resume=True,
    )
    return session.run(_listener(progress))


def _listener(progress: bool | OnProgress) -> OnProgress | None:
    if callable(progress):
        return progress
    return _print_line if progress else None


def _print_line(progress: Progress) -> None:
    shown = ("train_loss", "test_loss", "test_accuracy", "client_accuracy_mean")
    values = ((n, progress.latest.get(n)) for n in shown)
    metrics = "  ".join(f"{n} {v:.4f}" for n, v in values if v is not None)
    text = f"round {progress.round}/{progress.rounds}  {metrics}  {progress.phase}"
    print(f"\r{text:<100}", end="\n" if progress.phase == "done" else "", file=sys.stderr)
