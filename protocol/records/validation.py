"""What a broker refuses of a produced batch before it looks at topics, with Kafka's error codes.

The header and the CRC are checked, the records are not: see `validate_records`. A batch whose CRC is right and whose
records are garbage was built so by its producer; it is opaque to the broker, as a compressed batch is.
"""

from __future__ import annotations

from crc32c import crc32c

from protocol.errors import ErrorCode, InvalidBatch
from protocol.records.compression import CODEC_MAX, Codec
from protocol.records.header import (
    ATTRIBUTES_POSITION,
    CODEC_MASK,
    CONTROL,
    HEADER_SIZE,
    LOG_APPEND_TIME,
    LOG_OVERHEAD,
    MAGIC,
    MAGIC_POSITION,
    BatchHeader,
)
from protocol.types import Buffer

RECORD_SIZE_MIN = 7
"""Length, attributes, timestamp delta, offset delta, key length, value length, header count: one byte each."""


def validate_batches(records: memoryview | None, *, zstd: bool = True) -> BatchHeader:
    """The header of the one batch in a Produce request's records field.

    `zstd=False` is for Produce before version 7. Raises InvalidBatch: CORRUPT_MESSAGE for a size or CRC that is wrong,
    INVALID_TIMESTAMP for log append time set by a producer, UNSUPPORTED_COMPRESSION_TYPE, else INVALID_RECORD.
    """
    size = 0 if records is None else len(records)
    if records is None or size < HEADER_SIZE:
        raise _refusal_of_short(records)
    header = BatchHeader.read(records)
    attributes = header.attributes
    count = header.record_count
    batch_size = header.batch_length + LOG_OVERHEAD
    if (
        header.magic == MAGIC
        and batch_size == size
        and crc32c(records[ATTRIBUTES_POSITION:]) == header.crc
        and header.base_offset == 0
        and count > 0
        and header.last_offset_delta == count - 1
        and not attributes & (CONTROL | LOG_APPEND_TIME)
        and (header.producer_id < 0 or (header.base_sequence >= 0 and header.producer_epoch >= 0))
    ):
        codec = attributes & CODEC_MASK
        if codec == Codec.NONE:
            if count * RECORD_SIZE_MIN <= size - HEADER_SIZE:
                return header
        elif codec <= CODEC_MAX and (zstd or codec != Codec.ZSTD):
            return header
    raise _refusal(records, header, zstd)


def _refusal_of_short(records: Buffer | None) -> InvalidBatch:
    if not records:
        return _invalid("the request has no record batch for the partition")
    if len(records) > MAGIC_POSITION and records[MAGIC_POSITION] in (0, 1):
        return _invalid(f"only record batches of magic 2 are accepted, this is magic {records[MAGIC_POSITION]}")
    return _corrupt("the batch is shorter than a batch header")


def _refusal(records: memoryview, header: BatchHeader, zstd: bool) -> InvalidBatch:
    """Why: off the hot path, in the order in which Kafka would notice."""
    size, batch_size, count = len(records), header.size, header.record_count
    if header.magic in (0, 1):
        return _invalid(f"only record batches of magic 2 are accepted, this is magic {header.magic}")
    if header.magic != MAGIC:
        return _corrupt(f"magic {header.magic} is unknown")
    if batch_size < HEADER_SIZE or batch_size > size:
        return _corrupt(f"the batch says it has {batch_size} bytes, {size} are there")
    if batch_size < size:
        return _invalid("exactly one record batch per partition is accepted")
    if header.codec == Codec.ZSTD and not zstd:
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
    if header.codec > CODEC_MAX:
        return _invalid(f"compression codec {header.codec} is unknown")
    if header.producer_id >= 0 and (header.base_sequence < 0 or header.producer_epoch < 0):
        return _invalid(f"producer id {header.producer_id} without a sequence and an epoch")
    return _invalid(f"{count} records do not fit into {size} bytes")


def _invalid(message: str) -> InvalidBatch:
    return InvalidBatch(ErrorCode.INVALID_RECORD, message)


def _corrupt(message: str) -> InvalidBatch:
    return InvalidBatch(ErrorCode.CORRUPT_MESSAGE, message)
