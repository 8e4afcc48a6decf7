"""The format of a log in a directory.

A directory holds one log: `checkpoint`, `owner` (`wal.file.owner`), and segments `<sequence, 16 hex digits>.wal`, all
of one size, preallocated. The directory itself carries the lock (`flock`). All integers are little-endian, all
checksums CRC32C.

Positions
---------
A **position** counts log bytes since the log was created: each record takes its data size + 4. It only grows. Where a
record lies in a file is a byte offset there; the segment header says which position the first frame of the file has.

Segment: a header of 64 bytes, then frames back to back, then whatever the file held before (zeros or stale frames)::

    0   8s   magic "TRWALSEG"
    8   u32  version (1)
    12  u32  chain: checksum of the frame before the first one of this segment
    16  u64  log id, random, made with the log
    24  u64  sequence, as in the file name
    32  u64  WAL epoch
    40  u64  position of the first frame
    48  u64  file size
    56  u32  zero
    60  u32  CRC of bytes 0-59

A segment that was renamed for reuse still has its former header, whose sequence is not that of its name: it is empty.
The header is synced before the first frame is written, so that a segment without one of its own holds no live frames.

Frame: one group commit, that is, what one sync made durable::

    0   u32  magic
    4   u32  record count n
    8   u64  WAL epoch
    16  u64  position of the first record
    24  u32  data size: sum of the record sizes
    28  u32  type (1: records)
    32  u32  chain: checksum of the frame before
    36  u32  CRC of bytes 0-35, the sizes and the data, seeded with the low half of the log id
    40  u32 * n   record sizes
        data of the n records

A frame ends at position + data size + 4 n. It never crosses segments. Frame k + 1 is written only after frame k is
on stable storage: therefore a damaged frame with an intact later one behind it is **corruption**, one with nothing
behind it is a **torn tail**. What a recycled segment held before has an older epoch or an earlier position.

Checkpoint: two slots of 64 bytes at byte 0 and byte 4096, the intact one with the highest generation counts::

    0   8s   magic "TRWALCKP"
    8   u32  version (1)
    12  u32  state: 1 open, 2 closed cleanly, 3 discarded after recovery
    16  u64  generation
    24  u64  log id
    32  u64  WAL epoch of the last opening
    40  u64  trim position: records that end at or before it are not needed
    48  u64  end position: durable when this was written; exact in states 2 and 3
    56  u32  machine that wrote this (`wal.file.machine`), 0 if it is not known
    60  u32  CRC of bytes 0-59
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from crc32c import crc32c

from wal.api import Buffer

VERSION = 1
SEGMENT_SUFFIX = ".wal"
CHECKPOINT_NAME = "checkpoint"
SEGMENT_HEADER_SIZE = 64
FRAME_HEADER_SIZE = 40
RECORD_OVERHEAD = 4
FRAME_MAGIC = 0x9E57A11C
FRAME_MAGIC_BYTES = FRAME_MAGIC.to_bytes(4, "little")
RECORDS = 1
SLOT_SIZE = 64
SLOT_POSITIONS = (0, 4096)
CHECKPOINT_SIZE = 4096 + SLOT_SIZE

_SEGMENT = struct.Struct("<8sIIQQQQQI")
_FRAME = struct.Struct("<IIQQIII")
_CHECKPOINT = struct.Struct("<8sIIQQQQQI")
_CRC = struct.Struct("<I")
_SEGMENT_MAGIC = b"TRWALSEG"
_CHECKPOINT_MAGIC = b"TRWALCKP"
_BIG_ENDIAN = sys.byteorder == "big"
_JOIN_BELOW = 2048
"""Mean piece size under which joining a frame's pieces is cheaper than a CRC call and an iovec entry for each."""


class State(IntEnum):
    OPEN = 1
    CLEAN = 2
    DISCARDED = 3


