"""How well a cohort packs onto lanes and devices: the lane loop's own rule, in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Packing(NamedTuple):
    """Lane steps of one round.

    Attributes:
      useful: local steps of all clients.
      executed: lane steps until the last device ended, over all devices and lanes.
      bound: the fewest lane steps any packing could run.
      calls: steps of the lane loop on the busiest device; each steps all lanes at once.
    """

    useful: int
    executed: int
    bound: int
    calls: int

    @property
    def efficiency(self) -> float:
        """Useful share of the lane steps."""
        return self.useful / max(self.executed, 1)

    @property
    def best_efficiency(self) -> float:
        """Useful share that a perfect packing would have."""
        return self.useful / max(self.bound, 1)


def pack(steps: np.ndarray, lanes: int, devices: int) -> Packing:
    """Pack a cohort as `engine/lanes.py` does: longest first, dealt in snake order.

    Args:
      steps: int `[K]`, local steps of each client; absent ones 0.
      lanes: L on each device.
      devices: D.

    Cost: K events, no arrays larger than K.
    """
    order = np.sort(np.asarray(steps))[::-1]
    each = -(-len(order) // devices)
    table = np.zeros(each * devices, np.int64)
    table[: len(order)] = order
    table = table.reshape(each, devices)
    table[1::2] = table[1::2, ::-1]
    lanes = min(lanes, each)
    busiest = max(_device(table[:, d], lanes) for d in range(devices))
    slots = lanes * devices
    total = int(order.sum())
    bound = max(int(order.max(initial=0)), -(-total // slots)) * slots
    return Packing(total, busiest * slots, bound, busiest)


def _device(queue: np.ndarray, lanes: int) -> int:
    """Steps of one device's lane loop: a lane that ends takes the next client of the queue."""
    free_at = np.zeros(lanes, np.int64)
    for steps in queue:
        lane = int(np.argmin(free_at))
        free_at[lane] += steps
    return int(free_at.max())
