"""A partition with planted groups: clients of one group hold the same set of labels."""

from __future__ import annotations

import numpy as np

from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.data.partition_base import Partition, class_index, grouped


def label_groups(clients: int, groups: int, mix: float = 0.0, seed: int = 0) -> Partition:
    """Label skew in groups: the classes are cut into M sets, and group g holds those of set g.

    Sets are random and equally large up to one class; an example whose class belongs to set g
    goes to a random client of group g, or, with probability `mix`, of another group (any
    one alike). Sizes are equal up to one within a group. All examples are given out, each once.

    Args:
      clients: N.
      groups: M, at most N and at most the number of classes; equally large up to one, their
        members random. `Federation.meta["group"]` says who belongs where.
      mix: in [0, 1); 0: a client sees no label of another group. At `1 - 1 / M` all are alike.
      seed: of the groups. The classes of a set and who gets which example follow the
        federation's seed.

    Raises:
      InputError: when assigned, where a client would be left without any example.
    """
    groups = integer("partition.groups", groups, least=1)
    clients = integer("partition.clients", clients, least=groups)
    number("partition.mix", mix, least=0, below=1)
    drawn = np.random.default_rng([integer("partition.seed", seed, least=0), 0x6209])
    group = drawn.permutation(np.arange(clients) % groups)

    def assign(
        labels: np.ndarray | None, n_examples: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        index, n_classes = class_index(labels, n_examples)
        integer("partition.groups", groups, most=n_classes)
        of_class = rng.permutation(np.arange(n_classes) % groups)
        taker = of_class[index]
        strays = rng.random(n_examples) < (mix if groups > 1 else 0)
        away = rng.integers(1, max(groups, 2), n_examples)
        taker = np.where(strays, (taker + away) % groups, taker)
        owner = _within(taker, group, groups, rng)
        order, sizes = grouped(owner, clients, rng)
        if (sizes == 0).any():
            first = int(np.argmin(sizes))
            remedy = f"leaves client {first} of group {group[first]} empty; ask for fewer clients"
            raise InputError("partition.clients", clients, remedy)
        return order, sizes

    params = {"clients": clients, "groups": groups, "mix": mix, "seed": seed}
    return Partition("label_groups", clients, params, assign, group=group)


def _within(
    taker: np.ndarray, group: np.ndarray, groups: int, rng: np.random.Generator
) -> np.ndarray:
    """Owners int64 `[E]`: the examples of each group dealt in turn to its clients."""
    shuffle = rng.permutation(len(taker))
    order = shuffle[np.argsort(taker[shuffle], kind="stable")]
    supply = np.bincount(taker, minlength=groups)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(supply) - supply, supply)
    members = np.argsort(group, kind="stable")
    many = np.bincount(group, minlength=groups)
    first = np.cumsum(many) - many
    of_row = taker[order]
    owner = np.empty(len(taker), np.int64)
    owner[order] = members[first[of_row] + rank % many[of_row]]
    return owner
