"""Small federations, tasks and cohorts that the tests share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim.core.contracts import Algorithm, Sampler, Task
from fedjax_sim.core.types import Cohort, Member, Model
from fedjax_sim.data.batching import Batches, DeviceShards, shuffled
from fedjax_sim.engine.bind import bind
from fedjax_sim.engine.compose import Recipe
from fedjax_sim.engine.mesh import make_mesh, place, replicated
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import RunState, init_run, make_simulate

DIM, CLASSES = 3, 4
SHUFFLE = 1  # the key law's purpose number, written out: a change of it breaks old runs


def softmax_task(start: np.ndarray | None = None, dtype: Any = None, traces: Any = None) -> Task:
    """Multinomial logistic regression, `params = {"w": [DIM, CLASSES], "b": [CLASSES]}`.

    Its representation is `x w`.

    Args:
      start: flat parameters `[DIM * CLASSES + CLASSES]`; random from the key when None.
      dtype: of the parameters; jax's default float when None.
      traces: a list that gains an entry each time the loss is traced.
    """

    def init(key):
        kind = dtype or jnp.result_type(float)
        if start is not None:
            return Model(unflat(jnp.asarray(start, kind)))
        return Model(unflat(jax.random.normal(key, (DIM * CLASSES + CLASSES,), kind)))

    def predict(model, x):
        return x @ model.params["w"] + model.params["b"][None, :]

    def losses(outputs, batch):
        if traces is not None:
            traces.append(1)
        picked = jnp.take_along_axis(outputs, batch.y[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(outputs, axis=1) - picked

    def loss(key, model, batch):
        del key
        each = losses(predict(model, batch.x), batch)
        count = jnp.maximum(jnp.sum(batch.mask), 1)
        return jnp.sum(jnp.where(batch.mask, each, 0)) / count, model.state

    def metrics(outputs, batch):
        right = jnp.argmax(outputs, axis=1) == batch.y
        count = jnp.sum(batch.mask, dtype=outputs.dtype)
        return {
            "loss": (jnp.sum(jnp.where(batch.mask, losses(outputs, batch), 0)), count),
            "accuracy": (jnp.sum(jnp.where(batch.mask, right, 0), dtype=outputs.dtype), count),
        }

    return Task(init, loss, predict, metrics, features=lambda model, x: x @ model.params["w"])


def quadratic_task(dim: int = 1) -> Task:
    """`0.5 sum_j a_j (p_j - b_j)^2` with x = a and y = b; starts at 0."""

    def loss(key, model, batch):
        del key
        each = 0.5 * jnp.sum(batch.x * (model.params["x"][None] - batch.y) ** 2, axis=-1)
        count = jnp.maximum(jnp.sum(batch.mask), 1)
        return jnp.sum(jnp.where(batch.mask, each, 0)) / count, model.state

    def predict(model, x):
        return jnp.broadcast_to(model.params["x"][None], x.shape)

    return Task(lambda key: Model({"x": jnp.zeros(dim)}), loss, predict, lambda outputs, batch: {})


def flat(params: Any) -> np.ndarray:
    """`params` of `softmax_task` as one vector, w first."""
    w, b = np.asarray(params["w"]), np.asarray(params["b"])
    return np.concatenate([w.reshape(*w.shape[:-2], -1), b], axis=-1)


def unflat(vector: Any) -> dict[str, Any]:
    """The inverse of `flat` for one vector."""
    return {"w": vector[: DIM * CLASSES].reshape(DIM, CLASSES), "b": vector[DIM * CLASSES :]}


def shards(x: Any, y: Any, sizes: Sequence[int]) -> DeviceShards:
    """`DeviceShards` of consecutive windows."""
    sizes = np.asarray(sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    as_int = [jnp.asarray(v, jnp.int32) for v in (offsets, sizes)]
    return DeviceShards(jnp.asarray(x), jnp.asarray(y), *as_int, int(sizes.max()))


def softmax_data(sizes: Sequence[int], seed: int = 0, dtype: Any = None) -> DeviceShards:
    """Ragged clients with labels that lean on the client."""
    rng = np.random.default_rng(seed)
    total = int(np.sum(sizes))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(total, DIM)) + 0.3 * np.cos(owner)[:, None]
    y = (rng.integers(0, 2, total) + owner) % CLASSES
    return shards(x.astype(dtype or jnp.result_type(float)), y.astype(np.int32), sizes)


def window(data: DeviceShards, client: int) -> tuple[np.ndarray, np.ndarray]:
    """One client's `(x, y)` in NumPy."""
    start, size = int(data.offsets[client]), int(data.sizes[client])
    return np.asarray(data.x[start : start + size]), np.asarray(data.y[start : start + size])


def cohort_of(
    ids: Sequence[int], present: Any = None, work: Any = None, round_index: int = 0
) -> Cohort:
    """A cohort from plain lists."""
    k = len(ids)
    present = np.ones(k, bool) if present is None else np.asarray(present, bool)
    work = np.ones(k) if work is None else np.asarray(work, float)
    member = Member(
        jnp.asarray(ids, jnp.int32),
        jnp.asarray(present),
        jnp.zeros(k, jnp.int32),
        jnp.asarray(work),
    )
    return Cohort(jnp.asarray(round_index, jnp.int32), member)


