"""Request and response headers.

    request   api_key int16, api_version int16, correlation_id int32, client_id nullable string [, tagged fields]
    response  correlation_id int32 [, tagged fields]

The tagged fields are there if the request's version is a flexible one; the client id keeps its two-byte length
always, and an ApiVersions response never has tagged fields in its header, so that any broker's answer can be read.
"""

from __future__ import annotations

import struct

from protocol.api_keys import ApiKey
from protocol.errors import DecodeError
from protocol.varint import read_uvarint

unpack_request_header = struct.Struct(">Iih").unpack_from
"""API key and version as one number (`api_code`), correlation id, length of the client id."""

REQUEST_HEADER_FIXED_SIZE = 10
pack_request_header = struct.Struct(">hhih").pack
pack_sized_response_header = struct.Struct(">ii").pack
pack_sized_flexible_response_header = struct.Struct(">iix").pack


class RequestHeader:
    """Who asks for which API in which version."""

    __slots__ = ("api_key", "api_version", "client_id", "correlation_id")

    def __init__(self, api_key: int, api_version: int, correlation_id: int, client_id: str | None) -> None:
        self.api_key = api_key
        self.api_version = api_version
        self.correlation_id = correlation_id
        self.client_id = client_id

    def __repr__(self) -> str:
        return (
            f"RequestHeader(api_key={self.api_key}, api_version={self.api_version}, "
            f"correlation_id={self.correlation_id}, client_id={self.client_id!r})"
        )


def api_code(api_key: int, api_version: int) -> int:
    """Key and version as they stand in a header, read as one unsigned number."""
    return (api_key & 0xFFFF) << 16 | api_version & 0xFFFF


def split_api_code(code: int) -> tuple[int, int]:
    """The inverse of `api_code`, signs restored."""
    key, version = code >> 16, code & 0xFFFF
    return key - 0x10000 if key & 0x8000 else key, version - 0x10000 if version & 0x8000 else version


def has_flexible_response_header(api_key: int, flexible: bool) -> bool:
    return flexible and api_key != ApiKey.API_VERSIONS


def skip_tagged_fields(buffer: memoryview, position: int) -> int:
    """The position behind a section of tagged fields, none of which is known."""
    end = len(buffer)
    try:
        count, position = read_uvarint(buffer, position)
        for _ in range(count):
            _, position = read_uvarint(buffer, position)
            size, position = read_uvarint(buffer, position)
            position += size
            if position > end:
                raise DecodeError("size of a tagged field in the header is out of bounds")
    except IndexError:
        raise DecodeError("header ends within its tagged fields") from None
    return position
