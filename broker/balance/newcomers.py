"""`Newcomers`: since when brokers are there, so that one that keeps coming and going is not filled each time.

The first starts of a broker within `MEMORY_S` are trusted at once: a new broker has its share in seconds, and a rolling
restart is one start each. After more it has to stay, for longer each time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

MEMORY_S = 600.0
TRUSTED_STARTS = 3
PATIENCE_S = 30.0
"""After the first start too many; twice as long after each further one, up to MEMORY_S."""


class Newcomers:
    """Pure: `now_s` is on any clock that only goes forward."""

    def __init__(self) -> None:
        self._epochs: dict[int, int] = {}
        self._starts: dict[int, deque[float]] = {}

    def see(self, alive: Mapping[int, int], now_s: float) -> None:
        """Node id -> broker epoch of those that are alive now."""
        for node_id, epoch in alive.items():
            if self._epochs.get(node_id) != epoch:
                self._epochs[node_id] = epoch
                self._starts.setdefault(node_id, deque(maxlen=16)).append(now_s)
        for starts in self._starts.values():
            while starts and starts[0] < now_s - MEMORY_S:
                starts.popleft()

    def is_trusted(self, node_id: int, now_s: float) -> bool:
        starts = self._starts.get(node_id)
        if not starts or len(starts) <= TRUSTED_STARTS:
            return True
        patience_s: float = PATIENCE_S * 2 ** (len(starts) - TRUSTED_STARTS - 1)
        return now_s - starts[-1] >= min(patience_s, MEMORY_S)
