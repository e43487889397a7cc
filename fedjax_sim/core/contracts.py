"""The contracts: NamedTuples of pure functions, and nothing else.

Federated learning needs three kinds of map. `data -> report` is a `ClientUpdate`, written
for one client. `update -> update` is optax's own `GradientTransformationExtraArgs`.
`many -> one` is an `Aggregator`. The rest says who takes part (`Sampler`), what the server
does with the answer (`ServerUpdate`), and what a driver may know of it all (`Algorithm`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Task(NamedTuple):
    """What is learned.

    Attributes:
      init: `(key) -> Model`.
      loss: `(key, Model, Batch) -> (mean loss over the batch's mask, new state)`; a batch
        whose mask is all False has loss 0 and gradient 0.
      predict: `(Model, x [B, ...]) -> outputs [B, ...]`, in evaluation mode.
      metrics: `(outputs, Batch) -> {name: (sum, count)}`, float scalars, each a sum over the
        examples of the mask.
      features: `(Model, x [B, ...]) -> [B, F]`, the representation behind the outputs, in
        evaluation mode; None where unknown.
      forward: `(key, Model, Batch) -> Forward`, the pass of `loss`, in training mode; None where
        unknown.
      score: `(outputs, Batch) -> mean loss over the batch's mask`, so that
        `loss = score(forward's outputs)`; None where unknown.
      exits: `(key, Model, Batch) -> (outputs of every exit, new state)`, in training mode, the
        shallowest exit first; None for a model with one exit.
    """

    init: Callable[..., Any]
    loss: Callable[..., Any]
    predict: Callable[..., Any]
    metrics: Callable[..., Any]
    features: Callable[..., Any] | None = None
    forward: Callable[..., Any] | None = None
    score: Callable[..., Any] | None = None
    exits: Callable[..., Any] | None = None


class ClientUpdate(NamedTuple):
    """One client's work for one round, resumable; the engine owns the loop over steps.

    Attributes:
      init: `(key, Model) -> client_state`; `()` when stateless.
      steps: `(ctx, data) -> int32`, known before the start.
      start: `(ctx, received, client_state, data) -> work`, what is carried between steps.
      step: `(ctx, t, work, received, data) -> work`, for t = 0 .. steps-1.
      finish: `(ctx, work, received, client_state, data) -> (Report, client_state)`.
    """

    init: Callable[..., Any]
    steps: Callable[..., Any]
    start: Callable[..., Any]
    step: Callable[..., Any]
    finish: Callable[..., Any]


class Aggregator(NamedTuple):
    """A commutative monoid over reports; a streaming one does not grow with the cohort.

    Attributes:
      zero: `(report, K) -> Acc`; `report` is a tree of `jax.ShapeDtypeStruct`.
      accumulate: `(Acc, Report [n, ...], rows int32[n]) -> Acc`; rows are cohort positions.
      merge: `(Acc, Acc) -> Acc`, or None for tree addition, which the engine does as a psum.
      finalize: `(Acc) -> Aggregate`.
      bytes_held: `(report, K) -> int`, what one accumulator occupies; the plan reads it.
    """

    zero: Callable[..., Any]
    accumulate: Callable[..., Any]
    merge: Callable[..., Any] | None
    finalize: Callable[..., Any]
    bytes_held: Callable[..., int]


class ServerUpdate(NamedTuple):
    """The server's side of a round.

    Attributes:
      init: `(Model, n_clients) -> S`.
      send: `(S) -> Sent`, once a round.
      receive: `(Sent, Member) -> received`, in the lane; computed anew, never carried.
      update: `(S, Aggregate, key) -> S`; must keep S where `aggregate.weight` is 0; `key` is
        the server's own of that round.
      model: `(S) -> Model`, the global model.
      rescale: `(S, factor) -> S` multiplies the length of the server's steps from now on, or
        None where it cannot be said what that would be.
      draw: `(key, task.init, S) -> S`, once after `init`: what the server draws before the
        first round (several random models), or None.
      models: `(S) -> Model` of leaves `[M, ...]`: the models of M groups, or None.
    """

    init: Callable[..., Any]
    send: Callable[..., Any]
    receive: Callable[..., Any]
    update: Callable[..., Any]
    model: Callable[..., Any]
    rescale: Callable[..., Any] | None = None
    draw: Callable[..., Any] | None = None
    models: Callable[..., Any] | None = None


class Sampler(NamedTuple):
    """Who takes part, how stale, how much; the only piece that knows the system model.

    Attributes:
      size: K, the cohort rows it always returns (a static int).
      init: `(n_clients) -> sampler_state`.
      sample: `(key, sampler_state, round) -> (sampler_state, Cohort)`.
      observe: `(sampler_state, Cohort, Info) -> sampler_state`.
      tell: `(sampler_state) -> {name: scalar}`, after `observe`: what joins the round's
        records (virtual time, late clients), or None.
    """

    size: int
    init: Callable[..., Any]
    sample: Callable[..., Any]
    observe: Callable[..., Any]
    tell: Callable[..., Any] | None = None


class Algorithm(NamedTuple):
    """What driver, command line, diagnosis and checkpoints know, and all that they know.

    Attributes:
      init: `(key, Model, n_clients, hyper=None) -> server_state`.
      init_row: `(key, Model, server_state) -> row`, one client's state; `()` when stateless.
      step: `(key, server_state, rows [K, ...], Cohort, data) -> (server_state, rows, Info)`;
        `key` is `fold_in(run, round)`.
      model_of: `(ctx, server_state, row, data) -> Model` that this client would use now.
      personal: whether clients' models differ from the global one.
      global_model: `(server_state) -> Model`, or None where no model is shared.
      predict: `(Model, x) -> outputs`.
      rescale: `(server_state, factor) -> server_state`, see `ServerUpdate`, or None.
      models: `(server_state) -> Model` of leaves `[M, ...]` where clients share one of M models
        and there is no global one, else None.
    """

    init: Callable[..., Any]
    init_row: Callable[..., Any]
    step: Callable[..., Any]
    model_of: Callable[..., Any]
    personal: bool
    global_model: Callable[..., Any] | None
    predict: Callable[..., Any]
    rescale: Callable[..., Any] | None = None
    models: Callable[..., Any] | None = None


class Watch(NamedTuple):
    """Diagnosis inside the round loop: it reads what happens and changes nothing of it.

    Attributes:
      init: `(Model | None, n_clients) -> watch_state`, carried in the run's state.
      observe: `(watch_state, Moment) -> (watch_state, {name: scalar})`, once a round. The
        scalars join the round's records. A bool scalar named `X_measured` governs `X` and all
        values whose names start with `X_`: they are recorded only where it is True.
    """

    init: Callable[..., Any]
    observe: Callable[..., Any]
