"""The group coordinator's state machine: the table of groups, and `replay`, the only place where it persists.

The parts that decide are `membership` (who is in which generation) and `offsets`; this one holds the table they work
on, answers what looks at groups as a whole, and applies records.
"""

from __future__ import annotations

from collections.abc import Collection

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.group.classic import ClassicGroup
from broker.coordinator.group.config import GroupConfig
from broker.coordinator.group.group import GroupState
from broker.coordinator.group.membership import Membership
from broker.coordinator.group.offsets import Offsets
from broker.coordinator.group.records import GroupMetadata, GroupRecord, OffsetCommit, decode_record
from broker.coordinator.machine import Outcome, ShardTimers
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode
from protocol.messages.delete_groups import DeletableGroupResult
from protocol.messages.describe_groups import DescribedGroup, DescribedGroupMember
from protocol.messages.list_groups import ListedGroup

CLASSIC_GROUP_TYPE = "classic"
_GROUP_ID_NOT_FOUND_SINCE = 6


class GroupMachine:
    def __init__(self, timers: ShardTimers, config: GroupConfig) -> None:
        self.groups: dict[str, ClassicGroup] = {}
        self.membership = Membership(self.groups, timers, config)
        self.offsets = Offsets(self.groups, self.membership, timers, config)
        self._timers = timers

    # -- the state machine's contract -------------------------------------------------------------------------------
    def decode(self, key: bytes, value: bytes) -> GroupRecord | None:
        return decode_record(key, value)

    def replay(self, record: GroupRecord) -> None:
        if isinstance(record, OffsetCommit):
            self._replay_offset(record)
        else:
            self._replay_group(record)

    def loaded(self, out: Outcome) -> None:
        self.membership.loaded(out)
        self.offsets.start_expiry()

    def waiting(self) -> list[Reply]:
        members = [member for group in self.groups.values() for member in group.members.values()]
        parked = [reply for member in members for reply in (member.awaiting_join, member.awaiting_sync)]
        return [reply for reply in parked if reply is not None]

    def _replay_offset(self, record: OffsetCommit) -> None:
        group_id, topic, partition, committed = record
        group = self.groups.get(group_id)
        if committed is not None:
            if group is None:
                group = self.groups[group_id] = ClassicGroup(group_id)
            partitions = group.offsets.get(topic)
            if partitions is None:
                partitions = group.offsets[topic] = {}
            partitions[partition] = committed
        elif group is not None:
            partitions = group.offsets.get(topic, {})
            partitions.pop(partition, None)
            if not partitions:
                group.offsets.pop(topic, None)
                self._drop_if_forgettable(group)

    def _replay_group(self, record: GroupMetadata) -> None:
        group = self.groups.get(record.group_id)
        if record.value is not None:
            if group is None:
                group = self.groups[record.group_id] = ClassicGroup(record.group_id)
            group.apply(record.value)
        elif group is not None:
            # offsets that are left, if any, are a simple group's from now on
            simple = ClassicGroup(record.group_id)
            simple.offsets = group.offsets
            self.groups[record.group_id] = simple
            self._drop_if_forgettable(simple)

    def _drop_if_forgettable(self, group: ClassicGroup) -> None:
        if group.forgettable and group.state is GroupState.EMPTY:
            del self.groups[group.group_id]

    # -- groups as a whole ------------------------------------------------------------------------------------------
    def list_groups(self, out: Outcome, reply: Reply, states: Collection[str], types: Collection[str]) -> None:
        """Filters are in lower case; an empty one lets everything through."""
        shown = self.groups.values() if not types or CLASSIC_GROUP_TYPE in types else ()
        listed = [
            ListedGroup(
                group_id=group.group_id,
                protocol_type=group.protocol_type or "",
                group_state=group.state.value,
                group_type=CLASSIC_GROUP_TYPE,
            )
            for group in shown
            if not states or group.state.value.lower() in states
        ]
        out.answer(reply, listed)

    def describe(self, out: Outcome, reply: Reply, group_id: str, version: int) -> None:
        group = self.groups.get(group_id)
        if group is None:
            described = DescribedGroup(group_id=group_id, group_state=GroupState.DEAD.value)
            if version >= _GROUP_ID_NOT_FOUND_SINCE:
                described.error_code = ErrorCode.GROUP_ID_NOT_FOUND
                described.error_message = f"Group {group_id} not found."
            out.answer(reply, described)
            return
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
        described = DescribedGroup(
            group_id=group_id,
            group_state=group.state.value,
            protocol_type=group.protocol_type or "",
            protocol_data=(group.protocol_name or "") if stable else "",
            members=members,
        )
        out.answer(reply, described)

    def delete_group(self, out: Outcome, reply: Reply, group_id: str) -> None:
        """Tombstones for its offsets and itself, if it has no members."""
        group = self.groups.get(group_id)
        if group is None:
            raise CoordinatorError(ErrorCode.GROUP_ID_NOT_FOUND)
        if group.state is not GroupState.EMPTY:
            raise CoordinatorError(ErrorCode.NON_EMPTY_GROUP)
        for topic, partitions in group.offsets.items():
            for index in partitions:
                out.write(OffsetCommit(group_id, topic, index, None))
        for member_id in group.pending_members:
            self._timers.cancel(("session", group_id, member_id))
        out.write(GroupMetadata(group_id, None))
        out.answer(reply, DeletableGroupResult(group_id=group_id))
