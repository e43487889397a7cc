"""The liveness walk by hand-made programs, against XLA's own plan, and the forecast's figures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_sim.core.checks import InputError
from fedjax_sim.engine import forecast as forecasts
from fedjax_sim.engine import liveness
from fedjax_sim.engine.forecast import Pieces, forecast
from fedjax_sim.engine.lane_shapes import program_flops
from fedjax_sim.engine.packing import pack
from fedjax_sim.engine.plan import Plan

N = 256
MATRIX = N * N * 4
X = jax.ShapeDtypeStruct((N, N), jnp.float32)


def held(f, *shapes, donated=frozenset()):
    return liveness.temporaries(jax.make_jaxpr(f)(*shapes), donated).bytes


def planned(f, *shapes, donate=()):
    done = jax.jit(f, donate_argnums=donate).lower(*shapes).compile().memory_analysis()
    return done.temp_size_in_bytes + done.output_size_in_bytes - done.alias_size_in_bytes


def chain(x):
    return jnp.exp(jnp.sin(x * 2 + 1) / 3).sum()


def two_products(x):
    return jnp.tanh((x @ x) @ x).sum()


def loop(x):
    return jax.lax.fori_loop(0, 5, lambda i, c: c - 0.1 * (c @ x), x)


def branches(x):
    return jax.lax.cond(x[0, 0] > 0, lambda v: v @ v, lambda v: v, x)


def test_an_elementwise_chain_is_never_written_out():
    assert held(chain, X) <= 8
    assert held(lambda x: jnp.exp(x) + 1, X) == MATRIX  # only its result


def test_a_product_is_written_and_lives_until_it_is_read():
    assert held(two_products, X) == pytest.approx(2 * MATRIX, abs=64)
    three = lambda x: (x @ x).sum() + ((x @ x) * 2).sum()  # noqa: E731  one after the other
    assert held(three, X) == pytest.approx(MATRIX, abs=64)


def test_a_dying_operand_is_written_over():
    assert held(lambda x: jnp.exp(x @ x) * 3, X) == MATRIX
    assert held(lambda x: x.at[0].set(1.0), X) == MATRIX
    assert held(lambda x: x.at[0].set(1.0), X, donated=frozenset({0})) == 0


def test_a_loop_holds_its_carry_once():
    body = held(loop, X)
    assert 2 * MATRIX <= body <= 3 * MATRIX  # the carry, the product; not five of them


def test_calls_are_seen_through():
    inner = jax.jit(lambda x: jnp.exp(x))
    assert held(lambda x: (inner(x) * 2).sum(), X) <= 8


# Without `two_products`: XLA:CPU may fuse both of its products into one library call that writes
# neither out, which the walk does not know of; it then says too much.
@pytest.mark.parametrize("f", [chain, loop, branches])
def test_the_walk_agrees_with_the_compiler(f):
    assert held(f, X) == pytest.approx(planned(f, X), abs=1.01 * MATRIX)


def step(params, x):
    def loss(p):
        for w in p[:-1]:
            x_ = jnp.tanh(xs[0] @ w)
            xs[0] = x_
        return jnp.mean((xs[0] @ p[-1]) ** 2)

    xs = [x]
    grads = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)


@pytest.mark.parametrize(("width", "batch"), [(256, 8), (64, 2048), (256, 512)])
def test_a_training_loop_is_within_a_third_of_the_compiler(width, batch):
    params = [jax.ShapeDtypeStruct((width, width), jnp.float32)] * 4
    x = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    train = lambda p, x: jax.lax.fori_loop(0, 3, lambda i, c: step(c, x), p)  # noqa: E731
    assert held(train, params, x) == pytest.approx(planned(train, params, x), rel=0.34)


def test_flops_of_products_convolutions_and_loops():
    def flops(f, *shapes):
        return program_flops(jax.make_jaxpr(f)(*shapes).jaxpr)

    a, b = jax.ShapeDtypeStruct((3, 5), "float32"), jax.ShapeDtypeStruct((5, 7), "float32")
    assert flops(jnp.matmul, a, b) == 2 * 3 * 5 * 7
    twice = lambda a: jax.lax.scan(lambda c, _: (c @ jnp.ones((5, 5)), None), a, None, 6)[0]  # noqa: E731
    assert flops(twice, a) == pytest.approx(6 * (2 * 3 * 5 * 5 + 25), abs=60)
    image = jax.ShapeDtypeStruct((2, 8, 8, 3), "float32")
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 4), "float32")
    conv = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert flops(conv, image, kernel) == 2 * (2 * 6 * 6 * 4) * (3 * 3 * 3)


def pieces(**changes):
    vector = jax.ShapeDtypeStruct((1000,), jnp.float32)
    rows = jax.ShapeDtypeStruct((50, 1000), jnp.float32)
    nothing = jax.ShapeDtypeStruct((), jnp.float32)
    base = Pieces(vector, vector, rows, vector, vector, 4000, 6, nothing, 4000)
    return base._replace(**changes)


def simple(plan=Plan(2, 3), platform="cpu", **changes):  # noqa: B008
    program = jax.make_jaxpr(lambda x: (x @ x).sum())(X)
    return forecast(program, frozenset(), pieces(**changes), plan, platform)


def test_kinds_count_devices_rows_and_lanes():
    kinds = simple().by_kind()
    assert kinds[forecasts.DATA] == 4000 + 3 * 4000  # the host's copy and one a device
    assert kinds[forecasts.ROWS] == 3 * 50 * 4000
    assert kinds[forecasts.LANES] == 3 * 2 * 4000
    assert kinds[forecasts.ACCUMULATORS] == 3 * 4000
    assert list(kinds.values()) == sorted(kinds.values(), reverse=True)
    assert sum(kinds.values()) == simple().total == simple().device_total


def test_no_more_lanes_than_clients_are_counted():
    assert simple(Plan(64, 3)).by_kind()[forecasts.LANES] == 3 * 2 * 4000


def test_an_accelerator_counts_one_device():
    told = simple(platform="gpu")
    assert told.device_total == sum(item.each for item in told.items) < told.total


def test_what_cannot_fit_is_refused_with_the_figures_largest_first():
    told = simple(rows=jax.ShapeDtypeStruct((10**6, 1000), jnp.float32))
    told.refuse_oversize(told.total)
    with pytest.raises(InputError, match=r"clients = 2 lanes x 3 devices") as caught:
        told.refuse_oversize(told.total - 1)
    text = str(caught.value)
    assert "would hold 1" in text and "fewer clients" in caught.value.remedy
    assert text.index("client rows 12.00 GB") < text.index("fewer clients")


def lane_loop(steps, lanes, devices):
    """Executed lane steps by the rule of `engine/lanes.py`, event by event."""
    order = sorted(steps, reverse=True)
    each = -(-len(order) // devices)
    order += [0] * (each * devices - len(order))
    dealt = [[] for _ in range(devices)]
    for i in range(each):
        row = order[i * devices : (i + 1) * devices]
        for d, value in enumerate(row if i % 2 == 0 else row[::-1]):
            dealt[d].append(value)
    lanes, busiest = min(lanes, each), 0
    for queue in dealt:
        left, waiting, ran = queue[:lanes], queue[lanes:], 0
        while left:
            fewest = min(left)
            ran += fewest
            left = [n - fewest for n in left]
            for i in [i for i, n in enumerate(left) if n == 0]:
                left[i] = waiting.pop(0) if waiting else -1
            left = [n for n in left if n >= 0]
        busiest = max(busiest, ran)
    return busiest * lanes * devices


@pytest.mark.parametrize("seed", range(8))
def test_packing_is_the_lane_loops_own(seed):
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 40, rng.integers(1, 30))
    lanes, devices = int(rng.integers(1, 9)), int(rng.integers(1, 4))
    found = pack(steps, lanes, devices)
    assert found.executed == lane_loop(list(steps), lanes, devices)
    assert found.useful == steps.sum() <= found.bound <= found.executed


def test_equal_clients_pack_perfectly():
    found = pack(np.full(24, 5), 4, 2)
    assert found.efficiency == found.best_efficiency == 1.0
    assert found.calls == 15


def test_a_forecast_is_plain_data():
    assert dataclasses.asdict(simple())["platform"] == "cpu"
