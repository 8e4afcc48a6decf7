"""The header of a batch, and walking from batch to batch."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from protocol.errors import ErrorCode, InvalidBatch
from protocol.types import Buffer

HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_SIZE = HEADER.size
LOG_OVERHEAD = 12
"""Base offset and batch length: what stands before the bytes that the length counts."""
MAGIC_POSITION = 16
CRC_POSITION = 17
ATTRIBUTES_POSITION = 21
MAX_TIMESTAMP_POSITION = 35
MAGIC = 2
NO_PRODUCER_ID = -1

CODEC_MASK = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20

_unpack = HEADER.unpack_from


class BatchHeader:
    """A batch's header, decoded. Offsets and timestamps are absolute; `size` is that of the whole batch."""

    __slots__ = (
        "attributes",
        "base_offset",
        "base_sequence",
        "base_timestamp",
        "batch_length",
        "crc",
        "last_offset_delta",
        "magic",
        "max_timestamp",
        "partition_leader_epoch",
        "producer_epoch",
        "producer_id",
        "record_count",
    )

    base_offset: int
    batch_length: int
    partition_leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @classmethod
    def read(cls, buffer: Buffer, position: int = 0) -> BatchHeader:
        """Decode without any check but that there are 61 bytes: raises InvalidBatch (CORRUPT_MESSAGE) if not."""
        header = cls.__new__(cls)
        try:
            (
                header.base_offset,
                header.batch_length,
                header.partition_leader_epoch,
                header.magic,
                header.crc,
                header.attributes,
                header.last_offset_delta,
                header.base_timestamp,
                header.max_timestamp,
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
                header.record_count,
            ) = _unpack(buffer, position)
        except struct.error:
            raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, "the batch is shorter than a batch header") from None
        return header

    @property
    def size(self) -> int:
        return self.batch_length + LOG_OVERHEAD

    @property
    def last_offset(self) -> int:
        """Inclusive."""
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1

    @property
    def codec(self) -> int:
        """A `Codec`'s number, or one that no codec has."""
        return self.attributes & CODEC_MASK

    @property
    def is_log_append_time(self) -> bool:
        return bool(self.attributes & LOG_APPEND_TIME)

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL)

    def __repr__(self) -> str:
        return (
            f"BatchHeader(base_offset={self.base_offset}, last_offset={self.last_offset}, size={self.size}, "
            f"leader_epoch={self.partition_leader_epoch}, attributes={self.attributes:#x}, "
            f"records={self.record_count}, producer={self.producer_id}/{self.producer_epoch}/{self.base_sequence})"
        )


def iter_batches(buffer: Buffer) -> Iterator[tuple[BatchHeader, memoryview]]:
    """Header and bytes of each batch; a batch that is cut off at the end of the buffer is left out.

    For data that was validated when it was written: CRCs are not checked. Raises InvalidBatch (CORRUPT_MESSAGE) for a
    length that cannot be, or a magic other than 2.
    """
    view = memoryview(buffer)
    position, end = 0, len(view)
    while end - position >= HEADER_SIZE:
        header = BatchHeader.read(view, position)
        if header.batch_length < HEADER_SIZE - LOG_OVERHEAD:
            raise InvalidBatch(
                ErrorCode.CORRUPT_MESSAGE, f"batch length {header.batch_length} at position {position} is too small"
            )
        if header.magic != MAGIC:
            raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, f"magic {header.magic} at position {position}")
        stop = position + header.batch_length + LOG_OVERHEAD
        if stop > end:
            return
        yield header, view[position:stop]
        position = stop
