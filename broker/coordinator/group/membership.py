"""The membership protocol of classic groups: JoinGroup, SyncGroup, Heartbeat, LeaveGroup and their time-outs.

Behaviour is Kafka 4.3.1's (KIP-62, 134, 345, 389, 394, 559, 814). Pure: time comes in with the `Outcome`, ids with the
request, timers are virtual. An operation looks the group up again, and so does every time-out.

Where Kafka drops the former request of a member that asks twice, this answers it with REBALANCE_IN_PROGRESS: on a
connection whose responses are ordered, a request that is never answered would block all that follow.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.group.classic import ClassicGroup, GroupState, Member, Protocols
from broker.coordinator.group.config import NEW_MEMBER_JOIN_TIMEOUT_MS, GroupConfig
from broker.coordinator.machine import Outcome, ShardTimers
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode
from protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from protocol.messages.join_group import JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember
from protocol.messages.leave_group import LeaveGroupResponse, MemberIdentity, MemberResponse
from protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse

_MEMBER_ID_REQUIRED_SINCE = 4
_SKIP_ASSIGNMENT_SINCE = 9


class JoinContext(NamedTuple):
    """Who joins. `unique_id` is fresh for each request; it becomes part of a new member's id."""

    version: int
    client_id: str
    client_host: str
    unique_id: str


