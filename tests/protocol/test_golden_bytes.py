"""Bytes that Apache Kafka 4.3.1's own generated classes wrote: we write the same and read them back."""

from __future__ import annotations

import pytest

from protocol.compiler import compile_decoder, compile_encoder
from protocol.messages.api_versions import (
    ApiVersion,
    ApiVersionsResponse,
    FinalizedFeatureKey,
    SupportedFeatureKey,
)
from protocol.messages.fetch import AbortedTransaction, FetchableTopicResponse, FetchResponse, PartitionData
from protocol.messages.join_group import JoinGroupResponse, JoinGroupResponseMember
from protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from protocol.messages.produce import (
    LeaderIdAndEpoch,
    NodeEndpoint,
    PartitionProduceResponse,
    ProduceResponse,
    TopicProduceResponse,
)
from protocol.messages.records.consumer_group_member_metadata import (
    ClassicMemberMetadata,
    ConsumerGroupMemberMetadataValue,
)
from protocol.messages.records.group_metadata import GroupMetadataValue, MemberMetadata
from protocol.messages.records.offset_commit import OffsetCommitKey, OffsetCommitValue
from protocol.messages.records.streams_group_metadata import StreamsGroupMetadataValue
from protocol.messages.records.transaction_log import PartitionsSchema, TransactionLogValue
from protocol.types import Message

ID = bytes(range(1, 17))
JOINED = JoinGroupResponse(
    throttle_time_ms=1,
    generation_id=3,
    protocol_type="consumer",
    protocol_name="range",
    leader="m1",
    skip_assignment=True,
    member_id="m1",
    members=[JoinGroupResponseMember(member_id="m1", metadata=b"\1\2\3")],
)
NOT_LEADER = ProduceResponse(
    responses=[
        TopicProduceResponse(
            topic_id=ID,
            partition_responses=[
                PartitionProduceResponse(
                    index=2,
                    error_code=6,
                    base_offset=-1,
                    error_message="no",
                    current_leader=LeaderIdAndEpoch(leader_id=4, leader_epoch=5),
                )
            ],
        )
    ],
    node_endpoints=[NodeEndpoint(node_id=4, host="h", port=9092)],
)
FETCHED = FetchResponse(
    session_id=9,
    responses=[
        FetchableTopicResponse(
            topic_id=ID,
            partitions=[
                PartitionData(
                    partition_index=1,
                    high_watermark=10,
                    last_stable_offset=8,
                    log_start_offset=2,
                    aborted_transactions=[AbortedTransaction(producer_id=7, first_offset=3)],
                    records=b"\1\2\3",
                )
            ],
        )
    ],
)
VERSIONS = ApiVersionsResponse(
    api_keys=[ApiVersion(api_key=18, min_version=0, max_version=4)],
    supported_features=[SupportedFeatureKey(name="group.version", min_version=0, max_version=1)],
    finalized_features_epoch=12,
    finalized_features=[FinalizedFeatureKey(name="group.version", max_version_level=1, min_version_level=1)],
)
OFFSET = OffsetCommitValue(offset=42, leader_epoch=2, metadata="m", commit_timestamp=1000)
GROUP = GroupMetadataValue(
    protocol_type="consumer",
    generation=2,
    protocol="range",
    leader="m",
    current_state_timestamp=5,
    members=[
        MemberMetadata(
            member_id="m",
            group_instance_id="i",
            client_id="c",
            client_host="/h",
            rebalance_timeout=6,
            session_timeout=7,
            subscription=b"\1",
            assignment=b"\2",
        )
    ],
)
TRANSACTION = TransactionLogValue(
    producer_id=5,
    previous_producer_id=4,
    producer_epoch=1,
    transaction_timeout_ms=60000,
    transaction_status=1,
    transaction_partitions=[PartitionsSchema(topic="t", partition_ids=[0, 1])],
    transaction_last_update_timestamp_ms=8,
    transaction_start_timestamp_ms=9,
)

