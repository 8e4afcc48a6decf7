"""The records of consumer groups, in Apache Kafka's own format (4.3.1), which its tools can read.

| type | key | value |
|---|---|---|
| 3 | group | group epoch, hash of the subscribed topics' metadata |
| 5 | group, member | `MemberMetadata` |
| 6 | group | epoch and time of the target assignment |
| 7 | group, member | the member's target assignment |
| 8 | group, member | `CurrentAssignment` |
| 16 | group, expression | `ResolvedRegex` |

A null value is a tombstone. Type 4, in which Kafka before 4.1 kept the metadata of topics, is neither written nor
read. Keys and values are the generated messages; topics are written in the order of their ids and partitions in
theirs, so that equal state is equal bytes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from broker.coordinator.group.consumer.values import (
    Assignment,
    ClassicMetadata,
    CurrentAssignment,
    MemberMetadata,
    MemberState,
    Owned,
    ResolvedRegex,
)
from broker.coordinator.log import KeyValue
from protocol.codec import decode_record_message, encode_record_message
from protocol.errors import DecodeError
from protocol.messages.records import consumer_group_current_member_assignment as current
from protocol.messages.records import consumer_group_member_metadata as metadata
from protocol.messages.records.consumer_group_metadata import ConsumerGroupMetadataKey, ConsumerGroupMetadataValue
from protocol.messages.records.consumer_group_regular_expression import (
    ConsumerGroupRegularExpressionKey,
    ConsumerGroupRegularExpressionValue,
)
from protocol.messages.records.consumer_group_target_assignment_member import (
    ConsumerGroupTargetAssignmentMemberKey,
    ConsumerGroupTargetAssignmentMemberValue,
)
from protocol.messages.records.consumer_group_target_assignment_member import TopicPartition as TargetPartitions
from protocol.messages.records.consumer_group_target_assignment_metadata import (
    ConsumerGroupTargetAssignmentMetadataKey,
    ConsumerGroupTargetAssignmentMetadataValue,
)
from protocol.types import Message, RecordKey


class ConsumerRecord:
    """What all of them have: a group, and an encoding. `value` None is a tombstone."""

    __slots__ = ()
    group_id: str
    value: Any

    @property
    def subject(self) -> str:
        return self.group_id

    def encode(self) -> KeyValue:
        value = None if self.value is None else encode_record_message(self._encoded_value())
        return encode_record_message(self._encoded_key()), value

    @abstractmethod
    def _encoded_key(self) -> RecordKey: ...

    @abstractmethod
    def _encoded_value(self) -> Message: ...


@dataclass(frozen=True, slots=True)
class GroupEpoch(ConsumerRecord):
    """`value`: the group epoch, and the hash of the metadata of the topics that it is subscribed to."""

    group_id: str
    value: tuple[int, int] | None

    def _encoded_key(self) -> RecordKey:
        return ConsumerGroupMetadataKey(group_id=self.group_id)

    def _encoded_value(self) -> Message:
        assert self.value is not None
        return ConsumerGroupMetadataValue(epoch=self.value[0], metadata_hash=self.value[1])


@dataclass(frozen=True, slots=True)
class Member(ConsumerRecord):
    group_id: str
    member_id: str
    value: MemberMetadata | None

    def _encoded_key(self) -> RecordKey:
        return metadata.ConsumerGroupMemberMetadataKey(group_id=self.group_id, member_id=self.member_id)

    def _encoded_value(self) -> Message:
        value = self.value
        assert value is not None
        classic = value.classic
        return metadata.ConsumerGroupMemberMetadataValue(
            instance_id=value.instance_id,
            rack_id=value.rack_id,
            client_id=value.client_id,
            client_host=value.client_host,
            subscribed_topic_names=[*value.topics],
            subscribed_topic_regex=value.regex,
            rebalance_timeout_ms=value.rebalance_timeout_ms,
            server_assignor=value.server_assignor,
            classic_member_metadata=None
            if classic is None
            else metadata.ClassicMemberMetadata(
                session_timeout_ms=classic.session_timeout_ms,
                supported_protocols=[
                    metadata.ClassicProtocol(name=name, metadata=data) for name, data in classic.protocols
                ],
            ),
        )


@dataclass(frozen=True, slots=True)
class TargetEpoch(ConsumerRecord):
    """`value`: the group epoch that the target assignment was made for, and when, in ms."""

    group_id: str
    value: tuple[int, int] | None

    def _encoded_key(self) -> RecordKey:
        return ConsumerGroupTargetAssignmentMetadataKey(group_id=self.group_id)

    def _encoded_value(self) -> Message:
        assert self.value is not None
        return ConsumerGroupTargetAssignmentMetadataValue(
            assignment_epoch=self.value[0], assignment_timestamp=self.value[1]
        )


@dataclass(frozen=True, slots=True)
class Target(ConsumerRecord):
    group_id: str
    member_id: str
    value: Assignment | None

    def _encoded_key(self) -> RecordKey:
        return ConsumerGroupTargetAssignmentMemberKey(group_id=self.group_id, member_id=self.member_id)

    def _encoded_value(self) -> Message:
        assert self.value is not None
        return ConsumerGroupTargetAssignmentMemberValue(
            topic_partitions=[
                TargetPartitions(topic_id=topic_id, partitions=sorted(partitions))
                for topic_id, partitions in sorted(self.value.items())
            ]
        )


@dataclass(frozen=True, slots=True)
class Current(ConsumerRecord):
    group_id: str
    member_id: str
    value: CurrentAssignment | None

    def _encoded_key(self) -> RecordKey:
        return current.ConsumerGroupCurrentMemberAssignmentKey(group_id=self.group_id, member_id=self.member_id)

    def _encoded_value(self) -> Message:
        value = self.value
        assert value is not None
        return current.ConsumerGroupCurrentMemberAssignmentValue(
            member_epoch=value.epoch,
            previous_member_epoch=value.previous_epoch,
            state=value.state,
            assigned_partitions=_encoded_owned(value.assigned),
            partitions_pending_revocation=_encoded_owned(value.revoking),
        )


@dataclass(frozen=True, slots=True)
class Regex(ConsumerRecord):
    group_id: str
    expression: str
    value: ResolvedRegex | None

    def _encoded_key(self) -> RecordKey:
        return ConsumerGroupRegularExpressionKey(group_id=self.group_id, regular_expression=self.expression)

    def _encoded_value(self) -> Message:
        value = self.value
        assert value is not None
        return ConsumerGroupRegularExpressionValue(
            topics=sorted(value.topics), version=value.version, timestamp=value.timestamp_ms
        )


def decode_consumer_record(kind: int, key: bytes, value: bytes | None) -> ConsumerRecord | None:
    """None for a kind that is not a consumer group's. Raises DecodeError."""
    decode = _DECODERS.get(kind)
    return None if decode is None else decode(key, value)