class Membership:
    """`groups` is the table of the shard, which `replay` changes."""

    def __init__(self, groups: dict[str, ClassicGroup], timers: ShardTimers, config: GroupConfig) -> None:
        self._groups = groups
        self._timers = timers
        self._config = config

    # -- JoinGroup --------------------------------------------------------------------------------------------------
    def join(self, out: Outcome, reply: Reply, request: JoinGroupRequest, context: JoinContext) -> None:
        config = self._config
        if not config.min_session_timeout_ms <= request.session_timeout_ms <= config.max_session_timeout_ms:
            out.answer(reply, join_error(ErrorCode.INVALID_SESSION_TIMEOUT, request.member_id))
            return
        group = self._groups.get(request.group_id)
        created = group is None
        if group is None:
            if request.member_id:
                out.answer(reply, join_error(ErrorCode.UNKNOWN_MEMBER_ID, request.member_id))
                return
            group = self._groups[request.group_id] = ClassicGroup(request.group_id)
        self._join(out, reply, request, context, group)
        if not created:
            return
        if group.forgettable:
            del self._groups[request.group_id]
        elif not out.records:
            out.write(group.creation_record(out.now_ms))

    def _join(
        self, out: Outcome, reply: Reply, request: JoinGroupRequest, context: JoinContext, group: ClassicGroup
    ) -> None:
        member_id, instance_id = request.member_id, request.group_instance_id
        protocols = list({each.name: each.metadata for each in request.protocols}.items())
        if not self._has_room(group, member_id):
            self._turn_away(group, member_id, out)
            out.answer(reply, join_error(ErrorCode.GROUP_MAX_SIZE_REACHED, ""))
        elif not group.supports(request.protocol_type, protocols):
            out.answer(reply, join_error(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, member_id))
        elif not member_id:
            new_id = f"{instance_id if instance_id is not None else context.client_id}-{context.unique_id}"
            known_id = group.static_members.get(instance_id) if instance_id is not None else None
            if known_id is not None:
                self._replace_static(out, reply, request, context, group, group.members[known_id], new_id, protocols)
            elif instance_id is None and context.version >= _MEMBER_ID_REQUIRED_SINCE:
                group.pending_members[new_id] = None
                self._schedule_session(group, new_id, request.session_timeout_ms)
                out.answer(reply, join_error(ErrorCode.MEMBER_ID_REQUIRED, new_id))
            else:
                self._add(out, reply, request, context, group, new_id, protocols)
        elif instance_id is None and member_id in group.pending_members:
            self._add(out, reply, request, context, group, member_id, protocols)
        else:
            error = group.member_error(member_id, instance_id)
            if error is ErrorCode.NONE:
                self._rejoin(out, reply, request, group, group.members[member_id], protocols)
            else:
                out.answer(reply, join_error(error, member_id))

    def _has_room(self, group: ClassicGroup, member_id: str) -> bool:
        """KIP-389. While members rejoin, those that wait are counted: a limit that was lowered removes the last."""
        size_max = self._config.size_max
        if group.state is GroupState.EMPTY:
            return True
        member = group.members.get(member_id)
        if group.state is GroupState.PREPARING_REBALANCE:
            return (member is not None and member.awaiting_join is not None) or group.awaiting_join_count < size_max
        return member is not None or len(group.members) < size_max

    def _turn_away(self, group: ClassicGroup, member_id: str, out: Outcome) -> None:
        group.pending_members.pop(member_id, None)
        member = group.members.get(member_id)
        if member is not None:
            self._remove(group, member, out)
        self._timers.cancel(("session", group.group_id, member_id))

    def _add(
        self,
        out: Outcome,
        reply: Reply,
        request: JoinGroupRequest,
        context: JoinContext,
        group: ClassicGroup,
        member_id: str,
        protocols: Protocols,
    ) -> None:
        member = Member(
            member_id,
            request.group_instance_id,
            context.client_id,
            context.client_host,
            _rebalance_timeout_ms(request),
            request.session_timeout_ms,
            protocols,
        )
        member.is_new = True
        if group.state is GroupState.PREPARING_REBALANCE and group.previous_state is GroupState.EMPTY:
            group.new_member_added = True
        group.add(member, request.protocol_type)
        self._park_join(group, member, reply, out)
        self._schedule_session(group, member_id, NEW_MEMBER_JOIN_TIMEOUT_MS)
        self._rebalance_or_complete(group, out)

    def _rejoin(
        self,
        out: Outcome,
        reply: Reply,
        request: JoinGroupRequest,
        group: ClassicGroup,
        member: Member,
        protocols: Protocols,
    ) -> None:
        unchanged = member.protocols == protocols
        if group.state is GroupState.COMPLETING_REBALANCE and unchanged:
            # it may have missed the first response: it gets its generation again
            out.answer(reply, _joined(group, member))
        elif group.state is GroupState.STABLE and unchanged and group.leader != member.member_id:
            out.answer(reply, _joined(group, member))
        else:
            # a leader that rejoins a stable group asks for a rebalance: topics may have changed
            group.update(member, protocols, _rebalance_timeout_ms(request), request.session_timeout_ms)
            self._park_join(group, member, reply, out)
            self._rebalance_or_complete(group, out)

    def _replace_static(
        self,
        out: Outcome,
        reply: Reply,
        request: JoinGroupRequest,
        context: JoinContext,
        group: ClassicGroup,
        old: Member,
        member_id: str,
        protocols: Protocols,
    ) -> None:
        """A static member came back without its id: it gets a new one, and the old one is fenced."""
        former_leader = group.leader
        self._answer_join(group, old, join_error(ErrorCode.FENCED_INSTANCE_ID, old.member_id), out)
        self._answer_sync(old, SyncGroupResponse(error_code=ErrorCode.FENCED_INSTANCE_ID), out)
        self._timers.cancel(("session", group.group_id, old.member_id))
        member = group.replace_static(old, member_id)
        group.update(member, protocols, _rebalance_timeout_ms(request), request.session_timeout_ms)
        self.extend_session(group, member)
        if group.state is GroupState.STABLE and group.select_protocol() == group.protocol_name:
            # what is assigned stays: only the new id has to be written down
            assignments = {each.member_id: each.assignment for each in group.members.values()}
            out.write(group.record(assignments, out.now_ms))
            response = _joined(group, member)
            if context.version >= _SKIP_ASSIGNMENT_SINCE:
                response.skip_assignment = group.leader == member_id
            else:
                # KIP-814: it must not take itself for the leader, or it would compute an assignment
                response.leader = former_leader or ""
                response.members = []
            out.answer(reply, response)
            return
        self._park_join(group, member, reply, out)
        if group.state is GroupState.COMPLETING_REBALANCE:
            # the old id may already be in the leader's hands, which would leave the new one without an assignment
            self._prepare_rebalance(group, out)
        else:
            self._rebalance_or_complete(group, out)

    # -- the join phase ---------------------------------------------------------------------------------------------
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
        group = self._groups.get(group_id)
        if group is None or group.state is not GroupState.PREPARING_REBALANCE:
            return
        if group.new_member_added and remaining_ms:
            group.new_member_added = False
            next_ms = min(self._config.initial_rebalance_delay_ms, remaining_ms)
            self._schedule_initial(group, next_ms, max(remaining_ms - delay_ms, 0))
        else:
            self._complete_join(group, out)

    def _schedule_join(self, group: ClassicGroup) -> None:
        event = partial(self._join_timed_out, group.group_id)
        self._timers.schedule(("join", group.group_id), group.rebalance_timeout_ms, group.group_id, event)

    def _join_timed_out(self, group_id: str, out: Outcome) -> None:
        group = self._groups.get(group_id)
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
            self._schedule_join(group)
            return
        group.next_generation(out.now_ms)
        if group.state is GroupState.EMPTY:
            out.write(group.record({}, out.now_ms))
            return
        for member in group.members.values():
            self._answer_join(group, member, _joined(group, member), out)
            self.extend_session(group, member)
            member.is_new = False
            group.pending_sync[member.member_id] = None
        event = partial(self._sync_timed_out, group.group_id, group.generation)
        self._timers.schedule(("sync", group.group_id), group.rebalance_timeout_ms, group.group_id, event)

    # -- SyncGroup --------------------------------------------------------------------------------------------------
    def sync(self, out: Outcome, reply: Reply, request: SyncGroupRequest) -> None:
        group = self._groups.get(request.group_id)
        if group is None or group.state is GroupState.EMPTY:
            raise CoordinatorError(ErrorCode.UNKNOWN_MEMBER_ID)
        self._check_member(group, request.member_id, request.group_instance_id, request.generation_id)
        if (request.protocol_type is not None and request.protocol_type != group.protocol_type) or (
            request.protocol_name is not None and request.protocol_name != group.protocol_name
        ):
            raise CoordinatorError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        if group.state is GroupState.PREPARING_REBALANCE:
            raise CoordinatorError(ErrorCode.REBALANCE_IN_PROGRESS)
        member = group.members[request.member_id]
        self._sync_received(group, member)
        if group.state is GroupState.STABLE:
            out.answer(reply, _synced(group, member.assignment))
            return
        if member.awaiting_sync is not None:
            self._answer_sync(member, SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS), out)
        member.awaiting_sync = reply
        if group.leader == member.member_id:
            assignments = {each.member_id: each.assignment for each in request.assignments}
            out.write(group.record(assignments, out.now_ms))
            for each in group.members.values():
                if each.awaiting_sync is not None:
                    self._answer_sync(each, _synced(group, assignments.get(each.member_id, b"")), out)
                    self.extend_session(group, each)

    def _sync_received(self, group: ClassicGroup, member: Member) -> None:
        group.pending_sync.pop(member.member_id, None)
        if not group.pending_sync:
            self._timers.cancel(("sync", group.group_id))

    def _sync_timed_out(self, group_id: str, generation: int, out: Outcome) -> None:
        group = self._groups.get(group_id)
        if group is None or group.generation != generation or not group.pending_sync:
            return
        if group.state in (GroupState.COMPLETING_REBALANCE, GroupState.STABLE):
            for member_id in [*group.pending_sync]:
                self._remove(group, group.members[member_id], out)
            self._prepare_rebalance(group, out)

    # -- Heartbeat, LeaveGroup, sessions ----------------------------------------------------------------------------
    def heartbeat(self, out: Outcome, reply: Reply, request: HeartbeatRequest) -> None:
        group = self._groups.get(request.group_id)
        if group is None:
            raise CoordinatorError(ErrorCode.UNKNOWN_MEMBER_ID)
        self._check_member(group, request.member_id, request.group_instance_id, request.generation_id)
        self.extend_session(group, group.members[request.member_id])
        if group.state is GroupState.PREPARING_REBALANCE:
            raise CoordinatorError(ErrorCode.REBALANCE_IN_PROGRESS)
        out.answer(reply, HeartbeatResponse())

    def extend_session(self, group: ClassicGroup, member: Member) -> None:
        self._schedule_session(group, member.member_id, member.session_timeout_ms)

    def leave(self, out: Outcome, reply: Reply, group_id: str, identities: list[MemberIdentity]) -> None:
        """KIP-345: several at once, by member id or by instance id alone."""
        group = self._groups.get(group_id)
        results = [
            MemberResponse(
                member_id=identity.member_id,
                group_instance_id=identity.group_instance_id,
                error_code=ErrorCode.UNKNOWN_MEMBER_ID if group is None else self._leave(group, identity, out),
            )
            for identity in identities
        ]
        if group is not None and any(result.error_code == ErrorCode.NONE for result in results):
            if group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
                self._prepare_rebalance(group, out)
            else:
                self._complete_if_all_joined(group, out)
            self._forget_if_unused(group)
        out.answer(reply, LeaveGroupResponse(members=results))

    def _leave(self, group: ClassicGroup, identity: MemberIdentity, out: Outcome) -> ErrorCode:
        member_id, instance_id = identity.member_id, identity.group_instance_id
        if not member_id:
            known = group.static_members.get(instance_id) if instance_id is not None else None
            if known is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            member_id = known
        elif member_id in group.pending_members:
            del group.pending_members[member_id]
            self._timers.cancel(("session", group.group_id, member_id))
            return ErrorCode.NONE
        else:
            error = group.member_error(member_id, instance_id)
            if error is not ErrorCode.NONE:
                return error
        self._remove(group, group.members[member_id], out)
        return ErrorCode.NONE

    def _schedule_session(self, group: ClassicGroup, member_id: str, timeout_ms: int) -> None:
        group_id = group.group_id
        event = partial(self._session_over, group_id, member_id)
        self._timers.schedule(("session", group_id, member_id), timeout_ms, group_id, event)

    def _session_over(self, group_id: str, member_id: str, out: Outcome) -> None:
        group = self._groups.get(group_id)
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

    def loaded(self, out: Outcome) -> None:
        """Sessions begin anew under this coordinator."""
        size_max = self._config.size_max
        for group in self._groups.values():
            for member in group.members.values():
                self.extend_session(group, member)
            if len(group.members) > size_max:
                self._prepare_rebalance(group, out)

    # -- pieces -----------------------------------------------------------------------------------------------------
    def _check_member(self, group: ClassicGroup, member_id: str, instance_id: str | None, generation: int) -> None:
        error = group.member_error(member_id, instance_id)
        if error is ErrorCode.NONE and generation != group.generation:
            error = ErrorCode.ILLEGAL_GENERATION
        if error is not ErrorCode.NONE:
            raise CoordinatorError(error)

    def _remove(self, group: ClassicGroup, member: Member, out: Outcome) -> None:
        """Whatever the member waits for is answered first, so that one that still lives comes back."""
        self._answer_join(group, member, join_error(ErrorCode.UNKNOWN_MEMBER_ID, ""), out)
        self._answer_sync(member, SyncGroupResponse(error_code=ErrorCode.UNKNOWN_MEMBER_ID), out)
        self._timers.cancel(("session", group.group_id, member.member_id))
        group.remove(member)

    def _forget_if_unused(self, group: ClassicGroup) -> None:
        if group.state is GroupState.EMPTY and group.forgettable:
            self._groups.pop(group.group_id, None)

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


def join_error(code: ErrorCode, member_id: str) -> JoinGroupResponse:
    return JoinGroupResponse(error_code=code, member_id=member_id, protocol_name=None)


def _rebalance_timeout_ms(request: JoinGroupRequest) -> int:
    """Version 0 has none: its session time-out stands for both."""
    timeout_ms = request.rebalance_timeout_ms
    return request.session_timeout_ms if timeout_ms == -1 else timeout_ms


def _joined(group: ClassicGroup, member: Member) -> JoinGroupResponse:
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


def _synced(group: ClassicGroup, assignment: bytes) -> SyncGroupResponse:
    return SyncGroupResponse(
        protocol_type=group.protocol_type, protocol_name=group.protocol_name, assignment=assignment
    )
