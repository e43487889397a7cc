"""From a recipe, a task and data to everything a run needs; all input is checked here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedjax_sim.core import keys, tree
from fedjax_sim.core.checks import InputError, number
from fedjax_sim.core.contracts import Algorithm, Sampler, Task, Watch
from fedjax_sim.core.types import Array, Model, PyTree
from fedjax_sim.data.batching import DeviceShards
from fedjax_sim.data.federated import Federation, check_shards
from fedjax_sim.engine import mesh as meshes
from fedjax_sim.engine import plan as plans
from fedjax_sim.engine import store
from fedjax_sim.engine.ahead import foretells
from fedjax_sim.engine.bind import Panel, bind
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.engine.lane_shapes import lane_shapes
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import RunState, init_run, make_simulate
from fedjax_sim.experiment import diagnosis
from fedjax_sim.experiment.evaluation import strangers
from fedjax_sim.experiment.probe import ProbeData, make_probe, probe_data, shards_for_device
from fedjax_sim.experiment.row_place import hold_here, place_rows, rounds_at_most
from fedjax_sim.experiment.settings import DEVICE, Settings, next_stop
from fedjax_sim.sampling.subset import among
from fedjax_sim.sampling.uniform import uniform, with_stragglers

_MOST_ROUNDS = 25
_FLOPS = {"cpu": 5e9}
_FLOPS_ACCELERATOR = 2e12


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run, ready to be compiled.

    Attributes:
      task: bound to the data's shape.
      algorithm: bound to task, plan and mesh.
      sampler: who takes part.
      plan: lanes and devices.
      mesh: the plan's devices.
      settings: resolved: cohort, lanes, devices and chunk are numbers.
      federation: the data.
      evaluation: host arrays of the probe.
      row: shapes of one client's row; `()` where clients have no state.
      apart: clients' own test windows where the models need rows that lie off the device;
        they are then evaluated between dispatches, and not by the probe.
      hyper: the recipe's numbers, overrides included.
      init: the model to start from, or None.
      name: of the algorithm.
      recipe: the algorithm before it was bound.
      panel: what a round's pieces are wrapped with to measure them, or None.
      watch: diagnosis inside the round loop, or None.
      groups: int `[N]`, each client's group, or None.
      truth: `diagnosis.truth_of` the data.
    """

    task: Task
    algorithm: Algorithm
    sampler: Sampler
    plan: Plan
    mesh: Mesh
    settings: Settings
    federation: Federation
    evaluation: ProbeData
    hyper: dict[str, Any]
    init: Model | None
    name: str
    recipe: Recipe
    panel: Panel | None = None
    watch: Watch | None = None
    groups: np.ndarray | None = None
    truth: tuple[Any, Any] = (None, None)
    row: PyTree = ()
    apart: DeviceShards | None = None

    @property
    def chunk(self) -> int:
        """Rounds a dispatch."""
        assert self.settings.chunk is not None
        return self.settings.chunk

    @property
    def key(self) -> Array:
        """The run's key."""
        return jax.random.key(self.settings.seed)

    @functools.cached_property
    def unseen(self) -> np.ndarray | None:
        """Who never takes part, bool `[N]`; None for nobody."""
        n = self.federation.n_clients
        return strangers(self.settings.evaluation, n, self.settings.seed)

    @property
    def rows_here(self) -> bool:
        """Whether client rows lie on the device."""
        return self.settings.client_state == DEVICE

    @property
    def n_rows(self) -> int:
        """Client rows on the devices between dispatches: each device has equally many, or 0."""
        each = -(-self.federation.n_clients // self.plan.devices)
        return each * self.plan.devices if self.rows_here else 0

    def stop_after(self, done: int) -> int:
        """Where the dispatch that starts after round `done` ends."""
        return next_stop(done, self.settings, self.chunk, evaluates=self.apart is not None)

    def init_state(
        self,
        init: Model | None,
        key: Array | None = None,
        hyper: dict[str, Any] | None = None,
        *,
        n_rows: int | None = None,
    ) -> RunState:
        """The state before round 1, from a model or a drawn one (pure; traced or not).

        Args:
          init: the model to start from, or None.
          key: another run's key, for sweeps.
          hyper: another run's numbers, for sweeps.
          n_rows: client rows in it, N by default; see `init_run`.
        """
        key = self.key if key is None else key
        n, numbers = self.federation.n_clients, self.hyper if hyper is None else hyper
        begun = init_run(
            self.algorithm,
            self.sampler,
            key,
            self._first_model(init, key),
            n,
            numbers,
            self.watch,
            n_rows=n_rows,
        )
        return begun if self.unseen is None else _among(begun, n - int(self.unseen.sum()))

    def _first_model(self, init: Model | None, key: Array) -> Model:
        if init is None:
            init = self.task.init(keys.for_purpose(key, keys.Purpose.INIT_MODEL))
        return tree.strong(init)

    def origin(self, init: Model | None) -> tuple[Model, PyTree]:
        """What new client rows are made from: the first model, and the algorithm's first state."""
        model = self._first_model(init, self.key)
        return model, self.algorithm.init(self.key, model, self.federation.n_clients, self.hyper)

    def fresh_rows(self, model: Model, server: PyTree, ids: Array) -> PyTree:
        """Rows `[n, ...]` of clients `ids` `[n]` before round 1; the rest is what `origin` gave."""
        return store.fresh_rows(self.algorithm, self.key, model, server, ids)

    def simulate(self) -> Callable[..., tuple[RunState, dict[str, Array]]]:
        """The round loop with probe and diagnosis."""
        some = any(data is not None for data in self.evaluation)
        return make_simulate(
            self.algorithm,
            self.sampler,
            chunk=self.chunk,
            probe=self.probe if some else None,
            watch=self.watch,
        )

    def probe_names(self, state: RunState) -> list[str]:
        """Names that are recorded on evaluation rounds."""
        train = shards_for_device(self.federation.train)
        whole = self.evaluation
        if self.apart is not None:
            whole = whole._replace(personal=self.apart)
        return sorted(jax.eval_shape(self.probe, self.key, state, train, whole))

    @functools.cached_property
    def probe(self) -> Callable[..., dict[str, Array]]:
        """What evaluation rounds measure; jitted, so that its one trace serves every caller."""
        batch = self.settings.eval_batch_size
        made = make_probe(
            self.algorithm,
            self.task,
            self.plan,
            self.mesh,
            batch,
            self.groups,
            evaluation=self.settings.evaluation,
            unseen=self.unseen,
        )
        return jax.jit(made, inline=True)


def prepare(
    recipe: Recipe,
    task: Any,
    federation: Federation,
    settings: Settings,
    *,
    init: Model | None = None,
    sampler: Sampler | None = None,
    hyper: dict[str, Any] | None = None,
    groups: Any = None,
    rows_away: bool = False,
) -> Prepared:
    """Check all input, bind recipe and task, choose the plan; compiles nothing.

    Args:
      recipe: the algorithm.
      task: a `Task`, or a task that waits for the data's shape.
      federation: the data.
      settings: how the run is driven.
      init: a model to start from.
      sampler: who takes part; uniform by default.
      hyper: numbers in place of the recipe's own.
      groups: int `[N]`, each client's group, for diagnosis; the planted ones by default.
      rows_away: whether the caller can run with client rows off the device (`Dispatch` can).

    Raises:
      InputError: naming the field.
    """
    _check_types(recipe, federation)
    bound = _bind_task(task, federation)
    numbers = _hyper(recipe, hyper)
    sampler, wanted = _sampler(recipe, bound, federation, settings, sampler)
    model = jax.eval_shape(bound.init, jax.random.key(0))
    plan = plans.choose(
        tree.n_entries(model.params),
        sampler.size,
        lanes=settings.lanes if isinstance(settings.lanes, int) else None,
        devices=settings.devices,
        lowering=settings.lowering,
        skew=plans.skew_of(federation.train.sizes),
        **_lane_room(recipe, bound, model, federation, sampler.size, settings),
    )
    mesh = meshes.make_mesh(plan.devices)
    of_client = diagnosis.groups_of(federation, groups)
    truth = diagnosis.truth_of(federation, groups)
    panel = diagnosis.panel_of(settings, of_client)
    algorithm = bind(recipe, bound, plan, mesh, panel=panel)
    chunk = settings.chunk or choose_chunk(model, federation, sampler.size, settings)
    row = _row_shapes(algorithm, model, federation.n_clients, numbers)
    if rows_away:
        where = place_rows(settings, row, federation.n_clients, sampler.size, plan.devices)
    else:
        where = hold_here(settings)
    if where != DEVICE and not foretells(sampler, jax.random.key(0), federation.n_clients):
        chunk = 1
    elif where != DEVICE and settings.chunk is None:
        chunk = min(chunk, rounds_at_most(row, sampler.size))
    resolved = dataclasses.replace(
        settings,
        cohort=wanted,
        lanes=plan.lanes,
        devices=plan.devices,
        chunk=chunk,
        client_state=where,
    )
    evaluation, apart = probe_data(federation, algorithm, resolved), None
    if where != DEVICE:
        evaluation, apart = evaluation._replace(personal=None), evaluation.personal
    return Prepared(
        task=bound,
        algorithm=algorithm,
        sampler=sampler,
        plan=plan,
        mesh=mesh,
        settings=resolved,
        federation=federation,
        evaluation=evaluation,
        row=row,
        apart=apart,
        hyper=numbers,
        init=None if init is None else _start(init, model),
        name=recipe.name,
        recipe=recipe,
        panel=panel,
        watch=diagnosis.watch_of(
            settings, bound, plan, mesh, of_client, recipe.build(**numbers).groups, truth
        ),
        groups=of_client,
        truth=truth,
    )


def _row_shapes(algorithm: Algorithm, model: Model, n: int, hyper: dict[str, Any]) -> PyTree:
    """Shapes of one client's row; `()` where clients have no state."""

    def one(key: Array, model: Model) -> PyTree:
        return algorithm.init_row(key, model, algorithm.init(key, model, n, hyper))

    return tree.shapes(jax.eval_shape(one, jax.random.key(0), model))


def _lane_room(
    recipe: Recipe,
    task: Task,
    model: Model,
    federation: Federation,
    cohort: int,
    settings: Settings,
) -> dict[str, int]:
    """What a lane and all besides hold, for `plans.choose`.

    Traced only where it decides: on a CPU the table asks for few lanes of small models.
    """
    if isinstance(settings.lanes, int) or jax.default_backend() == "cpu":
        return {}
    algorithm = bind(recipe, task, Plan(), meshes.make_mesh(1))
    data = shards_for_device(federation.train)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda m: algorithm.init(key, m, federation.n_clients), model)
    row = jax.eval_shape(lambda m, s: algorithm.init_row(key, m, s), model, state)
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), row)
    shapes = lane_shapes(recipe, task, state, rows, data, cohort)
    held = federation.n_clients * tree.n_bytes(row) + tree.n_bytes(data) + tree.n_bytes(state)
    return {"lane_bytes": shapes.bytes, "fixed_bytes": held + shapes.accumulator_bytes}


