"""Requests, responses and record messages to bytes and back.

Codecs are compiled on the first use of an (API, version) and kept. `decode_request` and `encode_response` are the
broker's hot path; `encode_request` and `decode_response` serve our own clients and tests. A frame here is what follows
the four-byte size (see `protocol.framing`); encoded requests and responses include it.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from protocol.compiler import Decoder, Encoder, compile_decoder, compile_encoder
from protocol.errors import DecodeError, UnsupportedVersion
from protocol.headers import (
    REQUEST_HEADER_FIXED_SIZE,
    RequestHeader,
    api_code,
    has_flexible_response_header,
    pack_request_header,
    pack_sized_flexible_response_header,
    pack_sized_response_header,
    skip_tagged_fields,
    split_api_code,
    unpack_request_header,
)
from protocol.private_keys import api_name
from protocol.types import Buffer, Message, RecordKey

__all__ = [
    "RequestHeader",
    "decode_record_message",
    "decode_request",
    "decode_response",
    "encode_record_message",
    "encode_request",
    "encode_response",
    "is_flexible",
    "record_type",
    "request_class",
    "request_decoder",
    "response_class",
    "supported_versions",
]

M = TypeVar("M", bound=Message)

REQUEST_ELEMENTS_MAX = 1 << 19
"""Bound of the elements of all arrays of one request: far above what clients send, and under a second to decode."""

_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_new_header = RequestHeader.__new__

_request_decoders: dict[int, tuple[Decoder, bool]] = {}
"""By api code: the decoder, and whether the header has tagged fields."""

_response_encoders: dict[tuple[int, int], tuple[Encoder, Callable[[int, int], bytes], int]] = {}
"""By key and version: the encoder, the header's packer, and the header's size without the size field."""

_decoders: dict[tuple[type[Message], int], Decoder] = {}
_encoders: dict[tuple[type[Message], int], Encoder] = {}
"""What is not on the broker's hot path."""


@cache
def _message_class(api_key: int, suffix: str) -> type[Message]:
    name = api_name(api_key)
    if name is None:
        raise UnsupportedVersion(api_key, -1)
    module = importlib.import_module(f"protocol.messages.{name.lower()}")
    cls: type[Message] = getattr(module, name.title().replace("_", "") + suffix)
    return cls


def request_class(api_key: int) -> type[Message]:
    """Raises UnsupportedVersion for an API that a broker does not have."""
    return _message_class(api_key, "Request")


def response_class(api_key: int) -> type[Message]:
    return _message_class(api_key, "Response")


def supported_versions(api_key: int) -> tuple[int, int]:
    """First and last version in the tables."""
    return request_class(api_key).VERSIONS


def is_flexible(api_key: int, api_version: int) -> bool:
    return api_version >= request_class(api_key).FLEXIBLE_SINCE


def _versioned(cls: type[Message], api_key: int, api_version: int) -> type[Message]:
    first, last = cls.VERSIONS
    if not first <= api_version <= last:
        raise UnsupportedVersion(api_key, api_version)
    return cls


# Requests.


def request_decoder(api_key: int, api_version: int) -> Decoder:
    """The body's decoder, `(buffer, position) -> (message, position behind it)`."""
    return _request_decoder(api_code(api_key, api_version))[0]


def _request_decoder(code: int) -> tuple[Decoder, bool]:
    entry = _request_decoders.get(code)
    if entry is None:
        api_key, api_version = split_api_code(code)
        cls = _versioned(request_class(api_key), api_key, api_version)
        decoder = compile_decoder(cls, api_version, REQUEST_ELEMENTS_MAX)
        entry = decoder, api_version >= cls.FLEXIBLE_SINCE
        _request_decoders[code] = entry
    return entry


def decode_request(frame: memoryview) -> tuple[RequestHeader, Any]:
    """Decode one request: header and message; records in it are slices of `frame`.

    Raises DecodeError for anything malformed, and UnsupportedVersion, which carries what could be read of the header,
    for an API or version that is not in the tables. Bytes behind the message are ignored, as Kafka does.
    """
    try:
        code, correlation_id, client_id_size = unpack_request_header(frame)
        position = REQUEST_HEADER_FIXED_SIZE
        if client_id_size < 0:
            client_id = None
        else:
            end = position + client_id_size
            if end > len(frame):
                raise DecodeError("length of the client id is out of bounds")
            client_id = str(frame[position:end], "utf-8")
            position = end
    except (struct.error, UnicodeDecodeError) as error:
        raise DecodeError(f"request header: {error}") from None
    entry = _request_decoders.get(code)
    if entry is None:
        try:
            entry = _request_decoder(code)
        except UnsupportedVersion:
            raise UnsupportedVersion(*split_api_code(code), correlation_id, client_id) from None
    decoder, flexible = entry
    if flexible:
        if position < len(frame) and not frame[position]:
            position += 1
        else:
            position = skip_tagged_fields(frame, position)
    message, _ = decoder(frame, position)
    header = _new_header(RequestHeader)
    header.api_key = code >> 16
    header.api_version = code & 0xFFFF
    header.correlation_id = correlation_id
    header.client_id = client_id
    return header, message


