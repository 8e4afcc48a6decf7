"""How long a call to a remote store may take: a fixed time, and what its bytes need at the rate that was seen last.

A fixed limit alone would let a large PUT to a slow store end and begin anew for ever; a very long one would let a dead
connection go unnoticed. So the rate that is assumed follows what happens: a call that was given up makes the next ones
more patient, one that was done tells the rate.
"""

from __future__ import annotations

TIMEOUT_S = 60.0
"""For a call whose bytes do not count."""
RATE_MAX = 1_000_000.0
"""Bytes per second that are assumed at first, and at most."""
RATE_MIN = 20_000.0
"""At least: 32 MiB in 28 minutes."""
RATE_STEP = 4.0
MARGIN = 4.0
"""Several times as slow as the last call is slow, not dead."""
MEASURED_SIZE_MIN = 1 << 18
"""Smaller calls say more about latency than about the rate."""


class Patience:
    __slots__ = ("_rate", "_rate_max", "_timeout_s")

    def __init__(self, timeout_s: float = TIMEOUT_S, rate_max: float = RATE_MAX) -> None:
        self._timeout_s = timeout_s
        self._rate = self._rate_max = rate_max

    def timeout_s(self, size: int) -> float:
        """For a call that carries `size` bytes."""
        return self._timeout_s + size / self._rate

    def timed_out(self, size: int, timeout_s: float) -> None:
        """A call was given up after `timeout_s`. Of several at the same time only the first one counts."""
        if size and timeout_s >= self.timeout_s(size):
            self._rate = max(RATE_MIN, self._rate / RATE_STEP)

    def done(self, size: int, took_s: float) -> None:
        if size >= MEASURED_SIZE_MIN and took_s > 0:
            self._rate = min(self._rate_max, max(RATE_MIN, size / took_s / MARGIN))
