"""Corrections against client drift: NumPy oracles, and what is equal to what."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    CLASSES,
    DIM,
    Run,
    Script,
    assert_trees_equal,
    flat,
    orders,
    script,
    softmax_data,
    softmax_task,
    window,
)
from oracles import control as oracle
from oracles import federated
from oracles.softmax import gradient

from fedjax_sim.algorithms.fedadmm import fedadmm
from fedjax_sim.algorithms.feddyn import feddyn
from fedjax_sim.algorithms.fedlin import fedlin
from fedjax_sim.algorithms.fedsplit import fedsplit
from fedjax_sim.algorithms.mime import mime, mimelite
from fedjax_sim.algorithms.scaffold import scaffold
from fedjax_sim.clients.anchor import full_gradient
from fedjax_sim.clients.exchange import Asked
from fedjax_sim.clients.sgd import mean_gradient
from fedjax_sim.core.checks import InputError
from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Cohort, Context, Member
from fedjax_sim.data.batching import Batches
from fedjax_sim.engine.plan import Plan

SIZES = [7, 1, 12, 20, 5, 3, 16]
N, ROUNDS, RATE, KEY = len(SIZES), 6, 0.3, jax.random.key(11)
START = np.random.default_rng(1).normal(size=DIM * CLASSES + CLASSES)
RULE = Batches(epochs=2, size=4, shuffle=False)
SETTING = {"lr": RATE, "epochs": 2, "batch_size": 4, "shuffle": False}
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
# Everyone is in the cohort's table, so that one program serves any cohort.
RAGGED = script(ROUNDS, N, N, seed=3)
FULL = script(ROUNDS, N, N, seed=4, ragged=False)


def sgd(lr):
    return optax.sgd(lr)


def heavy(lr, beta):
    return optax.sgd(lr, momentum=beta)


def adam(lr, b1, b2):
    return optax.adam(lr, b1=b1, b2=b2, eps=0.01)


def told() -> Sampler:
    """A sampler whose state is the `Script` to follow."""

    def sample(key, state, r):
        ids, present, work = (v[r % ROUNDS] for v in state)
        return state, Cohort(r, Member(ids, present, jnp.zeros_like(ids), work))

    return Sampler(N, lambda n: as_state(RAGGED), sample, lambda state, cohort, info: state)


def as_state(cohorts: Script) -> Script:
    kinds = (jnp.int32, bool, float)
    return Script(*(jnp.asarray(v, kind) for v, kind in zip(cohorts, kinds, strict=True)))


class Told(NamedTuple):
    """One algorithm's program on the softmax federation."""

    run: Run
    step: object

    def __call__(self, cohorts=RAGGED, rounds=ROUNDS, hyper=None, data=None):
        state = self.run.start(KEY, hyper)._replace(sampler=as_state(cohorts))
        return self.step(KEY, state, rounds, data)

    def model(self, *args, **named):
        return flat(self.run.model(self(*args, **named)[0]))


RECIPES = {
    "scaffold I": lambda: scaffold(sgd, option="gradient", **SETTING),
    "feddyn": lambda: feddyn(sgd, alpha=0.7, **SETTING),
    "fedadmm": lambda: fedadmm(sgd, rho=0.7, mean_over="cohort", **SETTING),
    "fedadmm own": lambda: fedadmm(sgd, rho=0.7, start="own", **SETTING),
    "fedsplit": lambda: fedsplit(sgd, strength=0.8, **SETTING),
    "fedlin": lambda: fedlin(sgd, **SETTING),
    "mime": lambda: mime(heavy, beta=0.6, **SETTING),
    "mimelite": lambda: mimelite(adam, b1=0.8, b2=0.9, **SETTING),
}


@functools.cache
def program(name: str) -> Told:
    run = Run.of(RECIPES[name](), softmax_task(START), softmax_data(SIZES), told(), Plan(3, 1))
    return Told(run, run.compiled(ROUNDS))


def rounds_of(cohorts=RAGGED, rounds=ROUNDS):
    """The oracle's view of the script: whoever is present, with the rows of each local step."""
    data, seen = softmax_data(SIZES), []
    for r in range(rounds):
        seen.append([])
        for i, here, share in zip(*(v[r] for v in cohorts), strict=True):
            x, y = window(data, i)
            if here:
                rows = orders(RULE, KEY, r, int(i), len(y), data.longest, share)
                seen[-1].append(federated.Client(int(i), x, y, rows))
    return seen


