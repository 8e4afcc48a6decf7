"""Writes one object: turns batches into pieces, without joining or copying them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crc32c import crc32c

from s3stream.catalog.api import StreamRange
from s3stream.object.format import (
    BATCH_ENTRY_SIZE,
    BLOCK_SIZE_TARGET,
    BLOCK_TAIL,
    BLOCK_TAIL_SIZE,
    CRC,
    DELTA_MAX,
    FOOTER,
    FOOTER_SIZE,
    INDEX_ENTRY,
    MAGIC,
    VERSION,
    encode_u32s,
)
from wal.api import Buffer

_JOIN_BELOW = 1024
"""Mean batch size under which one copy is cheaper than a CRC call and a piece for each batch."""


Batch = tuple[int, int, int, Buffer]
"""(base offset, offset count, max timestamp in ms, data)."""


@dataclass(frozen=True, slots=True)
class BuiltObject:
    """The object is the concatenation of `pieces`; there is one range per run of adjacent offsets of a stream."""

    pieces: list[Buffer]
    size: int
    ranges: tuple[StreamRange, ...]


class ObjectWriter:
    """Takes batches sorted by stream id, then offset; gives pieces. Batches stay in no buffer of the writer's."""

    def __init__(self, block_size: int = BLOCK_SIZE_TARGET) -> None:
        self._block_size = block_size
        self._index: list[bytes] = []
        self._ranges: list[StreamRange] = []
        self._last_stream_id = -1
        self._next_offset = -1
        self.size = 0
        """Bytes of all pieces given so far."""

    def add(self, stream_id: int, batches: Sequence[Batch]) -> list[Buffer]:
        """The data blocks of `batches`, as pieces. May be called again for the same stream, to work in steps.

        A block holds at least one batch and is closed by size or where the offsets are not adjacent. Raises ValueError
        if the batches do not come in order.
        """
        if stream_id < self._last_stream_id:
            raise ValueError(f"stream {stream_id} after stream {self._last_stream_id}")
        if stream_id != self._last_stream_id:
            self._last_stream_id, self._next_offset = stream_id, -1
        pieces: list[Buffer] = []
        first = size = 0
        next_offset = batches[0][0] if batches else 0
        for number, (base_offset, count, _, data) in enumerate(batches):
            if count < 1 or base_offset < next_offset:
                raise ValueError(f"stream {stream_id}: batch at {base_offset} after offset {next_offset}")
            data_size = len(data)
            if number > first and (
                size + data_size > self._block_size
                or base_offset != next_offset
                or base_offset + count - batches[first][0] > DELTA_MAX
            ):
                self._add_block(stream_id, batches[first:number], size, pieces)
                first, size = number, 0
            size += data_size
            next_offset = base_offset + count
        if batches:
            self._add_block(stream_id, batches[first:], size, pieces)
        return pieces

    def finish(self) -> list[Buffer]:
        """The index block and the footer."""
        index = b"".join(self._index)
        position = self.size
        self.size += len(index) + FOOTER_SIZE
        footer = FOOTER.pack(MAGIC, VERSION, len(self._index), position, self.size, crc32c(index), 0, 0)
        return [index, footer + CRC.pack(crc32c(footer))]

    def ranges(self) -> tuple[StreamRange, ...]:
        return tuple(self._ranges)

    def _add_block(self, stream_id: int, batches: Sequence[Batch], payload_size: int, pieces: list[Buffer]) -> None:
        start_offset = batches[0][0]
        end_offset = batches[-1][0] + batches[-1][1]
        if start_offset < self._next_offset:
            raise ValueError(f"stream {stream_id}: batch at {start_offset} after offset {self._next_offset}")
        offsets = array("I", [batch[0] - start_offset for batch in batches])
        positions = array("I")
        position = record_count = 0
        max_timestamp = batches[0][2]
        for _, count, timestamp, data in batches:
            positions.append(position)
            position += len(data)
            record_count += count
            if timestamp > max_timestamp:
                max_timestamp = timestamp
        tail = BLOCK_TAIL.pack(stream_id, start_offset, end_offset - start_offset, len(batches))
        directory = encode_u32s(offsets) + encode_u32s(positions) + tail
        payload: list[Buffer] = [batch[3] for batch in batches]
        if payload_size < _JOIN_BELOW * len(batches):
            payload = [b"".join(payload)]
        crc = 0
        for piece in payload:
            # The GIL is kept: at some 20 GB/s, handing it over would take longer than the checksum.
            crc = crc32c(piece, crc, 0)
        pieces += payload
        pieces.append(directory + CRC.pack(crc32c(directory, crc)))
        size = payload_size + BATCH_ENTRY_SIZE * len(batches) + BLOCK_TAIL_SIZE
        self._index.append(
            INDEX_ENTRY.pack(
                stream_id,
                start_offset,
                end_offset - start_offset,
                record_count,
                max_timestamp,
                self.size,
                size,
                len(batches),
            )
        )
        self.size += size
        self._add_range(StreamRange(stream_id, start_offset, end_offset, payload_size, max_timestamp))
        self._next_offset = end_offset

    def _add_range(self, new: StreamRange) -> None:
        """Extend the last range if `new` goes on where it ends."""
        if self._ranges:
            last = self._ranges[-1]
            if last.stream_id == new.stream_id and last.end_offset == new.start_offset:
                timestamp = max(last.max_timestamp, new.max_timestamp)
                self._ranges[-1] = StreamRange(
                    new.stream_id, last.start_offset, new.end_offset, last.size + new.size, timestamp
                )
                return
        self._ranges.append(new)


def build_object(streams: Iterable[tuple[int, Sequence[Batch]]], block_size: int = BLOCK_SIZE_TARGET) -> BuiltObject:
    """All of `streams` (stream id, its batches by offset), which must come sorted by stream id, as one object.

    Pure computing: run it in a thread. Raises ValueError if the order is wrong.
    """
    writer = ObjectWriter(block_size)
    pieces: list[Buffer] = []
    for stream_id, batches in streams:
        pieces += writer.add(stream_id, batches)
    pieces += writer.finish()
    return BuiltObject(pieces, writer.size, writer.ranges())
