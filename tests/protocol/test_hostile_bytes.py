"""Whatever the bytes of a request or a record message are, nothing but this package's errors comes out of decoding."""

from __future__ import annotations

import random
import struct
import tracemalloc
from contextlib import suppress

import pytest

from protocol.api_keys import ApiKey
from protocol.codec import (
    REQUEST_ELEMENTS_MAX,
    decode_record_message,
    decode_request,
    decode_response,
    encode_record_message,
    encode_request,
    encode_response,
)
from protocol.errors import DecodeError, ProtocolError, UnsupportedVersion
from protocol.headers import api_code
from protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from protocol.types import Message
from tests.protocol.samples import full_message
from tests.protocol.strategies import all_record_messages, all_requests, all_responses


def request_frame(cls: type[Message], version: int) -> bytes:
    return encode_request(cls.API_KEY, version, 5, "client", full_message(cls, version))[4:]


def test_every_truncation_of_every_request_is_a_decode_error() -> None:
    for cls, version in all_requests():
        frame = request_frame(cls, version)
        header, message = decode_request(memoryview(frame))
        assert (header.api_key, header.api_version) == (cls.API_KEY, version)
        assert message == full_message(cls, version)
        for size in range(len(frame)):
            with pytest.raises(DecodeError):
                decode_request(memoryview(frame)[:size])


def test_every_truncation_of_every_response_is_a_decode_error() -> None:
    for cls, version in all_responses():
        frame = b"".join(encode_response(cls.API_KEY, version, 5, full_message(cls, version)))[4:]
        assert decode_response(cls.API_KEY, version, frame) == (5, full_message(cls, version))
        for size in range(0, len(frame), 7):
            with pytest.raises(DecodeError):
                decode_response(cls.API_KEY, version, frame[:size])


def test_every_truncation_of_every_record_message_is_a_decode_error() -> None:
    for cls, version in all_record_messages():
        data = encode_record_message(full_message(cls, version), version)
        assert decode_record_message(cls, data) == full_message(cls, version)
        for size in range(len(data)):
            with pytest.raises(DecodeError):
                decode_record_message(cls, data[:size])


