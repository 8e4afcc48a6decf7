"""The membership protocol of classic groups: JoinGroup, SyncGroup, Heartbeat, LeaveGroup.

Behaviour is Kafka 4.3.1's (KIP-62, 134, 345, 389, 394, 559, 814). Pure: time comes in with the `Outcome`, ids with the
request, timers are virtual. An operation looks the group up again, and so does every time-out.

Where Kafka drops the former request of a member that asks twice, this answers it with REBALANCE_IN_PROGRESS: on a
connection whose responses are ordered, a request that is never answered would block all that follow.
"""

from __future__ import annotations

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.group.answers import JoinContext, join_error, joined, synced
from broker.coordinator.group.classic import ClassicGroup, Member, Protocols
from broker.coordinator.group.config import NEW_MEMBER_JOIN_TIMEOUT_MS
from broker.coordinator.group.group import GroupState
from broker.coordinator.group.rebalance import Rebalancing
from broker.coordinator.machine import Outcome
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode
from protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from protocol.messages.join_group import JoinGroupRequest
from protocol.messages.leave_group import LeaveGroupResponse, MemberIdentity, MemberResponse
from protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse

_MEMBER_ID_REQUIRED_SINCE = 4
_SKIP_ASSIGNMENT_SINCE = 9


class Membership(Rebalancing):
    """The requests. What follows from them, and time-outs, are in `rebalance`."""

    # -- JoinGroup --------------------------------------------------------------------------------------------------
    def join(self, out: Outcome, reply: Reply, request: JoinGroupRequest, context: JoinContext) -> None:
        """The session time-out is within bounds."""
        group_id = request.group_id
        group = self._table.classic(group_id)
        if group is not None:
            self._join(out, reply, request, context, group)
            return
        if request.member_id:
            out.answer(reply, join_error(ErrorCode.UNKNOWN_MEMBER_ID, request.member_id))
            return
        group = ClassicGroup(group_id)
        self._join(out, reply, request, context, group)
        if group.forgettable:
            return
        # in front of all else: it is what makes the id that of a classic group
        out.records.insert(0, group.creation_record(out.now_ms))
        out.records += self._table.begin_classic(group)

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
            out.answer(reply, joined(group, member))
        elif group.state is GroupState.STABLE and unchanged and group.leader != member.member_id:
            out.answer(reply, joined(group, member))
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
            response = joined(group, member)
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

    # -- SyncGroup --------------------------------------------------------------------------------------------------
    def sync(self, out: Outcome, reply: Reply, request: SyncGroupRequest) -> None:
        group = self._table.classic(request.group_id)
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
            out.answer(reply, synced(group, member.assignment))
            return
        if member.awaiting_sync is not None:
            self._answer_sync(member, SyncGroupResponse(error_code=ErrorCode.REBALANCE_IN_PROGRESS), out)
        member.awaiting_sync = reply
        if group.leader == member.member_id:
            assignments = {each.member_id: each.assignment for each in request.assignments}
            out.write(group.record(assignments, out.now_ms))
            for each in group.members.values():
                if each.awaiting_sync is not None:
                    self._answer_sync(each, synced(group, assignments.get(each.member_id, b"")), out)
                    self.extend_session(group, each)

    def _sync_received(self, group: ClassicGroup, member: Member) -> None:
        group.pending_sync.pop(member.member_id, None)
        if not group.pending_sync:
            self._timers.cancel(("sync", group.group_id))

    # -- Heartbeat, LeaveGroup -----------------------------------------------------------------------------------------
    def heartbeat(self, out: Outcome, reply: Reply, request: HeartbeatRequest) -> None:
        group = self._table.classic(request.group_id)
        if group is None:
            raise CoordinatorError(ErrorCode.UNKNOWN_MEMBER_ID)
        self._check_member(group, request.member_id, request.group_instance_id, request.generation_id)
        self.extend_session(group, group.members[request.member_id])
        if group.state is GroupState.PREPARING_REBALANCE:
            raise CoordinatorError(ErrorCode.REBALANCE_IN_PROGRESS)
        out.answer(reply, HeartbeatResponse())

    def leave(self, out: Outcome, reply: Reply, group_id: str, identities: list[MemberIdentity]) -> None:
        """KIP-345: several at once, by member id or by instance id alone."""
        group = self._table.classic(group_id)
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

    def committed(self, group: ClassicGroup, member_id: str) -> None:
        """To a member a commit is a sign of life."""
        member = group.members.get(member_id)
        if member is not None:
            self.extend_session(group, member)

    def _check_member(self, group: ClassicGroup, member_id: str, instance_id: str | None, generation: int) -> None:
        error = group.member_error(member_id, instance_id)
        if error is ErrorCode.NONE and generation != group.generation:
            error = ErrorCode.ILLEGAL_GENERATION
        if error is not ErrorCode.NONE:
            raise CoordinatorError(error)


def _rebalance_timeout_ms(request: JoinGroupRequest) -> int:
    """Version 0 has none: its session time-out stands for both."""
    timeout_ms = request.rebalance_timeout_ms
    return request.session_timeout_ms if timeout_ms == -1 else timeout_ms
