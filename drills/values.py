"""Records whose bytes follow from their id, so that a reader proves every byte and not only presence."""

from __future__ import annotations

import random
import zlib

from protocol.records import Record

SIZE_MAX = 1 << 20
_FILLER = random.Random(4711).randbytes(2 * SIZE_MAX)
"""Cannot be compressed; a value is a piece of it that begins where the id says."""


def value_of(record_id: str, size: int) -> bytes:
    """The id, a bar, and filler up to `size` bytes in all."""
    head = f"{record_id}|".encode()
    position = zlib.crc32(head) % SIZE_MAX
    return head + _FILLER[position : position + max(size - len(head), 0)]


def id_in(record: Record, size: int) -> str:
    """The id of a record as it was sent; of one with any other byte, a text that is nobody's id."""
    value = record.value or b""
    record_id = value.partition(b"|")[0].decode(errors="replace")
    whole = value == value_of(record_id, size) and record.key == record_id.encode()
    return record_id if whole else f"damaged record {record_id!r}"
