"""The embedded consumer protocol: what consumers of the classic protocol put into their metadata and assignments.

    subscription    int16 version | [ string topic ] | user data | v1: owned partitions | v2: generation | v3: rack
    assignment      int16 version | [ string topic | [ int32 partition ] ] | user data

Clients own these bytes. Brokers look at the topics, to know which committed offsets are in use, and at the rest only
where such a consumer meets the new protocol.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct, error
from typing import NamedTuple

from protocol.codec import decode_record_message, encode_record_message
from protocol.errors import ProtocolError
from protocol.messages.records.consumer_protocol import (
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
    TopicPartition,
)

CONSUMER_PROTOCOL_TYPE = "consumer"

_HEAD = Struct(">hi")
_INT16 = Struct(">h")

Partitions = dict[str, frozenset[int]]
"""Topic name -> partitions."""


class Subscription(NamedTuple):
    topics: tuple[str, ...]
    owned: Partitions
    rack_id: str | None


def subscribed_topics(metadata: bytes) -> list[str] | None:
    """None if these are not a subscription's bytes."""
    try:
        version, count = _HEAD.unpack_from(metadata)
        if version < 0 or count < 0:
            return None
        position = _HEAD.size
        topics = []
        for _ in range(count):
            size = _INT16.unpack_from(metadata, position)[0]
            position += 2
            end = position + size
            if size < 0 or end > len(metadata):
                return None
            topics.append(metadata[position:end].decode())
            position = end
    except (error, UnicodeDecodeError):
        return None
    return topics


def decode_subscription(metadata: bytes) -> Subscription | None:
    """None if these are not a subscription's bytes."""
    try:
        decoded = decode_record_message(ConsumerProtocolSubscription, metadata, newer=True)
    except ProtocolError:
        return None
    owned: Partitions = {}
    for each in decoded.owned_partitions:
        owned[each.topic] = owned.get(each.topic, frozenset()).union(each.partitions)
    return Subscription(tuple(dict.fromkeys(decoded.topics)), owned, decoded.rack_id)


def decode_assignment(assignment: bytes) -> Partitions:
    """Nothing if these are not an assignment's bytes."""
    try:
        decoded = decode_record_message(ConsumerProtocolAssignment, assignment, newer=True)
    except ProtocolError:
        return {}
    partitions: Partitions = {}
    for each in decoded.assigned_partitions:
        partitions[each.topic] = partitions.get(each.topic, frozenset()).union(each.partitions)
    return partitions


def encode_assignment(partitions: Iterable[tuple[str, Iterable[int]]], subscription: bytes) -> bytes:
    """In the version of that subscription, or the last one known here."""
    version = min(max(_INT16.unpack_from(subscription)[0], 0), ConsumerProtocolAssignment.VERSIONS[1])
    message = ConsumerProtocolAssignment(
        assigned_partitions=[
            TopicPartition(topic=name, partitions=sorted(indexes)) for name, indexes in sorted(partitions)
        ]
    )
    return encode_record_message(message, version)