def choose_chunk(model: PyTree, federation: Federation, cohort: int, settings: Settings) -> int:
    """Rounds a dispatch: about a second of work by a rough forecast, 1 to 25, no timing.

    The forecast takes one pass over the cohort's examples at 6 P operations an example.
    """
    limit = min(_MOST_ROUNDS, settings.checkpoint_every or _MOST_ROUNDS)
    examples = cohort * float(np.mean(federation.train.sizes))
    work = 6.0 * tree.n_entries(model.params) * examples
    speed = _FLOPS.get(jax.default_backend(), _FLOPS_ACCELERATOR)
    return int(np.clip(speed / max(work, 1.0), 1, limit))


def _check_types(recipe: Any, federation: Any) -> None:
    if not isinstance(recipe, Recipe):
        remedy = "must be a recipe such as algorithms.fedavg(optax.sgd(0.1))"
        raise InputError("recipe", type(recipe).__name__, remedy)
    if not isinstance(federation, Federation):
        remedy = "must be a Federation such as data.digits()"
        raise InputError("federation", type(federation).__name__, remedy)
    check_shards("federation.train", federation.train)
    for name in ("train", "test"):
        shards = getattr(federation, name)
        if shards is not None and len(shards.x) >= 2**31:
            raise InputError(f"federation.{name}", len(shards.x), "must have below 2^31 examples")
        if shards is not None and shards.n_clients != federation.n_clients:
            remedy = f"must have the clients of train: {federation.n_clients}"
            raise InputError(f"federation.{name}", shards.n_clients, remedy)


