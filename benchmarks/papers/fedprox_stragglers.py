"""FedProx's stragglers on MNIST: nine curves of logistic regression over 1000 clients.

    FEDJAX_SIM_DATA=... python benchmarks/papers/fedprox_stragglers.py [--seeds 0 1 2]

Figure 1 of Li et al. 2018 (arXiv:1812.06127) as Flower's baseline `fedprox` repeats it: of the 10
clients of a round 0, 50 or 90 % are stragglers, who do fewer than E = 10 epochs. FedAvg drops them;
FedProx keeps their partial work, with mu = 0 and with mu = 2. Published accuracies, over the last
20 of 100 rounds, are read off the baseline's figure, and so are held to .05; the order at 90 %
has no tolerance.

Settings read in the baseline's code: client u holds digits u and u + 1 modulo 10, five pictures of
each and then a share of the rest that is log-normal of sigma 2, of the 60,000; a tenth of them
is not trained on; pixels are shifted by .1307 and scaled by .3081; a client straggles with
that chance in each round, for a uniform number of epochs in 1 .. E - 1; clients are drawn
uniformly and weigh by their batches an epoch. Test accuracy is over the 10,000.

What differs: NumPy's new generator; models start at zero; in a round whose clients all straggle
FedAvg keeps the model. FedAvg is FedProx at mu = 0 without its stragglers, so that one program
makes all nine curves, on the same cohorts. Writes benchmarks/results/papers.json under
`fedprox_stragglers`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parent))

from check import Row
from pfedme_table import keep

import fedjax_sim as fs
from fedjax_sim.core import keys
from fedjax_sim.core.contracts import Sampler
from fedjax_sim.core.types import Cohort
from fedjax_sim.data.federated import Federation, shards_from_index
from fedjax_sim.engine.bind import bind
from fedjax_sim.engine.evaluate import evaluate_global
from fedjax_sim.engine.mesh import make_mesh
from fedjax_sim.engine.plan import Plan
from fedjax_sim.engine.simulate import init_run, make_simulate
from fedjax_sim.experiment.probe import shards_for_device
from fedjax_sim.sampling.uniform import uniform

CLIENTS, COHORT, EPOCHS, RATE, EVERY, LAST = 1000, 10, 10, 0.03, 2, 20
PLAN, TOLERANCE = Plan(1, 1), 0.05
PUBLISHED = {  # FedAvg, mu = 0, mu = 2, by share of stragglers
    0.0: (0.80, 0.80, 0.80),
    0.5: (0.73, 0.75, 0.84),
    0.9: (0.65, 0.75, 0.84),
}
NAMES = ("FedAvg", "FedProx mu = 0", "FedProx mu > 0")


class Slow(NamedTuple):
    """What a sampler does with stragglers: the chance of one, and whether they are dropped."""

    chance: jax.Array
    drop: jax.Array


def stragglers() -> Sampler:
    """Uniform cohorts some of whom straggle; the state is a `Slow`."""
    base = uniform(COHORT, CLIENTS)

    def sample(key: Any, state: Slow, round_index: Any) -> tuple[Slow, Cohort]:
        _, cohort = base.sample(key, (), round_index)
        member = cohort.members
        who, how = jax.random.split(keys.for_purpose(key, keys.Purpose.STRAGGLE))
        slow = jax.random.uniform(who, (COHORT,)) < state.chance
        epochs = jax.random.randint(how, (COHORT,), 1, EPOCHS)
        work = jnp.where(slow, epochs / EPOCHS, 1.0)
        member = member._replace(work=work, present=~(slow & state.drop))
        return state, cohort._replace(members=member)

    return base._replace(
        init=lambda n: Slow(jnp.zeros(()), jnp.zeros((), bool)),
        sample=sample,
        observe=lambda state, cohort, info: state,
    )


def batches_an_epoch(size: Any, steps: Any, ctx: Any) -> Any:
    """What a client weighs."""
    del steps, ctx
    return jnp.ceil(size / 10)


def clients(seed: int) -> Federation:
    """MNIST as the baseline deals it; its official test set is one client's."""
    whole = fs.data.mnist(fs.partition.iid(clients=1))
    assert whole.central_test is not None
    x, seen = (
        ((v - 0.1307) / 0.3081).astype(np.float32) for v in (whole.train.x, whole.central_test[0])
    )
    y = whole.train.y
    rng = np.random.default_rng(seed)
    of_label = [rng.permutation(np.flatnonzero(y == label)) for label in range(10)]
    taken = np.zeros(10, int)
    parts: list[list[np.ndarray]] = [[] for _ in range(CLIENTS)]

    def give(client: int, label: int, number: int) -> None:
        begin = taken[label]
        parts[client].append(of_label[label][begin : begin + number])
        taken[label] = min(begin + number, len(of_label[label]))

    for u in range(CLIENTS):
        for j in range(2):
            give(u, (u + j) % 10, 5)
    shares = rng.lognormal(0.0, 2.0, (10, CLIENTS // 10, 2))
    shares /= shares.sum(axis=(1, 2), keepdims=True)
    for u in range(CLIENTS):
        for j in range(2):
            label = (u + j) % 10
            rest = len(of_label[label]) - CLIENTS
            give(u, label, int(rest * shares[label, u // 10, j]))
    mixed = [rng.permutation(np.concatenate(part)) for part in parts]
    train = [rows[: int(0.9 * len(rows))] for rows in mixed]
    test = shards_from_index(seen, whole.central_test[1], [np.arange(len(seen))])
    return Federation(shards_from_index(x, y, train), test, n_classes=10, name="fedprox_mnist")


def curves(fed: Federation, rounds: int, mu: float, seed: int) -> dict[tuple[float, int], Any]:
    """Test accuracies every 2 rounds, by (share of stragglers, column of the table)."""
    assert fed.test is not None
    mesh, sampler = make_mesh(1), stragglers()
    task = fs.tasks.classifier(fs.models.logistic(), classes=10, x_shape=fed.train.x.shape[1:])
    recipe = fs.algorithms.fedprox(
        optax.sgd(RATE), mu=mu, epochs=EPOCHS, batch_size=10, weighting=batches_an_epoch
    )
    algorithm = bind(recipe, task, PLAN, mesh)
    simulate = jax.jit(make_simulate(algorithm, sampler, chunk=EVERY))
    train, test = shards_for_device(fed.train), shards_for_device(fed.test)

    @jax.jit
    def accuracy(state: Any, test: Any) -> Any:
        model = algorithm.global_model(state.algorithm)
        options = {"plan": PLAN, "mesh": mesh, "batch_size": 500}
        return evaluate_global(task, model, test, **options)[0]["accuracy"]

    key, found = jax.random.key(seed), {}
    for share in PUBLISHED:
        for column, (drop, strength) in enumerate(((True, 0.0), (False, 0.0), (False, mu))):
            started = time.perf_counter()
            hyper = {"mu": strength}
            state = init_run(algorithm, sampler, key, task.init(key), CLIENTS, hyper)
            slow = Slow(jnp.asarray(share, float), jnp.asarray(drop))
            state, curve = state._replace(sampler=slow), []
            for _ in range(rounds // EVERY):
                state, _ = simulate(key, state, EVERY, train)
                curve.append(accuracy(state, test))
            found[share, column] = np.asarray(jax.device_get(curve), float)
            seconds = time.perf_counter() - started
            text = " ".join(f"{v:.3f}" for v in found[share, column])
            print(f"  {share:.0%} {NAMES[column]}: {text} ({seconds:.0f} s)", flush=True)
    return found


def judge(ends: dict[tuple[float, int], float]) -> list[Row]:
    """The nine figures, and the order at 90 % of stragglers."""
    rows = []
    for share, published in PUBLISHED.items():
        for column, (name, paper) in enumerate(zip(NAMES, published, strict=True)):
            ours = ends[share, column]
            fits = abs(paper - ours) <= TOLERANCE
            rows.append(Row(f"{name}, {share:.0%} stragglers", paper, ours, f"{TOLERANCE}", fits))
    worst = PUBLISHED[0.9]
    for a, b in ((1, 0), (2, 1)):
        gap = ends[0.9, a] - ends[0.9, b]
        what = f"{NAMES[a]} - {NAMES[b]}, 90%"
        rows.append(Row(what, worst[a] - worst[b], gap, "above 0", gap > 0))
    return rows


def main() -> int:
    """Run, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--mu", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--dry", action="store_true", help="print only")
    args = parser.parse_args()
    started, every = time.perf_counter(), []
    for seed in args.seeds:
        fed = clients(seed)
        sizes = fed.train.sizes
        print(f"seed {seed}: {sizes.sum()} training examples, {sizes.min()} to {sizes.max()}")
        every.append(curves(fed, args.rounds, args.mu, seed))
    means = {at: np.mean([found[at] for found in every], axis=0) for at in every[0]}
    rows = judge({at: float(curve[-LAST // EVERY :].mean()) for at, curve in means.items()})
    for row in rows:
        verdict = "ok" if row.good else "MISS"
        print(f"  {row.what:38} {row.published:9.4f} {row.ours:9.4f}  {row.tolerance:8} {verdict}")
    record = {
        "seconds": time.perf_counter() - started,
        "rounds": args.rounds,
        "mu": args.mu,
        "seeds": args.seeds,
        "curves": {f"{NAMES[c]}, {s:.0%}": means[s, c].round(4).tolist() for s, c in means},
        "rows": [row._asdict() for row in rows],
        "date": time.strftime("%Y-%m-%d"),
    }
    if not args.dry:
        keep("fedprox_stragglers", record)
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