def _decode_group_epoch(key: bytes, value: bytes | None) -> ConsumerRecord:
    group_id = decode_record_message(ConsumerGroupMetadataKey, key).group_id
    if value is None:
        return GroupEpoch(group_id, None)
    decoded = decode_record_message(ConsumerGroupMetadataValue, value)
    return GroupEpoch(group_id, (decoded.epoch, decoded.metadata_hash))


def _decode_member(key: bytes, value: bytes | None) -> ConsumerRecord:
    decoded_key = decode_record_message(metadata.ConsumerGroupMemberMetadataKey, key)
    if value is None:
        return Member(decoded_key.group_id, decoded_key.member_id, None)
    decoded = decode_record_message(metadata.ConsumerGroupMemberMetadataValue, value)
    classic = decoded.classic_member_metadata
    member = MemberMetadata(
        decoded.instance_id,
        decoded.rack_id,
        decoded.client_id,
        decoded.client_host,
        tuple(decoded.subscribed_topic_names),
        decoded.subscribed_topic_regex or "",
        decoded.rebalance_timeout_ms,
        decoded.server_assignor,
        None
        if classic is None
        else ClassicMetadata(
            classic.session_timeout_ms, tuple((each.name, bytes(each.metadata)) for each in classic.supported_protocols)
        ),
    )
    return Member(decoded_key.group_id, decoded_key.member_id, member)


