"""Batches that lose records: for compaction by key, which changes nothing else of them.

A batch keeps its base offset, last offset, sequence, epochs, codec and kind; what is gone leaves gaps between the
offsets of its records. One that has lost all of them may stay as a header alone. A batch whose attributes have the
delete horizon bit has in the place of its base timestamp the time (ms) from which on its tombstones, or the marker
that it is, may go.

Records are not decoded further than to their keys: what stays, stays byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from crc32c import crc32c

from protocol.errors import ErrorCode, InvalidBatch
from protocol.records.compression import DECOMPRESSED_SIZE_MAX, Codec, compress, decompress
from protocol.records.header import (
    ATTRIBUTES_POSITION,
    CODEC_MASK,
    CRC_POSITION,
    HEADER,
    HEADER_SIZE,
    LOG_APPEND_TIME,
    LOG_OVERHEAD,
    MAGIC,
    BatchHeader,
)
from protocol.types import Buffer
from protocol.varint import zigzag_varint

DELETE_HORIZON = 0x40
"""Attribute: the base timestamp is a delete horizon (KIP-534)."""


class RawRecord(NamedTuple):
    """A record as it lies in its batch. `data` is all of it, length first; [timestamp_start, timestamp_end) in it is
    the timestamp delta."""

    offset: int
    timestamp: int
    key: bytes | None
    has_value: bool
    data: memoryview
    timestamp_start: int
    timestamp_end: int


def delete_horizon_ms(header: BatchHeader) -> int | None:
    """From when on what the batch holds for readers to notice need not be there any more; None: not decided yet."""
    return header.base_timestamp if header.attributes & DELETE_HORIZON else None


def raw_records(header: BatchHeader, batch: Buffer, size_max: int = DECOMPRESSED_SIZE_MAX) -> list[RawRecord]:
    """All records of one batch. The CRC is not checked. Raises InvalidBatch."""
    body = memoryview(decompress(header.attributes & CODEC_MASK, memoryview(batch)[HEADER_SIZE:], size_max))
    base_offset, base_timestamp = header.base_offset, header.base_timestamp
    found = []
    position, size = 0, len(body)
    try:
        for _ in range(header.record_count):
            start = position
            length, position = _varint(body, position)
            end = position + length
            timestamp_start = position + 1
            timestamp_delta, timestamp_end = _varint(body, timestamp_start)
            offset_delta, position = _varint(body, timestamp_end)
            key_size, position = _varint(body, position)
            key = None
            if key_size >= 0:
                key = bytes(body[position : position + key_size])
                position += key_size
            value_size = _varint(body, position)[0]
            if not position < end <= size:
                raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, f"a record of {length} bytes at {start} of {size}")
            found.append(
                RawRecord(
                    base_offset + offset_delta,
                    base_timestamp + timestamp_delta,
                    key,
                    value_size >= 0,
                    body[start:end],
                    timestamp_start - start,
                    timestamp_end - start,
                )
            )
            position = end
    except IndexError:
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, f"a record is cut off at byte {size}") from None
    if header.record_count < 0 or position != size:
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, f"{header.record_count} records end at byte {position} of {size}")
    return found


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    byte = data[position]
    position += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), position
    value = byte & 0x7F
    shift = 7
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position
        shift += 7


def with_records(header: BatchHeader, records: Sequence[RawRecord], horizon_ms: int | None = None) -> bytes:
    """The batch with these of its records; `horizon_ms` sets its delete horizon."""
    attributes = header.attributes
    base_timestamp = header.base_timestamp
    if horizon_ms is None:
        body = b"".join([record.data for record in records])
    else:
        attributes |= DELETE_HORIZON
        base_timestamp = horizon_ms
        body = b"".join([_retimed(record, horizon_ms) for record in records])
    max_timestamp = header.max_timestamp
    if not attributes & LOG_APPEND_TIME:
        max_timestamp = max(record.timestamp for record in records)
    codec = attributes & CODEC_MASK
    if codec:
        body = compress(Codec(codec), body)
    return _batch(header, attributes, base_timestamp, max_timestamp, len(records), body)


def without_records(header: BatchHeader) -> bytes:
    """The batch as a header alone. It keeps its max timestamp, and has neither codec nor delete horizon."""
    attributes = header.attributes & ~(CODEC_MASK | DELETE_HORIZON)
    return _batch(header, attributes, header.max_timestamp, header.max_timestamp, 0, b"")


def _retimed(record: RawRecord, base_timestamp: int) -> bytes:
    """The record with its timestamp told from another base."""
    data = record.data
    delta = zigzag_varint(record.timestamp - base_timestamp)
    content = b"".join((data[record.timestamp_start - 1 : record.timestamp_start], delta, data[record.timestamp_end :]))
    return zigzag_varint(len(content)) + content


_PLAIN_CRC = struct.Struct(">I")


def _batch(
    header: BatchHeader, attributes: int, base_timestamp: int, max_timestamp: int, record_count: int, body: Buffer
) -> bytes:
    batch = bytearray(
        HEADER.pack(
            header.base_offset,
            HEADER_SIZE - LOG_OVERHEAD + len(body),
            header.partition_leader_epoch,
            MAGIC,
            0,
            attributes,
            header.last_offset_delta,
            base_timestamp,
            max_timestamp,
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
            record_count,
        )
    )
    batch += body
    _PLAIN_CRC.pack_into(batch, CRC_POSITION, crc32c(memoryview(batch)[ATTRIBUTES_POSITION:]))
    return bytes(batch)
