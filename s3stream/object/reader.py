"""Reads objects without doing I/O: given bytes, it returns what they hold or says how many more it needs.

Everything that is returned has been verified against its checksum; anything else raises ObjectCorrupt.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import NamedTuple

from crc32c import crc32c

from s3stream.api import ObjectCorrupt
from s3stream.object.format import (
    BATCH_ENTRY_SIZE,
    BLOCK_TAIL,
    BLOCK_TAIL_SIZE,
    CRC,
    FOOTER,
    FOOTER_SIZE,
    INDEX_ENTRY,
    MAGIC,
    VERSION,
    decode_u32s,
)
from wal.api import Buffer

TAIL_SIZE = 64 << 10
"""A good first guess of how much of an object's end to read: the index of some 1,300 blocks."""


class IndexEntry(NamedTuple):
    """One data block. Offsets are half-open, the timestamp is in ms."""

    stream_id: int
    start_offset: int
    end_offset: int
    record_count: int
    max_timestamp: int
    position: int
    size: int
    batch_count: int


@dataclass(frozen=True, slots=True)
class NeedMore:
    """Read the object's last `size` bytes and try again."""

    size: int


class ObjectIndex:
    """An object's index block. Entries are decoded as they are looked at."""

    __slots__ = ("_data", "count")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.count = len(data) // INDEX_ENTRY.size

    @property
    def size(self) -> int:
        return len(self._data)

    def entry(self, number: int) -> IndexEntry:
        stream_id, start, delta, records, timestamp, position, size, batches = INDEX_ENTRY.unpack_from(
            self._data, number * INDEX_ENTRY.size
        )
        return IndexEntry(stream_id, start, start + delta, records, timestamp, position, size, batches)

    def find(self, stream_id: int, offset: int) -> int | None:
        """The number of the stream's first block that ends after `offset`; None if there is none."""
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            found, start, delta, *_ = INDEX_ENTRY.unpack_from(self._data, middle * INDEX_ENTRY.size)
            if found < stream_id or (found == stream_id and start + delta <= offset):
                low = middle + 1
            else:
                high = middle
        return low if low < self.count and self.entry(low).stream_id == stream_id else None

    def find_timestamp(self, stream_id: int, timestamp: int) -> IndexEntry | None:
        """The stream's first block whose max timestamp is >= `timestamp`."""
        number = self.find(stream_id, -1)
        while number is not None and number < self.count:
            entry = self.entry(number)
            if entry.stream_id != stream_id:
                return None
            if entry.max_timestamp >= timestamp:
                return entry
            number += 1
        return None


class Block:
    """A verified data block. `payload` holds its batches back to back."""

    __slots__ = ("_offsets", "_positions", "end_offset", "payload", "size", "start_offset")

    def __init__(self, entry: IndexEntry, data: memoryview) -> None:
        """`data` is all of the block's bytes, verified."""
        count = entry.batch_count
        directory = len(data) - BLOCK_TAIL_SIZE - BATCH_ENTRY_SIZE * count
        middle = directory + BATCH_ENTRY_SIZE // 2 * count
        self.start_offset = entry.start_offset
        self.end_offset = entry.end_offset
        self.payload = data[:directory]
        self.size = len(data)
        self._offsets = decode_u32s(data[directory:middle])
        self._positions = decode_u32s(data[middle : len(data) - BLOCK_TAIL_SIZE])

    @property
    def first_batch_size(self) -> int:
        return self._positions[1] if len(self._positions) > 1 else len(self.payload)

    def batches(self) -> list[tuple[int, int, memoryview]]:
        """(base offset, offset count, data) of each."""
        start, payload = self.start_offset, self.payload
        offsets = [*self._offsets, self.end_offset - start]
        positions = [*self._positions, len(payload)]
        return [
            (start + offsets[i], offsets[i + 1] - offsets[i], payload[positions[i] : positions[i + 1]])
            for i in range(len(self._offsets))
        ]

    def slice(self, offset: int, max_size: int, end_offset: int) -> tuple[memoryview, int]:
        """The batches from the one that contains `offset` on, and the offset after the last one.

        No batch that begins at or after `end_offset`; at most `max_size` bytes, but at least one batch if `end_offset`
        allows one. `offset` must be below the block's end; before its start, it counts as its start.
        """
        offsets, positions = self._offsets, self._positions
        first = bisect_right(offsets, max(0, offset - self.start_offset)) - 1
        stop = (
            bisect_left(offsets, end_offset - self.start_offset, first)
            if end_offset < self.end_offset
            else len(offsets)
        )
        if stop <= first:
            return self.payload[:0], max(offset, self.start_offset)
        begin = positions[first]
        if len(self.payload) - begin > max_size:
            # The number of positions that are still within the limit: a batch ends where the next one begins.
            stop = min(stop, max(first + 1, bisect_right(positions, begin + max_size, first) - 1))
        if stop == len(positions):
            return self.payload[begin:], self.end_offset
        return self.payload[begin : positions[stop]], self.start_offset + offsets[stop]


def read_index(key: str, object_size: int, tail: Buffer) -> ObjectIndex | NeedMore:
    """`tail` is the object's last bytes, `object_size` what the catalog says. Raises ObjectCorrupt."""
    if object_size < FOOTER_SIZE:
        raise ObjectCorrupt(f"{key}: {object_size} bytes are too few for an object")
    if len(tail) < FOOTER_SIZE:
        return NeedMore(min(object_size, TAIL_SIZE))
    view = memoryview(tail)
    footer = view[len(view) - FOOTER_SIZE :]
    where = f"{key}, position {object_size - FOOTER_SIZE}"
    magic, version, count, position, size, index_crc, _, _ = FOOTER.unpack_from(footer)
    if CRC.unpack_from(footer, FOOTER.size)[0] != crc32c(footer[: FOOTER.size]) or magic != MAGIC:
        raise ObjectCorrupt(f"{where}: the footer is damaged")
    if version != VERSION:
        raise ObjectCorrupt(f"{where}: object version {version} is not known here")
    index_size = count * INDEX_ENTRY.size
    if size != object_size or position + index_size + FOOTER_SIZE != size:
        raise ObjectCorrupt(f"{where}: the footer is of an object of {size} bytes, this one has {object_size}")
    if len(view) < index_size + FOOTER_SIZE:
        return NeedMore(index_size + FOOTER_SIZE)
    index = bytes(view[len(view) - index_size - FOOTER_SIZE : len(view) - FOOTER_SIZE])
    if crc32c(index) != index_crc:
        raise ObjectCorrupt(f"{key}, position {position}: the index is damaged")
    return ObjectIndex(index)


def read_block(key: str, entry: IndexEntry, data: memoryview) -> Block:
    """`data` is exactly the bytes that `entry` points at. Raises ObjectCorrupt."""
    tail = len(data) - BLOCK_TAIL_SIZE
    if len(data) != entry.size or tail < BATCH_ENTRY_SIZE * entry.batch_count:
        raise ObjectCorrupt(f"{key}, position {entry.position}: {len(data)} bytes for a block of {entry.size}")
    if CRC.unpack_from(data, len(data) - CRC.size)[0] != crc32c(data[: -CRC.size], 0, 0):
        raise ObjectCorrupt(f"{key}, position {entry.position}: the block is damaged")
    stream_id, start, delta, count = BLOCK_TAIL.unpack_from(data, tail)
    if (stream_id, start, start + delta, count) != (
        entry.stream_id,
        entry.start_offset,
        entry.end_offset,
        entry.batch_count,
    ):
        raise ObjectCorrupt(f"{key}, position {entry.position}: not the block that the index describes")
    return Block(entry, data)
