"""The binary value that holds an object's ranges: one msgpack value in the object's row.

Layout, version 1::

    [1, crc32c(columns), columns]              columns: msgpack bytes of
        [stream_ids, start_offsets, counts, sizes, base_timestamp, timestamp_deltas]

Five columns of equal length sorted by (stream id, start offset), so that looking for a stream decodes no tuples;
`count` is end offset - start offset, timestamps are deltas to the smallest one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import msgpack
from crc32c import crc32c

from s3stream.catalog.api import CatalogError, StreamRange

VERSION = 1
_MAX_RANGES = 1 << 20


class RangesCorrupt(CatalogError):
    """A stored value is not what was written."""


def encode_ranges(ranges: Iterable[StreamRange]) -> bytes:
    """Sorts by (stream id, start offset)."""
    ordered = sorted(ranges, key=lambda r: (r.stream_id, r.start_offset))
    base = min((r.max_timestamp for r in ordered), default=0)
    columns: bytes = msgpack.packb(
        [
            [r.stream_id for r in ordered],
            [r.start_offset for r in ordered],
            [r.end_offset - r.start_offset for r in ordered],
            [r.size for r in ordered],
            base,
            [r.max_timestamp - base for r in ordered],
        ]
    )
    return bytes(msgpack.packb([VERSION, crc32c(columns), columns]))


def decode_ranges(value: bytes, wanted: Container[int] | None = None) -> tuple[StreamRange, ...]:
    """All ranges, or those of the `wanted` streams. Raises RangesCorrupt."""
    stream_ids, starts, counts, sizes, base, deltas = _columns(value)
    return tuple(
        StreamRange(stream_id, start, start + count, size, base + delta)
        for stream_id, start, count, size, delta in zip(stream_ids, starts, counts, sizes, deltas, strict=True)
        if wanted is None or stream_id in wanted
    )


def decode_live_ranges(value: bytes, starts: Mapping[int, int]) -> tuple[StreamRange, ...]:
    """The ranges of the streams in `starts` that reach above that start offset. Cheap when there is none, or but one:
    who opens thousands of streams comes by hundreds of thousands of them."""
    stream_ids, start_offsets, counts, sizes, base, deltas = _columns(value)
    if len(stream_ids) == 1:
        stream_id, start_offset, count = stream_ids[0], start_offsets[0], counts[0]
        if start_offset + count <= starts.get(stream_id, start_offset + count):
            return ()
        return (StreamRange(stream_id, start_offset, start_offset + count, sizes[0], base + deltas[0]),)
    if starts.keys().isdisjoint(stream_ids):
        return ()
    return tuple(
        StreamRange(stream_id, start_offset, start_offset + count, size, base + delta)
        for stream_id, start_offset, count, size, delta in zip(
            stream_ids, start_offsets, counts, sizes, deltas, strict=True
        )
        if start_offset + count > starts.get(stream_id, start_offset + count)
    )


def _columns(value: bytes) -> tuple[list[int], list[int], list[int], list[int], int, list[int]]:
    try:
        version, crc, columns = msgpack.unpackb(value, max_array_len=3)
        if version != VERSION:
            raise RangesCorrupt(f"object ranges of unknown version {version!r}")
        if crc32c(columns) != crc:
            raise RangesCorrupt("object ranges fail their checksum")
        stream_ids, starts, counts, sizes, base, deltas = msgpack.unpackb(columns, max_array_len=_MAX_RANGES)
        return stream_ids, starts, counts, sizes, base, deltas
    except RangesCorrupt:
        raise
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RangesCorrupt(f"object ranges do not decode: {error}") from error
