"""Local training: what an optimizer is told, weights, partial work, the model's own state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Run, quadratic_task, script, shards, softmax_data
from sparing import few

from fedjax_sim.algorithms import fedavg, fedsgd
from fedjax_sim.clients.sgd import partial_steps, weigh
from fedjax_sim.clients.wrap import normalized
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Task
from fedjax_sim.core.types import Context, Member, Model, Report
from fedjax_sim.engine.plan import Plan
from fedjax_sim.sampling.uniform import uniform
from fedjax_sim.transforms.schedule import scale_by_round, warmup

KEY = jax.random.key(0)


def context(work=1.0, client=0):
    member = Member(jnp.int32(client), jnp.array(True), jnp.int32(0), jnp.asarray(work))
    return Context(KEY, jnp.int32(0), member)


def run_one(optimizer, rounds, *, steps=3, task=None):
    """The parameter after each round of one client with gradient 1 wherever it is."""
    slope = Task(
        lambda key: Model({"x": jnp.zeros(1)}),
        lambda key, model, batch: (model.params["x"][0] + 0 * batch.x[0, 0], model.state),
        lambda model, x: x,
        lambda outputs, batch: {},
    )
    data = shards(np.ones((4, 1)), np.zeros((4, 1)), [4])
    recipe = fedavg(optimizer, steps=steps, batch_size=1)
    run = Run.of(recipe, task or slope, data, uniform(1, 1), Plan())
    step, state = run.compiled(rounds), run.start(KEY)
    return [float(run.model(step(KEY, state, r)[0])["x"][0]) for r in range(1, rounds + 1)]


def test_a_schedule_over_local_steps_starts_anew_each_round(x64):
    """Rates 0.5, 0.25, 0.125 in every round; optax computes schedules in float32, exact here."""
    path = run_one(optax.sgd(optax.exponential_decay(0.5, 1, 0.5)), 3)
    np.testing.assert_allclose(path, -0.875 * np.arange(1, 4), rtol=1e-12)


def test_a_schedule_over_rounds_follows_the_round(x64):
    """Rate 0.1, times 1, 0.5, 0.25 in rounds 0, 1, 2; three steps each."""
    opt = optax.chain(optax.sgd(0.1), scale_by_round(optax.exponential_decay(1.0, 1, 0.5)))
    np.testing.assert_allclose(run_one(opt, 3), -0.3 * np.cumsum([1, 0.5, 0.25]), rtol=1e-12)


def test_warmup_over_rounds_in_training(x64):
    opt = optax.chain(optax.sgd(1.0), scale_by_round(warmup(0.4, 2)))
    np.testing.assert_allclose(run_one(opt, 3), -3 * np.cumsum([0.2, 0.4, 0.4]), rtol=1e-12)


def test_an_optimizer_is_told_anchor_round_step_and_value(x64):
    """A transformation that moves by a number made of all four; gradient descent is not in it."""

    def update(grads, state, params, *, anchor, round, step, value, **extra):
        del extra
        told = 1000.0 * (round + 1) + 10.0 * step + 0 * value
        drift = params["x"] - anchor["x"]
        return {"x": -(told + 0 * drift + 0 * grads["x"])}, state

    opt = optax.GradientTransformationExtraArgs(lambda params: (), update)
    first = -(3 * 1000 + 10 * (0 + 1 + 2))
    second = first - (3 * 2000 + 10 * (0 + 1 + 2))
    np.testing.assert_allclose(run_one(opt, 2), [first, second])


def test_the_anchor_is_the_received_model_and_the_value_the_batch_loss(x64):
    """x starts at 0 with loss x: value = -0.5 t, params - anchor = -0.5 t within a round."""

    def update(grads, state, params, *, anchor, value, **extra):
        seen = jnp.abs(params["x"] - anchor["x"] + 0.5 * extra["step"])
        seen += jnp.abs(value - params["x"])
        return {"x": -0.5 - 1e6 * seen}, state

    opt = optax.GradientTransformationExtraArgs(lambda params: (), update)
    np.testing.assert_allclose(run_one(opt, 2), [-1.5, -3.0])


@pytest.mark.parametrize("full", [1, 2, 7, 10, 100, 999])
def test_partial_work_is_the_share_rounded_up(full):
    for share in (0.001, 0.1, 0.3, 0.5, 0.9, 1.0):
        want = int(np.ceil(round(full * share, 6)))
        assert int(partial_steps(jnp.int32(full), context(share))) == want, (full, share)
    assert int(partial_steps(jnp.int32(0), context(0.5))) == 0


def test_weights():
    for name, want in {"examples": 12, "uniform": 1, "steps": 5}.items():
        value = weigh(name, jnp.int32(12), jnp.int32(5), context())
        assert (float(value), value.dtype) == (want, jnp.float32)
    own = weigh(lambda size, steps, ctx: size * steps + ctx.member.id, 12, 5, context(client=3))
    assert float(own) == 63
    with pytest.raises(InputError, match=r"weighting = sizes: must be examples, uniform"):
        weigh("sizes", 1, 1, context())


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_normalizer_is_the_l1_norm_of_the_steps_weights(x64, rho):
    """Against the sum over the paper's vector a_i; no step at all leaves the update alone."""
    for steps in (0, 1, 2, 7):
        report = Report(Model({"x": jnp.array([6.0])}, jnp.array([6.0])), jnp.ones(()), 0, {})
        changed = normalized(rho)(report, jnp.int32(steps))
        norm = sum((1 - rho ** (steps - k)) / (1 - rho) for k in range(steps))
        np.testing.assert_allclose(changed.aux["normalizer"], norm, atol=1e-12)
        np.testing.assert_allclose(changed.update.params["x"], 6 / (norm or 1))
        np.testing.assert_allclose(changed.update.state, 6)


