"""What evaluation asks beyond a client's present model: after local training, of strangers."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_sim.clients.adapt import adapt
from fedjax_sim.core.checks import InputError, integer, number
from fedjax_sim.core.contracts import Algorithm, Task
from fedjax_sim.core.types import Array, Context, Model, PyTree
from fedjax_sim.data.batching import Batches, ClientData


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How clients are evaluated on their own test examples.

    Attributes:
      unseen: share of the clients, drawn by the run's seed, that never take part and are
        evaluated apart, as `unseen_*`; what is told of `client_*` is then told of the others.
      adapt_epochs: passes that each client trains its model on its own training examples for
        a second evaluation, `client_adapted_*` and `unseen_adapted_*`; 0 for none.
      adapt_rate: of that training, by SGD.
      adapt_batch_size: examples a step of it.
    """

    unseen: float = 0.0
    adapt_epochs: int = 0
    adapt_rate: float = 0.05
    adapt_batch_size: int = 10

    def __post_init__(self) -> None:
        number("evaluation.unseen", self.unseen, least=0, below=1)
        integer("evaluation.adapt_epochs", self.adapt_epochs, least=0)
        number("evaluation.adapt_rate", self.adapt_rate, above=0)
        integer("evaluation.adapt_batch_size", self.adapt_batch_size, least=1)


def strangers(evaluation: Evaluation, n_clients: int, seed: int) -> np.ndarray | None:
    """Who never takes part, bool `[N]`; None for nobody.

    Raises:
      InputError: a share that leaves nobody out, though one was asked for.
    """
    if not evaluation.unseen:
        return None
    many = round(evaluation.unseen * n_clients)
    if many == 0:
        remedy = f"leaves out none of {n_clients} clients: give at least {1 / n_clients:g}, or 0"
        raise InputError("evaluation.unseen", evaluation.unseen, remedy)
    chosen = np.zeros(n_clients, bool)
    chosen[np.random.default_rng([seed, 1]).permutation(n_clients)[:many]] = True
    return chosen


def forms(algorithm: Algorithm, task: Task, evaluation: Evaluation) -> dict[str, Algorithm]:
    """The algorithm, and one whose clients adapt before they are evaluated, by prefix.

    Raises:
      InputError: adapting models that do not predict as the task's do.
    """
    if not evaluation.adapt_epochs:
        return {"": algorithm}
    if algorithm.predict is not task.predict:
        remedy = "must be 0: this algorithm's models predict in a way of their own"
        raise InputError("evaluation.adapt_epochs", evaluation.adapt_epochs, remedy)
    rule = Batches(epochs=evaluation.adapt_epochs, size=evaluation.adapt_batch_size)
    fit = adapt(task, optax.sgd(evaluation.adapt_rate), rule)

    def model_of(ctx: Context, state: PyTree, row: PyTree, data: ClientData) -> Model:
        ctx = ctx._replace(member=ctx.member._replace(work=_all_of(ctx.member.work)))
        return fit(ctx, algorithm.model_of(ctx, state, row, data), data)

    fitted = algorithm._replace(model_of=model_of, personal=True)
    return {"": algorithm, "adapted_": fitted}


def _all_of(work: Array) -> Array:
    return jnp.ones_like(work)