def test_the_scripts_have_what_the_oracles_are_held_to():
    assert 0.4 < RAGGED.present.mean() < 0.9 and (RAGGED.present.sum(1) >= 2).all()
    assert ((RAGGED.work < 1) & RAGGED.present).any()
    assert set(np.flatnonzero(np.array(SIZES) < 4)) & set(RAGGED.ids[RAGGED.present])
    assert FULL.present.all()


def test_an_exact_gradient_is_of_all_examples_whatever_the_batches_and_the_share_of_work(x64):
    data, task, model = softmax_data(SIZES), softmax_task(START), softmax_task(START).init(KEY)
    client = full_gradient(Batches(size=5, shuffle=False))(task)
    member = Member(jnp.int32(2), jnp.bool_(True), jnp.int32(0), jnp.full((), 0.3))
    ctx, mine = Context(KEY, jnp.int32(0), member), data.client(jnp.int32(2))
    received = Asked(model, (), ())
    work = client.start(ctx, received, (), mine)
    step = jax.jit(client.step)
    assert int(client.steps(ctx, mine)) == 3
    for t in range(3):
        work = step(ctx, jnp.int32(t), work, received, mine)
    want = gradient(START, *window(data, 2), CLASSES)
    np.testing.assert_allclose(flat(mean_gradient(work)), want, **CLOSE)


def test_scaffold_with_exact_gradients(x64):
    state, _ = program("scaffold I")()
    path, controls = oracle.scaffold_first(START, rounds_of(), CLASSES, RATE, N)
    np.testing.assert_allclose(flat(program("scaffold I").run.model(state)), path[-1], **CLOSE)
    np.testing.assert_allclose(flat(state.rows), controls, **CLOSE)


def test_feddyn(x64):
    state, records = program("feddyn")()
    path, grads = oracle.feddyn(START, rounds_of(), CLASSES, RATE, N, 0.7)
    np.testing.assert_allclose(flat(program("feddyn").run.model(state)), path[-1], **CLOSE)
    np.testing.assert_allclose(flat(state.rows), grads, **CLOSE)
    assert records["uplink_bytes_each"][0] == records["downlink_bytes_each"][0] == 8 * START.size


@pytest.mark.parametrize("own", [False, True])
def test_fedadmm(x64, own):
    name = "fedadmm own" if own else "fedadmm"
    state, records = program(name)()
    path, w, y = oracle.fedadmm(
        START, rounds_of(), CLASSES, RATE, N, 0.7, eta=lambda s: s / N if own else 1.0, own=own
    )
    np.testing.assert_allclose(flat(program(name).run.model(state)), path[-1], **CLOSE)
    np.testing.assert_allclose(flat(state.rows.primal), w, **CLOSE)
    np.testing.assert_allclose(flat(state.rows.dual), y, **CLOSE)
    assert records["uplink_bytes_each"][0] == 8 * START.size


def test_fedadmm_is_feddyn_with_everyone_and_fedprox_in_half_a_first_round(x64):
    dyn, admm = (program(n).model(FULL) for n in ("feddyn", "fedadmm"))
    np.testing.assert_allclose(admm, dyn, **CLOSE)
    first = program("fedadmm").model(rounds=1, hyper={"server_rate": 0.5})
    want = federated.fedavg(START, rounds_of(rounds=1), CLASSES, RATE, mu=0.7, weighting="uniform")
    np.testing.assert_allclose(first, want[0], **CLOSE)


def test_fedsplit(x64):
    state, _ = program("fedsplit")()
    path, z = oracle.fedsplit(START, rounds_of(), CLASSES, RATE, N, 1 / 0.8)
    np.testing.assert_allclose(flat(program("fedsplit").run.model(state)), path[-1], **CLOSE)
    np.testing.assert_allclose(flat(state.rows), z, **CLOSE)


