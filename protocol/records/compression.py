"""Compression of a batch's records, by cramjam. Decompression is bounded.

Snappy is what Java's xerial library writes: a 16-byte header, then blocks of int32 size and raw snappy; raw snappy
without that framing is read as well. LZ4 is frames of independent blocks, zstd and gzip are their usual formats.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any

import cramjam

from protocol.errors import ErrorCode, InvalidBatch
from protocol.types import Buffer

DECOMPRESSED_SIZE_MAX = 128 << 20
"""Default bound of what one batch may decompress to."""

_XERIAL_MAGIC = b"\x82SNAPPY\0"
_XERIAL_HEADER = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_SIZE = 32 << 10
_FIRST_GUESS = 64 << 10
_GROWTH = 8
_BLOCK_SIZE = struct.Struct(">i")


class Codec(IntEnum):
    """As in the attributes of a batch."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


def compress(codec: Codec, data: Buffer) -> bytes:
    if codec == Codec.NONE:
        return bytes(data)
    if codec == Codec.GZIP:
        return bytes(cramjam.gzip.compress(data))
    if codec == Codec.SNAPPY:
        return _compress_xerial(memoryview(data))
    if codec == Codec.LZ4:
        compressor = cramjam.lz4.Compressor(content_checksum=False, block_linked=False)
        compressor.compress(data)
        return bytes(compressor.finish())
    return bytes(cramjam.zstd.compress(data))


def decompress(codec: int, data: Buffer, size_max: int = DECOMPRESSED_SIZE_MAX) -> Buffer:
    """Raises InvalidBatch (CORRUPT_MESSAGE) if it is malformed or gives more than `size_max` bytes."""
    try:
        if codec == Codec.NONE:
            return data
        if codec == Codec.SNAPPY:
            return _decompress_snappy(memoryview(data), size_max)
        if codec == Codec.GZIP:
            return _decompress_growing(cramjam.gzip, data, size_max)
        if codec == Codec.LZ4:
            return _decompress_growing(cramjam.lz4, data, size_max)
        if codec == Codec.ZSTD:
            return _decompress_growing(cramjam.zstd, data, size_max)
    except cramjam.DecompressionError as error:
        raise InvalidBatch(
            ErrorCode.CORRUPT_MESSAGE, f"records are malformed or exceed {size_max} bytes decompressed: {error}"
        ) from None
    raise InvalidBatch(ErrorCode.INVALID_RECORD, f"compression codec {codec} is unknown")


def _decompress_growing(library: Any, data: Buffer, size_max: int) -> memoryview:
    """These formats need not say how large their content is: try outputs of growing size.

    The library reports an output that is too small and malformed input alike, so both end at the bound.
    """
    size = min(size_max, max(_FIRST_GUESS, _GROWTH * len(data)))
    while True:
        output = bytearray(size)
        try:
            written = library.decompress_into(data, output)
        except cramjam.DecompressionError:
            if size >= size_max:
                raise
            size = min(size_max, _GROWTH * size)
        else:
            return memoryview(output)[:written]


def _compress_xerial(data: memoryview) -> bytes:
    pieces = [_XERIAL_HEADER]
    for position in range(0, len(data), _XERIAL_BLOCK_SIZE):
        block = bytes(cramjam.snappy.compress_raw(data[position : position + _XERIAL_BLOCK_SIZE]))
        pieces += (_BLOCK_SIZE.pack(len(block)), block)
    return b"".join(pieces)


def _decompress_snappy(data: memoryview, size_max: int) -> bytes:
    if data[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        return _decompress_snappy_block(data, size_max)
    position, end = len(_XERIAL_HEADER), len(data)
    blocks: list[bytes] = []
    while position < end:
        start = position + _BLOCK_SIZE.size
        stop = start + (_BLOCK_SIZE.unpack_from(data, position)[0] if start <= end else -1)
        if not start <= stop <= end:
            raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, "a snappy block is out of bounds")
        blocks.append(_decompress_snappy_block(data[start:stop], size_max))
        size_max -= len(blocks[-1])
        position = stop
    return b"".join(blocks)


def _decompress_snappy_block(block: memoryview, size_max: int) -> bytes:
    size = cramjam.snappy.decompress_raw_len(block)
    if size > size_max:
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, f"a snappy block of {size} bytes, {size_max} are left")
    return bytes(cramjam.snappy.decompress_raw(block))