_STATES = frozenset(State)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    chain: int
    log_id: int
    sequence: int
    epoch: int
    position: int
    size: int

    def encode(self) -> bytes:
        body = _SEGMENT.pack(
            _SEGMENT_MAGIC, VERSION, self.chain, self.log_id, self.sequence, self.epoch, self.position, self.size, 0
        )
        return body + _CRC.pack(crc32c(body))

    @classmethod
    def decode(cls, data: Buffer) -> SegmentHeader | None:
        """None if `data` is not an intact header of this version."""
        body = _intact(data)
        if body is None:
            return None
        magic, version, chain, log_id, sequence, epoch, position, size, _ = _SEGMENT.unpack(body)
        if magic != _SEGMENT_MAGIC or version != VERSION:
            return None
        return cls(chain, log_id, sequence, epoch, position, size)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    state: State
    generation: int
    log_id: int
    epoch: int
    trim_position: int
    end_position: int
    machine: int = 0

    def encode(self) -> bytes:
        body = _CHECKPOINT.pack(
            _CHECKPOINT_MAGIC,
            VERSION,
            self.state,
            self.generation,
            self.log_id,
            self.epoch,
            self.trim_position,
            self.end_position,
            self.machine,
        )
        return body + _CRC.pack(crc32c(body))

    @classmethod
    def decode(cls, data: Buffer) -> Checkpoint | None:
        """None if `data` is not an intact slot of this version."""
        body = _intact(data)
        if body is None:
            return None
        magic, version, state, generation, log_id, epoch, trim, end, machine = _CHECKPOINT.unpack(body)
        if magic != _CHECKPOINT_MAGIC or version != VERSION or state not in _STATES:
            return None
        return cls(State(state), generation, log_id, epoch, trim, end, machine)


@dataclass(frozen=True, slots=True)
class FrameHeader:
    count: int
    epoch: int
    position: int
    data_size: int
    chain: int
    crc: int

    @property
    def end(self) -> int:
        return self.position + self.data_size + RECORD_OVERHEAD * self.count

    @property
    def frame_size(self) -> int:
        return FRAME_HEADER_SIZE + self.data_size + RECORD_OVERHEAD * self.count


def encode_frame(
    records: Sequence[Sequence[Buffer]], sizes: list[int], epoch: int, position: int, chain: int, seed: int
) -> tuple[list[Buffer], int]:
    """The pieces of one frame and its checksum. Big pieces are not copied."""
    directory = array("I", sizes)
    if _BIG_ENDIAN:
        directory.byteswap()
    table = directory.tobytes()
    data_size = sum(sizes)
    header = _FRAME.pack(FRAME_MAGIC, len(sizes), epoch, position, data_size, RECORDS, chain)
    crc = crc32c(table, crc32c(header, seed))
    pieces: list[Buffer] = [piece for record in records for piece in record]
    if data_size < _JOIN_BELOW * len(pieces):
        body = b"".join(pieces)
        crc = crc32c(body, crc, 0)
        return [header + _CRC.pack(crc) + table, body], crc
    for piece in pieces:
        # The GIL is kept: taking it back from a busy loop would cost more than the checksum.
        crc = crc32c(piece, crc, 0)
    return [header + _CRC.pack(crc) + table, *pieces], crc


def decode_frame_header(data: Buffer) -> FrameHeader | None:
    """None if `data` does not begin like a frame. Says nothing about the checksum."""
    if len(data) < FRAME_HEADER_SIZE:
        return None
    magic, count, epoch, position, data_size, kind, chain = _FRAME.unpack_from(data)
    if magic != FRAME_MAGIC or kind != RECORDS or count == 0:
        return None
    (crc,) = _CRC.unpack_from(data, _FRAME.size)
    return FrameHeader(count, epoch, position, data_size, chain, crc)


def frame_is_intact(frame: memoryview, header: FrameHeader, seed: int) -> bool:
    """`frame` is exactly the frame's bytes. The sizes must add up too."""
    crc = crc32c(frame[FRAME_HEADER_SIZE:], crc32c(frame[: _FRAME.size], seed))
    return bool(crc == header.crc) and sum(frame_sizes(frame, header.count)) == header.data_size


def frame_sizes(frame: memoryview, count: int) -> array[int]:
    """The record sizes of an intact frame."""
    sizes = array("I")
    sizes.frombytes(frame[FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + RECORD_OVERHEAD * count])
    if _BIG_ENDIAN:
        sizes.byteswap()
    return sizes


def segment_name(sequence: int) -> str:
    return f"{sequence:016x}{SEGMENT_SUFFIX}"


def segment_sequence(name: str) -> int | None:
    """None if `name` is not that of a segment."""
    stem = name.removesuffix(SEGMENT_SUFFIX)
    if stem == name or len(stem) != 16:
        return None
    try:
        return int(stem, 16)
    except ValueError:
        return None


def seed_of(log_id: int) -> int:
    return log_id & 0xFFFFFFFF


def _intact(data: Buffer) -> bytes | None:
    """The first 60 bytes if the CRC that follows them matches."""
    if len(data) < SLOT_SIZE:
        return None
    body = bytes(data[: SLOT_SIZE - _CRC.size])
    return body if _CRC.unpack_from(data, SLOT_SIZE - _CRC.size)[0] == crc32c(body) else None