def _decode_target_epoch(key: bytes, value: bytes | None) -> ConsumerRecord:
    group_id = decode_record_message(ConsumerGroupTargetAssignmentMetadataKey, key).group_id
    if value is None:
        return TargetEpoch(group_id, None)
    decoded = decode_record_message(ConsumerGroupTargetAssignmentMetadataValue, value)
    return TargetEpoch(group_id, (decoded.assignment_epoch, decoded.assignment_timestamp))


def _decode_target(key: bytes, value: bytes | None) -> ConsumerRecord:
    decoded_key = decode_record_message(ConsumerGroupTargetAssignmentMemberKey, key)
    if value is None:
        return Target(decoded_key.group_id, decoded_key.member_id, None)
    decoded = decode_record_message(ConsumerGroupTargetAssignmentMemberValue, value)
    assignment = {each.topic_id: frozenset(each.partitions) for each in decoded.topic_partitions}
    return Target(decoded_key.group_id, decoded_key.member_id, assignment)


def _decode_current(key: bytes, value: bytes | None) -> ConsumerRecord:
    decoded_key = decode_record_message(current.ConsumerGroupCurrentMemberAssignmentKey, key)
    if value is None:
        return Current(decoded_key.group_id, decoded_key.member_id, None)
    decoded = decode_record_message(current.ConsumerGroupCurrentMemberAssignmentValue, value)
    try:
        state = MemberState(decoded.state)
    except ValueError:
        raise DecodeError(f"member state {decoded.state}") from None
    epoch = decoded.member_epoch
    assignment = CurrentAssignment(
        epoch,
        decoded.previous_member_epoch,
        state,
        _decoded_owned(decoded.assigned_partitions, epoch),
        _decoded_owned(decoded.partitions_pending_revocation, epoch),
    )
    return Current(decoded_key.group_id, decoded_key.member_id, assignment)


def _decode_regex(key: bytes, value: bytes | None) -> ConsumerRecord:
    decoded_key = decode_record_message(ConsumerGroupRegularExpressionKey, key)
    if value is None:
        return Regex(decoded_key.group_id, decoded_key.regular_expression, None)
    decoded = decode_record_message(ConsumerGroupRegularExpressionValue, value)
    resolved = ResolvedRegex(frozenset(decoded.topics), decoded.version, decoded.timestamp)
    return Regex(decoded_key.group_id, decoded_key.regular_expression, resolved)


_DECODERS: dict[int, Callable[[bytes, bytes | None], ConsumerRecord]] = {
    ConsumerGroupMetadataKey.API_KEY: _decode_group_epoch,
    metadata.ConsumerGroupMemberMetadataKey.API_KEY: _decode_member,
    ConsumerGroupTargetAssignmentMetadataKey.API_KEY: _decode_target_epoch,
    ConsumerGroupTargetAssignmentMemberKey.API_KEY: _decode_target,
    current.ConsumerGroupCurrentMemberAssignmentKey.API_KEY: _decode_current,
    ConsumerGroupRegularExpressionKey.API_KEY: _decode_regex,
}


def _encoded_owned(owned: Owned) -> list[current.TopicPartitions]:
    encoded = []
    for topic_id, epochs in sorted(owned.items()):
        partitions = sorted(epochs)
        encoded.append(
            current.TopicPartitions(
                topic_id=topic_id, partitions=partitions, assignment_epochs=[epochs[index] for index in partitions]
            )
        )
    return encoded


def _decoded_owned(topics: list[current.TopicPartitions], member_epoch: int) -> Owned:
    """Records of older versions have no epochs: the member's stands for them."""
    owned: dict[bytes, dict[int, int]] = {}
    for topic in topics:
        epochs = topic.assignment_epochs
        known = epochs is not None and len(epochs) == len(topic.partitions)
        pairs = (
            zip(topic.partitions, epochs or (), strict=True) if known else ((p, member_epoch) for p in topic.partitions)
        )
        owned[topic.topic_id] = dict(pairs)
    return owned
