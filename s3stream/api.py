"""What the broker sees of the storage: streams, and the storage that opens them.

A **stream** is a sequence of opaque batches; a batch covers `count` consecutive offsets. One broker at a time has a
stream open, under a **stream epoch** that grows with every opening; a commit under an older epoch is refused.

Offsets of an open stream::

    start_offset <= committed_offset <= confirmed_offset <= next_offset
       trim           in an object        durable (WAL)       appended

A stream may be set to be confirmed by its commits (`confirm_on_commit`): then `confirmed_offset` moves with
`committed_offset`, and what was confirmed survives the loss of the WAL.

Invariants
----------
* Nothing at or above `confirmed_offset` is ever returned by a read.
* `confirmed_offset` never goes back and follows append order.
* A batch that was confirmed is returned byte for byte by every later read, until it is trimmed.
* Ambiguity is never failure: after `StreamFailed` an append may or may not have happened.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from wal.api import Buffer


class StorageError(Exception):
    """Root of this package's errors."""


class StreamFenced(StorageError):
    """Another opening of this stream, or another epoch of this broker, has taken over."""


class StreamClosed(StorageError):
    """The stream is not open here (any more)."""


class StreamFailed(StorageError):
    """The WAL failed: what was appended may or may not be durable, and nothing more is accepted."""


class StorageFull(StorageError):
    """No room in the WAL or in memory for un-uploaded data. Retriable: nothing was appended."""


class OffsetOutOfRange(StorageError):
    """Below `start_offset` or above `confirmed_offset`."""


class ObjectCorrupt(StorageError):
    """A block, index or footer failed its checksum. Names the object key and the position."""


class InvariantBroken(StorageError):
    """What must always hold does not: the process has to stop. The message names the stream and the offsets."""


class FetchResult(NamedTuple):
    """Whole batches from the one that contains the fetch offset on (the first may begin before it).

    Each buffer holds one or more adjacent batches. `next_offset` is the end of the last batch; equal to the fetch
    offset when there was nothing to return.
    """

    buffers: Sequence[Buffer]
    size: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class RangeInfo:
    """A run of committed offsets in one object, for retention and look-ups by time. Half-open; timestamps in ms."""

    start_offset: int
    end_offset: int
    size: int
    max_timestamp: int


class Stream(Protocol):
    """An open stream. Synchronous methods never block and are called from the event loop's thread."""

    stream_id: int
    epoch: int
    start_offset: int
    next_offset: int
    confirmed_offset: int
    compacted_offset: int
    """Below it the log was compacted by key."""
    on_confirmed: Callable[[], None] | None
    """Called at most once per WAL flush, or commit, after `confirmed_offset` moved."""
    on_failed: Callable[[StorageError], None] | None
    """Called once if the stream can no longer be appended to (fenced, WAL failed). What is confirmed stays readable."""

    @property
    def committed_offset(self) -> int: ...

    @property
    def size(self) -> int:
        """Bytes retained between start_offset and next_offset, un-uploaded ones included."""

    @property
    def unuploaded_size(self) -> int:
        """Those of them that are in no object yet."""

    def append(self, data: Buffer, count: int, max_timestamp: int) -> int:
        """Append one batch of `count` offsets; returns its base offset (`next_offset` as it was).

        `data` is kept, not copied, and must not change any more. Raises StreamClosed, StreamFenced, StreamFailed,
        StorageFull.
        """

    def confirm_on_commit(self, wanted: bool) -> None:
        """Whether what is not confirmed yet, and what follows, is confirmed when it is committed, or already when it
        is durable in the WAL. May be changed at any time; `on_confirmed` may be called before it returns."""

    def read_cached(self, offset: int, max_size: int, end_offset: int) -> FetchResult | None:
        """Batches from memory, without waiting; None when `offset` is older than the log cache holds.

        Stops before `end_offset` (a batch that begins at or after it is not returned) and at `max_size` bytes, but
        returns at least one batch if there is one. Raises OffsetOutOfRange.
        """

    async def fetch(self, offset: int, max_size: int, end_offset: int) -> FetchResult:
        """As `read_cached`, from whichever tier has it. A range may end early at a tier's edge; call again to go on."""

    def ranges(self) -> Sequence[RangeInfo]:
        """Committed ranges in order, from start_offset on. What is not uploaded yet is not among them.

        A view: use it before the next await.
        """

    async def seek_timestamp(self, timestamp: int) -> int | None:
        """The base offset of a batch at or shortly before the first one whose max timestamp is >= `timestamp`.

        Found from indexes and the log cache; the caller reads on from there. None if every batch is older.
        """

    async def trim(self, new_start_offset: int) -> None:
        """Forget what is below `new_start_offset`: reads at once, objects later. Never back, never past confirmed."""

    async def wait_committed(self, offset: int) -> None:
        """Return when `committed_offset` >= offset, forcing an upload if need be."""

    async def close(self) -> None:
        """Wait for the tail to be confirmed, upload and commit it, and close the stream in the catalog."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """How close the un-uploaded data is to its limits; `level` is 0.0 (idle) to 1.0 (appends are refused)."""

    level: float
    unuploaded_size: int
    unuploaded_age_ms: int
    wal_backlog_size: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Since the storage was made. `appended_size` is an accounted size: payload plus a constant for each batch; the
    hits are those of the block cache, which is asked when something is not in the log cache any more."""

    appended_size: int
    cache_hit_count: int
    cache_miss_count: int
    compaction_read_size: int = 0
    """What compaction of objects and by key has read from the store ..."""
    compaction_written_size: int = 0
    """... and written to it."""


class Storage(Protocol):
    """All streams of one broker over one WAL, one object store and one catalog."""

    async def open_streams(self, stream_ids: Sequence[int]) -> Sequence[Stream]:
        """Open for appending, in one catalog transaction. Raises StreamFenced."""

    async def preload_streams(self, stream_ids: Sequence[int]) -> None:
        """Read ahead what opening these streams needs, because they are about to be opened. Raises CatalogError."""

    async def latest_streams(self) -> Container[int]:
        """Ids of streams that were written to last, at any broker: who opens many begins with these. Raises
        CatalogError."""

    def release_streams(self, streams: Iterable[Stream]) -> None:
        """Let go of streams that were committed to their ends and are closed in the catalog already."""

    def pressure_level(self) -> float:
        """`pressure().level`, for who asks often."""

    def pressure(self) -> Pressure: ...

    def usage(self) -> Usage: ...

    def set_pressure_listener(self, listener: Callable[[bool], None]) -> None:
        """`listener(True)` when producers have to be paused, `listener(False)` when they may go on."""

    async def upload_now(self) -> None:
        """Upload and commit everything confirmed so far."""

    async def close(self) -> None:
        """Upload everything, close all streams, close the WAL, tell the catalog that this broker left cleanly."""
