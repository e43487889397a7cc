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
# # Who belongs together?
#
# One model for everybody is a compromise. It is a good one while clients differ by chance, and a bad one
# when there are **kinds** of clients: phones held upright and sideways, hospitals with different scanners,
# writers who call the same thing by different names. Then clients pull the model in different directions,
# and it helps to group them: each group gets a model of its own.
#
# There are two more reasons to group clients: so that fast devices need not **wait** for slow ones, and so
# that the few are not **drowned** by the many. They come at the end.
#
# In this notebook we plant groups on purpose, so that we know the truth, and then look for them. It runs
# in about two minutes on a laptop.

# %%
import matplotlib.pyplot as plt
import numpy as np
import optax

import fedjax_sim as fs

plt.rcParams |= {"figure.figsize": (8, 3.4), "axes.spines.top": False, "axes.spines.right": False}

everyone = fs.partition.iid(20)  # 20 clients, examples dealt at random
plain = fs.data.digits(everyone, central_fraction=0.0, test_fraction=0.3)
turned = fs.data.rotated(plain, groups=4)  # a quarter of the clients sees the digits upright, ...
print(turned.name, turned.meta["angles"])
print("who is in which group:", turned.meta["group"])

# %%
figure, axes = plt.subplots(1, 4)
for g, ax in enumerate(axes):
    client = int(np.flatnonzero(turned.meta["group"] == g)[0])
    ax.imshow(turned.train.client(client)[0][0].reshape(8, 8), cmap="gray_r")
    ax.set(title=f"group {g}: client {client}", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## 1. Look before you train
#
# `fs.group` compares clients without training: by their labels, by their inputs, or by what they would
# send in the first round. It also says how many groups there are. (On the command line:
# `fedjax-sim group --data.plant.name rotated --by features`.)

# %%
found = fs.group(turned, by="features")
print(found.table())
found.plot()

# %% [markdown]
# Labels tell nothing here: all clients have the same mix. **Before you run the cell: what will it say?**

# %%
print(fs.group(turned, by="labels").table())

# %% [markdown]
# How does it know when to stop splitting? Clients always differ a little, by chance, and any clustering
# finds *some* groups. So the examples of each group are **dealt anew** among its clients and everything is
# measured again: now the clients of a group are alike by construction, and what a further split explains
# is chance. A split counts only if it explains clearly more than that. On data without groups:

# %%
print(fs.group(plain, by="features").table())

# %% [markdown]
# ## 2. What tells clients apart depends on how they differ
#
# Three ways to differ, three things to look at. The score is the adjusted Rand index: 1 is the planted
# truth, 0 is what guessing gives. Updates see everything that changes the learning problem, also what no
# statistic of the inputs or labels alone can see: swapped labels.

# %%
task = fs.tasks.classifier(fs.models.mlp(32), classes=10)
local = {"epochs": 2, "batch_size": 10}
one_model = fs.algorithms.fedavg(optax.sgd(0.1), **local)

worlds = {
    "other labels": fs.data.digits(fs.partition.label_groups(20, 4), test_fraction=0.3),
    "turned inputs": turned,
    "swapped names": fs.data.relabelled(plain, groups=4),
}
print(f"{'ARI at 4 groups':<16}  labels  features  updates")
for name, fed in worlds.items():
    given = {"groups": 4, "task": task, "recipe": one_model}
    scores = [
        fs.group(fed, by=by, **given).scores["ari"] for by in ("labels", "features", "updates")
    ]
    print(f"{name:<16}  {scores[0]:6.2f}  {scores[1]:8.2f}  {scores[2]:7.2f}")

# %% [markdown]
# ## 3. Small clients are hard to place
#
# A client with five examples hardly knows itself. How does the score fall?

# %%
sizes = (4, 8, 16, 32, 64)
scores = np.empty((5, len(sizes)))
for i, size in enumerate(sizes):
    for seed in range(5):
        few = fs.data.digits(fs.partition.iid(20, size=size), seed=seed)
        fed = fs.data.rotated(few, groups=4, seed=seed)
        scores[seed, i] = fs.group(fed, by="features", groups=4).scores["ari"]
plt.plot(sizes, scores.mean(axis=0), "o-")
plt.fill_between(sizes, scores.min(axis=0), scores.max(axis=0), alpha=0.15)
plt.xscale("log", base=2)
plt.xticks(sizes, sizes)
plt.xlabel("examples a client")
plt.ylabel("adjusted Rand index (5 seeds)")
plt.show()

# %% [markdown]
# ## 4. Kernels side by side
#
# A kernel turns features or similarities into groups; all have one signature, `fit(key, x) -> ids`. Some
# must be told how many groups there are, some find out. No kernel is best everywhere.

# %%
print(
    f"{'ARI':<16}"
    + "".join(
        f"{kernel:>16}"
        for kernel in ("kmeans", "agglomerative", "spectral", "bipartition", "density")
    )
)
for name, by in (("other labels", "labels"), ("turned inputs", "features")):
    line = f"{name:<16}"
    for kernel in ("kmeans", "agglomerative", "spectral", "bipartition", "density"):
        groups = "auto" if kernel in ("bipartition", "density") else 4
        result = fs.group(worlds[name], by=by, kernel=kernel, groups=groups)
        line += f"{result.scores['ari']:>11.2f} k={result.k:<2}"
    print(line)

# %% [markdown]
# The rotated digits show why the number matters: a digit upside down looks more like the digit than one
# lying on its side. So Sattler's bipartition, which cuts where the cosine is negative, finds two groups
# of two kinds each, and so does the density kernel.
#
# ## 5. Grouped training against one model
#
# - `fedavg`: one model for all;
# - `grouped`: groups are found from the first updates, then each trains its own model (FedGroup);
# - `ifca`: four models, each client takes the one that fits it best, over and over.
#
# How clients would do alone (`local_only`) is exercise 4.

# %%
quiet = fs.Diagnosis(verdict=False, drift_every=0)


def train(algorithm, fed, rounds=40, **settings):
    settings = {"cohort": fed.n_clients, "eval_every": 4, "diagnosis": quiet} | settings
    return fs.run(algorithm, task, fed, rounds=rounds, **settings)


def curve(run, name, metric="client_accuracy_mean", against="round"):
    """Draw a metric of a run; print where it ended."""
    records = [r for r in run.records if metric in r]
    plt.plot([r[against] for r in records], [r[metric] for r in records], label=name)
    print(f"{name:<26} {metric} {records[-1][metric]:.3f}")


contestants = {
    "one model": one_model,
    "IFCA": fs.algorithms.ifca(optax.sgd(0.1), groups=4, **local),
    "grouped by first updates": fs.algorithms.grouped(optax.sgd(0.1), groups=4, **local),
}
runs = {name: train(algorithm, turned) for name, algorithm in contestants.items()}
for name, run in runs.items():
    curve(run, name)
plt.xlabel("round")
plt.ylabel("mean accuracy of the clients")
plt.legend()
plt.show()
for name in ("IFCA", "grouped by first updates"):
    print(name, runs[name].summary["groups"])

# %% [markdown]
# IFCA needs luck at the start: models that nobody picks stay as they were, and it ends with fewer groups
# than it has models. Groups made from updates need none.
#
# ## 6. Groups that change
#
# People turn their phones. Before round 21, two clients of five go to another group. Groups that were
# made once are then wrong; groups that are made anew every eight rounds recover.

# %%
moving = fs.data.rotated(plain, groups=4, moves_at=[20], movers=0.4)
for name, every in (("grouped once", 0), ("grouped every 8 rounds", 8)):
    algorithm = fs.algorithms.grouped(optax.sgd(0.1), groups=4, every=every, **local)
    curve(train(algorithm, moving, eval_every=2), name)
plt.axvline(20, color="grey", lw=0.8, ls=":")
plt.xlabel("round")
plt.ylabel("mean accuracy of the clients")
plt.legend()
plt.show()

# %% [markdown]
# ## 7. The few and the many
#
# Now groups of another kind: 21 clients hold most examples, upright; 9 small ones hold few, turned. Averaged
# by examples, the small ones are not heard. Nothing needs to be found here, only weighed: clients with a
# high loss count more (TERM).

# %%
skewed = fs.partition.sizes_powerlaw(30, exponent=1.2, min_size=8)
uneven = fs.data.digits(skewed, central_fraction=0.0, test_fraction=0.4)
small = np.argsort(uneven.train.sizes)[:9]
minority = fs.data.rotated(
    uneven, groups=2, angles=[0, 90], group=np.isin(np.arange(30), small).astype(int)
)
weighings = {
    "by examples": one_model,
    "TERM, t = 2": fs.algorithms.term(optax.sgd(0.1), t=2.0, **local),
}
print(f"{'':<20}{'mean':>8}{'worst 10 %':>12}{'Gini':>8}")
for name, algorithm in weighings.items():
    last = train(algorithm, minority, rounds=30, eval_every=30).records[-1]
    columns = [last[f"client_accuracy_{n}"] for n in ("mean", "worst10", "gini")]
    print(f"{name:<20}{columns[0]:>8.3f}{columns[1]:>12.3f}{columns[2]:>8.3f}")

# %% [markdown]
# ## 8. Nobody waits for the slowest
#
# A round lasts as long as its slowest member. Devices and links are drawn from measured phones, and a
# virtual clock counts the seconds. **Tiers** group clients by speed and take each round's cohort from one
# tier (TiFL). The curve that counts is accuracy against virtual seconds. Tiers get far while the others
# still wait; a long flat piece is a round of the slowest tier.

# %%
hundred = fs.data.digits(fs.partition.iid(100))
for name, select in (("anybody", "uniform"), ("one tier a round", "adaptive_tiers")):
    phones = fs.Systems(select=select, median_flops=2e7)
    run = train(one_model, hundred, rounds=60, cohort=10, systems=phones)
    curve(run, name, "test_accuracy", against="virtual_time_s")
    print(f"{'':<26} after {run.records[-1]['virtual_time_s']:.0f} virtual seconds")
plt.xlabel("virtual seconds")
plt.ylabel("test accuracy")
plt.legend()
plt.show()

# %% [markdown]
# ## Exercises
#
# 1. In section 1, plant 2 groups that are 180 degrees apart. Are they harder to find than 4? Why?
# 2. In section 2, use `fs.data.feature_shifted(plain, kind="noise")`. Which of the three sees it?
# 3. In section 3, at how many examples does the score reach 0.95 when you compare by updates?
# 4. In section 5, add `fs.algorithms.local_only`. When is being alone better than one model for all? Then
#    give IFCA eight models instead of four: how many of them are used at the end?
# 5. In section 6, let everybody move (`movers=1.0`) at round 20. Does `grouped` still recover, and what did
#    it need to send for it?
# 6. In section 7, try `fedavg(..., weighting="uniform")` and other tilts. Who pays for fairness?
