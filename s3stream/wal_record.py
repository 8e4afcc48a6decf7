"""The layout of a WAL record: which stream a batch belongs to, and where in it.

::

    position  size  field
    0         1     version (1)
    1         3     zero
    4         4     count            offsets the batch covers, >= 1
    8         8     stream id
    16        8     stream epoch
    24        8     base offset
    32        8     max timestamp    ms, signed
    40        ...   the batch, opaque

Integers are big-endian. The record carries no checksum of its own: the WAL's frame has one over header and batch, and
a record is only ever read out of such a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from s3stream.api import StorageError

VERSION = 1
HEADER = Struct(">B3xIQQQq")
HEADER_SIZE = HEADER.size


class WalRecordInvalid(StorageError):
    """A WAL record that passed its checksum and is not one of ours."""


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """One appended batch as recovery sees it; `batch` is a slice of the recovered buffer."""

    stream_id: int
    epoch: int
    base_offset: int
    count: int
    max_timestamp: int
    batch: memoryview

    @property
    def end_offset(self) -> int:
        return self.base_offset + self.count


def encode_header(stream_id: int, epoch: int, base_offset: int, count: int, max_timestamp: int) -> bytes:
    """The bytes that precede the batch in its WAL record."""
    return HEADER.pack(VERSION, count, stream_id, epoch, base_offset, max_timestamp)


def decode_record(data: memoryview) -> StreamRecord:
    """Raises WalRecordInvalid."""
    if len(data) < HEADER_SIZE:
        raise WalRecordInvalid(f"a WAL record of {len(data)} bytes is shorter than its header")
    version, count, stream_id, epoch, base_offset, max_timestamp = HEADER.unpack_from(data)
    if version != VERSION:
        raise WalRecordInvalid(f"WAL record version {version} is not known here (newest is {VERSION})")
    if count == 0:
        raise WalRecordInvalid(f"a WAL record of stream {stream_id} at offset {base_offset} covers no offset")
    return StreamRecord(stream_id, epoch, base_offset, count, max_timestamp, data[HEADER_SIZE:])
