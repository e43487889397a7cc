"""A synchronous round as an event queue, one event at a time; imports nothing of ours.

Events are (time, order, client, what): a client receives, does its steps one after another, and
reports; the server counts reports and ends the round at the first of the reports it waits for,
the deadline, or when nobody is left to wait for.
"""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple


class Client(NamedTuple):
    """One member of a round: seconds, and whether its report is lost."""

    down_s: float
    step_s: float
    up_s: float
    steps: int
    lost: bool = False


class Ended(NamedTuple):
    """How the round ended: its length, who reported in time, and how many steps each did."""

    seconds: float
    arrived: set[int]
    steps: dict[int, int]


def play(
    clients: dict[int, Client],
    wanted: int,
    deadline_s: float = math.inf,
    partial: bool = False,
    idle_s: float = 60.0,
) -> Ended:
    """One round.

    Args:
      clients: those who take part, by their place in the cohort.
      wanted: reports after which the round ends.
      deadline_s: when it ends in any case.
      partial: clients begin no step after which they could not report before the deadline.
      idle_s: length of a round without clients and deadline.
    """
    if not clients:
        return Ended(deadline_s if math.isfinite(deadline_s) else idle_s, set(), {})
    events = [(c.down_s, i, i, "received") for i, c in clients.items()]
    heapq.heapify(events)
    done, arrived, waited_for = dict.fromkeys(clients, 0), set(), set(clients)
    while events:
        time, order, i, what = heapq.heappop(events)
        client = clients[i]
        if time > deadline_s:
            break
        if what in ("received", "step"):
            done[i] += what == "step"
            wants_more = done[i] < client.steps
            in_time = time + client.step_s + client.up_s <= deadline_s
            if wants_more and (in_time or not partial):
                heapq.heappush(events, (time + client.step_s, order, i, "step"))
            elif done[i] or client.steps == 0 or not partial:
                heapq.heappush(events, (time + client.up_s, order, i, "report"))
            continue  # a client that could do no step stays silent, until the deadline
        if not client.lost:
            arrived.add(i)
            if len(arrived) == wanted:
                return Ended(time, arrived, done)
        if not client.lost or math.isinf(deadline_s):
            waited_for.discard(i)
        if not waited_for:
            return Ended(time, arrived, done)
    return Ended(deadline_s, arrived, done)
