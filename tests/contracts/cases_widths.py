"""Clients that train a part of the model, as the laws see them."""

from contracts.case import ORDERED, Case, sgd

from fedjax_sim.algorithms.depthfl import depthfl
from fedjax_sim.algorithms.fedrolex import fedrolex
from fedjax_sim.algorithms.fjord import fjord
from fedjax_sim.algorithms.heterofl import heterofl
from fedjax_sim.algorithms.lora import lora

# The table's model has no hidden units: labels make parts of it here, tests/algorithms has widths
# and exits.
CASES: dict[str, Case] = {
    "heterofl": Case(lambda: heterofl(sgd, **ORDERED), {"lr": 0.1}),
    "fedrolex": Case(lambda: fedrolex(sgd, form="masked", **ORDERED), {"server_rate": 0.5}),
    "fjord": Case(lambda: fjord(sgd, form="masked", **ORDERED), {"lr": 0.1}),
    "depthfl": Case(lambda: depthfl(sgd, **ORDERED), {"server_rate": 0.5}),
    "lora": Case(lambda: lora(sgd, rank=2, alpha=2.0, **ORDERED), {"alpha": 1.0}),
}