def counting_task():
    """State: the mean of x of the last batch, and an integer count of batches."""

    def loss(key, model, batch):
        count = jnp.maximum(batch.mask.sum(), 1)
        mean = jnp.sum(jnp.where(batch.mask[:, None], batch.x, 0), axis=0) / count
        state = {"mean": mean, "batches": model.state["batches"] + 1}
        return jnp.sum(model.params["x"] * mean), state

    state = {"mean": jnp.zeros(3), "batches": jnp.int32(0)}
    init = lambda key: Model({"x": jnp.zeros(3)}, state)  # noqa: E731
    return Task(init, loss, lambda m, x: x, lambda o, b: {})


@pytest.mark.parametrize("plan", few([Plan(1, 1), Plan(3, 2)], Plan(3, 2)))
def test_a_models_state_is_averaged_plainly_and_its_integers_rounded(x64, plan):
    """Client i ends with its own mean and its own number of batches; weights are examples."""
    sizes = [4, 9, 1]
    data = softmax_data(sizes)
    recipe = fedavg(optax.sgd(0.1), epochs=2, batch_size=None, server=optax.adam(0.01))
    run = Run.of(recipe, counting_task(), data, uniform(3, 3), plan)
    state, _ = run.simulate(KEY, 1)
    model = run.algorithm.global_model(state.algorithm)
    np.testing.assert_allclose(model.state["mean"], np.asarray(data.x).mean(0), rtol=1e-12)
    assert model.state["batches"].dtype == jnp.int32
    assert int(model.state["batches"]) == 2
    by_batches = fedavg(optax.sgd(0.1), epochs=1, batch_size=2)
    run = Run.of(by_batches, counting_task(), data, uniform(3, 3), plan)
    model = run.algorithm.global_model(run.simulate(KEY, 1)[0].algorithm)
    assert int(model.state["batches"]) == round((4 * 2 + 9 * 5 + 1 * 1) / 14)


def test_a_stragglers_update_counts_fully_by_examples_and_partly_by_steps(x64):
    """Gradient-1 clients of 4 examples: one does 4 steps, one does 2 (work 0.5)."""
    data = shards(np.ones((8, 1)), np.full((8, 1), -1e9), [4, 4])  # gradient 1e9, rate 1e-9
    plan = script(1, 2, 2, ragged=False)._replace(work=np.array([[1.0, 0.5]]))
    ends = {}
    for weighting in ("examples", "steps"):
        recipe = fedavg(optax.sgd(1e-9), batch_size=1, weighting=weighting)
        run = Run.of(recipe, quadratic_task(), data, plan.sampler(), Plan())
        ends[weighting] = float(run.model(run.simulate(KEY, 1)[0])["x"][0])
    np.testing.assert_allclose(ends["examples"], -(4 + 2) / 2, rtol=1e-6)
    np.testing.assert_allclose(ends["steps"], -(4 * 4 + 2 * 2) / 6, rtol=1e-6)


def test_the_exact_gradient_sums_over_batches_of_a_hundred(x64):
    """One client of 250 examples, three batches of 100, 100, 50: the mean over all 250."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 2, (250, 1)), rng.normal(size=(250, 1))
    run = Run.of(
        fedsgd(optax.sgd(1.0)), quadratic_task(), shards(a, b, [250]), uniform(1, 1), Plan()
    )
    state, records = run.simulate(KEY, 1)
    np.testing.assert_allclose(run.model(state)["x"], (a * b).mean(0), rtol=1e-12)
    np.testing.assert_allclose(records["train_loss"][0], (0.5 * a * b**2).mean(), rtol=1e-12)
