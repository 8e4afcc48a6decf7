"""ConsumerGroupDescribe, from what a group knows."""

from __future__ import annotations

from collections.abc import Mapping

from broker.coordinator.group.consumer.group import ConsumerGroup
from broker.coordinator.group.consumer.topics import Topics
from broker.coordinator.group.consumer.values import Assignment
from protocol.messages.consumer_group_describe import Assignment as AssignmentMessage
from protocol.messages.consumer_group_describe import DescribedGroup, Member, TopicPartitions

_CLASSIC_MEMBER, _CONSUMER_MEMBER = 0, 1


def described(group: ConsumerGroup, assignor_name: str, topics: Topics) -> DescribedGroup:
    """What a member has been asked to give up counts as its own until it has."""
    members = []
    for member_id, metadata in group.members.items():
        current = group.current_of(member_id)
        owned: dict[bytes, set[int]] = {}
        for each in (current.assigned, current.revoking):
            for topic_id, partitions in each.items():
                owned.setdefault(topic_id, set()).update(partitions)
        members.append(
            Member(
                member_id=member_id,
                instance_id=metadata.instance_id,
                rack_id=metadata.rack_id,
                member_epoch=current.epoch,
                client_id=metadata.client_id,
                client_host=metadata.client_host,
                subscribed_topic_names=[*metadata.topics],
                subscribed_topic_regex=metadata.regex,
                assignment=_message(owned, topics),
                target_assignment=_message(group.target_of(member_id), topics),
                member_type=_CONSUMER_MEMBER if metadata.classic is None else _CLASSIC_MEMBER,
            )
        )
    return DescribedGroup(
        group_id=group.group_id,
        group_state=group.state.value,
        group_epoch=group.epoch,
        assignment_epoch=group.assignment_epoch,
        assignor_name=assignor_name,
        members=members,
    )


def _message(assignment: Assignment | Mapping[bytes, set[int]], topics: Topics) -> AssignmentMessage:
    """Topics that are gone have no name to be shown by."""
    return AssignmentMessage(
        topic_partitions=[
            TopicPartitions(topic_id=topic_id, topic_name=name, partitions=sorted(partitions))
            for topic_id, partitions in sorted(assignment.items())
            if (name := topics.name_of(topic_id)) is not None
        ]
    )
