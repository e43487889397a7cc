"""What a run would do and hold, told without running it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from fedjax_sim.core import keys, tree
from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Context, Member, Model
from fedjax_sim.data.federated import Federation
from fedjax_sim.engine import liveness
from fedjax_sim.engine import plan as plans
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.engine.forecast import Forecast
from fedjax_sim.engine.packing import Packing, pack
from fedjax_sim.engine.plan import Plan
from fedjax_sim.experiment import explain_table, tuning
from fedjax_sim.experiment.cache_dir import keeping_programs
from fedjax_sim.experiment.dispatch import Dispatch
from fedjax_sim.experiment.prepare import Prepared, prepare
from fedjax_sim.experiment.probe import shards_for_device
from fedjax_sim.experiment.settings import PROBE, Settings

if TYPE_CHECKING:
    from rich.table import Table

_SAMPLED_ROUNDS = 3
# One device's speed, for the rough forecast of seconds: operations a second, and seconds that a
# step, a client and a round cost whatever their size. From W1 on a 2-core machine.
_SPEED = {"cpu": (3e10, 15e-6, 20e-6, 3e-4)}
_ACCELERATOR = (5e12, 50e-6, 50e-6, 3e-4)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A run told before it is run.

    Attributes:
      name: algorithm and data.
      forecast: bytes by kind.
      memory_bytes: of the machine, or of one accelerator.
      plan: lanes and devices.
      why: why this plan.
      chunk: rounds a dispatch.
      cohort: K.
      rounds: R.
      packings: lane steps of a few sampled cohorts.
      flops: of one local step of one client.
      seconds_per_round: forecast; evaluation left out.
      timed: whether seconds come from a timing probe of this work on this machine.
      operations: of the traced program.
    """

    name: str
    forecast: Forecast
    memory_bytes: int
    plan: Plan
    why: str
    chunk: int
    cohort: int
    rounds: int
    packings: tuple[Packing, ...]
    flops: float
    seconds_per_round: float
    timed: bool
    operations: int
    compiles: int = 1

    @property
    def fits(self) -> bool:
        """Whether the plan fits into memory."""
        return self.forecast.device_total <= self.memory_bytes

    @property
    def steps_per_round(self) -> float:
        """Local steps of all clients, mean over the sampled cohorts."""
        return float(np.mean([p.useful for p in self.packings]))

    @property
    def lane_steps_per_round(self) -> float:
        """Lane steps, mean over the sampled cohorts."""
        return float(np.mean([p.executed for p in self.packings]))

    @property
    def lane_efficiency(self) -> float:
        """Useful share of the lane steps."""
        return self.steps_per_round / max(self.lane_steps_per_round, 1.0)

    @property
    def lane_efficiency_bound(self) -> float:
        """What no packing could exceed."""
        return self.steps_per_round / max(float(np.mean([p.bound for p in self.packings])), 1.0)

    def table(self, width: int = 78) -> str:
        """Everything as plain text."""
        from rich.console import Console

        out = io.StringIO()
        console = Console(
            file=out, width=width, color_system=None, legacy_windows=False, force_jupyter=False
        )
        for table in self.tables():
            console.print(table)
        return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())

    def tables(self) -> list[Table]:
        """Memory, then work, as rich renderables."""
        return [explain_table.memory(self), explain_table.work(self)]

    def __repr__(self) -> str:
        return self.table()


@keeping_programs()
def explain(
    recipe: Recipe,
    task: Any,
    federation: Federation,
    settings: Settings | None = None,
    *,
    init: Model | None = None,
    sampler: Sampler | None = None,
    hyper: dict[str, Any] | None = None,
    cohort: int | None = None,
    rounds: int | None = None,
    lanes: int | str | None = None,
    devices: int | None = None,
) -> Explanation:
    """Tell what `run` would do and hold; trains nothing, compiles no round, writes nothing.

    Args:
      recipe: as for `run`.
      task: as for `run`.
      federation: as for `run`.
      settings: how the run would be driven.
      init: as for `run`.
      sampler: as for `run`.
      hyper: as for `run`.
      cohort: put over the settings, like all that follow.
      rounds: federated rounds.
      lanes: clients at the same time on a device.
      devices: devices of the mesh.

    Returns:
      An `Explanation`; `print` it, or take its fields.

    Raises:
      InputError: naming the field. A plan that does not fit into memory is told, not refused.

    Example:
      >>> import fedjax_sim as fs, optax
      >>> fed = fs.data.digits(fs.partition.iid(clients=20))
      >>> task = fs.tasks.classifier(fs.models.mlp(32), classes=10)
      >>> told = fs.explain(fs.algorithms.fedavg(optax.sgd(0.1)), task, fed, cohort=5, lanes=1)
      >>> told.compiles, told.cohort, told.fits
      (1, 5, True)
    """
    given = {"cohort": cohort, "rounds": rounds, "lanes": lanes, "devices": devices}
    over: dict[str, Any] = {n: v for n, v in given.items() if v is not None}
    settings = dataclasses.replace(settings or Settings(), **over)
    wide = jax.enable_x64(True) if settings.float64 else contextlib.nullcontext()
    with wide:
        prepared = prepare(
            recipe,
            task,
            federation,
            settings,
            init=init,
            sampler=sampler,
            hyper=hyper,
            rows_away=True,
        )
        dispatch = Dispatch(prepared, refuse=False)
        found = tuning.known(prepared, dispatch)
        if found and settings.lanes == PROBE:
            best = {"lanes": found[0].lanes, "devices": found[0].devices}
            return explain(
                recipe,
                task,
                federation,
                dataclasses.replace(settings, **best),
                init=init,
                sampler=sampler,
                hyper=hyper,
            )
        return _told(prepared, dispatch, settings, found)


