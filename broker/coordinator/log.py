"""The log under a coordinator's shard: one partition of an internal topic, seen as records.

Production code gives a `broker.partition.Partition` behind this; tests give the in-memory twin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

KeyValue = tuple[bytes, bytes | None]
"""A record's key and value (None: tombstone)."""


class LogUnavailable(Exception):
    """The partition is no longer led here, or its storage failed: the outcome of pending appends is unknown."""


class LogFull(Exception):
    """No room at present. Nothing was appended; the same may be tried again."""


class CoordinatorLog(Protocol):
    """Appends happen on the loop's thread and never block."""

    @property
    def end_offset(self) -> int: ...

    @property
    def durable_offset(self) -> int:
        """The high watermark."""

    def append(self, records: Sequence[KeyValue], timestamp_ms: int) -> int:
        """Append as one batch; returns the end offset after it. Raises LogUnavailable or LogFull."""

    def when_durable(self, end_offset: int, callback: Callable[[Exception | None], None]) -> None:
        """Call back, in order of offsets, once `durable_offset` >= end_offset, or with LogUnavailable."""

    def read_all(self) -> AsyncIterator[list[tuple[KeyValue, int]]]:
        """Every record from the log's start to its durable end, with its timestamp in ms, in chunks."""