def test_flipped_bytes_never_raise_anything_else() -> None:
    rng = random.Random(20260701)
    for cls, version in all_requests():
        frame = request_frame(cls, version)
        for _ in range(40):
            mutated = bytearray(frame)
            for _ in range(rng.randint(1, 4)):
                mutated[rng.randrange(4, len(mutated))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            with suppress(ProtocolError):
                decode_request(memoryview(mutated))


def test_random_bytes_behind_a_header_never_raise_anything_else() -> None:
    rng = random.Random(7)
    for cls, version in all_requests():
        head = struct.pack(">hhih", cls.API_KEY, version, 1, -1)
        for _ in range(10):
            with suppress(ProtocolError):
                decode_request(memoryview(head + rng.randbytes(rng.randrange(60))))


@pytest.mark.parametrize("version", [8, 9])
def test_a_count_beyond_the_frame_allocates_nothing(version: int) -> None:
    count = struct.pack(">i", 0x7FFFFFFF) if version < 9 else b"\xff\xff\xff\xff\x07"
    frame = memoryview(
        struct.pack(">hhih", ApiKey.METADATA, version, 1, -1) + b"\0" * (version >= 9) + count + b"x" * 9
    )
    with pytest.raises(DecodeError):
        decode_request(frame)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode_request(frame)
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()


def test_the_elements_of_a_request_are_bounded_though_its_bytes_would_hold_more() -> None:
    topic = MetadataRequestTopic(name="")
    encoded = encode_request(ApiKey.METADATA, 1, 1, None, MetadataRequest(topics=[topic] * (REQUEST_ELEMENTS_MAX + 1)))
    with pytest.raises(DecodeError, match="too many"):
        decode_request(memoryview(encoded)[4:])


@pytest.mark.parametrize("length", [-2, -0x8000, 0x7FFF])
def test_string_lengths_out_of_bounds_are_decode_errors(length: int) -> None:
    frame = struct.pack(">hhih", ApiKey.METADATA, 1, 1, -1) + struct.pack(">ih", 1, length) + b"abc"
    with pytest.raises(DecodeError):
        decode_request(memoryview(frame))


def test_null_where_the_version_has_no_null_is_a_decode_error() -> None:
    frame = struct.pack(">hhih", ApiKey.METADATA, 0, 1, -1) + struct.pack(">i", -1)
    with pytest.raises(DecodeError):
        decode_request(memoryview(frame))


def test_invalid_utf8_is_a_decode_error() -> None:
    frame = struct.pack(">hhih", ApiKey.METADATA, 1, 1, -1) + struct.pack(">ih", 1, 2) + b"\xff\xfe"
    with pytest.raises(DecodeError):
        decode_request(memoryview(frame))
    with pytest.raises(DecodeError):
        decode_request(memoryview(struct.pack(">hhih", ApiKey.METADATA, 1, 1, 2) + b"\xff\xfe" + b"\0\0\0\0"))


def test_a_varint_of_more_than_32_bits_is_a_decode_error() -> None:
    head = struct.pack(">hhih", ApiKey.METADATA, 9, 1, -1)
    for varint in (b"\xff\xff\xff\xff\x1f", b"\x80" * 20):
        with pytest.raises(DecodeError):
            decode_request(memoryview(head + b"\0" + varint))
        with pytest.raises(DecodeError):
            decode_request(memoryview(head + varint))


def test_unknown_tagged_fields_are_skipped() -> None:
    plain = encode_request(ApiKey.METADATA, 12, 1, "c", MetadataRequest(topics=[]))[4:]
    tags = b"\x02\x63\x03abc\x64\x00"
    assert plain.endswith(b"\0")
    assert decode_request(memoryview(plain[:-1] + tags))[1] == MetadataRequest(topics=[])
    in_header = plain.replace(b"c\0", b"c" + tags, 1)
    assert decode_request(memoryview(in_header))[1] == MetadataRequest(topics=[])
    for size in range(len(plain), len(plain) - 1 + len(tags)):
        with pytest.raises(DecodeError):
            decode_request(memoryview(plain[:-1] + tags)[:size])


def test_a_known_tagged_field_of_a_wrong_size_is_a_decode_error() -> None:
    frame = request_frame(*next(pair for pair in all_requests() if pair[0].API_KEY == ApiKey.FETCH and pair[1] == 17))
    # The last section: cluster id (tag 0, size 5, length 4 + 1) and replica state.
    position = frame.rindex(b"\x00\x05\x05name")
    with pytest.raises(DecodeError):
        decode_request(memoryview(frame[: position + 1] + b"\x04" + frame[position + 2 :]))


def test_bytes_behind_a_request_are_ignored_as_kafka_does() -> None:
    frame = encode_request(ApiKey.METADATA, 12, 1, "c", MetadataRequest(topics=None))[4:]
    assert decode_request(memoryview(frame + b"\0\0\0"))[1] == MetadataRequest(topics=None)


@pytest.mark.parametrize(
    ("api_key", "version"), [(18, 99), (0, 2), (3, 14), (3, -1), (999, 0), (-3, 0), (4, 1), (52, 0), (0x7FFF, 0x7FFF)]
)
def test_an_unsupported_version_tells_what_the_header_says(api_key: int, version: int) -> None:
    frame = struct.pack(">hhih", api_key, version, 42, 3) + b"abc" + b"\xff" * 5
    with pytest.raises(UnsupportedVersion) as raised:
        decode_request(memoryview(frame))
    assert (raised.value.api_key, raised.value.api_version) == (api_key, version)
    assert (raised.value.correlation_id, raised.value.client_id) == (42, "abc")
    assert api_code(api_key, version) >= 0


def test_records_are_slices_of_the_frame() -> None:
    request = ProduceRequest(
        topic_data=[TopicProduceData(name="t", partition_data=[PartitionProduceData(records=b"x" * 100)])]
    )
    frame = bytearray(encode_request(ApiKey.PRODUCE, 9, 1, None, request)[4:])
    records = decode_request(memoryview(frame))[1].topic_data[0].partition_data[0].records
    assert isinstance(records, memoryview)
    records[0] = 0x21
    assert b"!xxx" in frame
