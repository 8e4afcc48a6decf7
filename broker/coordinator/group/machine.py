"""The group coordinator's state machine: the table of groups, and `replay`, the only place where it persists.

The parts that decide are `membership` (who is in which generation of a classic group), `consumers` (the members of
consumer groups, whichever protocol they speak) and `offsets`. This one brings a request to the part that the kind of
its group calls for, and answers what looks at groups as a whole.
"""

from __future__ import annotations

from collections.abc import Collection

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.group.answers import JoinContext, describe_classic, join_error
from broker.coordinator.group.config import GroupConfig
from broker.coordinator.group.consumer.classic_members import MixedMembership
from broker.coordinator.group.consumer.describe import described
from broker.coordinator.group.consumer.group import ConsumerGroup
from broker.coordinator.group.consumer.records import ConsumerRecord
from broker.coordinator.group.consumer.topics import Topics
from broker.coordinator.group.group import Group, GroupState
from broker.coordinator.group.membership import Membership
from broker.coordinator.group.offsets import Offsets
from broker.coordinator.group.records import GroupRecord, OffsetCommit, decode_record
from broker.coordinator.group.table import GroupTable
from broker.coordinator.group.transactional_offsets import TransactionalOffsets
from broker.coordinator.machine import Outcome, ShardTimers
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode
from protocol.messages.consumer_group_describe import DescribedGroup as DescribedConsumerGroup
from protocol.messages.delete_groups import DeletableGroupResult
from protocol.messages.describe_groups import DescribedGroup
from protocol.messages.heartbeat import HeartbeatRequest
from protocol.messages.join_group import JoinGroupRequest
from protocol.messages.leave_group import MemberIdentity
from protocol.messages.list_groups import ListedGroup
from protocol.messages.sync_group import SyncGroupRequest

_GROUP_ID_NOT_FOUND_SINCE = 6


