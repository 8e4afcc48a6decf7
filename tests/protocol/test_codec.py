"""Headers, pieces of responses, prefixes of record messages, defaults and the vocabulary of codes and keys."""

from __future__ import annotations

import subprocess
import sys

import pytest
from kio.schema.errors import ErrorCode as KioErrorCode

from protocol.api_keys import BROKER_APIS, ApiKey
from protocol.codec import (
    decode_record_message,
    decode_request,
    decode_response,
    encode_record_message,
    encode_request,
    encode_response,
    is_flexible,
    record_type,
    request_decoder,
    supported_versions,
)
from protocol.errors import DecodeError, ErrorCode, UnsupportedVersion
from protocol.messages.api_versions import ApiVersion, ApiVersionsResponse
from protocol.messages.fetch import FetchableTopicResponse, FetchResponse, PartitionData
from protocol.messages.heartbeat import HeartbeatResponse
from protocol.messages.metadata import (
    MetadataRequest,
    MetadataResponse,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from protocol.messages.records.consumer_protocol import ConsumerProtocolSubscription
from protocol.messages.records.group_metadata import GroupMetadataKey
from protocol.messages.records.offset_commit import OffsetCommitKey, OffsetCommitValue
from protocol.types import Buffer, KeptList


def fetched(*records: object) -> FetchResponse:
    partitions = [PartitionData(partition_index=i, records=each) for i, each in enumerate(records)]  # type: ignore[arg-type]
    return FetchResponse(responses=[FetchableTopicResponse(topic="t", partitions=partitions)])


@pytest.mark.parametrize("client_id", [None, "", "Grüße"])
@pytest.mark.parametrize("version", [8, 9])
def test_request_headers_carry_client_and_correlation_ids(client_id: str | None, version: int) -> None:
    frame = encode_request(ApiKey.METADATA, version, -5, client_id, MetadataRequest(topics=[]))
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    header, message = decode_request(memoryview(frame)[4:])
    assert (header.api_key, header.api_version, header.correlation_id) == (ApiKey.METADATA, version, -5)
    assert header.client_id == client_id
    assert message == MetadataRequest(topics=[])


def test_response_headers_have_tagged_fields_in_flexible_versions_but_not_for_api_versions() -> None:
    assert b"".join(encode_response(ApiKey.METADATA, 8, 7, MetadataResponse()))[4:9] == b"\0\0\0\x07\0"
    flexible = b"".join(encode_response(ApiKey.HEARTBEAT, 4, 7, HeartbeatResponse()))
    assert flexible == b"\0\0\0\x0c" + b"\0\0\0\x07" + b"\0" + b"\0\0\0\0" + b"\0\0" + b"\0"
    response = ApiVersionsResponse(api_keys=[ApiVersion(api_key=18, max_version=4)])
    for version in range(5):
        frame = b"".join(encode_response(ApiKey.API_VERSIONS, version, 7, response))[4:]
        assert frame[:6] == b"\0\0\0\x07\0\0"
        assert decode_response(ApiKey.API_VERSIONS, version, frame)[0] == 7


def test_records_are_pieces_of_the_response_and_not_copied() -> None:
    first, second, third = bytearray(b"a" * 300), memoryview(b"b" * 200), b"c" * 100
    for version in (11, 12):
        pieces = encode_response(ApiKey.FETCH, version, 7, fetched([first, second], None, third, b""))
        for buffer in (first, second, third):
            assert any(piece is buffer for piece in pieces)
        whole = b"".join(pieces)
        assert int.from_bytes(whole[:4], "big") == len(whole) - 4
        partitions = decode_response(ApiKey.FETCH, version, whole[4:])[1].responses[0].partitions
        assert [None if p.records is None else bytes(p.records) for p in partitions] == [
            bytes(first) + bytes(second),
            None,
            third,
            b"",
        ]


def test_a_response_without_records_is_one_piece() -> None:
    assert len(encode_response(ApiKey.FETCH, 12, 7, fetched(None))) == 1
    assert len(encode_response(ApiKey.METADATA, 12, 7, MetadataResponse())) == 1


def test_absent_fields_take_their_defaults_and_are_not_shared() -> None:
    request = ProduceRequest(topic_data=[TopicProduceData(name="t", partition_data=[PartitionProduceData()])])
    frame = memoryview(encode_request(ApiKey.PRODUCE, 3, 1, None, request))[4:]
    assert decode_request(frame)[1] == request
    v0, v0_again = (decode_empty_metadata() for _ in range(2))
    assert v0.allow_auto_topic_creation is True
    assert v0.topics is not v0_again.topics
    assert ProduceRequest().topic_data is not ProduceRequest().topic_data


def decode_empty_metadata() -> MetadataRequest:
    message, size = request_decoder(ApiKey.METADATA, 0)(memoryview(b"\0\0\0\0"), 0)
    assert size == 4
    assert isinstance(message, MetadataRequest)
    return message


def test_unknown_apis_and_versions_are_unsupported() -> None:
    for api_key, version in ((ApiKey.PRODUCE, 2), (ApiKey.PRODUCE, 14), (ApiKey.VOTE, 0), (500, 0)):
        with pytest.raises(UnsupportedVersion):
            request_decoder(api_key, version)
    with pytest.raises(UnsupportedVersion):
        encode_response(ApiKey.FETCH, 3, 1, FetchResponse())
    assert supported_versions(ApiKey.FETCH) == (4, 18)
    assert not is_flexible(ApiKey.FETCH, 11)
    assert is_flexible(ApiKey.FETCH, 12)
    assert ApiKey.VOTE not in BROKER_APIS


def test_bytes_behind_a_response_are_a_decode_error() -> None:
    frame = b"".join(encode_response(ApiKey.METADATA, 12, 7, MetadataResponse()))[4:]
    with pytest.raises(DecodeError):
        decode_response(ApiKey.METADATA, 12, frame + b"\0")
    with pytest.raises(DecodeError):
        decode_response(ApiKey.METADATA, 12, b"\0\0")


def test_record_keys_start_with_their_type_and_values_with_their_version() -> None:
    key = OffsetCommitKey(group="g", topic="t", partition=3)
    assert encode_record_message(key) == bytes.fromhex("0001 000167 000174 00000003")
    assert encode_record_message(GroupMetadataKey(group="g")) == bytes.fromhex("0002 000167")
    assert record_type(encode_record_message(key)) == OffsetCommitKey.API_KEY
    value = OffsetCommitValue(offset=1, metadata="m", commit_timestamp=2)
    assert encode_record_message(value, 3)[:2] == b"\0\x03"
    assert encode_record_message(value)[:2] == b"\0\x04"
    assert decode_record_message(OffsetCommitValue, encode_record_message(value, 3)) == value
    with pytest.raises(DecodeError):
        decode_record_message(GroupMetadataKey, encode_record_message(key))
    with pytest.raises(DecodeError):
        decode_record_message(OffsetCommitValue, b"\0\x09" + encode_record_message(value)[2:])
    with pytest.raises(DecodeError):
        decode_record_message(OffsetCommitValue, encode_record_message(value) + b"x")
    with pytest.raises(UnsupportedVersion):
        encode_record_message(value, 9)
    with pytest.raises(DecodeError):
        record_type(b"\0")


def test_a_newer_consumer_protocol_is_read_as_the_last_known() -> None:
    subscription = ConsumerProtocolSubscription(topics=["a", "b"], user_data=None)
    newer = b"\0\x63" + encode_record_message(subscription)[2:] + b"more"
    assert decode_record_message(ConsumerProtocolSubscription, newer, newer=True) == subscription
    with pytest.raises(DecodeError):
        decode_record_message(ConsumerProtocolSubscription, newer)


def test_error_codes_are_kafkas() -> None:
    ours = {code.value: code.name.lower() for code in ErrorCode}
    theirs = {code.value: code.name for code in KioErrorCode}
    shared = ours.keys() & theirs.keys()
    assert len(shared) > 120
    assert {value: ours[value] for value in shared} == {value: theirs[value] for value in shared}
    for code in KioErrorCode:
        if code.value in shared:
            assert ErrorCode(code.value).retriable == code.retriable, code


def test_messages_show_and_compare_their_fields() -> None:
    assert repr(MetadataRequest(topics=None)).startswith("MetadataRequest(topics=None, allow_auto_topic_creation=True")
    assert MetadataRequest() == MetadataRequest()
    assert MetadataRequest() != MetadataRequest(topics=None)
    assert MetadataRequest() != MetadataResponse()


def test_the_codec_loads_no_message_it_was_not_asked_for() -> None:
    program = "import sys, protocol.codec; print([m for m in sys.modules if m.startswith('protocol.messages')])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.strip() == b"[]"


def test_a_kept_list_is_encoded_once_for_each_version() -> None:
    partitions = [
        MetadataResponsePartition(partition_index=index, leader_id=1, replica_nodes=[1, 2], isr_nodes=[1])
        for index in range(3)
    ]
    kept = KeptList(partitions)
    first, last = supported_versions(ApiKey.METADATA)
    for version in range(first, last + 1):

        def encoded(list_: list[MetadataResponsePartition], name: str, version: int = version) -> list[Buffer]:
            topic = MetadataResponseTopic(name=name, partitions=list_)
            return encode_response(ApiKey.METADATA, version, 7, MetadataResponse(topics=[topic, topic]))

        assert encoded(kept, "first") == encoded(partitions, "first")
        first_time = kept.encoded[version]
        assert encoded(kept, "second") == encoded(partitions, "second")
        assert kept.encoded[version] is first_time
