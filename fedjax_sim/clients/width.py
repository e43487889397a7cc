"""Clients that train a part of the model: fewer units of every width."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_sim.aggregation.coverage import Covered
from fedjax_sim.clients import parts
from fedjax_sim.clients.labels import label_counts
from fedjax_sim.clients.parts import Held, Window
from fedjax_sim.clients.sgd import Weighting, local
from fedjax_sim.clients.tiers import Tiers, tiers_of
from fedjax_sim.core import keys, tree
from fedjax_sim.core.checks import InputError, choice, integer, number
from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Batch, Context, Member, Model, PyTree, Report
from fedjax_sim.data.batching import Batches, ClientData, Feed
from fedjax_sim.tasks.axes import Layout, layout

FORMS = ("sliced", "masked")
ASSIGNS = ("fixed", "dynamic")

Client = Callable[[Task], ClientUpdate]


class Widths(NamedTuple):
    """Which part a client trains.

    Attributes:
      ratios: the share of each width's units, level by level, the largest first.
      level: `(Context) -> int32`, the client's level this round.
      first: `(Context) -> int32`, where the window of units begins, modulo each width.
    """

    ratios: tuple[float, ...]
    level: Callable[[Context], Array]
    first: Callable[[Context], Window]


def ratios_of(tiers: int, ratios: Sequence[float] | None) -> tuple[float, ...]:
    """The ratios of levels a, b, c, ...: `1, 1/2, 1/4, ...`, or those given.

    Raises:
      InputError: where they are not in (0, 1] and falling.
    """
    if ratios is None:
        return tuple(0.5**i for i in range(integer("algorithm.tiers", tiers, least=1)))
    for value in ratios:
        number("algorithm.ratios", value, above=0, most=1)
    found = tuple(float(v) for v in ratios)
    if not found or list(found) != sorted(set(found), reverse=True):
        raise InputError("algorithm.ratios", ratios, "must fall from level to level")
    return found


def widths(
    ratios: tuple[float, ...],
    of: Callable[[Member], Array],
    *,
    assign: str = "fixed",
    rolling: bool = False,
) -> Widths:
    """Which part each client trains.

    Args:
      ratios: see `Widths`.
      of: a client's own level.
      assign: `fixed`: that one; `dynamic`: one drawn anew for each client and round.
      rolling: the window moves on by a unit a round; else it begins with the first unit.
    """
    choice("algorithm.assign", assign, ASSIGNS)

    def drawn(ctx: Context) -> Array:
        key = keys.for_purpose(ctx.key, keys.Purpose.GROUP)
        return jax.random.randint(key, (), 0, len(ratios), jnp.int32)

    level = drawn if assign == "dynamic" else lambda ctx: of(ctx.member)
    first: Callable[[Context], Window] = (lambda ctx: ctx.round) if rolling else (lambda ctx: 0)
    return Widths(ratios, level, first)


class PartWork(NamedTuple):
    """What a client carries that trains a part.

    Attributes:
      base: the wrapped client's work; sliced, a tuple with one for each size of part, of which
        the client uses one.
      labels: bool `[C]`, which labels occur among its examples, or `()`.
      feed: sliced, which examples come next; else `()`.
    """

    base: PyTree
    labels: Any
    feed: Any = ()


def in_part(
    optimizer: Any,
    batches: Batches,
    which: Widths,
    *,
    weighting: Weighting = "examples",
    form: str = "sliced",
    labels: str = "all",
    scaler: str = "off",
) -> Client:
    """Train a part of the received model and report it as `Covered`.

    Args:
      optimizer: any optax transformation, see `local`.
      batches: how examples become steps.
      which: the part.
      weighting: see `sgd.weigh`.
      form: `masked`: the whole model, with 0 for what the client lacks: no compute is saved, any
        model will do. `sliced`: each size of part is a model of its own, with small arrays; a
        step takes the branch of its client's size. Equal models either way. With one lane on a
        CPU only that branch runs; with more lanes all do.
      labels: `own`: outputs whose label the client has not are 0 in its loss and not reported.
      scaler: `on`: what hidden layers make is divided by the ratio while training.

    Returns:
      `Task -> ClientUpdate`; `aux["held"]` is the share of parameters that a client holds.

    Cost: sliced, the work of all sizes of parts is carried (4/3 P for ratios 1, 1/2, 1/4, ...).
    """
    choice("algorithm.form", form, FORMS)
    choice("algorithm.labels", labels, ("own", "all"))
    choice("algorithm.scaler", scaler, ("on", "off"))
    shape = _sliced if form == "sliced" else _masked

    def build(task: Task) -> ClientUpdate:
        client = local(optimizer, batches, weighting=weighting)
        setting = _Setting(task, client, batches, which, labels == "own", scaler == "on")
        return shape(setting)

    return build


class _Setting(NamedTuple):
    """What both forms need."""

    task: Task
    client: Client
    batches: Batches
    which: Widths
    own_labels: bool
    scaler: bool

    def layout(self, received: Model, data: ClientData) -> Layout:
        return layout(self.task.predict, received, data.x.shape[1:], data.x.dtype)

    def labels(self, lay: Layout, data: ClientData) -> Any:
        return labels_present(data, parts.outputs_of(lay)) if self.own_labels else ()

    def held(self, lay: Layout, ctx: Context, labels: Any) -> Held:
        counts = jnp.asarray([parts.kept(lay, r) for r in self.which.ratios], jnp.int32)
        mine = counts[self.which.level(ctx)]
        return parts.held(lay, mine, self.which.first(ctx), _or_none(labels))

    def shaped(self, lay: Layout, holds: Held, ratio: Array | float) -> Task:
        """The task whose loss sees 0 for what is not held, and the scaler."""

        def loss(key: Array, model: Model, batch: Batch) -> tuple[Array, PyTree]:
            seen = parts.masked(model, holds)
            if self.scaler:
                seen = _scaled(lay, seen, ratio)
            return self.task.loss(key, seen, batch)

        return self.task._replace(loss=loss)

    def report(self, said: Report, ctx: Context, holds: Held) -> Report:
        aux = said.aux | {"held": parts.share(holds, said.update)}
        covered = Covered(said.update, holds)
        return said._replace(update=covered, group=self.which.level(ctx), aux=aux)


def _masked(on: _Setting) -> ClientUpdate:
    base = on.client(on.task)

    def setting(
        ctx: Context, received: Model, data: ClientData, labels: Any = None
    ) -> tuple[Layout, Any, Held, Model]:
        lay = on.layout(received, data)
        labels = on.labels(lay, data) if labels is None else labels
        holds = on.held(lay, ctx, labels)
        return lay, labels, holds, parts.masked(received, holds)

    def start(ctx: Context, received: Model, row: PyTree, data: ClientData) -> PartWork:
        _, labels, _, part = setting(ctx, received, data)
        return PartWork(base.start(ctx, part, row, data), labels)

    def step(ctx: Context, t: Array, work: PartWork, received: Model, data: ClientData) -> PartWork:
        lay, _, holds, part = setting(ctx, received, data, work.labels)
        ratio = jnp.asarray(on.which.ratios)[on.which.level(ctx)]
        own = on.client(on.shaped(lay, holds, ratio))
        return work._replace(base=own.step(ctx, t, work.base, part, data))

    def finish(
        ctx: Context, work: PartWork, received: Model, row: PyTree, data: ClientData
    ) -> tuple[Report, PyTree]:
        _, _, holds, part = setting(ctx, received, data, work.labels)
        said, row = base.finish(ctx, work.base, part, row, data)
        return on.report(said, ctx, holds), row

    return ClientUpdate(base.init, base.steps, start, step, finish)


@dataclasses.dataclass(frozen=True)
class _Dealt(ClientData):
    """A window whose next batch is there already: one shuffle for the parts of all sizes."""

    now: Batch | None = None
    then: Feed | None = None

    def feed(self, rule: Batches, words: Array) -> Any:
        return self.then

    def next(self, rule: Batches, feed: Any, t: Array) -> Any:
        return self.now, self.then

    @classmethod
    def of(cls, data: ClientData, now: Any = None, then: Any = ()) -> _Dealt:
        return cls(data.x, data.y, data.offset, data.size, data.longest, data.stages, now, then)


def _sliced(on: _Setting) -> ClientUpdate:
    base = on.client(on.task)

    def tiers(received: Model, data: ClientData) -> Tiers:
        return tiers_of(on.task, on.layout(received, data), on.which.ratios, received, data)

    def start(ctx: Context, received: Model, row: PyTree, data: ClientData) -> PartWork:
        of = tiers(received, data)
        each = (of.cut(received, k, on.which.first(ctx)) for k in range(len(of.counts)))
        works = tuple(tree.strong(base.start(ctx, part, row, _Dealt.of(data))) for part in each)
        words = keys.words(keys.for_purpose(ctx.key, keys.Purpose.SHUFFLE))
        return PartWork(works, on.labels(of.layout, data), data.feed(on.batches, words))

    def step(ctx: Context, t: Array, work: PartWork, received: Model, data: ClientData) -> PartWork:
        of = tiers(received, data)
        holds = parts.held(of.layout, None, 0, _or_none(work.labels))
        batch, feed = data.next(on.batches, work.feed, t)
        dealt = _Dealt.of(data, batch)

        def one(k: int, mine: PyTree) -> PyTree:
            part = of.cut(received, k, on.which.first(ctx))
            own = on.client(on.shaped(of.layout, holds, of.ratios[k]))
            return tree.as_before(own.step(ctx, t, mine, part, dealt), mine)

        works = of.only(on.which.level(ctx), one, work.base)
        return work._replace(base=works, feed=feed)

    def finish(
        ctx: Context, work: PartWork, received: Model, row: PyTree, data: ClientData
    ) -> tuple[Report, PyTree]:
        of = tiers(received, data)
        first = on.which.first(ctx)

        def branch(k: int, works: PyTree) -> tuple[Report, PyTree]:
            part = of.cut(received, k, first)
            said, kept = base.finish(ctx, works[k], part, row, data)
            whole = parts.put_back(of.layout, said.update, of.counts[k], first)
            return said._replace(update=whole), kept

        said, row = of.switch(on.which.level(ctx), branch, work.base)
        return on.report(said, ctx, on.held(of.layout, ctx, work.labels)), row

    return ClientUpdate(base.init, base.steps, start, step, finish)


def labels_present(data: ClientData, classes: int) -> Array:
    """Which labels occur among a client's examples, bool `[C]`.

    Raises:
      InputError: for targets that are no labels.
    """
    remedy = 'needs one label an example; labels="all" does without'
    return label_counts(data, classes, field="algorithm.labels", remedy=remedy) > 0


def _or_none(labels: Any) -> Array | None:
    return None if isinstance(labels, tuple) else labels


def _scaled(lay: Layout, model: Model, ratio: Array | float) -> Model:
    leaves, structure = jax.tree.flatten(model)
    done = [
        x / jnp.asarray(ratio, x.dtype) if made else x
        for x, made in zip(leaves, lay.scaled, strict=True)
    ]
    return jax.tree.unflatten(structure, done)
