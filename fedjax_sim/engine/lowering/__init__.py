"""Lowering: rewrite the slow operations of a differentiated step, for any user's model.

`lower(step)` traces the step, which already holds its gradients, and evaluates it anew with
convolutions, pooling and tall products written as the backend runs them best. It comes after
differentiation and before `vmap`, so that the user's model needs no custom rule: a gradient
of a gradient, a jvp of a gradient and a linearization are ordinary operations by then.
"""

from fedjax_sim.engine.lowering.rewrite import lower
from fedjax_sim.engine.lowering.rules import Rules, rules_for

__all__ = ["Rules", "lower", "rules_for"]
