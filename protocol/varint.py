"""Variable-length integers: unsigned (lengths and tags of flexible versions) and zigzag (inside records)."""

from __future__ import annotations

from protocol.errors import DecodeError
from protocol.types import Buffer

ONE_BYTE = tuple(bytes((value,)) for value in range(128))
"""Encodings of the values that fit one byte."""


def continue_uvarint(buffer: Buffer, position: int, first: int) -> tuple[int, int]:
    """The rest of an unsigned varint whose first byte, `first` >= 128, stands before `position`.

    Returns the value and the position behind it. Raises IndexError at the end of the buffer.
    """
    byte = buffer[position]
    value = first & 0x7F | (byte & 0x7F) << 7
    position += 1
    if byte < 128:
        return value, position
    byte = buffer[position]
    value |= (byte & 0x7F) << 14
    position += 1
    if byte < 128:
        return value, position
    byte = buffer[position]
    value |= (byte & 0x7F) << 21
    position += 1
    if byte < 128:
        return value, position
    byte = buffer[position]
    if byte > 0x0F:
        raise DecodeError("varint of more than 32 bits")
    return value | byte << 28, position + 1


def read_uvarint(buffer: Buffer, position: int) -> tuple[int, int]:
    first = buffer[position]
    return (first, position + 1) if first < 128 else continue_uvarint(buffer, position + 1, first)


def uvarint(value: int) -> bytes:
    """Encode 0 <= value < 2**32."""
    if value < 0x80:
        return ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def zigzag_varint(value: int) -> bytes:
    """Encode a signed integer of up to 64 bits, as records do."""
    value = (value << 1) ^ (value >> 63)
    if value < 0x80:
        return ONE_BYTE[value]
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
