"""The format of a log in an object store.

Objects are called **slots**. Their keys, relative to the log's prefix, are `<epoch>/<sequence>`, both 16 hex digits: a
log is a run of epochs, each with slots 0, 1, 2, ... Every slot is created conditionally: of two writers one wins.

Slot: a header, the sizes of the records (u32 each), their data. All integers are little-endian::

    0   8s   magic "TRWALOBJ"
    8   u32  version (1)
    12  u32  kind: 1 records (none, in the first slot and in marks), 2 seal, 3 close
    16  u64  WAL epoch, as in the key
    24  u64  sequence, as in the key
    32  u64  position of the first record
    40  u64  first sequence that is still needed: slots before it may be deleted once this one is durable
    48  u64  first sequence not acknowledged when this was written: from the needed one up to there none may miss
    56  u32  record count n
    60  u32  data size: sum of the record sizes
    64  16s  writer, random: what makes two slots with the same key different
    80  u32  CRC32C of bytes 0-79, the sizes and the data

A **position** counts log bytes since the log was created: each record takes its data size + 4.

The log of an epoch ends before its first seal or close slot. A seal is written by whoever takes the log over; as slots
are acknowledged in order, nothing at or after it ever was, although slots of the former owner may lie behind it. A
close is written by the owner itself.

`<epoch>/discarded` is a slot of kind 4 whose sequence is that of the seal or close: everything before was made durable
elsewhere, and may be gone. The seal stays for ever, because a request of the former owner may be on its way for ever.

`owner` holds the id of the cluster that the log belongs to, in ASCII.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from crc32c import crc32c

from wal.api import Buffer, WalCorrupt, WalRecord

RECORD_OVERHEAD = 4
_MAGIC = b"TRWALOBJ"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQQQQQII16s")
_CRC = struct.Struct("<I")
OWNER_KEY = "owner"
HEADER_SIZE = _HEADER.size + _CRC.size
_KEY = re.compile(r"([0-9a-f]{16})/(?:([0-9a-f]{16})|(discarded))\Z")


class Kind(IntEnum):
    RECORDS = 1
    SEAL = 2
    CLOSE = 3
    DISCARDED = 4


_KINDS = frozenset(int(kind) for kind in Kind)


class SlotHeader(NamedTuple):
    """See the module docstring. `writer` has 16 bytes."""

    kind: Kind
    epoch: int
    sequence: int
    position: int
    needed: int
    unconfirmed: int
    writer: bytes
    record_count: int = 0
    data_size: int = 0

    @property
    def end_position(self) -> int:
        return self.position + self.data_size + RECORD_OVERHEAD * self.record_count


def slot_key(epoch: int, sequence: int) -> str:
    return f"{epoch:016x}/{sequence:016x}"


def discarded_key(epoch: int) -> str:
    return f"{epoch:016x}/discarded"


def parse_key(key: str) -> tuple[int, int | None] | None:
    """(epoch, sequence), (epoch, None) for the mark of a discarded epoch, None for what is no part of a log."""
    found = _KEY.match(key)
    if found is None:
        return None
    epoch, sequence, discarded = found.groups()
    return int(epoch, 16), None if discarded else int(sequence, 16)


def encode_slot(header: SlotHeader, records: Sequence[Sequence[Buffer]] = ()) -> list[Buffer]:
    """The pieces of a slot. `records` are counted here, `record_count` and `data_size` of the header do not matter."""
    sizes = [sum(map(len, pieces)) for pieces in records]
    head = _HEADER.pack(_MAGIC, _VERSION, *header[:-3], len(sizes), sum(sizes), header.writer)
    table = struct.pack(f"<{len(sizes)}I", *sizes)
    checksum = crc32c(table, crc32c(head))
    data: list[Buffer] = []
    for pieces in records:
        for piece in pieces:
            checksum = crc32c(piece, checksum)
            data.append(piece)
    return [head + _CRC.pack(checksum) + table, *data]


def decode_header(key: str, slot: Buffer) -> SlotHeader:
    """Check a whole slot and read its header. Raises WalCorrupt."""
    view = memoryview(slot)
    if len(view) < HEADER_SIZE:
        raise WalCorrupt(f"{key}: {len(view)} bytes are no slot of a log")
    magic, version, kind, epoch, sequence, *places, record_count, data_size, writer = _HEADER.unpack_from(view)
    if magic != _MAGIC or version != _VERSION:
        raise WalCorrupt(f"{key}: not a slot of a log that this version knows")
    if len(view) != HEADER_SIZE + 4 * record_count + data_size:
        raise WalCorrupt(f"{key}: the slot has {len(view)} bytes, its header says otherwise")
    (checksum,) = _CRC.unpack_from(view, _HEADER.size)
    if crc32c(view[HEADER_SIZE:], crc32c(view[: _HEADER.size])) != checksum:
        raise WalCorrupt(f"{key}: wrong checksum")
    parsed = parse_key(key)
    if kind not in _KINDS or parsed is None or parsed[0] != epoch or parsed[1] not in (sequence, None):
        raise WalCorrupt(f"{key}: holds slot {sequence} of epoch {epoch}")
    position, needed, unconfirmed = places
    return SlotHeader(Kind(kind), epoch, sequence, position, needed, unconfirmed, writer, record_count, data_size)


def decode_records(header: SlotHeader, slot: Buffer) -> list[WalRecord]:
    """The records of a slot that `decode_header` has checked."""
    view = memoryview(slot)
    count = header.record_count
    sizes = struct.unpack_from(f"<{count}I", view, HEADER_SIZE)
    start = HEADER_SIZE + 4 * count
    position = header.position
    records = []
    for size in sizes:
        end = position + size + RECORD_OVERHEAD
        records.append(WalRecord(position, end, view[start : start + size]))
        start += size
        position = end
    return records