def test_fedlin(x64):
    got = program("fedlin").model(hyper={"server_rate": 0.8})
    want = oracle.fedlin(START, rounds_of(), CLASSES, RATE, server_rate=0.8)
    np.testing.assert_allclose(got, want[-1], **CLOSE)


def test_mime_with_momentum(x64):
    want = oracle.mime(START, rounds_of(), CLASSES, RATE, 0.6)
    np.testing.assert_allclose(program("mime").model(), want[-1], **CLOSE)


@pytest.mark.parametrize("name", ["fedlin", "mime"])
def test_who_measures_does_not_train_and_without_a_measure_nothing_moves(x64, name):
    """Nobody comes to round 2, which measures: round 3 trains in vain, 4 and 5 go on."""
    present = RAGGED.present.copy()
    present[2] = False
    cohorts = RAGGED._replace(present=present)
    told_of = {r: program(name)(cohorts, rounds=r) for r in (1, 2, 4, 6)}
    at = {r: flat(program(name).run.model(state)) for r, (state, _) in told_of.items()}
    np.testing.assert_array_equal(at[1], START)
    assert np.abs(at[2] - START).max() > 0.01
    assert_trees_equal(told_of[4][0].algorithm.server, told_of[2][0].algorithm.server)
    heard = rounds_of(cohorts)
    heard = heard[:2] + heard[4:]
    numbers = (0.6,) if name == "mime" else ()
    want = getattr(oracle, name)(START, heard, CLASSES, RATE, *numbers)
    np.testing.assert_allclose(at[6], want[-1], **CLOSE)
    steps = np.asarray(told_of[6][1]["client_steps"])
    assert steps[0] == RAGGED.present[0].sum(), "one full batch each, and no local step"
    local = sum(len(c.batches) for c in rounds_of()[1])
    own = RAGGED.present[1].sum() if name == "fedlin" else 0
    assert steps[1] == local + own, "FedLin's clients measure their own gradient again"


def test_mimelite_with_adam(x64):
    want = oracle.mimelite(START, rounds_of(), CLASSES, RATE, 0.8, 0.9, 0.01)
    np.testing.assert_allclose(program("mimelite").model(), want[-1], **CLOSE)


def test_mimelite_without_statistics_is_fedavg(x64):
    recipe = mimelite(sgd, weighting="examples", **SETTING)
    run = Run.of(recipe, softmax_task(START), softmax_data(SIZES), told(), Plan())
    state, _ = run.simulate(KEY, 2)
    want = federated.fedavg(START, rounds_of(rounds=2), CLASSES, RATE)
    np.testing.assert_allclose(flat(run.model(state)), want[-1], **CLOSE)


def test_a_client_that_takes_no_step_keeps_its_row(x64):
    """Two examples under B = 4 with `last="drop"`: no batch, no step, no change."""
    data = softmax_data([2, 9])
    recipe = fedadmm(sgd, lr=0.3, rho=0.5, batch_size=4, last="drop", shuffle=False)
    cohorts = Script(np.tile([0, 1], (2, 1)), np.ones((2, 2), bool), np.ones((2, 2)))
    run = Run.of(recipe, softmax_task(START), data, cohorts.sampler(), Plan())
    before = run.start(KEY).rows
    state, _ = run.simulate(KEY, 2)
    kept, moved = (jax.tree.map(lambda v, i=i: v[i], (state.rows, before)) for i in (0, 1))
    assert_trees_equal(*kept)
    assert np.abs(flat(moved[0].dual)).max() > 0.01
    assert np.isfinite(flat(run.model(state))).all()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: scaffold(sgd, lr=0.1, option="both"), "algorithm.option"),
        (lambda: feddyn(sgd, lr=0.1, alpha=0.0), "algorithm.alpha"),
        (lambda: fedadmm(sgd, lr=0.1, rho=-1.0), "algorithm.rho"),
        (lambda: fedadmm(sgd, lr=0.1, start="local"), "algorithm.start"),
        (lambda: fedadmm(sgd, lr=0.1, mean_over="all"), "algorithm.mean_over"),
        (lambda: fedsplit(sgd, lr=0.1, strength=0.0), "algorithm.strength"),
    ],
)
def test_what_cannot_be_is_refused(make, field):
    with pytest.raises(InputError) as refused:
        make()
    assert refused.value.field == field
