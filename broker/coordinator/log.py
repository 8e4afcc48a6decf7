"""The log under a coordinator's shard: one partition of an internal topic, seen as records.

Production code gives a `broker.partition.Partition` behind this; tests give the in-memory twin.

Records may be part of a producer's transaction (the offsets that it commits with its records). They count from the
moment that a marker commits the transaction, or never; see `replay`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol

from protocol.errors import ErrorCode

KeyValue = tuple[bytes, bytes | None]
"""A record's key and value (None: tombstone)."""


class LogUnavailable(Exception):
    """The partition is no longer led here, or its storage failed: the outcome of pending appends is unknown."""


class LogFull(Exception):
    """No room at present. Nothing was appended; the same may be tried again."""


class AppendRefused(Exception):
    """Nothing was appended, because of what the log knows of the producer: it is fenced, or its transaction has ended
    since it was verified."""

    def __init__(self, code: ErrorCode, message: str = "") -> None:
        super().__init__(message or code.name)
        self.code = code


class TransactionalWrite(NamedTuple):
    """Whose transaction records belong to. `verification`: the partition's guard, where this may open it."""

    producer_id: int
    producer_epoch: int
    verification: object | None = None


class Marker(NamedTuple):
    """The end of a producer's transaction, as its transaction coordinator decided it."""

    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    commit: bool
    transaction_version: int


class LogBatch(NamedTuple):
    """A batch that was read. `offset` is that of its first record; records come with their timestamps in ms.

    `producer_id` is that of the transaction that it belongs to, else -1. A marker has no records, and `commit` says
    which one it is.
    """

    offset: int
    records: Sequence[tuple[KeyValue, int]]
    producer_id: int = -1
    commit: bool | None = None


class CoordinatorLog(Protocol):
    """Appends happen on the loop's thread and never block."""

    @property
    def end_offset(self) -> int: ...

    @property
    def durable_offset(self) -> int:
        """The high watermark."""

    def append(
        self, records: Sequence[KeyValue], timestamp_ms: int, transaction: TransactionalWrite | None = None
    ) -> int:
        """Append as one batch; returns the end offset after it. Raises LogUnavailable or LogFull, and AppendRefused
        for records of a transaction."""

    def append_marker(self, marker: Marker, timestamp_ms: int) -> int:
        """As `append`. Raises AppendRefused as well."""

    def when_durable(self, end_offset: int, callback: Callable[[Exception | None], None]) -> None:
        """Call back, in order of offsets, once `durable_offset` >= end_offset, or with LogUnavailable."""

    def read_all(self) -> AsyncIterator[LogBatch]:
        """Everything from the log's start to its durable end."""
