"""How much of the event loop's time goes into looking at records one by one.

A batch of a few KB may decompress to tens of MB. Bytes that a client really sent earn it time, more than honest batches
need; what a batch takes beyond that is taken from one small budget of the whole broker, which time fills again. While
it is empty, batches that would have to be looked at are put off: their producers send them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS_PER_BYTE = 200e-9
"""Earned by a byte as sent. A batch of one small record takes 100 ns per byte, large ones less than 20."""
BUDGET_S = 0.1
SHARE = 0.1
"""Of the loop's time, beyond what was earned: so fast the budget fills."""


class InspectionBudget:
    """Shared by all partitions of a broker. `clock` in seconds, for tests."""

    __slots__ = ("_clock", "_left_s", "_looked_at")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._left_s = BUDGET_S
        self._looked_at = clock()

    def begin(self) -> float | None:
        """When the look begins, for `end`; None if there is no time for one."""
        now = self._clock()
        self._left_s = min(BUDGET_S, self._left_s + (now - self._looked_at) * SHARE)
        self._looked_at = now
        return now if self._left_s > 0 else None

    def end(self, began: float, size: int) -> None:
        """The look at a batch of `size` bytes is over."""
        taken = self._clock() - began - size * SECONDS_PER_BYTE
        if taken > 0:
            self._left_s -= taken
