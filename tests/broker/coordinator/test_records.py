"""The records are Apache Kafka's: compared with the messages generated from its definitions, and with golden bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.coordinator.group.records import (
    CommittedOffset,
    GroupMetadata,
    GroupValue,
    MemberValue,
    OffsetCommit,
    decode_record,
)
from protocol.codec import encode_record_message
from protocol.errors import DecodeError
from protocol.messages.records.group_metadata import GroupMetadataKey, GroupMetadataValue, MemberMetadata
from protocol.messages.records.offset_commit import OffsetCommitKey, OffsetCommitValue
from protocol.types import ZERO_UUID

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
int64s = st.integers(0, 2**63 - 1)
commits = st.builds(
    CommittedOffset,
    int64s,
    st.integers(-1, 2**31 - 1),
    st.one_of(texts, st.just("m" * 4096)),
    int64s,
    st.just(-1),
    st.one_of(st.just(ZERO_UUID), st.binary(min_size=16, max_size=16)),
)
members = st.builds(
    MemberValue,
    texts,
    st.none() | texts,
    texts,
    texts,
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.binary(max_size=50),
    st.binary(max_size=50),
)
groups = st.builds(
    GroupValue,
    texts,
    st.integers(0, 2**31 - 1),
    st.none() | texts,
    st.none() | texts,
    st.integers(-1, 2**63 - 1),
    st.lists(members, max_size=3).map(tuple),
)


@given(texts, texts, st.integers(0, 2**31 - 1), commits)
def test_commits_are_written_as_kafka_writes_them(
    group: str, topic: str, partition: int, value: CommittedOffset
) -> None:
    key, encoded = OffsetCommit(group, topic, partition, value).encode()
    assert key == encode_record_message(OffsetCommitKey(group=group, topic=topic, partition=partition))
    message = OffsetCommitValue(
        offset=value.offset,
        leader_epoch=value.leader_epoch,
        metadata=value.metadata,
        commit_timestamp=value.commit_timestamp,
        topic_id=value.topic_id,
    )
    assert encoded == encode_record_message(message, 4)
    assert decode_record(key, encoded) == OffsetCommit(group, topic, partition, value)


@given(texts, groups)
def test_groups_are_written_as_kafka_writes_them(group: str, value: GroupValue) -> None:
    key, encoded = GroupMetadata(group, value).encode()
    assert key == encode_record_message(GroupMetadataKey(group=group))
    message = GroupMetadataValue(
        protocol_type=value.protocol_type,
        generation=value.generation,
        protocol=value.protocol_name,
        leader=value.leader,
        current_state_timestamp=value.state_timestamp,
        members=[
            MemberMetadata(
                member_id=each.member_id,
                group_instance_id=each.instance_id,
                client_id=each.client_id,
                client_host=each.client_host,
                rebalance_timeout=each.rebalance_timeout_ms,
                session_timeout=each.session_timeout_ms,
                subscription=each.subscription,
                assignment=each.assignment,
            )
            for each in value.members
        ],
    )
    assert encoded == encode_record_message(message, 3)
    assert decode_record(key, encoded) == GroupMetadata(group, value)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_commits_of_older_versions_are_read(version: int) -> None:
    key, _ = OffsetCommit("g", "t", 1, None).encode()
    message = OffsetCommitValue(offset=5, leader_epoch=-1, metadata="m", commit_timestamp=7)
    if version == 1:
        message.expire_timestamp = 9
    value = encode_record_message(message, version)
    expected = CommittedOffset(5, -1, "m", 7, 9 if version == 1 else -1)
    assert decode_record(key, value) == OffsetCommit("g", "t", 1, expected)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_groups_of_older_versions_are_read(version: int) -> None:
    key, _ = GroupMetadata("g", None).encode()
    member = MemberMetadata(member_id="m", client_id="c", client_host="/h", session_timeout=10, subscription=b"s")
    message = GroupMetadataValue(protocol_type="consumer", generation=3, protocol="range", leader="m", members=[member])
    decoded = decode_record(key, encode_record_message(message, version))
    assert isinstance(decoded, GroupMetadata)
    assert decoded.value is not None
    assert decoded.value.members[0].rebalance_timeout_ms == 10


def test_a_commit_with_a_retention_time_is_written_as_version_1() -> None:
    key, value = OffsetCommit("g", "t", 0, CommittedOffset(1, 5, "m", 100, 200)).encode()
    assert value is not None
    assert value[:2] == b"\0\1"
    assert decode_record(key, value) == OffsetCommit("g", "t", 0, CommittedOffset(1, -1, "m", 100, 200))


def test_golden_bytes() -> None:
    key, value = OffsetCommit("g1", "topic", 3, CommittedOffset(42, 7, "hi", 1_700_000_000_000)).encode()
    assert key.hex() == "0001000267310005746f70696300000003"
    assert value is not None
    assert value.hex() == "0004000000000000002a000000070368690000018bcfe5680000"
    key, value = GroupMetadata("g1", GroupValue("consumer", 2, None, None, 5)).encode()
    assert key.hex() == "000200026731"
    assert value is not None
    assert value.hex() == "00030008636f6e73756d657200000002ffffffff000000000000000500000000"


def test_tombstones_have_a_key_and_no_value() -> None:
    assert decode_record(*OffsetCommit("g", "t", 1, None).encode()) == OffsetCommit("g", "t", 1, None)
    assert decode_record(*GroupMetadata("g", None).encode()) == GroupMetadata("g", None)


def test_other_kinds_of_records_are_passed_over() -> None:
    assert decode_record(b"\0\13\0\1g", b"\0\0") is None


@given(groups, st.data())
def test_a_cut_off_record_is_a_decode_error(value: GroupValue, data: st.DataObject) -> None:
    key, encoded = GroupMetadata("g", value).encode()
    assert encoded is not None
    size = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DecodeError):
        decode_record(key, encoded[:size])
    key, encoded = OffsetCommit("g", "t", 0, CommittedOffset(1, 2, "meta", 3, -1, b"x" * 16)).encode()
    assert encoded is not None
    with pytest.raises(DecodeError):
        decode_record(key, encoded[: data.draw(st.integers(0, len(encoded) - 1))])
