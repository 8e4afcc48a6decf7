"""Reads an object front to back: chosen ranges of it, block by block, every block verified.

Beside the block cache, which is for clients. An object is read in pieces of some MiB; a small one with a single
request. What comes damaged is asked for once more: it may have been so on its way only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import structlog

from s3stream.api import ObjectCorrupt
from s3stream.catalog.api import StreamRange
from s3stream.committed_ranges import ObjectRef
from s3stream.compaction.throttle import Throttle
from s3stream.object.reader import IndexEntry, NeedMore, ObjectIndex, read_block, read_index
from s3stream.object.writer import Batch
from s3stream.objectstore.api import ObjectStore
from s3stream.upload_pipeline import Offload
from wal.api import Buffer

log = structlog.get_logger()

PIECE_SIZE = 2 << 20
"""Bytes of one request; a larger block is read as a whole."""

Part = tuple[int, int, list[Batch], int]
"""Stream id, start offset, batches of one block and their size."""


class ObjectSource:
    """`bytes_read` counts what came from the store."""

    def __init__(self, store: ObjectStore, ref: ObjectRef, throttle: Throttle, offload: Offload) -> None:
        self._store = store
        self._ref = ref
        self._throttle = throttle
        self._offload = offload
        self._whole: memoryview | None = None
        self.bytes_read = 0

    async def parts(self, wanted: Sequence[StreamRange]) -> AsyncIterator[Part]:
        """The blocks of these ranges, which are sorted. Raises StoreError, ObjectCorrupt."""
        try:
            index = await self._index()
        except ObjectCorrupt as error:
            log.warning("an index is damaged, it is read again", error=str(error))
            index = await self._index()
        for piece in _pieces(_entries(index, wanted)):
            try:
                parts = await self._read(piece)
            except ObjectCorrupt as error:
                log.warning("a block is damaged, it is read again", error=str(error))
                self._whole = None
                parts = await self._read(piece)
            for part in parts:
                yield part

    async def _index(self) -> ObjectIndex:
        size = self._ref.size
        tail: Buffer = b""
        if size <= PIECE_SIZE:
            self._whole = memoryview(await self._get(0, size))
            tail = self._whole
        while isinstance(found := read_index(self._ref.key, size, tail), NeedMore):
            tail = await self._get(size - found.size, size)
        return found

    async def _read(self, piece: Sequence[IndexEntry]) -> list[Part]:
        start, end = piece[0].position, piece[-1].position + piece[-1].size
        data = memoryview(await self._get(start, end)) if self._whole is None else self._whole[start:end]
        key = self._ref.key

        def verified() -> list[Part]:
            parts: list[Part] = []
            for each in piece:
                block = read_block(key, each, data[each.position - start : each.position - start + each.size])
                timestamp = each.max_timestamp
                batches: list[Batch] = [(base, count, timestamp, data) for base, count, data in block.batches()]
                parts.append((each.stream_id, each.start_offset, batches, len(block.payload)))
            return parts

        return await self._offload(verified)

    async def _get(self, start: int, end: int) -> Buffer:
        await self._throttle.take(end - start)
        self.bytes_read += end - start
        return await self._store.get_range(self._ref.key, start, end)


def _entries(index: ObjectIndex, wanted: Sequence[StreamRange]) -> list[IndexEntry]:
    entries: list[IndexEntry] = []
    for each in wanted:
        number = index.find(each.stream_id, each.start_offset)
        while number is not None and number < index.count:
            entry = index.entry(number)
            if entry.stream_id != each.stream_id or entry.start_offset >= each.end_offset:
                break
            entries.append(entry)
            number += 1
    return entries


def _pieces(entries: Sequence[IndexEntry]) -> list[list[IndexEntry]]:
    """Neighbours in the object, together not more than PIECE_SIZE unless it is one block."""
    pieces: list[list[IndexEntry]] = []
    for entry in entries:
        if pieces:
            first, last = pieces[-1][0], pieces[-1][-1]
            adjacent = last.position + last.size == entry.position
            if adjacent and entry.position + entry.size - first.position <= PIECE_SIZE:
                pieces[-1].append(entry)
                continue
        pieces.append([entry])
    return pieces
