"""What a run hands back."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from fedjax_sim.core.checks import InputError, integer
from fedjax_sim.core.contracts import Algorithm
from fedjax_sim.core.types import Model
from fedjax_sim.data.federated import Federation
from fedjax_sim.engine.simulate import RunState
from fedjax_sim.experiment import model_io
from fedjax_sim.experiment.records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      records: one dict a round, as in `metrics.jsonl`.
      summary: as in `summary.json`.
      model: the trained model; None where the algorithm shares none (`local_only`).
      federation: what was trained on.
      algorithm: bound to task and plan.
      state: the whole state after the last round.
      status: `done`, or `diverged` where a number became infinite or NaN.
      out: the run directory, or None.
      finished_before: whether `resume` found nothing left to do.
      resumed_from: rounds that were done when this process took over.
      notes: what a person should know, such as a picture that could not be drawn.
      models: leaves `[M, ...]`, where clients share one of M models; else None.
    """

    records: list[Record] = dataclasses.field(repr=False)
    summary: dict[str, Any] = dataclasses.field(repr=False)
    model: Model | None = dataclasses.field(repr=False)
    federation: Federation = dataclasses.field(repr=False)
    algorithm: Algorithm = dataclasses.field(repr=False)
    state: RunState | None = dataclasses.field(repr=False)
    status: str
    out: Path | None
    finished_before: bool = False
    resumed_from: int = 0
    notes: tuple[str, ...] = ()
    models: Model | None = dataclasses.field(default=None, repr=False)

    def predict(self, x: Any, *, group: int | None = None) -> np.ndarray:
        """Outputs `[n, ...]` of the trained model, or of a group's, for inputs `[n, ...]`."""
        x = np.asarray(x)
        wanted = self.federation.train.x.shape[1:]
        if x.shape[1:] != wanted:
            raise InputError("x", x.shape, f"must have shape (n, {', '.join(map(str, wanted))})")
        model = self._model(group)
        wide = any(leaf.dtype == np.float64 for leaf in jax.tree.leaves(model))
        with jax.enable_x64(True) if wide else contextlib.nullcontext():
            return model_io.predict_in_batches(self.algorithm.predict, model, x)

    def plot(self) -> Figure:
        """The run's curves as a matplotlib figure; opens no window."""
        from fedjax_sim.experiment.plots import curves

        return curves(self.records, self.summary)

    def table(self) -> str:
        """The closing table."""
        from fedjax_sim.experiment.report import closing_table

        return closing_table(self.records, self.summary)

    def save(self, folder: str | Path, *, group: int | None = None) -> Path:
        """Write the trained model, or a group's, for `load` to read."""
        return model_io.save_model(
            folder, self._model(group), model_facts(self.federation, self.summary)
        )

    def _model(self, group: int | None) -> Model:
        name, models = self.summary["algorithm"], self.models
        if group is None and self.model is not None:
            return self.model
        if models is None and group is None:
            raise InputError("model", None, f"{name} shares no model; see state.rows")
        if models is None:
            raise InputError("group", group, f"{name} has no models of groups")
        many = jax.tree.leaves(models)[0].shape[0]
        if group is None:
            raise InputError("group", None, f"{name} has {many} models: give group=0 to {many - 1}")
        integer("group", group, least=0, most=many - 1)
        return jax.tree.map(lambda leaf: leaf[group], models)


def model_facts(federation: Federation, summary: dict[str, Any]) -> dict[str, Any]:
    """What is kept beside a saved model."""
    kept = ("algorithm", "federation", "rounds", "seed", "versions")
    x = federation.train.x
    shape = {"x_shape": list(x.shape[1:]), "x_dtype": str(jax.dtypes.canonicalize_dtype(x.dtype))}
    return {n: summary[n] for n in kept} | shape
