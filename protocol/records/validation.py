"""What a broker refuses of a produced batch before it looks at topics, with Kafka's error codes.

The header and the CRC are checked, the records are not: see `validate_records`. A batch whose CRC is right and whose
records are garbage was built so by its producer; it is opaque to the broker, as a compressed batch is.
"""

from __future__ import annotations

from crc32c import crc32c

from protocol.errors import ErrorCode, InvalidBatch
from protocol.records.compression import Codec
from protocol.records.header import (
    ATTRIBUTES_POSITION,
    CODEC_MASK,
    CONTROL,
    HEADER_SIZE,
    LOG_APPEND_TIME,
    LOG_OVERHEAD,
    MAGIC,
    MAGIC_POSITION,
    NO_PRODUCER_ID,
    TRANSACTIONAL,
    BatchHeader,
)
from protocol.types import Buffer

RECORD_SIZE_MIN = 7
"""Length, attributes, timestamp delta, offset delta, key length, value length, header count: one byte each."""

_ZSTD = int(Codec.ZSTD)
"""The highest codec, as a plain number for the hot path."""


def validate_batches(records: memoryview | None, *, zstd: bool = True) -> BatchHeader:
    """The header of the one batch in a Produce request's records field.

    `zstd=False` is for Produce before version 7. Raises InvalidBatch: CORRUPT_MESSAGE for a size, magic or CRC that is
    wrong, INVALID_TIMESTAMP, UNSUPPORTED_COMPRESSION_TYPE, and INVALID_RECORD for everything else.

    Two things that Kafka lets pass are refused: bytes behind the batch that are too few to be another (it cuts them
    off), and log append time set by a producer on a topic that does not use it (it clears the bit).
    """
    if records is None or len(records) < HEADER_SIZE:
        raise _refusal_of_short(records)
    size = len(records)
    header = BatchHeader.read(records)
    attributes = header.attributes
    count = header.record_count
    if (
        header.magic == MAGIC
        and header.batch_length + LOG_OVERHEAD == size
        and crc32c(records[ATTRIBUTES_POSITION:]) == header.crc
        and header.base_offset == 0
        and count > 0
        and header.last_offset_delta == count - 1
        and not attributes & (CONTROL | LOG_APPEND_TIME)
    ):
        producer_id = header.producer_id
        if (
            header.base_sequence >= 0
            if producer_id >= 0
            else producer_id == NO_PRODUCER_ID and not attributes & TRANSACTIONAL
        ):
            codec = attributes & CODEC_MASK
            if not codec:
                if count * RECORD_SIZE_MIN <= size - HEADER_SIZE:
                    return header
            elif codec < _ZSTD or (codec == _ZSTD and zstd):
                return header
    raise _refusal(records, header, zstd)


def _refusal_of_short(records: Buffer | None) -> InvalidBatch:
    if not records:
        return _invalid("the request has no record batch for the partition")
    if len(records) > MAGIC_POSITION and records[MAGIC_POSITION] in (0, 1):
        return _invalid(f"only record batches of magic 2 are accepted, this is magic {records[MAGIC_POSITION]}")
    return _invalid(f"{len(records)} bytes are no whole record batch")


def _refusal(records: memoryview, header: BatchHeader, zstd: bool) -> InvalidBatch:
    """Why: off the hot path, in the order in which Kafka would notice."""
    size, batch_size, count = len(records), header.size, header.record_count
    if header.magic in (0, 1):
        return _invalid(f"only record batches of magic 2 are accepted, this is magic {header.magic}")
    if header.magic != MAGIC:
        return _corrupt(f"magic {header.magic} is unknown")
    if batch_size < HEADER_SIZE:
        return _corrupt(f"the batch says it has {batch_size} bytes, less than its header")
    if batch_size > size:
        return _invalid(f"the batch says it has {batch_size} bytes, {size} are there")
    if batch_size < size:
        return _invalid("exactly one record batch per partition is accepted")
    if header.codec == _ZSTD and not zstd:
        return InvalidBatch(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce version 7 or higher")
    if crc32c(records[ATTRIBUTES_POSITION:]) != header.crc:
        return _corrupt("the CRC of the batch is wrong")
    if header.base_offset != 0:
        return _invalid(f"the base offset of a produced batch is 0, not {header.base_offset}")
    if count <= 0 or header.last_offset_delta != count - 1:
        return _invalid(f"{count} records do not fit the last offset delta {header.last_offset_delta}")
    if header.is_control:
        return _invalid("clients may not write control records")
    if header.is_log_append_time:
        return InvalidBatch(ErrorCode.INVALID_TIMESTAMP, "a producer may not set the timestamp type to log append time")
    if header.producer_id >= 0 and header.base_sequence < 0:
        return _invalid(f"producer id {header.producer_id} without a sequence")
    if header.producer_id < NO_PRODUCER_ID:
        return _invalid(f"producer id {header.producer_id} is none")
    if header.producer_id < 0 and header.is_transactional:
        return _invalid("a transactional batch without a producer id")
    if header.codec > _ZSTD:
        return _invalid(f"compression codec {header.codec} is unknown")
    return _invalid(f"{count} records do not fit into {size} bytes")


def _invalid(message: str) -> InvalidBatch:
    return InvalidBatch(ErrorCode.INVALID_RECORD, message)


def _corrupt(message: str) -> InvalidBatch:
    return InvalidBatch(ErrorCode.CORRUPT_MESSAGE, message)
