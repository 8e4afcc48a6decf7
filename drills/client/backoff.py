"""Pauses between attempts: doubling, with some jitter, so that clients do not come back all at once (KIP-580)."""

from __future__ import annotations

import random

RETRY_FIRST_S, RETRY_MAX_S = 0.1, 1.0
"""Kafka's `retry.backoff.ms` and `retry.backoff.max.ms`."""
RECONNECT_FIRST_S, RECONNECT_MAX_S = 0.05, 1.0
"""Kafka's `reconnect.backoff.ms` and `reconnect.backoff.max.ms`."""
JITTER = 0.2


class Backoff:
    def __init__(self, chance: random.Random, first_s: float = RETRY_FIRST_S, max_s: float = RETRY_MAX_S) -> None:
        self._chance = chance
        self._first_s = first_s
        self._max_s = max_s

    def pause_s(self, failures: int) -> float:
        """Before the next attempt, after so many failures in a row; none after none."""
        if failures <= 0:
            return 0.0
        pause_s = self._first_s * 2.0 ** min(failures - 1, 30)
        return min(pause_s * self._chance.uniform(1 - JITTER, 1 + JITTER), self._max_s)
