"""DepthFL: against its oracle, against FedAvg, and how depths are read off a model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithms.test_widths import ORDERED, RATE, ROUNDS, SCRIPT, SIZES, rounds_of, sgd
from helpers import CLASSES, DIM, Run, assert_trees_close, quick_jit, softmax_data
from oracles import depth as oracle

from fedjax_sim.algorithms.depthfl import depthfl
from fedjax_sim.algorithms.fedavg import fedavg
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.types import Batch
from fedjax_sim.engine.lane_shapes import program_flops
from fedjax_sim.engine.plan import Plan
from fedjax_sim.tasks import build, models, with_exits
from fedjax_sim.tasks.exits import depths

KEY = jax.random.key(11)
WIDTHS = (7, 6, 5)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def task_of(model, dtype=jnp.float64):
    return build.classifier(model, CLASSES, x_shape=(DIM,), dtype=dtype)


def trained(recipe, model, plan=Plan()):  # noqa: B008 - frozen
    run = Run.of(recipe, task_of(model), softmax_data(SIZES), SCRIPT.sampler(), plan)
    start = run.start(KEY)
    state, records = run.compiled(ROUNDS)(KEY, start, ROUNDS)
    return run, run.model(start), run.model(state), records


def as_blocks(params):
    ends = [*(f"exit_{i}" for i in range(len(WIDTHS) - 1)), "head"]
    return [
        {
            "w": np.asarray(params[f"dense_{i}"]["w"]),
            "b": np.asarray(params[f"dense_{i}"]["b"]),
            "u": np.asarray(params[end]["w"]),
            "c": np.asarray(params[end]["b"]),
        }
        for i, end in enumerate(ends)
    ]


@pytest.mark.parametrize(("lanes", "warmup"), [(1, 0), (2, 3)])
def test_depthfl(x64, lanes, warmup):
    recipe = depthfl(sgd, distill=0.7, warmup=warmup, **ORDERED)
    run, begin, end, records = trained(recipe, models.mlp_exits(*WIDTHS), Plan(lanes, 1))
    grown = [1.0 if not warmup else np.exp(-5 * (1 - min(t / warmup, 1)) ** 2) for t in range(4)]
    want = oracle.federated(as_blocks(begin), rounds_of(run.data), RATE, 0.7 * np.array(grown))
    assert np.abs(as_blocks(begin)[2]["w"] - as_blocks(end)[2]["w"]).max() > 1e-2
    assert_trees_close(as_blocks(end), want, **CLOSE)
    assert (np.asarray(records["coverage"]) <= 1).all()


def test_the_oracles_gradient_is_that_of_its_loss():
    rng = np.random.default_rng(0)
    sizes = (4, 5, 3)
    blocks = [
        {
            "w": rng.normal(size=sizes[i : i + 2]),
            "b": rng.normal(size=sizes[i + 1]),
            "u": rng.normal(size=(sizes[i + 1], 3)),
            "c": rng.normal(size=3),
        }
        for i in range(2)
    ]
    x, target = rng.normal(size=(6, 4)), np.eye(3)[rng.integers(0, 3, 6)]
    found = oracle.gradient(blocks, x, target, 0.7)
    teachers = [np.array(oracle.softmax(z)) for z in oracle.exits(blocks, x)[1]]
    for i, name in ((0, "w"), (0, "u"), (1, "b"), (1, "c")):
        at = (0,) * blocks[i][name].ndim
        values = []
        for step in (1e-6, -1e-6):
            blocks[i][name][at] += step
            values.append(oracle.loss(blocks, x, target, 0.7, teachers))
            blocks[i][name][at] -= step
        assert found[i][name][at] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


def test_a_model_with_one_exit_is_fedavg(x64):
    """Whether it has none that are named, or one."""
    for model, plain in ((models.mlp(5), models.mlp(5)), (models.mlp_exits(5), None)):
        ours = trained(depthfl(sgd, **ORDERED), model)[2]
        theirs = trained(fedavg(sgd, **ORDERED), plain or model)[2]
        assert_trees_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_levels_are_chosen_and_refused(x64):
    """Where nobody is deep, the last block stays; of a level there is no exit for, one message."""
    shallow = depthfl(sgd, levels=[2] * len(SIZES), **ORDERED)
    _, begin, end, _ = trained(shallow, models.mlp_exits(*WIDTHS))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), begin, end)
    assert [all(jax.tree.leaves(same[n])) for n in ("dense_0", "exit_0")] == [False, False]
    assert all(jax.tree.leaves([same[n] for n in ("dense_1", "exit_1", "dense_2", "head")]))
    with pytest.raises(InputError, match="must be groups from 0 to 2"):
        trained(depthfl(sgd, levels=[3] * len(SIZES), **ORDERED), models.mlp_exits(*WIDTHS))


class Blocks(nn.Module):
    """A user's own module, with batch norm: a tuple of outputs."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        outputs = []
        for width in (6, 5):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(width)(x)))
            outputs.append(nn.Dense(CLASSES)(x))
        return tuple(outputs)


def test_any_flax_module_with_exits(x64):
    """Statistics of a block are those of its holders; the mean of the exits is predicted."""
    task = task_of(with_exits(Blocks()))
    model = task.init(KEY)
    of = depths(task, model, (DIM,), jnp.float64)
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(model)]
    second = {n for n, d in zip(paths, of, strict=True) if d == 2}
    assert all(("Norm_1" in n) or ("Dense_2" in n) or ("Dense_3" in n) for n in second)
    assert len(second) == 8 and len(of) == 16
    x = np.random.default_rng(0).normal(size=(4, DIM))
    batch = Batch(jnp.asarray(x), jnp.zeros(4, jnp.int32), jnp.ones(4, bool))
    outputs, _ = task.exits(KEY, model, batch)
    assert [o.shape for o in outputs] == [(4, CLASSES)] * 2
    *_, records = trained(depthfl(sgd, **ORDERED), with_exits(Blocks()))
    losses = np.asarray(records["train_loss"])
    assert losses[-1] < losses[0]
    with pytest.raises(InputError, match="must be a tuple of outputs"):
        task_of(with_exits(models.mlp(3)))


def test_shallow_clients_compute_less():
    """A client of depth 1 of 3 spends what the first block and its exit take."""
    task = task_of(models.mlp_exits(40, 40, 40), jnp.float32)
    model = jax.eval_shape(task.init, KEY)
    batch = Batch(jnp.zeros((8, DIM)), jnp.zeros(8, jnp.int32), jnp.ones(8, bool))

    def spent(exits):
        def loss(model):
            return sum(task.score(o, batch) for o in task.exits(KEY, model, batch)[0][:exits])

        compiled = quick_jit(jax.grad(loss, allow_int=True)).lower(model).compile()
        return compiled.cost_analysis()["flops"]

    assert spent(1) < 0.35 * spent(3)
    plain = task_of(models.mlp(40), jnp.float32)
    shapes = jax.eval_shape(plain.init, KEY)
    x = jax.ShapeDtypeStruct((8, DIM), jnp.float32)
    assert spent(1) > program_flops(jax.make_jaxpr(plain.predict)(shapes, x).jaxpr)


def test_it_is_an_optax_client(x64):
    heavy = depthfl(optax.sgd(RATE, momentum=0.5), epochs=2, batch_size=4, distill=0.0)
    found = [trained(heavy, models.mlp_exits(*WIDTHS), Plan(lanes, 1))[2] for lanes in (1, 3)]
    assert_trees_close(*found, **CLOSE)