def _bind_task(task: Any, federation: Federation) -> Task:
    x = federation.train.x
    if hasattr(task, "bind"):
        task = task.bind(x.shape[1:], jax.dtypes.canonicalize_dtype(x.dtype))
    if not isinstance(task, Task):
        remedy = "must be a task such as tasks.classifier(models.mlp(200), classes=10)"
        raise InputError("task", type(task).__name__, remedy)
    return task


def _hyper(recipe: Recipe, given: dict[str, Any] | None) -> dict[str, Any]:
    for name, value in (given or {}).items():
        if name not in recipe.hyper:
            known = ", ".join(sorted(recipe.hyper)) or "none"
            raise InputError(f"hyper.{name}", value, f"{recipe.name} can vary: {known}")
        number(f"hyper.{name}", value)
    return recipe.hyper | (given or {})


def _sampler(
    recipe: Recipe, task: Task, federation: Federation, settings: Settings, sampler: Sampler | None
) -> tuple[Sampler, int]:
    """Who takes part, and K, the reports that a round waits for."""
    n = federation.n_clients
    unseen = strangers(settings.evaluation, n, settings.seed)
    able = n if unseen is None else n - int(unseen.sum())
    wanted = recipe.cohort or settings.cohort or min(10, able)
    if unseen is not None:
        own = _among_the_seen(recipe, settings, wanted, unseen, sampler)
    elif sampler is None:
        own = uniform(wanted, n)
    elif sampler.size != (settings.cohort or sampler.size):
        remedy = f"must be left out, or be the sampler's {sampler.size}"
        raise InputError("cohort", settings.cohort, remedy)
    else:
        own, wanted = sampler, sampler.size
    if settings.systems is not None:
        if recipe.cohort:
            remedy = f"simulates devices of clients, and {recipe.name} has no clients to simulate"
            raise InputError("systems", type(settings.systems).__name__, remedy)
        from fedjax_sim.experiment.system_model import system_sampler

        return system_sampler(
            settings.systems,
            recipe,
            task,
            federation,
            cohort=wanted,
            rounds=settings.rounds,
            sampler=sampler,
        ), wanted
    if settings.stragglers > 0:
        own = with_stragglers(own, settings.stragglers, drop=settings.drop_stragglers)
    return own, wanted


