"""The records of the group coordinator, in Apache Kafka's own format, which its tools can read.

    OffsetCommitKey     int16 1 (or 0) | string group | string topic | int32 partition
    OffsetCommitValue   int16 4 | int64 offset | int32 leader epoch | compact string metadata | int64 commit timestamp
                        | tagged fields (0: topic id)
                        int16 1 where the client gave a retention time: no leader epoch, and an expire timestamp
    GroupMetadataKey    int16 2 | string group
    GroupMetadataValue  int16 3 | string protocol type | int32 generation | string? protocol | string? leader
                        | int64 state timestamp | [member]
    member              string id | string? instance id | string client id | string client host
                        | int32 rebalance timeout | int32 session timeout | bytes subscription | bytes assignment

Versions are those that Kafka 4.3.1 writes; all older ones are read. Commits are frequent and loading reads one per
committed partition, so this is written out by hand; tests compare it with the generated messages. A null value is a
tombstone.
"""

from __future__ import annotations

from struct import Struct, error
from typing import NamedTuple

from broker.coordinator.group.consumer.records import ConsumerRecord, decode_consumer_record
from broker.coordinator.log import KeyValue
from protocol.errors import DecodeError
from protocol.types import ZERO_UUID

NO_EXPIRY = -1

NAME_LENGTH_MAX = 8_000
"""Characters of a group, member or protocol name that are accepted: any such fits an int16 string of a record."""

_INT16 = Struct(">h")
_INT32 = Struct(">i")
_INT64 = Struct(">q")
_HEAD = Struct(">hh")
_COMMIT = Struct(">hqi")
_TIMES = Struct(">qq")
_TIMEOUTS = Struct(">ii")

_COMMIT_KEY_VERSIONS = (0, 1)
_GROUP_KEY_VERSION = 2
_CURRENT_COMMIT = b"\x00\x04"
_NO_TAGS = b"\x00"
_TOPIC_ID_TAG = b"\x01\x00\x10"


class CommittedOffset(NamedTuple):
    """`expire_timestamp` is -1 unless an old client gave a retention time; timestamps in ms."""

    offset: int
    leader_epoch: int
    metadata: str
    commit_timestamp: int
    expire_timestamp: int = NO_EXPIRY
    topic_id: bytes = ZERO_UUID


class OffsetCommit(NamedTuple):
    """`committed` None: the offset is gone."""

    group_id: str
    topic: str
    partition: int
    committed: CommittedOffset | None

    @property
    def subject(self) -> str:
        return self.group_id

    def encode(self) -> KeyValue:
        group = self.group_id.encode()
        topic = self.topic.encode()
        key = b"".join(
            (
                _HEAD.pack(1, len(group)),
                group,
                _INT16.pack(len(topic)),
                topic,
                _INT32.pack(self.partition),
            )
        )
        committed = self.committed
        if committed is None:
            return key, None
        offset, leader_epoch, metadata, commit_timestamp, expire_timestamp, topic_id = committed
        text = metadata.encode()
        if expire_timestamp != NO_EXPIRY:
            head = _INT16.pack(1) + _INT64.pack(offset) + _INT16.pack(len(text))
            return key, head + text + _TIMES.pack(commit_timestamp, expire_timestamp)
        tags = _NO_TAGS if topic_id == ZERO_UUID else _TOPIC_ID_TAG + topic_id
        return key, b"".join(
            (
                _COMMIT.pack(4, offset, leader_epoch),
                _uvarint(len(text) + 1),
                text,
                _INT64.pack(commit_timestamp),
                tags,
            )
        )


class MemberValue(NamedTuple):
    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    subscription: bytes
    assignment: bytes


class GroupValue(NamedTuple):
    """`protocol_type` is empty for a group that nobody has joined; `state_timestamp` is -1 if not known."""

    protocol_type: str
    generation: int
    protocol_name: str | None
    leader: str | None
    state_timestamp: int
    members: tuple[MemberValue, ...] = ()


class GroupMetadata(NamedTuple):
    """`value` None: the group is gone."""

    group_id: str
    value: GroupValue | None

    @property
    def subject(self) -> str:
        return self.group_id

    def encode(self) -> KeyValue:
        group = self.group_id.encode()
        key = _HEAD.pack(_GROUP_KEY_VERSION, len(group)) + group
        value = self.value
        if value is None:
            return key, None
        pieces = [
            _INT16.pack(3),
            _string(value.protocol_type),
            _INT32.pack(value.generation),
            _string(value.protocol_name),
            _string(value.leader),
            _INT64.pack(value.state_timestamp),
            _INT32.pack(len(value.members)),
        ]
        for member in value.members:
            pieces += (
                _string(member.member_id),
                _string(member.instance_id),
                _string(member.client_id),
                _string(member.client_host),
                _TIMEOUTS.pack(member.rebalance_timeout_ms, member.session_timeout_ms),
                _INT32.pack(len(member.subscription)),
                member.subscription,
                _INT32.pack(len(member.assignment)),
                member.assignment,
            )
        return key, b"".join(pieces)


GroupRecord = OffsetCommit | GroupMetadata


