"""Datasets and partitions by name, for the command line and experiment files."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from fedjax_sim.data import partition_labels, partition_sizes, planted
from fedjax_sim.data.bundled import digits
from fedjax_sim.data.planted_partition import label_groups
from fedjax_sim.data.planted_regression import mixture_of_regressions
from fedjax_sim.data.readers import images, leaf, text
from fedjax_sim.data.synthetic import planted_groups, quadratics, synthetic

_GIVEN = ("partition", "federation")
REQUIRED = inspect.Parameter.empty
"""Stands for the default of a parameter that has none."""


class Entry(NamedTuple):
    """One dataset or partition.

    Attributes:
      builder: called with keywords out of `params`; a dataset that `takes_partition` accepts
        `partition=` as well.
      doc: one line.
      params: `{name: default}`, `REQUIRED` where there is none.
      types: `{name: annotation as text}`, such as `int` or `float`.
      takes_partition: False for partitions, and for datasets whose clients are given.
    """

    builder: Callable[..., Any]
    doc: str
    params: dict[str, Any]
    types: dict[str, str]
    takes_partition: bool


def entry(builder: Callable[..., Any]) -> Entry:
    """Read an entry off a builder's signature and docstring."""
    parameters = inspect.signature(builder).parameters
    settings = {name: p for name, p in parameters.items() if name not in _GIVEN}
    return Entry(
        builder=builder,
        doc=(inspect.getdoc(builder) or "").partition("\n")[0],
        params={name: p.default for name, p in settings.items()},
        types={name: str(p.annotation) for name, p in settings.items()},
        takes_partition="partition" in parameters,
    )


def _table(*builders: Callable[..., Any]) -> dict[str, Entry]:
    return {builder.__name__: entry(builder) for builder in builders}


DATASETS = _table(
    digits,
    images.mnist,
    images.fashion_mnist,
    images.cifar10,
    images.cifar100,
    text.shakespeare,
    leaf.leaf,
    synthetic,
    planted_groups,
    mixture_of_regressions,
    quadratics,
)
"""Name -> `Entry`, in the order in which a list shows them."""

PARTITIONS = _table(
    partition_sizes.iid,
    partition_labels.dirichlet,
    partition_labels.shards,
    partition_labels.classes,
    label_groups,
    partition_sizes.sizes_lognormal,
    partition_sizes.sizes_powerlaw,
    partition_sizes.sizes,
    partition_sizes.natural,
)
"""Name -> `Entry`, in the order in which a list shows them."""

PLANTS = _table(planted.rotated, planted.relabelled, planted.feature_shifted)
"""Name -> `Entry` of what plants groups in a dataset; builders take the federation first."""
