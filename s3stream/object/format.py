"""The object format. All integers are little-endian, all checksums CRC32C.

An object is data blocks back to back, then the index block, then the footer. It is written once and never changed.

Data block: batches of one stream, adjacent in offsets, so that any run of them is one slice::

    payload          the batches, contiguous
    u32 * n          start offset of each batch, relative to the block's
    u32 * n          position of each batch in the block
    u64 stream id    u64 start offset    u32 end offset delta    u32 n
    u32              CRC of everything before

Index block: one entry of 48 bytes per data block, sorted by (stream id, start offset)::

    u64 stream id    u64 start offset    u32 end offset delta    u32 record count    i64 max timestamp (ms)
    u64 position     u32 size            u32 batch count

Footer, the last 48 bytes::

    0   8s   magic "TROBJECT"
    8   u32  version (1)
    12  u32  index entry count
    16  u64  index position
    24  u64  object size
    32  u32  CRC of the index block
    36  u32  zero
    40  u32  zero
    44  u32  CRC of bytes 0-43

The index ends where the footer begins. Offsets in a block span less than 2^32, a block is smaller than 4 GiB. Sizes are
bytes; `record count` is the sum of the batches' offset counts.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Final

VERSION: Final = 1
MAGIC: Final = b"TROBJECT"
BLOCK_SIZE_TARGET: Final = 512 << 10

BLOCK_TAIL = struct.Struct("<QQII")
CRC = struct.Struct("<I")
BLOCK_TAIL_SIZE: Final = BLOCK_TAIL.size + CRC.size
BATCH_ENTRY_SIZE: Final = 8
INDEX_ENTRY = struct.Struct("<QQIIqQII")
FOOTER = struct.Struct("<8sIIQQIII")
FOOTER_SIZE: Final = FOOTER.size + CRC.size

DELTA_MAX: Final = 0xFFFFFFFF
_SWAP = sys.byteorder == "big"


def encode_u32s(values: array[int]) -> bytes:
    """`values` is left unchanged."""
    if _SWAP:
        values = array("I", values)
        values.byteswap()
    return values.tobytes()


def decode_u32s(data: memoryview) -> array[int]:
    values = array("I")
    values.frombytes(data)
    if _SWAP:
        values.byteswap()
    return values
