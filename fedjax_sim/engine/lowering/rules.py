"""Which equations are rewritten, and how, on each platform."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from fedjax_sim.core.checks import choice
from fedjax_sim.core.types import Array
from fedjax_sim.engine.lowering import convolution, pooling, products

Replacement = Callable[..., Array]
LANE_RULES = ("loop", "grouped", "products")


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is rewritten.

    Attributes:
      lanes: how a convolution runs when every lane has a kernel of its own. `loop`: lane after
        lane, each in the backend's canonical order; `grouped`: one grouped convolution, which
        is what `vmap` makes of it; `products`: patches and one batched matrix product.
      canonical: put each convolution into the order NHWC, HWIO, NHWC. XLA:CPU knows its
        fast kernels only in that order, and puts other convolutions into it only outside of
        loops.
      micro: cut a convolution along the batch into pieces that stay in the cache, summed
        exactly where the batch is summed over.
      pooling: windows as slices, and the gradient of a maximum as a comparison.
      products: tall transposed matrix products the other way round.
    """

    lanes: str = "grouped"
    canonical: bool = False
    micro: bool = False
    pooling: bool = False
    products: bool = False

    def __post_init__(self) -> None:
        choice("lowering.lanes", self.lanes, LANE_RULES)

    def find(self, eqn: Any) -> Replacement | None:
        """What stands in for an equation: a function of its inputs; None leaves it alone."""
        name = eqn.primitive.name
        if name == "conv_general_dilated" and (self.canonical or self.lanes != "grouped"):
            return convolution.replacement(eqn, self.lanes, micro=self.micro)
        if name in pooling.NAMES and self.pooling:
            return pooling.replacement(eqn)
        if name == "dot_general" and self.products:
            return products.replacement(eqn)
        return None


_CPU = Rules(lanes="loop", canonical=True, micro=True, pooling=True, products=True)
_BY_PLATFORM = {"cpu": _CPU}


def rules_for(platform: str) -> Rules:
    """The rules of a platform: `cpu`, or the name of an accelerator's.

    The figures behind them are in docs/decisions/0003. On accelerators convolutions and
    pooling are left to XLA, whose own libraries serve them, until a measurement there says
    otherwise; `Rules(lanes=...)` makes the others at hand for that measurement.
    """
    return _BY_PLATFORM.get(platform, Rules())
