"""Control batches: the markers that end a transaction in a partition's log.

One record whose key is int16 version, int16 type (0 abort, 1 commit), and whose value is int16 version, int32
coordinator epoch. The batch has the control and the transactional bit, and no sequence.

There is one for every transaction in every partition, so it is written, and if laid out as usual also read, as one
struct; anything else is read as the record that it is.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from crc32c import crc32c

from protocol.codec import decode_record_message
from protocol.errors import DecodeError, ErrorCode, InvalidBatch
from protocol.messages.records import end_txn_marker as messages
from protocol.records.batch import decode_records
from protocol.records.header import (
    ATTRIBUTES_POSITION,
    CONTROL,
    CRC_POSITION,
    HEADER,
    HEADER_SIZE,
    LOG_OVERHEAD,
    MAGIC,
    TRANSACTIONAL,
    BatchHeader,
)
from protocol.types import Buffer

_ABORT = 0
_COMMIT = 1
_RECORD = struct.Struct(">5s2hB2xiB")
"""Length, attributes, deltas and key length; key; value length; value; header count."""
_BEFORE_KEY = b"\x20\0\0\0\x08"
_VALUE_SIZE = 0x0C
_BATCH_SIZE = HEADER_SIZE + _RECORD.size
_VERSION = 0


class EndTxnMarker(NamedTuple):
    committed: bool
    coordinator_epoch: int


def build_end_txn_marker(
    producer_id: int, producer_epoch: int, committed: bool, coordinator_epoch: int, timestamp_ms: int
) -> bytearray:
    """The control batch of one marker, at base offset 0."""
    length, attributes = _BATCH_SIZE - LOG_OVERHEAD, TRANSACTIONAL | CONTROL
    batch = bytearray(
        HEADER.pack(
            0, length, -1, MAGIC, 0, attributes, 0, timestamp_ms, timestamp_ms, producer_id, producer_epoch, -1, 1
        )
        + _RECORD.pack(_BEFORE_KEY, _VERSION, _COMMIT if committed else _ABORT, _VALUE_SIZE, coordinator_epoch, 0)
    )
    batch[CRC_POSITION:ATTRIBUTES_POSITION] = crc32c(memoryview(batch)[ATTRIBUTES_POSITION:]).to_bytes(4, "big")
    return batch


def parse_end_txn_marker(batch: Buffer) -> EndTxnMarker | None:
    """The marker in a control batch, or None for a control batch of another type. Raises InvalidBatch."""
    if not BatchHeader.read(batch).is_control:
        raise InvalidBatch(ErrorCode.INVALID_RECORD, "not a control batch")
    if len(batch) == _BATCH_SIZE:
        before_key, _, type_, value_size, coordinator_epoch, _ = _RECORD.unpack_from(batch, HEADER_SIZE)
        if before_key == _BEFORE_KEY and value_size == _VALUE_SIZE and type_ in (_ABORT, _COMMIT):
            return EndTxnMarker(type_ == _COMMIT, coordinator_epoch)
    records = decode_records(batch)
    if not records:
        return None
    key, value = records[0].key or b"", records[0].value or b""
    try:
        type_ = decode_record_message(messages.ControlRecordTypeSchema, key, newer=True).type
        if type_ not in (_ABORT, _COMMIT):
            return None
        marker = decode_record_message(messages.EndTxnMarker, value, newer=True)
    except DecodeError as error:
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, str(error)) from None
    return EndTxnMarker(type_ == _COMMIT, marker.coordinator_epoch)
