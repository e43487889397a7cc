"""A transformation from an update function, state being optional."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax


def _empty(params: Any) -> Any:
    del params
    return optax.EmptyState()


def transformation(
    update: Callable[..., Any], init: Any = _empty
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation of `update(updates, state, params, **named)`; no state by default."""
    return optax.GradientTransformationExtraArgs(init, update)