def decode_record(key: bytes, value: bytes | None) -> GroupRecord | ConsumerRecord | None:
    """None for a kind of record that is neither a classic nor a consumer group's. Raises DecodeError."""
    try:
        kind = _INT16.unpack_from(key)[0]
        if kind in _COMMIT_KEY_VERSIONS:
            return _decode_commit(key, value)
        if kind == _GROUP_KEY_VERSION:
            group_id = _Reader(key, 2).string()
            return GroupMetadata(group_id, None if value is None else _decode_group(_Reader(value, 0)))
        return decode_consumer_record(kind, key, value)
    except (error, IndexError, UnicodeDecodeError) as cause:
        raise DecodeError(f"group coordinator record: {cause}") from cause


def _decode_commit(key: bytes, value: bytes | None) -> OffsetCommit:
    group_end = 4 + _INT16.unpack_from(key, 2)[0]
    topic_start = group_end + 2
    topic_end = topic_start + _INT16.unpack_from(key, group_end)[0]
    partition = _INT32.unpack_from(key, topic_end)[0]
    group_id, topic = key[4:group_end].decode(), key[topic_start:topic_end].decode()
    if value is None:
        return OffsetCommit(group_id, topic, partition, None)
    if value[:2] == _CURRENT_COMMIT and value[14] < 0x80:
        return OffsetCommit(group_id, topic, partition, _decode_current_commit(value))
    return OffsetCommit(group_id, topic, partition, _decode_any_commit(_Reader(value, 0)))


def _decode_current_commit(value: bytes) -> CommittedOffset:
    """The version that is written here, with metadata whose length is one byte: nearly all there are."""
    _, offset, leader_epoch = _COMMIT.unpack_from(value)
    metadata_end = 14 + value[14]
    if metadata_end < 15:
        raise DecodeError("OffsetCommitValue without metadata")
    metadata = value[15:metadata_end].decode()
    commit_timestamp = _INT64.unpack_from(value, metadata_end)[0]
    tags = metadata_end + 8
    topic_id = ZERO_UUID if value[tags] == 0 else _Reader(value, tags).topic_id_tag()
    return CommittedOffset(offset, leader_epoch, metadata, commit_timestamp, NO_EXPIRY, topic_id)


def _decode_any_commit(reader: _Reader) -> CommittedOffset:
    version = reader.int16()
    if not 0 <= version <= 4:
        raise DecodeError(f"OffsetCommitValue of version {version}")
    offset = reader.int64()
    leader_epoch = reader.int32() if version >= 3 else -1
    metadata = reader.compact_string() if version >= 4 else reader.string()
    commit_timestamp = reader.int64()
    expire_timestamp = reader.int64() if version == 1 else NO_EXPIRY
    topic_id = reader.topic_id_tag() if version >= 4 else ZERO_UUID
    return CommittedOffset(offset, leader_epoch, metadata, commit_timestamp, expire_timestamp, topic_id)


def _decode_group(reader: _Reader) -> GroupValue:
    version = reader.int16()
    if not 0 <= version <= 3:
        raise DecodeError(f"GroupMetadataValue of version {version}")
    protocol_type = reader.string()
    generation = reader.int32()
    protocol_name = reader.nullable_string()
    leader = reader.nullable_string()
    state_timestamp = reader.int64() if version >= 2 else -1
    members = tuple(_decode_member(reader, version) for _ in range(reader.int32()))
    return GroupValue(protocol_type, generation, protocol_name, leader, state_timestamp, members)


def _decode_member(reader: _Reader, version: int) -> MemberValue:
    member_id = reader.string()
    instance_id = reader.nullable_string() if version >= 3 else None
    client_id, client_host = reader.string(), reader.string()
    rebalance_timeout_ms = reader.int32() if version >= 1 else -1
    session_timeout_ms = reader.int32()
    if rebalance_timeout_ms == -1:
        rebalance_timeout_ms = session_timeout_ms
    return MemberValue(
        member_id,
        instance_id,
        client_id,
        client_host,
        rebalance_timeout_ms,
        session_timeout_ms,
        reader.sized(),
        reader.sized(),
    )


def _uvarint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _string(text: str | None) -> bytes:
    if text is None:
        return b"\xff\xff"
    encoded = text.encode()
    return _INT16.pack(len(encoded)) + encoded


class _Reader:
    __slots__ = ("data", "position")

    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position

    def int16(self) -> int:
        self.position += 2
        value: int = _INT16.unpack_from(self.data, self.position - 2)[0]
        return value

    def int32(self) -> int:
        self.position += 4
        value: int = _INT32.unpack_from(self.data, self.position - 4)[0]
        return value

    def int64(self) -> int:
        self.position += 8
        value: int = _INT64.unpack_from(self.data, self.position - 8)[0]
        return value

    def uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 28:
                raise DecodeError("varint too long")

    def take(self, size: int) -> bytes:
        end = self.position + size
        if size < 0 or end > len(self.data):
            raise DecodeError("group coordinator record is cut off")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def sized(self) -> bytes:
        return self.take(self.int32())

    def string(self) -> str:
        return self.take(self.int16()).decode()

    def nullable_string(self) -> str | None:
        size = self.int16()
        return None if size == -1 else self.take(size).decode()

    def compact_string(self) -> str:
        return self.take(self.uvarint() - 1).decode()

    def topic_id_tag(self) -> bytes:
        topic_id = ZERO_UUID
        for _ in range(self.uvarint()):
            tag = self.uvarint()
            content = self.take(self.uvarint())
            if tag == 0:
                topic_id = content
        return topic_id