class GroupMachine:
    def __init__(self, timers: ShardTimers, config: GroupConfig, topics: Topics) -> None:
        self.table = GroupTable()
        self.membership = Membership(self.table, timers, config)
        self.consumers = MixedMembership(self.table, timers, config.consumer, config.size_max, topics, self.membership)
        self.offsets = Offsets(self.groups, self._committed, timers, config)
        self.transactional = TransactionalOffsets(
            self.groups, self.table.new_simple, self.table.drop_if_forgettable, config
        )
        self._timers = timers
        self._topics = topics
        self._config = config

    @property
    def groups(self) -> dict[str, Group]:
        return self.table.groups

    # -- the state machine's contract -------------------------------------------------------------------------------
    def decode(self, key: bytes, value: bytes) -> GroupRecord | ConsumerRecord | None:
        return decode_record(key, value)

    def replay(self, record: GroupRecord | ConsumerRecord) -> None:
        self.table.replay(record)

    def replay_pending(self, producer_id: int, record: GroupRecord | ConsumerRecord) -> None:
        """Only offsets are written in transactions."""
        if isinstance(record, OffsetCommit):
            self.transactional.replay_pending(producer_id, record)

    def end_transaction(self, producer_id: int, commit: bool) -> Collection[str]:
        return self.transactional.end(producer_id, commit)

    def loaded(self, out: Outcome) -> None:
        out.records += self.table.leftovers()
        self.membership.loaded(out)
        self.consumers.loaded()
        self.offsets.start_expiry()

    def waiting(self) -> list[Reply]:
        members = [member for group in self.table.classic_groups() for member in group.members.values()]
        parked = [reply for member in members for reply in (member.awaiting_join, member.awaiting_sync)]
        return [reply for reply in parked if reply is not None]

    # -- members that speak the classic protocol ----------------------------------------------------------------------
    def join(self, out: Outcome, reply: Reply, request: JoinGroupRequest, context: JoinContext) -> None:
        config = self._config
        group = self._consumer_group(request.group_id)
        if not config.min_session_timeout_ms <= request.session_timeout_ms <= config.max_session_timeout_ms:
            out.answer(reply, join_error(ErrorCode.INVALID_SESSION_TIMEOUT, request.member_id))
        elif group is not None:
            self.consumers.join(out, reply, group, request, context)
        else:
            self.membership.join(out, reply, request, context)

    def sync(self, out: Outcome, reply: Reply, request: SyncGroupRequest) -> None:
        group = self._consumer_group(request.group_id)
        if group is not None:
            self.consumers.sync(out, reply, group, request)
        else:
            self.membership.sync(out, reply, request)

    def heartbeat(self, out: Outcome, reply: Reply, request: HeartbeatRequest) -> None:
        group = self._consumer_group(request.group_id)
        if group is not None:
            self.consumers.classic_heartbeat(out, reply, group, request)
        else:
            self.membership.heartbeat(out, reply, request)

    def leave(self, out: Outcome, reply: Reply, group_id: str, identities: list[MemberIdentity]) -> None:
        group = self._consumer_group(group_id)
        if group is not None:
            self.consumers.leave(out, reply, group, identities)
        else:
            self.membership.leave(out, reply, group_id, identities)

    def _consumer_group(self, group_id: str) -> ConsumerGroup | None:
        """One with members: without, its id is anybody's to take."""
        group = self.table.consumer(group_id)
        return group if group is not None and group.members else None

    def _committed(self, group: Group, member_id: str) -> None:
        if isinstance(group, ConsumerGroup):
            self.consumers.committed(group, member_id)
        elif (classic := self.table.classic(group.group_id)) is not None:
            self.membership.committed(classic, member_id)

    # -- groups as a whole ------------------------------------------------------------------------------------------
    def list_groups(self, out: Outcome, reply: Reply, states: Collection[str], types: Collection[str]) -> None:
        """Filters are in lower case; an empty one lets everything through."""
        listed = [
            ListedGroup(
                group_id=group.group_id,
                protocol_type=group.protocol_type or "",
                group_state=group.state.value,
                group_type=group.type.value,
            )
            for group in self.groups.values()
            if (not types or group.type.value in types) and (not states or group.state.value.lower() in states)
        ]
        out.answer(reply, listed)

    def describe(self, out: Outcome, reply: Reply, group_id: str, version: int) -> None:
        """DescribeGroups: of classic groups."""
        group = self.table.classic(group_id)
        if group is not None:
            out.answer(reply, describe_classic(group))
            return
        answer = DescribedGroup(group_id=group_id, group_state=GroupState.DEAD.value)
        if version >= _GROUP_ID_NOT_FOUND_SINCE:
            answer.error_code = ErrorCode.GROUP_ID_NOT_FOUND
            known = group_id in self.groups
            answer.error_message = f"Group {group_id} {'is not a classic group' if known else 'not found'}."
        out.answer(reply, answer)

    def describe_consumer(self, out: Outcome, reply: Reply, group_id: str) -> None:
        """ConsumerGroupDescribe."""
        group = self.table.consumer(group_id)
        if group is not None:
            out.answer(reply, described(group, self.consumers.preferred_assignor(group), self._topics))
            return
        known = group_id in self.groups
        answer = DescribedConsumerGroup(
            group_id=group_id,
            error_code=ErrorCode.GROUP_ID_NOT_FOUND,
            error_message=f"Group {group_id} {'is not a consumer group' if known else 'not found'}.",
        )
        out.answer(reply, answer)

    def delete_group(self, out: Outcome, reply: Reply, group_id: str) -> None:
        """Tombstones for its offsets and itself, if it has no members."""
        group = self.groups.get(group_id)
        if group is None:
            raise CoordinatorError(ErrorCode.GROUP_ID_NOT_FOUND)
        if group.state is not GroupState.EMPTY:
            raise CoordinatorError(ErrorCode.NON_EMPTY_GROUP)
        for topic, index in group.offset_keys():
            out.write(OffsetCommit(group_id, topic, index, None))
        classic = self.table.classic(group_id)
        if classic is not None:
            for member_id in classic.pending_members:
                self._timers.cancel(("session", group_id, member_id))
        out.records += group.tombstones()
        out.answer(reply, DeletableGroupResult(group_id=group_id))
