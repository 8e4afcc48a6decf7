"""Back-pressure that producers are told of: `throttle_time_ms` grows with the pressure on the storage.

Above the soft level clients are asked to pause longer and longer (by the square), before the storage pauses their
connections and, in the end, refuses appends. The pressure is looked at once per so many bytes appended, and on every
request while it is high.
"""

from __future__ import annotations

from collections.abc import Callable

SOFT_LEVEL = 0.5
"""Below the level at which the storage has connections paused."""
THROTTLE_TIME_MS_MAX = 1000
SAMPLE_SIZE = 256 << 10


class ProduceThrottle:
    __slots__ = ("_pressure_level", "_throttle_time_ms", "_until_sample")

    def __init__(self, pressure_level: Callable[[], float]) -> None:
        self._pressure_level = pressure_level
        self._until_sample = 0
        self._throttle_time_ms = 0

    def charge(self, size: int) -> int:
        """Take note of `size` appended bytes; returns the throttle time in ms for the response."""
        self._until_sample -= size
        if self._until_sample <= 0 or self._throttle_time_ms:
            self._until_sample = SAMPLE_SIZE
            above = max(0.0, self._pressure_level() - SOFT_LEVEL) / (1.0 - SOFT_LEVEL)
            self._throttle_time_ms = int(above * above * THROTTLE_TIME_MS_MAX)
        return self._throttle_time_ms
