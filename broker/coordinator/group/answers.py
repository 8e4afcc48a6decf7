"""Who joins, and the responses of the membership APIs from what a group knows."""

from __future__ import annotations

from typing import NamedTuple

from broker.coordinator.group.classic import ClassicGroup, Member
from broker.coordinator.group.group import GroupState
from protocol.errors import ErrorCode
from protocol.messages.describe_groups import DescribedGroup, DescribedGroupMember
from protocol.messages.join_group import JoinGroupResponse, JoinGroupResponseMember
from protocol.messages.sync_group import SyncGroupResponse


class JoinContext(NamedTuple):
    """Who joins. `unique_id` is fresh for each request; it becomes part of a new member's id."""

    version: int
    client_id: str
    client_host: str
    unique_id: str


def join_error(code: ErrorCode, member_id: str) -> JoinGroupResponse:
    return JoinGroupResponse(error_code=code, member_id=member_id, protocol_name=None)


def joined(group: ClassicGroup, member: Member) -> JoinGroupResponse:
    """Its generation; for the leader with everybody's metadata."""
    members = []
    if group.leader == member.member_id:
        members = [
            JoinGroupResponseMember(
                member_id=each.member_id,
                group_instance_id=each.instance_id,
                metadata=each.metadata(group.protocol_name),
            )
            for each in group.members.values()
        ]
    return JoinGroupResponse(
        generation_id=group.generation,
        protocol_type=group.protocol_type,
        protocol_name=group.protocol_name or "",
        leader=group.leader or "",
        member_id=member.member_id,
        members=members,
    )


def synced(group: ClassicGroup, assignment: bytes) -> SyncGroupResponse:
    return SyncGroupResponse(
        protocol_type=group.protocol_type, protocol_name=group.protocol_name, assignment=assignment
    )


def describe_classic(group: ClassicGroup) -> DescribedGroup:
    stable = group.state is GroupState.STABLE
    members = [
        DescribedGroupMember(
            member_id=member.member_id,
            group_instance_id=member.instance_id,
            client_id=member.client_id,
            client_host=member.client_host,
            member_metadata=member.metadata(group.protocol_name) if stable else b"",
            member_assignment=member.assignment,
        )
        for member in group.members.values()
    ]
    return DescribedGroup(
        group_id=group.group_id,
        group_state=group.state.value,
        protocol_type=group.protocol_type or "",
        protocol_data=(group.protocol_name or "") if stable else "",
        members=members,
    )
