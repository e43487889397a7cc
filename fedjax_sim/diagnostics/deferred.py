"""Updates that are not made until someone asks: what is measured now and then costs nothing else.

A branch of `lax.cond` takes finished arrays. A client's update handed to one would be written
to memory by every client of every round, also where the branch is not taken; on a CPU that is
an eighth of a small model's round (`benchmarks/diagnosis_cost.py`). A `Deferred` update carries
along what it was made from, which is in memory anyhow: a reader inside a branch makes the update
anew there, fused with what it does with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from fedjax_sim.core.contracts import ClientUpdate, Task
from fedjax_sim.core.types import Array, Context, PyTree, Report
from fedjax_sim.data.batching import ClientData


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Deferred:
    """One client's update, or with a leading axis on every leaf those of n clients.

    Attributes:
      update: as reported, for whoever needs it in every round.
      given: what `make` takes: `(ctx, work, received, row, data without its examples)`.
      make: `given -> update` of one client.
    """

    update: PyTree
    given: PyTree
    make: Callable[[PyTree], PyTree] = dataclasses.field(metadata={"static": True})

    def made(self) -> PyTree:
        """The n clients' updates, `[n, ...]`, made anew."""
        return jax.vmap(self.make)(self.given)

    def again(self, *after: Array) -> tuple[Deferred, tuple[Array, ...]]:
        """A copy whose `made` the compiler does not take for this one's, and `after`.

        What is read twice would be written to memory in between; made twice it never is. The
        copy is made only once `after` is known, so that neither reading can be moved.
        """
        given, after = jax.lax.optimization_barrier((self.given, after))
        return dataclasses.replace(self, given=given), after

    def member_ids(self) -> Array:
        """Whose updates these are: int32 `[n]`."""
        ctx: Context = self.given[0]
        return ctx.member.id


def plain(report: Report) -> Report:
    """The report (or its shapes) as the client wrote it."""
    update: Deferred = report.update
    return report._replace(update=update.update)


def deferred(client: Callable[[Task], ClientUpdate]) -> Callable[[Task], ClientUpdate]:
    """The same client, whose reports carry their updates `Deferred`.

    The examples are left out of what is carried: they are every client's, and the update's
    maker holds on to them as they are.
    """

    def build(task: Task) -> ClientUpdate:
        base = client(task)

        def finish(
            ctx: Context, work: PyTree, received: PyTree, row: PyTree, data: ClientData
        ) -> tuple[Report, PyTree]:
            report, new_row = base.finish(ctx, work, received, row, data)
            x, y = data.x, data.y

            def make(given: PyTree) -> PyTree:
                *rest, window = given
                whole = dataclasses.replace(window, x=x, y=y)
                return base.finish(*rest, whole)[0].update

            window = dataclasses.replace(data, x=(), y=())  # pyright: ignore[reportArgumentType]
            given = (ctx, work, received, row, window)
            return report._replace(update=Deferred(report.update, given, make)), new_row

        return base._replace(finish=finish)

    return build
