"""Groups that turn from one kind into the other while their members go on. KIP-848.

* To a consumer group, when a member joins a classic group of consumers with the new protocol. Its members become
  members that speak the classic protocol, at the epoch of their generation, with what they own; then the newcomer
  joins.
* To a classic group, when the last member of the new protocol goes. The others form a generation of it and rebalance
  at once.

Invariant: whatever a member may own on one side, it owns on the other. A classic member may own what it has been
assigned, and also, with cooperative assignors, what it said that it owned when it joined last: it gives that up only
when it hears of its new assignment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from broker.coordinator.group.classic import ClassicGroup
from broker.coordinator.group.classic import Member as ClassicMember
from broker.coordinator.group.consumer.group import FIRST_EPOCH, ConsumerGroup
from broker.coordinator.group.consumer.records import (
    ConsumerRecord,
    Current,
    GroupEpoch,
    Member,
    Target,
    TargetEpoch,
)
from broker.coordinator.group.consumer.topics import Topics, metadata_hash
from broker.coordinator.group.consumer.values import (
    ClassicMetadata,
    CurrentAssignment,
    MemberMetadata,
    MemberState,
    Owned,
    partitions_of,
)
from broker.coordinator.group.records import GroupMetadata, GroupValue, MemberValue
from broker.coordinator.group.subscription import (
    CONSUMER_PROTOCOL_TYPE,
    Partitions,
    Subscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
)


def upgrade_records(group: ClassicGroup, topics: Topics) -> list[ConsumerRecord] | None:
    """What makes the members of a classic group those of a consumer group; None if one of them is no consumer."""
    subscriptions: dict[str, Subscription] = {}
    for member in group.members.values():
        subscription = decode_subscription(_metadata(group, member))
        if subscription is None:
            return None
        subscriptions[member.member_id] = subscription
    group_id, epoch = group.group_id, group.generation
    owned = _owned(group, subscriptions, topics)
    records: list[ConsumerRecord] = []
    for member in group.members.values():
        subscription = subscriptions[member.member_id]
        metadata = MemberMetadata(
            member.instance_id,
            subscription.rack_id,
            member.client_id,
            member.client_host,
            subscription.topics,
            "",
            member.rebalance_timeout_ms,
            None,
            ClassicMetadata(member.session_timeout_ms, tuple(member.protocols)),
        )
        records.append(Member(group_id, member.member_id, metadata))
    subscribed = {name for each in subscriptions.values() for name in each.topics}
    group_epoch = max(epoch, FIRST_EPOCH)
    records.append(GroupEpoch(group_id, (group_epoch, metadata_hash(topics, subscribed))))
    records += (Target(group_id, member_id, partitions_of(each)) for member_id, each in owned.items())
    records.append(TargetEpoch(group_id, (group_epoch, 0)))
    for member_id, each in owned.items():
        records.append(Current(group_id, member_id, CurrentAssignment(epoch, epoch, MemberState.STABLE, each)))
    return records


def _metadata(group: ClassicGroup, member: ClassicMember) -> bytes:
    """With the protocol of the generation, or of the member's own choice where there is none yet."""
    return member.metadata(group.protocol_name) or member.protocols[0][1]


def _owned(group: ClassicGroup, subscriptions: dict[str, Subscription], topics: Topics) -> dict[str, Owned]:
    """What is assigned comes first: nobody else can own that. What members said that they owned when they joined is
    added where nobody has it."""
    taken: set[tuple[bytes, int]] = set()
    owned: dict[str, dict[bytes, dict[int, int]]] = {member_id: {} for member_id in group.members}

    def add(member_id: str, partitions: Partitions) -> None:
        for name, indexes in partitions.items():
            topic = topics.topic(name)
            if topic is None:
                continue
            for index in indexes:
                if index < topic.partition_count and (topic.topic_id, index) not in taken:
                    taken.add((topic.topic_id, index))
                    owned[member_id].setdefault(topic.topic_id, {})[index] = group.generation

    for member in group.members.values():
        add(member.member_id, decode_assignment(member.assignment))
    for member_id, subscription in subscriptions.items():
        add(member_id, subscription.owned)
    return dict(owned)


def downgrade_record(group: ConsumerGroup, leaving: Collection[str], topics: Topics, now_ms: int) -> GroupMetadata:
    """The classic group of the members that stay, who all speak the classic protocol. It has no leader: that is how
    it is known to need a rebalance."""
    support = group.subscriptions.protocols
    staying = [(member_id, metadata) for member_id, metadata in group.members.items() if member_id not in leaving]
    protocol_name = max(support, key=lambda name: support[name])
    members = []
    for member_id, metadata in staying:
        classic = metadata.classic
        assert classic is not None, "only members of the classic protocol stay"
        subscription = dict(classic.protocols).get(protocol_name, classic.protocols[0][1])
        members.append(
            MemberValue(
                member_id,
                metadata.instance_id,
                metadata.client_id,
                metadata.client_host,
                metadata.rebalance_timeout_ms,
                classic.session_timeout_ms,
                subscription,
                assigned_bytes(group.current_of(member_id).assigned, subscription, topics),
            )
        )
    return GroupMetadata(
        group.group_id,
        GroupValue(CONSUMER_PROTOCOL_TYPE, group.epoch, protocol_name, None, now_ms, tuple(members)),
    )


def assigned_bytes(assigned: Owned, subscription: bytes, topics: Topics) -> bytes:
    """As a classic member gets it, in the version that it speaks. Topics that are gone are left out."""
    named: list[tuple[str, Iterable[int]]] = []
    for topic_id, partitions in assigned.items():
        name = topics.name_of(topic_id)
        if name is not None:
            named.append((name, partitions))
    return encode_assignment(named, subscription)
