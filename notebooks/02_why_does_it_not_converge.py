# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why does it not converge?
#
# A loss that does not come down has one of three faces:
#
# - it **oscillates**: it swings and finds no resting place;
# - it **diverges**: it grows;
# - it **stagnates**: it rests, but half-way up.
#
# This notebook makes each of them on purpose, on problems so small that we know the answer before we
# look, lets the library say what it sees, and ends with real data. You need to know what a gradient
# and an eigenvalue are. It runs in about two minutes on a laptop.

# %%
import matplotlib.pyplot as plt
import numpy as np
import optax

import fedjax_sim as fs

plt.rcParams |= {"figure.figsize": (9, 3.2), "axes.spines.top": False, "axes.spines.right": False}


def show(run, name):
    """A run's loss, and the verdict on it."""
    losses = [r["train_loss"] for r in run.records]
    plt.semilogy(np.maximum(np.array(losses, float), 1e-12), label=name)
    v = run.summary["verdict"]
    print(f"{name:<18} {v['name']:<12} {v['sentence']}")
    if v["name"] not in ("converged", "converging"):
        print(f"{'':<18} likely cause: {v['cause']}\n{'':<18} try: {v['remedy']}")


def finish():
    """Name the axes and the curves."""
    plt.xlabel("round")
    plt.ylabel("loss")
    plt.legend()
    plt.show()


no_panel = fs.Diagnosis(drift_every=0)  # the drift panel comes in section 4


# %% [markdown]
# ## 1. One number decides: rate times curvature
#
# On $f(x) = \tfrac{L}{2} x^2$ a step of gradient descent multiplies $x$ by $1 - \eta L$. So:
# below $\eta = 2/L$ the error shrinks, above it grows, and just below it the sign flips every round
# while the size hardly changes. Here $L = 4$, so the edge is at $\eta = 0.5$. **Before you run the
# cell, say what each of the four curves will do.**

# %%
bowl = fs.data.quadratics(a=[[1.0, 4.0]] * 4, b=[[1.0, 1.0]] * 4)
task = fs.tasks.quadratic(2)


def descend(rate, rounds=60):
    algorithm = fs.algorithms.fedavg(optax.sgd(rate), steps=1, batch_size=None)
    return fs.run(algorithm, task, bowl, cohort=4, rounds=rounds, diagnosis=no_panel)


walks = {rate: descend(rate) for rate in (0.002, 0.2, 0.499, 0.52)}
for rate, walk in walks.items():
    show(walk, f"rate {rate}")
finish()

# %% [markdown]
# At rate 0.499 the loss hardly falls, so the verdict is `stagnating`; yet its cause is a rate that is too
# high, not too low. The loss alone cannot tell the two apart. The direction of the steps can:
# `step_cosine` is the cosine between this round's step of the server and the last one. Near +1 the
# model walks steadily, near -1 it jumps to and fro across a valley: the sign of a rate at the edge.

# %%
for rate in (0.002, 0.499):
    cosines = [r["step_cosine"] for r in walks[rate].records if "step_cosine" in r]
    print(f"rate {rate}: median step_cosine {np.median(cosines):+.2f}")

# %% [markdown]
# ## 2. Momentum: faster, until it swings
#
# With condition number $\kappa$, plain descent shrinks the error by $(\kappa-1)/(\kappa+1)$ a round,
# the heavy ball with the best momentum by $(\sqrt\kappa-1)/(\sqrt\kappa+1)$. Too much momentum gives
# complex roots: a damped oscillation that hardly dies out.

# %%
kappa = 100.0
valley = fs.data.quadratics(a=[[1.0, kappa]] * 4, b=[[1.0, 1.0]] * 4)
best_beta = ((np.sqrt(kappa) - 1) / (np.sqrt(kappa) + 1)) ** 2
best_rate = 4 / (np.sqrt(kappa) + 1) ** 2


def heavy_ball(beta, rate):
    algorithm = fs.algorithms.fedavgm(
        optax.sgd(rate), server_momentum=beta, steps=1, batch_size=None
    )
    return fs.run(algorithm, task, valley, cohort=4, rounds=150, diagnosis=no_panel)


