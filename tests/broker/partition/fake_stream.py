"""A stream in memory whose durability is under the test's control."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Sequence

from protocol.records import iter_batches
from s3stream.api import (
    FetchResult,
    OffsetOutOfRange,
    Pressure,
    RangeInfo,
    StorageError,
    StorageFull,
    StreamClosed,
    StreamFailed,
)
from wal.api import Buffer


class FakeStream:
    """`flush()` makes everything appended durable. `cached_from` is where memory begins; older reads need `fetch`."""

    def __init__(self, stream_id: int = 1, start_offset: int = 0) -> None:
        self.stream_id = stream_id
        self.epoch = 1
        self.start_offset = start_offset
        self.next_offset = start_offset
        self.confirmed_offset = start_offset
        self.committed_offset = start_offset
        self.compacted_offset = 0
        self.on_confirmed: Callable[[], None] | None = None
        self.on_failed: Callable[[StorageError], None] | None = None
        self.cached_from = start_offset
        self.full = False
        self.confirms_on_commit = False
        self.closed = False
        self.released = False
        self.failed: StorageError | None = None
        self.batches: list[tuple[int, int, bytes, int]] = []
        self.fetches = 0
        self.trims: list[int] = []

    @property
    def size(self) -> int:
        return sum(len(data) for _, end, data, _ in self.batches if end > self.start_offset)

    def append(self, data: Buffer, count: int, max_timestamp: int) -> int:
        if self.failed is not None:
            raise StreamFailed(str(self.failed))
        if self.closed:
            raise StreamClosed("closed")
        if self.full:
            raise StorageFull("full")
        base_offset = self.next_offset
        self.batches.append((base_offset, base_offset + count, bytes(data), max_timestamp))
        self.next_offset += count
        return base_offset

    def flush(self, upto: int | None = None) -> None:
        confirmed = self.next_offset if upto is None else upto
        if confirmed != self.confirmed_offset:
            self.confirmed_offset = confirmed
            if self.on_confirmed is not None:
                self.on_confirmed()

    def upload(self) -> None:
        self.committed_offset = self.confirmed_offset

    def confirm_on_commit(self, wanted: bool) -> None:
        self.confirms_on_commit = wanted

    def fail(self) -> None:
        self.failed = StreamFailed("the disk is gone")
        if self.on_failed is not None:
            self.on_failed(self.failed)

    def read_cached(self, offset: int, max_size: int, end_offset: int) -> FetchResult | None:
        if offset < self.start_offset or offset > self.confirmed_offset:
            raise OffsetOutOfRange(str(offset))
        if offset < self.cached_from:
            return None
        return self._read(offset, max_size, end_offset)

    async def fetch(self, offset: int, max_size: int, end_offset: int) -> FetchResult:
        self.fetches += 1
        await asyncio.sleep(0)
        if offset < self.start_offset or offset > self.confirmed_offset:
            raise OffsetOutOfRange(str(offset))
        return self._read(offset, max_size, end_offset)

    def _read(self, offset: int, max_size: int, end_offset: int) -> FetchResult:
        buffers: list[Buffer] = []
        size = 0
        next_offset = offset
        for base, end, data, _ in self.batches:
            if end <= offset or base >= end_offset or base >= self.confirmed_offset:
                continue
            if buffers and size + len(data) > max_size:
                break
            buffers.append(data)
            size += len(data)
            next_offset = end
        return FetchResult(buffers, size, next_offset)

    def ranges(self) -> Sequence[RangeInfo]:
        return [
            RangeInfo(max(base, self.start_offset), end, len(data), timestamp)
            for base, end, data, timestamp in self.batches
            if end <= self.committed_offset and end > self.start_offset
        ]

    async def seek_timestamp(self, timestamp: int) -> int | None:
        before = self.start_offset
        for base, end, _, latest in self.batches:
            if end <= self.start_offset or base >= self.confirmed_offset:
                continue
            if latest >= timestamp:
                return max(before, self.start_offset)
            before = base
        return None

    async def trim(self, new_start_offset: int) -> None:
        if new_start_offset <= self.start_offset:
            return
        self.start_offset = new_start_offset
        await asyncio.sleep(0)
        self.trims.append(new_start_offset)

    async def wait_committed(self, offset: int) -> None:
        self.upload()

    async def close(self) -> None:
        self.flush()
        self.closed = True

    def reopened(self) -> FakeStream:
        """What the next owner of the stream sees: the durable part."""
        again = FakeStream(self.stream_id, self.start_offset)
        again.batches = [each for each in self.batches if each[1] <= self.confirmed_offset]
        again.next_offset = again.confirmed_offset = again.committed_offset = self.confirmed_offset
        again.cached_from = self.confirmed_offset
        return again

    def headers(self) -> list[object]:
        return [header for _, _, data, _ in self.batches for header, _ in iter_batches(data)]


class FakeStorage:
    """Opens fake streams, remembers how often it was asked."""

    def __init__(self) -> None:
        self.streams: dict[int, FakeStream] = {}
        self.calls: list[list[int]] = []
        self.level = 0.0
        self.latest: set[int] = set()

    async def open_streams(self, stream_ids: Sequence[int]) -> list[FakeStream]:
        self.calls.append(list(stream_ids))
        await asyncio.sleep(0)
        for stream_id in stream_ids:
            former = self.streams.get(stream_id)
            self.streams[stream_id] = FakeStream(stream_id) if former is None else former.reopened()
        return [self.streams[stream_id] for stream_id in stream_ids]

    async def preload_streams(self, stream_ids: Sequence[int]) -> None:
        pass

    async def latest_streams(self) -> Container[int]:
        return self.latest

    def release_streams(self, streams: Iterable[FakeStream]) -> None:
        for stream in streams:
            stream.closed = stream.released = True

    def pressure_level(self) -> float:
        return self.level

    def pressure(self) -> Pressure:
        return Pressure(self.level, 0, 0, 0)

    def flush(self) -> None:
        for stream in self.streams.values():
            stream.flush()
