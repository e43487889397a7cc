"""Models and objectives: what is learned."""

from fedjax_sim.tasks import models
from fedjax_sim.tasks.build import TaskSpec, classifier, next_char, regressor
from fedjax_sim.tasks.exits import with_exits
from fedjax_sim.tasks.functional import from_loss
from fedjax_sim.tasks.networks import (
    ModelSpec,
    Network,
    as_network,
    from_functions,
    from_linen,
    from_nnx,
)
from fedjax_sim.tasks.quadratic import quadratic

__all__ = [
    "ModelSpec",
    "Network",
    "TaskSpec",
    "as_network",
    "classifier",
    "from_functions",
    "from_linen",
    "from_loss",
    "from_nnx",
    "models",
    "next_char",
    "quadratic",
    "regressor",
    "with_exits",
]