show(heavy_ball(0.0, 2 / (1 + kappa)), "no momentum")
show(heavy_ball(best_beta, best_rate), f"momentum {best_beta:.2f}")
show(heavy_ball(0.999, best_rate), "momentum 0.999")
finish()

# %% [markdown]
# ## 3. A vanishing gradient: minimum or saddle?
#
# Gradient descent started on the ridge of $f(x, y) = \tfrac12 x^2 - \tfrac12 y^2 + \tfrac14 y^4$ walks
# into the saddle at the origin and stays there for ever. The loss is flat, the gradient zero: from the
# curve alone it looks done. The **curvature** tells: one eigenvalue is negative, and its eigenvector is
# the way out.

# %%
from fedjax_sim.diagnostics.critical import critical_point
from fedjax_sim.tasks.saddles import double_well, surface, tilts

clients = tilts(4, 2, size=0.3)  # clients disagree about the slope; on average they do not
ridge = fs.data.from_arrays(clients, clients, fs.partition.natural(np.arange(4)))
well = surface(double_well(), [1.0, 0.0])
plain = fs.algorithms.fedsgd(optax.sgd(0.2))
stuck = fs.run(plain, well, ridge, cohort=4, rounds=100, diagnosis=no_panel)
answer = critical_point(well, stuck.model, ridge)
print(answer.kind, "-", answer.sentence)

# %%
escaping = fs.algorithms.negative_curvature(optax.sgd(0.2))
shaking = fs.algorithms.perturbed(optax.sgd(0.2), steps=1, batch_size=None, radius=0.01, wait=20.0)
for name, algorithm in (("plain", plain), ("perturbed", shaking), ("negative curvature", escaping)):
    run = fs.run(algorithm, well, ridge, cohort=4, rounds=100, diagnosis=no_panel)
    plt.plot([r["train_loss"] for r in run.records], label=name)
    kind = critical_point(well, run.model, ridge).kind
    print(f"{name:<20} ends at {np.round(run.model.params['x'], 3)}: {kind}")
plt.axhline(-0.25, color="grey", lw=0.8, ls=":")
finish()

# %% [markdown]
# ## 4. Only in federated learning: client drift
#
# Two clients, $f_1 = \tfrac12 x^2$ and $f_2 = 2(x-1)^2$. The best compromise is $x = 0.8$. With one local
# step a round FedAvg finds it; with many, every client runs home to its own minimum before it is
# averaged, and the average of the homes is not the best compromise. It **converges to the wrong point**:
# the fixed point is $\sum c_i b_i / \sum c_i$ with $c_i = 1 - (1 - \eta a_i)^K$.

# %%
pair = fs.data.quadratics(a=[[1.0], [4.0]], b=[[0.0], [1.0]])
line = fs.tasks.quadratic(1)
print(" K   predicted   FedAvg    SCAFFOLD   drift_cosine   |client step| / |server step|")
for steps in (1, 5, 50):
    c = 1 - (1 - 0.1 * np.array([1.0, 4.0])) ** steps
    batches = {"steps": steps, "batch_size": None}
    run = fs.run(fs.algorithms.fedavg(optax.sgd(0.1), **batches), line, pair, rounds=200)
    control = fs.run(
        fs.algorithms.scaffold(optax.sgd(0.1), **batches),
        line,
        pair,
        rounds=200,
        diagnosis=no_panel,
    )
    last = [r for r in run.records if "drift_cosine" in r][-1]
    size = last["drift_client_norm"] / max(last["drift_mean_norm"], 1e-9)
    x, y = (float(r.model.params["x"][0]) for r in (run, control))
    print(
        f"{steps:>2}   {c[1] / c.sum():.6f}   {x:.6f}   {y:.6f}   {last['drift_cosine']:+.2f}     {size:14.1e}"
    )

