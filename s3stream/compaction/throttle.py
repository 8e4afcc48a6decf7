"""How fast compaction may go: so many bytes a second, and behind the reads of clients.

What is read and what is written counts alike. While clients' reads of objects are under way compaction waits, but
not for ever: work that is not done only grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

YIELD_S = 0.005
YIELDS_MAX = 20
"""How often one piece of work lets reads go first at most."""
BURST_S = 0.5


class Throttle:
    """`is_busy`: clients' reads are under way. `urgency` multiplies the rate."""

    def __init__(self, rate: int, is_busy: Callable[[], bool]) -> None:
        self.rate = rate
        self.urgency = 1.0
        self._is_busy = is_busy
        self._free_at = 0.0

    async def take(self, size: int) -> None:
        """Return when `size` bytes may be read or written."""
        loop = asyncio.get_running_loop()
        for _ in range(round(YIELDS_MAX / self.urgency)):
            if not self._is_busy():
                break
            await asyncio.sleep(YIELD_S)
        now = loop.time()
        self._free_at = max(self._free_at, now - BURST_S) + size / (self.rate * self.urgency)
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