def quick_jit(f: Any, **options: Any) -> Any:
    """`jax.jit` that spends little on optimizing: what runs here runs for milliseconds."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0}, **options)


class Script(NamedTuple):
    """Cohorts written down: each field `[R, K]`; round r uses row `r % R`."""

    ids: np.ndarray
    present: np.ndarray
    work: np.ndarray

    def sampler(self) -> Sampler:
        """A sampler that reads the script."""

        def sample(key, state, round_index):
            del key
            row = round_index % len(self.ids)
            ids, present, work = (jnp.asarray(v)[row] for v in self)
            return state, Cohort(
                round_index,
                Member(ids.astype(jnp.int32), present, jnp.zeros_like(ids, jnp.int32), work),
            )

        return Sampler(self.ids.shape[1], lambda n: (), sample, lambda state, cohort, info: state)


def script(rounds: int, cohort: int, n: int, seed: int = 0, ragged: bool = True) -> Script:
    """Random cohorts of distinct ids; `ragged` ones have absent and partial members."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(n)[:cohort] for _ in range(rounds)])
    if not ragged:
        return Script(ids, np.ones(ids.shape, bool), np.ones(ids.shape))
    present = rng.random(ids.shape) < 0.75
    present[:, 0] = True
    work = np.where(rng.random(ids.shape) < 0.4, rng.uniform(0.1, 1, ids.shape), 1.0)
    return Script(ids, present, work)


class Run(NamedTuple):
    """A bound algorithm with what it takes to run it."""

    algorithm: Algorithm
    sampler: Sampler
    task: Task
    data: DeviceShards
    plan: Plan

    @classmethod
    def of(
        cls, recipe: Recipe, task: Task, data: DeviceShards, sampler: Sampler, plan: Plan
    ) -> Run:
        """Bind `recipe`."""
        return cls(bind(recipe, task, plan, make_mesh(plan.devices)), sampler, task, data, plan)

    def start(self, key: jax.Array, hyper: Any = None) -> RunState:
        """The state before round 0."""
        model = self.task.init(key)
        return init_run(self.algorithm, self.sampler, key, model, self.data.n_clients, hyper)

    def compiled(self, chunk: int) -> Any:
        """`(key, state, rounds, data=own data) -> (state, records)`, jitted, all placed."""
        mesh = make_mesh(self.plan.devices)
        simulate = make_simulate(self.algorithm, self.sampler, chunk=chunk)
        run = quick_jit(simulate, out_shardings=replicated(mesh))

        def call(key: jax.Array, state: RunState, rounds: int, data: Any = None) -> Any:
            data = self.data if data is None else data
            return run(*place((key, state), mesh), rounds, place(data, mesh))

        call._cache_size, call.__wrapped__ = run._cache_size, simulate
        return call

    def simulate(self, key: jax.Array, rounds: int, hyper: Any = None) -> tuple[RunState, dict]:
        """`rounds` rounds in one compiled call."""
        return self.compiled(rounds)(key, self.start(key, hyper), rounds)

    def model(self, state: RunState) -> Any:
        """The global model's parameters."""
        return self.algorithm.global_model(state.algorithm).params


def orders(
    rule: Batches,
    key: jax.Array,
    round_index: int,
    client: int,
    size: int,
    longest: int,
    work: float,
) -> list[np.ndarray]:
    """Index lists of one client's local steps, keyed as the key law says it in words."""
    most = int(rule.count(jnp.int32(longest), longest))
    count, index, mask = _orders(rule, longest, most, key, round_index, client, size)
    steps = int(np.ceil(int(count) * work - 1e-6))
    return [np.asarray(i)[np.asarray(m)] for i, m in zip(index[:steps], mask[:steps], strict=True)]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _orders(rule, longest, most, key, round_index, client, size):
    mine = jax.random.fold_in(jax.random.fold_in(key, round_index), client)
    words = jax.random.key_data(jax.random.fold_in(mine, SHUFFLE))[-2:]

    def one(t):
        epoch, position, mask = rule.positions(t, size, longest)
        return shuffled(words, epoch, position, size) if rule.shuffle else position, mask

    return rule.count(size, longest), *jax.vmap(one)(jnp.arange(most, dtype=jnp.int32))


def assert_trees_close(got: Any, want: Any, rtol: float, atol: float = 0.0, note: str = "") -> None:
    """Leaf by leaf; keys are compared by their data."""
    raw = lambda t: jax.tree.map(lambda v: jax.random.key_data(v) if _is_key(v) else v, t)  # noqa: E731
    jax.tree.map(
        lambda g, w: np.testing.assert_allclose(
            np.asarray(g), np.asarray(w), rtol=rtol, atol=atol, err_msg=note
        ),
        raw(got),
        raw(want),
    )


def _is_key(value: Any) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def assert_trees_equal(got: Any, want: Any, note: str = "") -> None:
    """Bitwise equal, NaN included."""
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.asarray(g).dtype == np.asarray(w).dtype, note
        np.testing.assert_array_equal(np.asarray(g), np.asarray(w), err_msg=note)
