"""A digits network of 25,000 parameters, against ARPACK on products of its own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, eigsh
from threadpoolctl import threadpool_limits

import fedjax_sim as fs
from fedjax_sim.core.types import Batch, Model
from fedjax_sim.diagnostics.critical import judge
from fedjax_sim.diagnostics.critical_answer import Tolerances
from fedjax_sim.diagnostics.curvature import landscape
from fedjax_sim.engine.plan import Plan

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.slow]
DECAY = 0.02


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


class Smooth(nn.Module):
    """64-200-56-10 with tanh: 24,826 parameters and no kinks."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for width in (200, 56):
            x = nn.tanh(nn.Dense(width, param_dtype=jnp.float64)(x))
        return nn.Dense(10, param_dtype=jnp.float64)(x)


def setting(decay):
    fed = fs.data.digits(fs.partition.dirichlet(clients=20, alpha=0.5))
    base = fs.tasks.classifier(Smooth(), classes=10, dtype=jnp.float64).bind(
        fed.train.x.shape[1:], np.float64
    )

    def loss(key, model, batch):
        value, state = base.loss(key, model, batch)
        half = 0.5 * decay * sum(jnp.sum(p**2) for p in jax.tree.leaves(model.params))
        return value + half * jnp.any(batch.mask), state

    return base._replace(loss=loss), fed


def oracle(task, fed, model):
    """`(gradient, lowest, highest eigenvalue)` of the pooled loss in one batch."""
    vector, unravel = ravel_pytree(model.params)
    x, y = jnp.asarray(fed.train.x), jnp.asarray(fed.train.y)
    batch = Batch(x, y, jnp.ones(len(x), bool))

    def slope(v, batch):
        return jax.grad(lambda p: task.loss(jax.random.key(0), Model(unravel(p), ()), batch)[0])(v)

    times = jax.jit(lambda v, b: jax.jvp(lambda p: slope(p, b), (vector,), (v,))[1])
    h = LinearOperator(
        (len(vector),) * 2, matvec=lambda v: np.asarray(times(v, batch)), dtype=np.float64
    )
    ends = [eigsh(h, k=1, which=w, tol=1e-5, return_eigenvectors=False)[0] for w in ("SA", "LA")]
    return np.asarray(jax.jit(slope)(vector, batch)), *ends


def ask(ground, task):
    fresh = jax.jit(task.init)(jax.random.key(0))
    return judge(ground, fresh=fresh, steps=40, block=8, tolerances=Tolerances())


def test_half_way_it_is_not_stationary_and_at_the_end_a_minimum():
    task, fed = setting(DECAY)
    fast = fs.algorithms.fedavg(optax.sgd(0.1), epochs=1, batch_size=20)
    run = fs.run(fast, task, fed, cohort=20, rounds=10, float64=True, eval_every=100)
    ground = landscape(task, run.model, fed.train, plan=Plan(1, 2))
    half = ask(ground, task)
    assert half.kind == "not stationary" and half.parameters == 24_826
    gradient, low, high = oracle(task, fed, run.model)
    np.testing.assert_allclose(half.gradient_norm, np.linalg.norm(gradient), rtol=1e-9)
    np.testing.assert_allclose([half.low.value, half.high.value], [low, high], rtol=1e-3)
    np.testing.assert_allclose(half.gained, half.promised, rtol=0.3)

    options = {"maxiter": 1500, "maxcor": 30, "ftol": 1e-16, "gtol": 1e-8}
    end = minimize(ground.slope, ground.point, jac=True, method="L-BFGS-B", options=options)
    model = Model(ground.tree(end.x), ())
    done = ask(ground.move(model), task)
    gradient, low, high = oracle(task, fed, model)
    assert done.kind == "local minimum", done.sentence
    np.testing.assert_allclose(done.high.value, high, rtol=1e-3)
    # The lowest is 1e-5 of the highest: known to the error that is told, less than counts as flat.
    assert abs(done.low.value - low) <= done.low.error < done.scales.zero
    assert low > 0 and done.promised < 1e-6 * done.scales.loss


def test_with_all_weights_zero_it_is_a_saddle_that_no_hessian_shows():
    """Three layers: biases fit the classes' shares, all else needs three steps at once."""
    task, fed = setting(0.0)
    model = jax.jit(task.init)(jax.random.key(0))
    shares = np.bincount(fed.train.y, minlength=10) / len(fed.train.y)
    params = jax.tree.map(np.zeros_like, model.params)
    last = max(params, key=lambda name: int(name.split("_")[-1]))
    params[last]["bias"] = np.log(shares)
    found = ask(landscape(task, Model(params, ()), fed.train, plan=Plan(1, 2)), task)
    assert (found.kind, found.degenerate) == ("saddle", True), found.sentence
    assert found.verified_decrease > 1e-3 and found.gradient_norm < 1e-12
    np.testing.assert_allclose(found.low.value, 0, atol=1e-12)