def encode_request(
    api_key: int, api_version: int, correlation_id: int, client_id: str | None, request: Message
) -> bytes:
    """One frame, size included."""
    cls = _versioned(request_class(api_key), api_key, api_version)
    name = b"" if client_id is None else client_id.encode()
    header = pack_request_header(api_key, api_version, correlation_id, -1 if client_id is None else len(name))
    tags = b"\0" if api_version >= cls.FLEXIBLE_SINCE else b""
    frame = b"".join((header, name, tags, *_encoder(cls, api_version)(request)))
    return _INT32.pack(len(frame)) + frame


# Responses.


def encode_response(api_key: int, api_version: int, correlation_id: int, response: Message) -> list[Buffer]:
    """The pieces of one frame, size included. Buffers of a records field are among them, uncopied."""
    entry = _response_encoders.get((api_key, api_version))
    if entry is None:
        cls = _versioned(response_class(api_key), api_key, api_version)
        flexible = has_flexible_response_header(api_key, api_version >= cls.FLEXIBLE_SINCE)
        packer = pack_sized_flexible_response_header if flexible else pack_sized_response_header
        entry = _response_encoders[api_key, api_version] = (compile_encoder(cls, api_version), packer, 4 + flexible)
    encoder, pack_header, header_size = entry
    pieces = encoder(response)
    first = pieces[0]
    size = len(first) if len(pieces) == 1 else sum(map(len, pieces))
    pieces[0] = pack_header(size + header_size, correlation_id) + first
    return pieces


def decode_response(api_key: int, api_version: int, frame: Buffer) -> tuple[int, Any]:
    """Correlation id and message. Raises DecodeError, bytes behind the message included."""
    view = memoryview(frame)
    cls = _versioned(response_class(api_key), api_key, api_version)
    if len(view) < 4:
        raise DecodeError("response header is cut off")
    (correlation_id,) = _INT32.unpack_from(view)
    position = 4
    if has_flexible_response_header(api_key, api_version >= cls.FLEXIBLE_SINCE):
        position = skip_tagged_fields(view, position)
    message, position = _decoder(cls, api_version)(view, position)
    if position != len(view):
        raise DecodeError(f"{len(view) - position} bytes behind a {cls.__name__}")
    return correlation_id, message


# Messages inside records.


def record_type(key: Buffer) -> int:
    """The type of a coordinator record, from its key. Raises DecodeError."""
    if len(key) < 2:
        raise DecodeError("record key of less than two bytes")
    type_: int = _INT16.unpack_from(key)[0]
    return type_


def encode_record_message(message: Message, version: int | None = None) -> bytes:
    """The message with its int16 prefix: the record type before a key, the version before everything else.

    Without `version` it is the last one.
    """
    cls = type(message)
    first, last = cls.VERSIONS
    if version is None:
        version = last
    if not first <= version <= last:
        raise UnsupportedVersion(cls.API_KEY, version)
    prefix = cls.API_KEY if isinstance(message, RecordKey) else version
    return b"".join((_INT16.pack(prefix), *_encoder(cls, version)(message)))


def decode_record_message(cls: type[M], data: Buffer, *, newer: bool = False) -> M:
    """Decode a prefixed message.

    With `newer`, a version above the last known is read as the last known and what is behind it is ignored, which is
    how Kafka reads the consumer protocol's metadata. Raises DecodeError, also for a key of another type.
    """
    view = memoryview(data)
    prefix = record_type(view)
    first, last = cls.VERSIONS
    behind_ignored = False
    if issubclass(cls, RecordKey):
        if prefix != cls.API_KEY:
            raise DecodeError(f"{cls.__name__} has type {cls.API_KEY}, not {prefix}")
        version = last
    elif newer and prefix > last:
        version, behind_ignored = last, True
    elif first <= prefix <= last:
        version = prefix
    else:
        raise DecodeError(f"{cls.__name__} has no version {prefix}")
    message, position = _decoder(cls, version)(view, 2)
    if position != len(view) and not behind_ignored:
        raise DecodeError(f"{len(view) - position} bytes behind a {cls.__name__}")
    decoded: M = message
    return decoded


def _decoder(cls: type[Message], version: int) -> Decoder:
    decoder = _decoders.get((cls, version))
    if decoder is None:
        decoder = _decoders[cls, version] = compile_decoder(cls, version)
    return decoder


def _encoder(cls: type[Message], version: int) -> Encoder:
    encoder = _encoders.get((cls, version))
    if encoder is None:
        encoder = _encoders[cls, version] = compile_encoder(cls, version)
    return encoder
