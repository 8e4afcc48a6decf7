"""The records inside a batch: for coordinators, look-ups by time, compaction and tools, never for Produce or Fetch.

    length varint, attributes int8, timestamp delta varlong, offset delta varint, key, value, headers

Keys and values are a varint length (-1: null) and bytes, headers a varint count and name and value of each; varints are
zigzag.

Decoding is aiokafka's parser (Cython), which is imported when the first batch is decoded; `decode_records` decompresses
before it, so that the bound on the size holds. Building is plain Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from crc32c import crc32c

from protocol.errors import ErrorCode, InvalidBatch
from protocol.records.compression import DECOMPRESSED_SIZE_MAX, Codec, compress, decompress
from protocol.records.header import (
    ATTRIBUTES_POSITION,
    CODEC_MASK,
    CONTROL,
    CRC_POSITION,
    HEADER,
    HEADER_SIZE,
    LOG_APPEND_TIME,
    LOG_OVERHEAD,
    MAGIC,
    TRANSACTIONAL,
    BatchHeader,
)
from protocol.records.validation import RECORD_SIZE_MIN
from protocol.types import Buffer
from protocol.varint import zigzag_varint


class Record(NamedTuple):
    """One record; `offset` and `timestamp` (ms) are absolute."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


def decode_records(batch: Buffer, size_max: int = DECOMPRESSED_SIZE_MAX) -> list[Record]:
    """All records of one batch. The CRC is not checked. Raises InvalidBatch as `iter_records`."""
    return list(iter_records(batch, size_max))


def iter_records(batch: Buffer, size_max: int = DECOMPRESSED_SIZE_MAX) -> Iterator[Record]:
    """The records of one batch, one by one: a small compressed batch may hold millions. The CRC is not checked.

    Raises InvalidBatch if the batch is malformed, or its records have more than `size_max` bytes decompressed.
    """
    header = BatchHeader.read(batch)
    if header.magic != MAGIC or header.size != len(batch):
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, f"not one whole batch of magic 2: {header!r}")
    codec = header.attributes & CODEC_MASK
    body = decompress(codec, memoryview(batch)[HEADER_SIZE:], size_max)
    if not 0 <= header.record_count * RECORD_SIZE_MIN <= len(body):
        raise InvalidBatch(
            ErrorCode.CORRUPT_MESSAGE, f"{header.record_count} records do not fit into {len(body)} bytes"
        )
    if codec != Codec.NONE:
        batch = b"".join((_pack_header(header, len(body), header.attributes & ~CODEC_MASK), body))
    parser, failures = _record_parser()
    try:
        for each in parser(batch):
            yield Record(each.offset, each.timestamp, each.key, each.value, each.headers)
    except failures as error:
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, f"records are malformed: {error}") from None


def validate_records(batch: Buffer, size_max: int = DECOMPRESSED_SIZE_MAX) -> list[Record]:
    """The checks of a batch that need its records, after `validate_batches`; returns the records, as they are there.

    Raises InvalidBatch: CORRUPT_MESSAGE as `decode_records`, INVALID_RECORD if offsets are not consecutive.
    """
    records = decode_records(batch, size_max)
    base_offset = BatchHeader.read(batch).base_offset
    for offset, record in enumerate(records, base_offset):
        if record.offset != offset:
            raise InvalidBatch(ErrorCode.INVALID_RECORD, f"record {offset - base_offset} has offset {record.offset}")
    return records


def build_batch(
    records: Sequence[Record],
    *,
    codec: Codec = Codec.NONE,
    leader_epoch: int = -1,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    transactional: bool = False,
    control: bool = False,
    log_append_time: bool = False,
    base_offset: int | None = None,
    last_offset: int | None = None,
) -> bytearray:
    """One batch. Offsets may have gaps; compaction keeps a batch's range by giving `base_offset` and `last_offset`.

    Raises ValueError if there is neither a record nor a range, or a record lies outside the range.
    """
    if base_offset is None:
        base_offset = _at(records, 0).offset
    if last_offset is None:
        last_offset = _at(records, -1).offset
    if records and not base_offset <= records[0].offset <= records[-1].offset <= last_offset:
        raise ValueError(f"records {records[0].offset}-{records[-1].offset} are not within {base_offset}-{last_offset}")
    base_timestamp = records[0].timestamp if records else -1
    pieces: list[bytes] = []
    for record in records:
        encoded = _encode_record(record, base_offset, base_timestamp)
        pieces += (zigzag_varint(len(encoded)), encoded)
    body = compress(codec, b"".join(pieces)) if codec else b"".join(pieces)
    header = BatchHeader()
    header.base_offset = base_offset
    header.partition_leader_epoch = leader_epoch
    header.last_offset_delta = last_offset - base_offset
    header.base_timestamp = base_timestamp
    header.max_timestamp = max((record.timestamp for record in records), default=-1)
    header.producer_id = producer_id
    header.producer_epoch = producer_epoch
    header.base_sequence = base_sequence
    header.record_count = len(records)
    header.crc = 0
    attributes = codec | LOG_APPEND_TIME * log_append_time | TRANSACTIONAL * transactional | CONTROL * control
    batch = bytearray(_pack_header(header, len(body), attributes))
    batch += body
    batch[CRC_POSITION:ATTRIBUTES_POSITION] = crc32c(memoryview(batch)[ATTRIBUTES_POSITION:]).to_bytes(4, "big")
    return batch


def _at(records: Sequence[Record], index: int) -> Record:
    if not records:
        raise ValueError("a batch without records needs a range of offsets")
    return records[index]


def _encode_record(record: Record, base_offset: int, base_timestamp: int) -> bytes:
    pieces = [
        b"\0",
        zigzag_varint(record.timestamp - base_timestamp),
        zigzag_varint(record.offset - base_offset),
        *_sized(record.key),
        *_sized(record.value),
        zigzag_varint(len(record.headers)),
    ]
    for name, value in record.headers:
        pieces += _sized(name.encode())
        pieces += _sized(value)
    return b"".join(pieces)


def _sized(value: bytes | None) -> tuple[bytes, bytes]:
    return (b"\x01", b"") if value is None else (zigzag_varint(len(value)), value)


def _pack_header(header: BatchHeader, body_size: int, attributes: int) -> bytes:
    return HEADER.pack(
        header.base_offset,
        HEADER_SIZE - LOG_OVERHEAD + body_size,
        header.partition_leader_epoch,
        MAGIC,
        header.crc,
        attributes,
        header.last_offset_delta,
        header.base_timestamp,
        header.max_timestamp,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.record_count,
    )


@cache
def _record_parser() -> tuple[Any, tuple[type[Exception], ...]]:
    """The parser and what it raises. Importing aiokafka imports its client too: ~60 ms, and not for every process."""
    from aiokafka.errors import KafkaError
    from aiokafka.record.default_records import DefaultRecordBatch

    return DefaultRecordBatch, (KafkaError, ValueError, OverflowError, IndexError)