def _told(
    prepared: Prepared, dispatch: Dispatch, asked: Settings, timings: tuple[tuning.Timing, ...]
) -> Explanation:
    plan, work = prepared.plan, dispatch.lane_shapes
    packings = tuple(pack(s, plan.lanes, plan.devices) for s in _cohort_steps(prepared))
    clock = [t.seconds for t in timings if (t.lanes, t.devices) == (plan.lanes, plan.devices)]
    rough = _rough_seconds(packings, work.flops, prepared)
    return Explanation(
        name=f"{prepared.name} on {prepared.federation.name}",
        forecast=dispatch.forecast,
        memory_bytes=plans.memory_bytes(),
        plan=plan,
        why=_why(prepared, asked, timings),
        chunk=prepared.chunk,
        cohort=prepared.sampler.size,
        rounds=prepared.settings.rounds,
        packings=packings,
        flops=work.flops,
        seconds_per_round=clock[0] if clock else rough,
        timed=bool(clock),
        operations=liveness.n_operations(dispatch.program),
    )


def _cohort_steps(prepared: Prepared) -> list[np.ndarray]:
    """Local steps of the first rounds' cohorts, drawn with the run's own keys."""
    recipe, data = prepared.recipe, shards_for_device(prepared.federation.train)
    client = recipe.build(**recipe.hyper).client(prepared.task)
    sampler = prepared.sampler

    def draw(state: Any, round_index: Any, data: Any) -> Any:
        of_round = keys.round_key(prepared.key, round_index)
        key = keys.server_key(of_round, keys.Purpose.SAMPLE)
        state, cohort = sampler.sample(key, state, round_index)

        def steps(member: Member) -> Any:
            ctx = Context(keys.client_key(of_round, member.id), cohort.round, member)
            return client.steps(ctx, data.client(member.id))

        counts = jax.vmap(steps)(cohort.members)
        return state, jax.numpy.where(cohort.members.present, counts, 0)

    drawn, state = jax.jit(draw), sampler.init(prepared.federation.n_clients)
    found = []
    for i in range(min(_SAMPLED_ROUNDS, prepared.settings.rounds)):
        state, steps = drawn(state, np.int32(i), data)
        found.append(np.asarray(steps))
    return found


def _rough_seconds(packings: tuple[Packing, ...], flops: float, prepared: Prepared) -> float:
    """Operations over a speed, and a fixed cost a step, a client and a round."""
    plan = prepared.plan
    speed, step, client, fixed = _SPEED.get(jax.default_backend(), _ACCELERATOR)
    executed = float(np.mean([p.executed for p in packings])) / plan.devices
    calls = float(np.mean([p.calls for p in packings]))
    clients = prepared.sampler.size / plan.devices
    return fixed + executed * flops / speed + calls * step + clients * client


def _why(prepared: Prepared, asked: Settings, timings: tuple[tuning.Timing, ...]) -> str:
    if timings and (timings[0].lanes, timings[0].devices) == (
        prepared.plan.lanes,
        prepared.plan.devices,
    ):
        return f"The fastest of {len(timings)} plans timed on this machine"
    if asked.lanes == PROBE:
        return 'By rule: nothing was timed on this machine yet; "probe" does so when it runs'
    if isinstance(asked.lanes, int):
        return "Lanes as given" + ("" if asked.devices is None else ", devices as given")
    shapes = jax.eval_shape(prepared.task.init, jax.random.key(0))
    n = tree.n_entries(shapes.params)
    if jax.default_backend() != "cpu":
        return "An accelerator takes as many lanes as the cohort and its memory allow"
    if plans.cpu_lanes(n) > 1:
        return f"A core is a device; {n:,} parameters are few, so lanes share the cost of a step"
    return f"A core is a device; with {n:,} parameters one lane a core keeps them in its cache"
