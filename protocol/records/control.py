"""Control batches: the markers that end a transaction in a partition's log.

One record whose key is int16 version, int16 type (0 abort, 1 commit), and whose value is int16 version, int32
coordinator epoch. The batch has the control and the transactional bit, and no sequence.
"""

from __future__ import annotations

from typing import NamedTuple

from protocol.codec import decode_record_message, encode_record_message
from protocol.errors import DecodeError, ErrorCode, InvalidBatch
from protocol.messages.records import end_txn_marker as messages
from protocol.records.batch import Record, build_batch, decode_records
from protocol.records.header import BatchHeader
from protocol.types import Buffer

_ABORT = 0
_COMMIT = 1


class EndTxnMarker(NamedTuple):
    committed: bool
    coordinator_epoch: int


def build_end_txn_marker(
    producer_id: int, producer_epoch: int, committed: bool, coordinator_epoch: int, timestamp_ms: int
) -> bytearray:
    """The control batch of one marker, at base offset 0."""
    key = encode_record_message(messages.ControlRecordTypeSchema(type=_COMMIT if committed else _ABORT))
    value = encode_record_message(messages.EndTxnMarker(coordinator_epoch=coordinator_epoch))
    return build_batch(
        [Record(0, timestamp_ms, key, value)],
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        transactional=True,
        control=True,
    )


def parse_end_txn_marker(batch: Buffer) -> EndTxnMarker | None:
    """The marker in a control batch, or None for a control batch of another type. Raises InvalidBatch."""
    if not BatchHeader.read(batch).is_control:
        raise InvalidBatch(ErrorCode.INVALID_RECORD, "not a control batch")
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
