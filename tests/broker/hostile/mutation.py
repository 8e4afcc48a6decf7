"""Seeded mutants of valid requests: hostile values in their fields, and damaged bytes."""

from __future__ import annotations

import random
import struct
from typing import Any

from protocol.api_keys import ApiKey
from protocol.codec import encode_request, request_class
from protocol.compiler.layout import FieldLayout, StructLayout, message_layout
from protocol.errors import ProtocolError
from protocol.records import Codec, Record, build_batch

TOPIC = "orders"
COMPACTED = "compacted"

_NUMBERS = (-(1 << 63), -(1 << 31), -6, -3, -2, -1, 0, 1, 2, 3, 1000, (1 << 31) - 1, (1 << 63) - 1)
_BITS = {"int8": 7, "int16": 15, "int32": 31, "int64": 63}
_NAMES = (
    *(TOPIC, TOPIC, TOPIC, COMPACTED, "group", "__consumer_offsets", ""),
    *("../up", "..", ".", "a/b", "nul\0", "line\nbreak", "x" * 249, "x" * 250, "x" * 30_000, "\u00e4\U0001f40d", "1"),
)


def batch(codec: Codec = Codec.NONE, count: int = 3) -> bytes:
    records = [Record(offset=n, timestamp=1000 + n, key=b"k", value=b"v", headers=[]) for n in range(count)]
    return bytes(build_batch(records, codec=codec))


def requests(key: ApiKey, version: int, rng: random.Random, count: int) -> list[bytes]:
    """Frames of one API and version, half of them with damaged bytes."""
    frames: list[bytes] = []
    layout = message_layout(request_class(key), version)
    while len(frames) < count:
        try:
            frame = encode_request(key, version, 1, "fuzz", _struct(layout, rng))
        except (ProtocolError, struct.error, ValueError, TypeError, AttributeError):
            continue  # a value that this version has no bytes for
        frames.append(frame if rng.random() < 0.5 else damaged(frame, rng))
    return frames


def damaged(frame: bytes, rng: random.Random) -> bytes:
    """With some bytes of the body changed, cut or doubled; the size still says how many there are."""
    body = bytearray(frame[4:])
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(8, len(body) + 1) if len(body) >= 8 else 0
        kind = rng.randrange(5)
        if kind == 0 and at < len(body):
            body[at] = rng.randrange(256)
        elif kind == 1:
            body[at : at + 4] = struct.pack(">i", rng.choice((-(1 << 31), -2, -1, 0, 1 << 20, (1 << 31) - 1)))
        elif kind == 2:
            del body[at:]
        elif kind == 3:
            body[at:at] = body[at : at + rng.randint(1, 16)]
        else:
            body[at:at] = rng.randbytes(rng.randint(1, 6))
    return struct.pack(">i", len(body)) + body


def _struct(layout: StructLayout, rng: random.Random) -> Any:
    fields = {each.name: _value(each, rng) for each in (*layout.plain, *layout.tagged)}
    return layout.cls(**fields)


def _value(each: FieldLayout, rng: random.Random) -> Any:
    if each.nullable and rng.random() < 0.1:
        return None
    if each.array:
        first = _element(each, rng)
        return [[], [first], [first], [first, first], [first, _element(each, rng)]][rng.randrange(5)]
    return _element(each, rng)


def _element(each: FieldLayout, rng: random.Random) -> Any:
    if each.struct is not None:
        return _struct(each.struct, rng)
    kind = each.type
    if kind in _BITS:
        bound = 1 << _BITS[kind]
        return max(-bound, min(bound - 1, rng.choice(_NUMBERS)))
    if kind == "string":
        return rng.choice(_NAMES)
    if kind == "records":
        whole = batch(rng.choice(list(Codec)))
        return whole if rng.random() < 0.5 else damaged(b"\0\0\0\0" + whole, rng)[4:]
    if kind == "bytes":
        return rng.randbytes(rng.choice((0, 1, 40, 5000)))
    if kind == "uuid":
        return rng.choice((bytes(16), rng.randbytes(16)))
    if kind == "bool":
        return rng.random() < 0.5
    return rng.randrange(65_536) if kind == "uint16" else rng.uniform(-1, 1)