def _among_the_seen(
    recipe: Recipe, settings: Settings, wanted: int, unseen: np.ndarray, sampler: Sampler | None
) -> Sampler:
    """Cohorts of those who are not kept for evaluation."""
    name, share = "evaluation.unseen", settings.evaluation.unseen
    if recipe.cohort:
        raise InputError(name, share, f"must be 0: {recipe.name} trains on everyone's examples")
    if sampler is not None or settings.systems is not None:
        remedy = "must be 0 beside systems and samplers of one's own: these say who takes part"
        raise InputError(name, share, remedy)
    seen, n = np.flatnonzero(~unseen), len(unseen)
    if wanted > len(seen):
        remedy = f"leaves {len(seen)} of {n} clients to take part, and the cohort is {wanted}"
        raise InputError(name, share, remedy)
    return among(uniform(wanted, len(seen)), seen, n)


def _among(state: RunState, able: int) -> RunState:
    """The state whose server takes shares of those who can take part (SCAFFOLD's |S| / N)."""
    server: Any = getattr(state.algorithm, "server", None)
    if "n_clients" not in getattr(server, "_fields", ()):
        return state
    server = server._replace(n_clients=jnp.asarray(able, server.n_clients.dtype))
    return state._replace(algorithm=state.algorithm._replace(server=server))


def _start(init: Any, like: Model) -> Model:
    """The model to start from, refused where it does not fit the task's own."""
    init = getattr(init, "model", init)
    if jax.tree.structure(init) != jax.tree.structure(like):
        remedy = "must be a Model(params, state) of the task's own structure"
        raise InputError("init", type(init).__name__, remedy)
    for (path, have), wanted in zip(
        jax.tree_util.tree_flatten_with_path(init)[0], jax.tree.leaves(like), strict=True
    ):
        if jnp.shape(have) != wanted.shape:
            name = f"init{jax.tree_util.keystr(path)}"
            raise InputError(name, jnp.shape(have), f"must have shape {wanted.shape}")
    return jax.tree.map(lambda v, w: jnp.array(v, w.dtype, copy=True), init, like)