GOLDEN: list[tuple[Message, int, str]] = [
    (
        JOINED,
        9,
        "00000001000000000003 09636f6e73756d6572 0672616e6765 036d31 01 036d31 02 036d31 00 04010203 00 00",
    ),
    (
        JoinGroupResponse(generation_id=3, protocol_name="range", leader="m1", member_id="m1"),
        5,
        "00000000000000000003 000572616e6765 00026d31 00026d31 00000000",
    ),
    (
        NOT_LEADER,
        13,
        "02 0102030405060708090a0b0c0d0e0f10 02 00000002 0006 ffffffffffffffff ffffffffffffffff ffffffffffffffff 01"
        "036e6f 01 00 09 00000004 00000005 00 00 00000000 01 00 0d 02 00000004 0268 00002384 00 00",
    ),
    (
        FETCHED,
        17,
        "00000000 0000 00000009 02 0102030405060708090a0b0c0d0e0f10 02 00000001 0000 000000000000000a 0000000000000008"
        "0000000000000002 02 0000000000000007 0000000000000003 00 ffffffff 04010203 00 00 00",
    ),
    (
        VERSIONS,
        4,
        "0000 02 0012 0000 0004 00 00000000 03 00 14 02 0e67726f75702e76657273696f6e 0000 0001 00"
        "01 08 000000000000000c 02 14 02 0e67726f75702e76657273696f6e 0001 0001 00",
    ),
    (ApiVersionsResponse(api_keys=VERSIONS.api_keys), 0, "0000 00000001 0012 0000 0004"),
    (MetadataRequest(topics=None), 9, "00 01 00 00 00"),
    (
        MetadataRequest(topics=[MetadataRequestTopic(topic_id=ID, name=None)], allow_auto_topic_creation=False),
        12,
        "02 0102030405060708090a0b0c0d0e0f10 00 00 00 00 00",
    ),
    (OffsetCommitKey(group="g", topic="t", partition=3), 0, "000167 000174 00000003"),
    (OFFSET, 3, "000000000000002a 00000002 00016d 00000000000003e8"),
    (
        OffsetCommitValue(offset=42, leader_epoch=2, metadata="m", commit_timestamp=1000, topic_id=ID),
        4,
        "000000000000002a 00000002 026d 00000000000003e8 01 00 10 0102030405060708090a0b0c0d0e0f10",
    ),
    (
        GROUP,
        3,
        "0008636f6e73756d6572 00000002 000572616e6765 00016d 0000000000000005 00000001 00016d 000169 000163 00022f68"
        "00000006 00000007 0000000101 0000000102",
    ),
    (
        TRANSACTION,
        1,
        "0000000000000005 0001 0000ea60 01 02 0274 03 00000000 00000001 00 0000000000000008 0000000000000009"
        "01 00 08 0000000000000004",
    ),
    # A nullable struct in a tagged field: Kafka writes 0 for null, and its default is an empty struct.
    (
        ConsumerGroupMemberMetadataValue(instance_id="", rack_id="", subscribed_topic_regex="", server_assignor=""),
        0,
        "01 01 01 01 01 01 ffffffff 01 00",
    ),
    (
        ConsumerGroupMemberMetadataValue(
            instance_id="", rack_id="", subscribed_topic_regex="", server_assignor="", classic_member_metadata=None
        ),
        0,
        "01 01 01 01 01 01 ffffffff 01 01 00 01 00",
    ),
    (
        ConsumerGroupMemberMetadataValue(
            instance_id="",
            rack_id="",
            subscribed_topic_regex="",
            server_assignor="",
            classic_member_metadata=ClassicMemberMetadata(session_timeout_ms=5),
        ),
        0,
        "01 01 01 01 01 01 ffffffff 01 01 00 07 01 00000005 01 00",
    ),
    (StreamsGroupMetadataValue(last_assignment_configs=None), 0, "00000000 0000000000000000 01 01 01 00"),
]


@pytest.mark.parametrize(
    ("message", "version", "golden"), GOLDEN, ids=[f"{type(m).__name__}-{v}" for m, v, _ in GOLDEN]
)
def test_bytes_are_those_of_kafka(message: Message, version: int, golden: str) -> None:
    expected = bytes.fromhex(golden)
    assert b"".join(compile_encoder(type(message), version)(message)) == expected
    decoded, size = compile_decoder(type(message), version)(memoryview(expected), 0)
    assert decoded == message
    assert size == len(expected)
