"""The open stream: `s3stream.api.Stream` over the append log, the log cache and the committed objects.

Where an offset is read from::

    start_offset ......... tail.start_offset ........ confirmed_offset ... next_offset
      committed ranges            log cache                 not readable yet
      (object + block cache)

A batch enters the committed ranges in the same step in which its block becomes evictable, so that there is always at
least one tier that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from s3stream.api import (
    FetchResult,
    InvariantBroken,
    OffsetOutOfRange,
    RangeInfo,
    StorageError,
    StorageFull,
    StreamClosed,
    StreamFailed,
    StreamFenced,
)
from s3stream.block_cache import BlockReader
from s3stream.committed_ranges import CommittedRanges, ObjectRef
from s3stream.log_cache import Tail
from s3stream.objectstore.api import ObjectMissing
from s3stream.stream_part import StreamPart
from s3stream.wal_record import HEADER, VERSION
from s3stream.watermark import Watermark
from wal.api import Buffer, WalFailed, WalFull

if TYPE_CHECKING:
    from s3stream.append_log import AppendLog
    from s3stream.catalog.api import StreamInfo, StreamRange

_pack_header = HEADER.pack


class StreamOwner(Protocol):
    """What an open stream asks of the storage that opened it."""

    reader: BlockReader

    async def commit_tail(self, stream: S3Stream, offset: int) -> None: ...
    async def trim_stream(self, stream: S3Stream, start_offset: int) -> None: ...
    async def close_stream(self, stream: S3Stream) -> None: ...
    async def reload_ranges(self, stream: S3Stream) -> bool: ...


class S3Stream:
    """See `s3stream.api.Stream`. Created by `S3Storage.open_streams` only."""

    __slots__ = (
        "_append_log",
        "_committed_position",
        "_owner",
        "_refusal",
        "committed",
        "committed_ranges",
        "compacted_offset",
        "confirmed_offset",
        "durable_offset",
        "epoch",
        "next_offset",
        "on_confirmed",
        "on_failed",
        "start_offset",
        "stream_id",
        "tail",
    )

    def __init__(self, info: StreamInfo, ranges: CommittedRanges, append_log: AppendLog, owner: StreamOwner) -> None:
        self.stream_id = info.stream_id
        self.epoch = info.epoch
        self.start_offset = info.start_offset
        self.next_offset = info.end_offset
        self.confirmed_offset = info.end_offset
        self.durable_offset = info.end_offset
        """Durable in the WAL; kept up to date only while commits confirm."""
        self.on_confirmed: Callable[[], None] | None = None
        self.on_failed: Callable[[StorageError], None] | None = None
        self.tail = Tail(info.stream_id, info.epoch, info.end_offset)
        self.committed = Watermark(info.end_offset)
        self.committed_ranges = ranges
        self.compacted_offset = info.compacted_offset
        """Up to where the log was compacted by key."""
        self._append_log = append_log
        self._owner = owner
        self._committed_position = 0
        """Of the tail: what is before it is counted in the ranges' size."""
        self._refusal: StorageError | None = None
        """Why nothing can be appended; each refused append raises a fresh error like it."""

    @property
    def committed_offset(self) -> int:
        return self.committed.value

    @property
    def size(self) -> int:
        return self.committed_ranges.size + self.tail.end_position - self._committed_position

    @property
    def unuploaded_size(self) -> int:
        return self.tail.end_position - self._committed_position

    # -- append ----------------------------------------------------------------------------------------------

    def append(self, data: Buffer, count: int, max_timestamp: int) -> int:
        if self._refusal is not None:
            self.check()
        if count < 1:
            raise ValueError("a batch covers at least one offset")
        append_log = self._append_log
        cache = append_log.cache
        if cache.appended >= append_log.appended_limit:
            raise StorageFull(f"{cache.unuploaded_size} bytes wait for their upload")
        base_offset = self.next_offset
        header = _pack_header(VERSION, count, self.stream_id, self.epoch, base_offset, max_timestamp)
        try:
            end_position = append_log.wal_append((header, data))
        except WalFull as error:
            raise StorageFull(str(error)) from error
        except WalFailed as error:
            raise StreamFailed(str(error)) from error
        next_offset = base_offset + count
        self.next_offset = next_offset
        append_log.pending.append((end_position, self, next_offset))
        cache.append(self.tail, next_offset, data, max_timestamp)
        return base_offset

    def confirm_on_commit(self, wanted: bool) -> None:
        tail = self.tail
        if tail.awaits_commit is wanted:
            return
        tail.awaits_commit = wanted
        if wanted:
            self.durable_offset = self.confirmed_offset
            self._append_log.cache.await_commit(tail)
        elif self.confirmed_offset < self.durable_offset:
            self.confirmed_offset = self.durable_offset
            self._append_log.tell(self)

    # -- read ------------------------------------------------------------------------------------------------

    def read_cached(self, offset: int, max_size: int, end_offset: int) -> FetchResult | None:
        confirmed_offset = self.confirmed_offset
        if end_offset > confirmed_offset:
            end_offset = confirmed_offset
        if self.start_offset <= offset < end_offset:
            return self.tail.read(offset, max_size, end_offset)
        if self.start_offset <= offset <= confirmed_offset:
            return FetchResult((), 0, offset)
        raise OffsetOutOfRange(
            f"stream {self.stream_id}: {offset} is not within [{self.start_offset}, {confirmed_offset}]"
        )

    async def fetch(self, offset: int, max_size: int, end_offset: int) -> FetchResult:
        while True:
            cached = self.read_cached(offset, max_size, end_offset)
            if cached is not None:
                return cached
            found = self.committed_ranges.find(offset)
            if found is None:
                self.check()
                raise InvariantBroken(f"stream {self.stream_id}: offset {offset} is neither in memory nor in an object")
            try:
                result = await self._owner.reader.read(
                    found.ref.key,
                    found.ref.size,
                    self.stream_id,
                    offset,
                    max_size,
                    min(end_offset, self.confirmed_offset, found.end_offset),
                    found.following,
                )
            except ObjectMissing:
                # Trimmed or replaced while we read, perhaps by another broker: look again, unless it still counts as
                # the place of this offset.
                if await self._is_still_at(offset, found.ref):
                    raise
                continue
            if offset < self.start_offset:
                continue
            return result

    async def _is_still_at(self, offset: int, ref: ObjectRef) -> bool:
        if self._holds(offset, ref):
            await self._owner.reload_ranges(self)
        return self._holds(offset, ref)

    def _holds(self, offset: int, ref: ObjectRef) -> bool:
        found = self.committed_ranges.find(offset)
        return offset >= self.start_offset and found is not None and found.ref == ref

    def ranges(self) -> Sequence[RangeInfo]:
        return self.committed_ranges.infos()

    async def seek_timestamp(self, timestamp: int) -> int | None:
        tail = self.tail
        while True:
            found = self.committed_ranges.find_timestamp(timestamp)
            if found is None or found.start_offset >= tail.start_offset:
                break
            try:
                offset = await self._owner.reader.seek_timestamp(
                    found.ref.key, found.ref.size, self.stream_id, timestamp
                )
            except ObjectMissing:
                if await self._is_still_at(max(found.start_offset, self.start_offset), found.ref):
                    raise
                continue
            if offset is not None:
                # of a set object, a part that begins earlier may count elsewhere by now
                return max(offset, found.start_offset, self.start_offset)
            break
        offset = tail.seek_timestamp(timestamp, self.confirmed_offset)
        return None if offset is None else max(offset, self.start_offset)

    # -- trim, commit, close ---------------------------------------------------------------------------------

    async def trim(self, new_start_offset: int) -> None:
        if new_start_offset > self.confirmed_offset:
            raise OffsetOutOfRange(
                f"stream {self.stream_id}: cannot trim to {new_start_offset}, confirmed is {self.confirmed_offset}"
            )
        self.check()
        if new_start_offset <= self.start_offset:
            return
        self.start_offset = new_start_offset
        self.committed_ranges.trim(new_start_offset)
        # The catalog's start never passes its end, so what is trimmed before its upload is uploaded all the same.
        await self.wait_committed(new_start_offset)
        self.committed_ranges.trim(self.start_offset)
        await self._owner.trim_stream(self, new_start_offset)

    async def wait_committed(self, offset: int) -> None:
        if self.committed.value < offset:
            await self._owner.commit_tail(self, offset)

    async def close(self) -> None:
        await self._owner.close_stream(self)

    # -- called by the storage -------------------------------------------------------------------------------

    def took_place(self, part: StreamPart, found: StreamRange, ref: ObjectRef) -> None:
        """`part` is committed as `found`."""
        self.committed_ranges.append(found, ref)
        self.committed_ranges.trim(self.start_offset)
        self._committed_position += part.size
        self.committed.advance(found.end_offset)
        if self.tail.awaits_commit and self.confirmed_offset < found.end_offset:
            self.confirmed_offset = found.end_offset
            self._append_log.tell(self)

    def take_ranges(self, loaded: CommittedRanges) -> bool:
        """Go on with ranges as the catalog has them: those of what is committed here, and what was committed since they
        were loaded. False if the two do not meet at an end of both."""
        here, end_offset = self.committed_ranges, self.committed.value
        known = loaded.located(self.stream_id, self.start_offset, end_offset)
        reached = known[-1][0].end_offset if known else self.start_offset
        later = here.located(self.stream_id, reached, end_offset)
        if reached > end_offset or (known and later and later[0][0].start_offset != reached):
            return False
        self.committed_ranges = CommittedRanges.of(known + later)
        return True

    def refuse(self, error: StorageError) -> bool:
        """Appends are refused from now on, with an error like this one; the first reason stays. True if it was this."""
        if self._refusal is not None:
            return False
        self._refusal = error
        return True

    def fail(self, error: StorageError) -> None:
        """As `refuse`, and nobody needs to wait for commits. The confirmed part stays readable."""
        first = self.refuse(error)
        self.committed.fail(error)
        self.tail.discarded = isinstance(error, StreamFenced)
        if first and (listener := self.on_failed) is not None:
            listener(error)

    def closed(self) -> None:
        """The stream may be open elsewhere: its part of memory is not its truth any more."""
        self._refusal = StreamClosed(f"stream {self.stream_id} is closed")
        self.committed.fail(self._refusal)
        self.tail.discarded = True
        self.tail.clear()
        self.committed_ranges = CommittedRanges()
        self.on_confirmed = self.on_failed = None

    def check(self) -> None:
        """Raise why the stream is not open any more, if so."""
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)
