"""Back-pressure that producers are told of: `throttle_time_ms` grows with the pressure on the storage.

Above the soft level clients are asked to pause longer and longer, before the storage pauses their connections and, in
the end, refuses appends. The pressure is looked at once per so many bytes appended, and on every request while it is
high.
"""

from __future__ import annotations

from collections.abc import Callable

from s3stream.api import Pressure

SOFT_LEVEL = 0.7
THROTTLE_TIME_MS_MAX = 1000
SAMPLE_SIZE = 256 << 10


class ProduceThrottle:
    __slots__ = ("_pressure", "_throttle_time_ms", "_until_sample")

    def __init__(self, pressure: Callable[[], Pressure]) -> None:
        self._pressure = pressure
        self._until_sample = 0
        self._throttle_time_ms = 0

    def charge(self, size: int) -> int:
        """Take note of `size` appended bytes; returns the throttle time in ms for the response."""
        self._until_sample -= size
        if self._until_sample <= 0 or self._throttle_time_ms:
            self._until_sample = SAMPLE_SIZE
            above = self._pressure().level - SOFT_LEVEL
            self._throttle_time_ms = max(0, int(above / (1.0 - SOFT_LEVEL) * THROTTLE_TIME_MS_MAX))
        return self._throttle_time_ms
