"""How a classic group goes from one generation to the next: the join phase, its time-outs, and the members' sessions.

Everything here is set off by `membership` (a request) or by a timer, which looks the group up again. Pure: timers are
virtual, time comes in with the `Outcome`.
"""

from __future__ import annotations

from functools import partial

from broker.coordinator.group.answers import join_error, joined
from broker.coordinator.group.classic import ClassicGroup, Member
from broker.coordinator.group.config import GroupConfig
from broker.coordinator.group.group import GroupState
from broker.coordinator.group.table import GroupTable
from broker.coordinator.machine import Outcome, ShardTimers
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode
from protocol.messages.join_group import JoinGroupResponse
from protocol.messages.sync_group import SyncGroupResponse

_NOBODY_BACK_PAUSE_MS = 1_000
"""At least how long a join phase in which nobody has come waits once more: clients may ask for a time-out of 0."""


class Rebalancing:
    """`table` is the table of the shard, which `replay` changes."""

    def __init__(self, table: GroupTable, timers: ShardTimers, config: GroupConfig) -> None:
        self._table = table
        self._timers = timers
        self._config = config

    # -- the join phase ------------------------------------------------------------------------------------------------
    def _rebalance_or_complete(self, group: ClassicGroup, out: Outcome) -> None:
        if group.can_rebalance:
            self._prepare_rebalance(group, out)
        else:
            self._complete_if_all_joined(group, out)

    def _complete_if_all_joined(self, group: ClassicGroup, out: Outcome) -> None:
        """The initial rebalance runs out its delay even so."""
        if (
            group.state is GroupState.PREPARING_REBALANCE
            and group.previous_state is not GroupState.EMPTY
            and group.all_joined
        ):
            self._complete_join(group, out)

    def _prepare_rebalance(self, group: ClassicGroup, out: Outcome) -> None:
        if group.state is GroupState.COMPLETING_REBALANCE:
            for member in group.members.values():
                member.assignment = b""
                if member.awaiting_sync is not None:
                    self._answer_sync(member, SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS), out)
                    self.extend_session(group, member)
        group.pending_sync.clear()
        self._timers.cancel(("sync", group.group_id))
        initial = group.state is GroupState.EMPTY
        group.transition(GroupState.PREPARING_REBALANCE, out.now_ms)
        if initial:
            delay_ms = self._config.initial_rebalance_delay_ms
            remaining_ms = max(group.rebalance_timeout_ms - delay_ms, 0)
            group.new_member_added = False
            self._schedule_initial(group, delay_ms, remaining_ms)
        elif group.all_joined:
            self._complete_join(group, out)
        else:
            self._schedule_join(group)

    def _schedule_initial(self, group: ClassicGroup, delay_ms: int, remaining_ms: int) -> None:
        event = partial(self._initial_delay_over, group.group_id, delay_ms, remaining_ms)
        self._timers.schedule(("join", group.group_id), delay_ms, group.group_id, event)

    def _initial_delay_over(self, group_id: str, delay_ms: int, remaining_ms: int, out: Outcome) -> None:
        """KIP-134: each delay in which members came is followed by another, within the rebalance time-out."""
        group = self._table.classic(group_id)
        if group is None or group.state is not GroupState.PREPARING_REBALANCE:
            return
        if group.new_member_added and remaining_ms:
            group.new_member_added = False
            next_ms = min(self._config.initial_rebalance_delay_ms, remaining_ms)
            self._schedule_initial(group, next_ms, max(remaining_ms - delay_ms, 0))
        else:
            self._complete_join(group, out)

    def _schedule_join(self, group: ClassicGroup, delay_ms_min: int = 0) -> None:
        event = partial(self._join_timed_out, group.group_id)
        delay_ms = max(group.rebalance_timeout_ms, delay_ms_min)
        self._timers.schedule(("join", group.group_id), delay_ms, group.group_id, event)

    def _join_timed_out(self, group_id: str, out: Outcome) -> None:
        group = self._table.classic(group_id)
        if group is not None and group.state is GroupState.PREPARING_REBALANCE:
            self._complete_join(group, out)

    def _complete_join(self, group: ClassicGroup, out: Outcome) -> None:
        """Remove the slow, keep the joined (and static members, until their sessions end), begin the generation."""
        self._timers.cancel(("join", group.group_id))
        for member in [*group.members.values()]:
            if member.awaiting_join is None and member.instance_id is None:
                group.remove(member)
                self._timers.cancel(("session", group.group_id, member.member_id))
        if group.members and not group.elect_joined_leader():
            # only static members are left and none is back: wait for them, or for the end of their sessions
            self._schedule_join(group, _NOBODY_BACK_PAUSE_MS)
            return
        group.next_generation(out.now_ms)
        if group.state is GroupState.EMPTY:
            out.write(group.record({}, out.now_ms))
            return
        for member in group.members.values():
            self._answer_join(group, member, joined(group, member), out)
            self.extend_session(group, member)
            member.is_new = False
            group.pending_sync[member.member_id] = None
        event = partial(self._sync_timed_out, group.group_id, group.generation)
        self._timers.schedule(("sync", group.group_id), group.rebalance_timeout_ms, group.group_id, event)

    def _sync_timed_out(self, group_id: str, generation: int, out: Outcome) -> None:
        group = self._table.classic(group_id)
        if group is None or group.generation != generation or not group.pending_sync:
            return
        if group.state in (GroupState.COMPLETING_REBALANCE, GroupState.STABLE):
            for member_id in [*group.pending_sync]:
                self._remove(group, group.members[member_id], out)
            self._prepare_rebalance(group, out)

    # -- sessions ------------------------------------------------------------------------------------------------------
    def loaded(self, out: Outcome) -> None:
        """Sessions begin anew under this coordinator."""
        size_max = self._config.size_max
        for group in [*self._table.classic_groups()]:
            for member in group.members.values():
                self.extend_session(group, member)
            if len(group.members) > size_max or (group.members and group.leader is None):
                self._prepare_rebalance(group, out)

    # -- conversions ---------------------------------------------------------------------------------------------------
    def release(self, group: ClassicGroup, out: Outcome) -> None:
        """The group becomes a consumer group: who waits is told to join that."""
        group_id = group.group_id
        for member in group.members.values():
            again = join_error(ErrorCode.REBALANCE_IN_PROGRESS, member.member_id)
            self._answer_join(group, member, again, out)
            self._answer_sync(member, SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS), out)
        for key in (("join", group_id), ("sync", group_id)):
            self._timers.cancel(key)
        for member_id in group.pending_members:
            self._timers.cancel(("session", group_id, member_id))

    def resume(self, group_id: str, out: Outcome) -> None:
        """The group was a consumer group until now. It has no leader yet, which is how it is told from others."""
        group = self._table.classic(group_id)
        if group is None or group.leader is not None:
            return
        for member in group.members.values():
            self.extend_session(group, member)
        if group.can_rebalance and group.members:
            self._prepare_rebalance(group, out)

    def extend_session(self, group: ClassicGroup, member: Member) -> None:
        self._schedule_session(group, member.member_id, member.session_timeout_ms)

    def _schedule_session(self, group: ClassicGroup, member_id: str, timeout_ms: int) -> None:
        group_id = group.group_id
        event = partial(self._session_over, group_id, member_id)
        self._timers.schedule(("session", group_id, member_id), timeout_ms, group_id, event)

    def _session_over(self, group_id: str, member_id: str, out: Outcome) -> None:
        group = self._table.classic(group_id)
        if group is None:
            return
        if member_id in group.pending_members:
            del group.pending_members[member_id]
        else:
            member = group.members.get(member_id)
            if member is None or member.excused:
                return
            self._remove(group, member, out)
            if group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
                self._prepare_rebalance(group, out)
                return
        if group.state is GroupState.PREPARING_REBALANCE and group.all_joined:
            self._complete_join(group, out)
        self._forget_if_unused(group)

    def _remove(self, group: ClassicGroup, member: Member, out: Outcome) -> None:
        """Whatever the member waits for is answered first, so that one that still lives comes back."""
        self._answer_join(group, member, join_error(ErrorCode.UNKNOWN_MEMBER_ID, ""), out)
        self._answer_sync(member, SyncGroupResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID), out)
        self._timers.cancel(("session", group.group_id, member.member_id))
        group.remove(member)

    def _forget_if_unused(self, group: ClassicGroup) -> None:
        if group.state is GroupState.EMPTY and group.forgettable:
            self._table.groups.pop(group.group_id, None)

    # -- members that wait ---------------------------------------------------------------------------------------------
    def _park_join(self, group: ClassicGroup, member: Member, reply: Reply, out: Outcome) -> None:
        self._answer_join(group, member, join_error(ErrorCode.REBALANCE_IN_PROGRESS, member.member_id), out)
        member.awaiting_join = reply
        group.awaiting_join_count += 1

    def _answer_join(self, group: ClassicGroup, member: Member, response: JoinGroupResponse, out: Outcome) -> None:
        reply = member.awaiting_join
        if reply is not None:
            member.awaiting_join = None
            group.awaiting_join_count -= 1
            out.answer(reply, response)

    def _answer_sync(self, member: Member, response: SyncGroupResponse, out: Outcome) -> None:
        reply = member.awaiting_sync
        if reply is not None:
            member.awaiting_sync = None
            out.answer(reply, response)
