"""What the broker writes into a validated batch, in place."""

from __future__ import annotations

import struct

from crc32c import crc32c

from protocol.records.header import (
    ATTRIBUTES_POSITION,
    CRC_POSITION,
    LOG_APPEND_TIME,
    LOG_OVERHEAD,
    MAX_TIMESTAMP_POSITION,
)

_pack_base_offset_into = struct.Struct(">q").pack_into
_pack_leader_epoch_into = struct.Struct(">i").pack_into
_pack_crc_into = struct.Struct(">I").pack_into
_ATTRIBUTES = struct.Struct(">h")


def stamp(batch: memoryview | bytearray, base_offset: int, leader_epoch: int) -> None:
    """Set base offset and partition leader epoch, which are not under the CRC."""
    _pack_base_offset_into(batch, 0, base_offset)
    _pack_leader_epoch_into(batch, LOG_OVERHEAD, leader_epoch)


def stamp_log_append_time(
    batch: memoryview | bytearray, base_offset: int, leader_epoch: int, timestamp_ms: int
) -> None:
    """As `stamp`, for a topic of `message.timestamp.type=LogAppendTime`: the max timestamp becomes that of all records.

    The base timestamp stays, as in Kafka: readers take the max timestamp where the attribute says so. Costs a CRC.
    """
    (attributes,) = _ATTRIBUTES.unpack_from(batch, ATTRIBUTES_POSITION)
    _ATTRIBUTES.pack_into(batch, ATTRIBUTES_POSITION, attributes | LOG_APPEND_TIME)
    _pack_base_offset_into(batch, MAX_TIMESTAMP_POSITION, timestamp_ms)
    stamp(batch, base_offset, leader_epoch)
    _pack_crc_into(batch, CRC_POSITION, crc32c(memoryview(batch)[ATTRIBUTES_POSITION:]))