# %% [markdown]
# The drift panel sees it without knowing the answer: the clients' updates are large and point in
# opposite directions (cosine -1) while the server stands still. SCAFFOLD's control variates take the
# drift out, for every K.
#
# ## 5. Real data: the same tools
#
# Handwritten digits on 50 clients, once dealt at random (IID), once with one or two classes a client.

# %%
digits = fs.tasks.classifier(fs.models.mlp(64), classes=10)
runs = {}
for name, alpha in (("IID", 100.0), ("very non-IID", 0.05)):
    fed = fs.data.digits(fs.partition.dirichlet(clients=50, alpha=alpha), test_fraction=0.2)
    algorithm = fs.algorithms.fedavg(optax.sgd(0.1), epochs=5, batch_size=10)
    watched = fs.Diagnosis(drift_every=5, noise_scale=True)
    runs[name] = fs.run(
        algorithm, digits, fed, cohort=10, rounds=80, eval_every=4, diagnosis=watched
    )
    v = runs[name].summary["verdict"]
    print(f"{name:<14} {v['name']}: {v['sentence']}")

# %%
from fedjax_sim.experiment.drift_plot import drift_picture

drift_picture(runs["very non-IID"].records, runs["very non-IID"].summary)

# %% [markdown]
# Read it with section 4 in mind: how far apart do the clients pull, and does the server still go where
# they go?
#
# Is the end a minimum? `critical_point` looks at the whole federation's loss, 5,000 parameters at once.

# %%
for name, run in runs.items():
    found = critical_point(digits.bind((64,)), run.model, run.federation, steps=8)
    print(f"{name:<14} {found.kind}: {found.sentence}")

# %% [markdown]
# ## 6. Better means four things
#
# Faster, better, steadier, feasible at all. `fs.compare` sets algorithms side by side, paired by seed,
# and says "no difference shown" where the seeds do not show one.

# %%
hard = fs.data.digits(fs.partition.dirichlet(clients=50, alpha=0.05), test_fraction=0.2)
local = {"epochs": 2, "batch_size": 10}
contestants = {
    "fedavg": fs.algorithms.fedavg(optax.sgd(0.1), **local),
    "fedavgm": fs.algorithms.fedavgm(optax.sgd(0.1), server_momentum=0.8, server_rate=0.5, **local),
    "scaffold": fs.algorithms.scaffold(optax.sgd(0.1), **local),
}
settings = {"cohort": 10, "rounds": 80, "eval_every": 4, "seeds": 4}
sweeps = {name: fs.sweep(a, digits, hard, **settings) for name, a in contestants.items()}
comparison = fs.compare(*sweeps.values(), names=list(sweeps), metric="test_accuracy")
print(comparison.table())
comparison.plot()

# %% [markdown]
# ## 7. A run that helps itself
#
# A policy acts on the verdict while the run trains: stop early, or go back to the best state and take
# shorter steps. A rate of 0.52 diverged in section 1.

# %%
policy = fs.Policy(on_trouble="restore", patience=5)
algorithm = fs.algorithms.fedavg(optax.sgd(0.52), steps=1, batch_size=None)
saved = fs.run(
    algorithm, task, bowl, cohort=4, rounds=150, chunk=5, policy=policy, diagnosis=no_panel
)
print(saved.summary["policy"]["events"])
show(descend(0.52, rounds=150), "without")
show(saved, "with a policy")
finish()

# %% [markdown]
# ## Exercises
#
# 1. In section 1, predict the loss after 60 rounds at rate 0.2 with pencil and paper; check it.
# 2. In section 2, find by trial the momentum from which the verdict is no longer `converged`. Which
#    roots does $z^2 - (1 + \beta - \eta \lambda) z + \beta$ have there?
# 3. In section 3, start at $(1, 10^{-6})$. After how many rounds does plain descent leave the saddle?
#    Predict it: $y$ grows by $1 + \eta$ a round.
# 4. In section 4, let both clients have the same curvature. Why does the drift no longer move the fixed
#    point, although the clients still pull apart?
# 5. In section 5, double the batch size until the verdict or the end level changes. What does
#    `drift_batch_size` suggest?
