"""What an object itself says that it holds, and whether it can be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from s3stream.api import ObjectCorrupt
from s3stream.catalog.api import StreamRange
from s3stream.object.format import BATCH_ENTRY_SIZE, BLOCK_TAIL_SIZE
from s3stream.object.reader import Block, IndexEntry, NeedMore, ObjectIndex, read_block, read_index
from s3stream.objectstore.api import ObjectStore
from wal.api import Buffer

READ_SIZE = 8 << 20
"""Blocks are read in runs of about this size."""


async def load_index(store: ObjectStore, key: str, size: int) -> ObjectIndex:
    """Raises ObjectCorrupt, ObjectMissing, RangeInvalid, StoreError."""
    tail: Buffer = b""
    while isinstance(found := read_index(key, size, tail), NeedMore):
        tail = await store.get_range(key, size - found.size, size)
    return found


def payload_size(entry: IndexEntry) -> int:
    """Bytes of the block's batches."""
    return entry.size - BATCH_ENTRY_SIZE * entry.batch_count - BLOCK_TAIL_SIZE


def ranges_of(entries: Sequence[IndexEntry]) -> list[StreamRange]:
    """One range for each run of adjacent offsets of a stream. `entries` come in the order of an index."""
    ranges: list[StreamRange] = []
    for entry in entries:
        last = ranges[-1] if ranges else None
        size = payload_size(entry)
        if last is not None and last.stream_id == entry.stream_id and last.end_offset == entry.start_offset:
            timestamp = max(last.max_timestamp, entry.max_timestamp)
            ranges[-1] = StreamRange(entry.stream_id, last.start_offset, entry.end_offset, last.size + size, timestamp)
        else:
            ranges.append(StreamRange(entry.stream_id, entry.start_offset, entry.end_offset, size, entry.max_timestamp))
    return ranges


def entries_of(index: ObjectIndex) -> list[IndexEntry]:
    return [index.entry(number) for number in range(index.count)]


@dataclass(frozen=True, slots=True)
class BlockRead:
    """`block` is None if it could not be read, for the reason `error`."""

    entry: IndexEntry
    block: Block | None
    error: str = ""


def _runs(entries: Sequence[IndexEntry]) -> Iterator[list[IndexEntry]]:
    run: list[IndexEntry] = []
    for entry in sorted(entries, key=lambda each: each.position):
        if run:
            last = run[-1]
            adjacent = last.position + last.size == entry.position
            if not adjacent or entry.position + entry.size - run[0].position > READ_SIZE:
                yield run
                run = []
        run.append(entry)
    if run:
        yield run


async def read_blocks(store: ObjectStore, key: str, entries: Sequence[IndexEntry]) -> list[BlockRead]:
    """Every block, verified, in order of positions; `entries` are of one object. Raises StoreError.

    Memory: all of what is read; callers hand in what they can hold.
    """
    found: list[BlockRead] = []
    for run in _runs(entries):
        start = run[0].position
        data = memoryview(await store.get_range(key, start, run[-1].position + run[-1].size))
        for entry in run:
            begin = entry.position - start
            try:
                found.append(BlockRead(entry, read_block(key, entry, data[begin : begin + entry.size])))
            except ObjectCorrupt as error:
                found.append(BlockRead(entry, None, str(error)))
    return found


async def damaged_blocks(store: ObjectStore, key: str, entries: Sequence[IndexEntry]) -> list[BlockRead]:
    """Those that cannot be read. Holds one run at a time. Raises StoreError."""
    damaged: list[BlockRead] = []
    for run in _runs(entries):
        damaged += [each for each in await read_blocks(store, key, run) if each.block is None]
    return damaged
