"""Members of a consumer group that still speak the classic protocol, while the group migrates. KIP-848.

To such a member its epoch is the generation and the coordinator is the leader: JoinGroup tells what it owns and
wants, SyncGroup hands out what it is to have, Heartbeat and the like answer REBALANCE_IN_PROGRESS when it should join
again. It gives up partitions by joining without them.
"""

from __future__ import annotations

from functools import partial

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.group.answers import JoinContext, join_error
from broker.coordinator.group.consumer.change import Change
from broker.coordinator.group.consumer.group import ConsumerGroup
from broker.coordinator.group.consumer.heartbeat import ConsumerMembership
from broker.coordinator.group.consumer.migration import assigned_bytes
from broker.coordinator.group.consumer.records import Member
from broker.coordinator.group.consumer.values import Assignment, ClassicMetadata, MemberMetadata, MemberState
from broker.coordinator.group.subscription import CONSUMER_PROTOCOL_TYPE, Subscription, decode_subscription
from broker.coordinator.machine import Outcome
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode
from protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from protocol.messages.join_group import JoinGroupRequest, JoinGroupResponse
from protocol.messages.leave_group import LeaveGroupResponse, MemberIdentity, MemberResponse
from protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse

_MEMBER_ID_REQUIRED_SINCE = 4


class MixedMembership(ConsumerMembership):
    """`group` is a consumer group with members, in the table."""

    # -- JoinGroup -----------------------------------------------------------------------------------------------------
    def join(
        self, out: Outcome, reply: Reply, group: ConsumerGroup, request: JoinGroupRequest, context: JoinContext
    ) -> None:
        """The session time-out is within bounds."""
        member_id, instance_id = request.member_id, request.group_instance_id
        protocols = tuple({each.name: each.metadata for each in request.protocols}.items())
        subscription = decode_subscription(protocols[0][1]) if protocols else None
        if (
            request.protocol_type != CONSUMER_PROTOCOL_TYPE
            or subscription is None
            or not _supports(group, member_id, {name for name, _ in protocols})
        ):
            out.answer(reply, join_error(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, member_id))
            return
        former_id = group.static_members.get(instance_id) if instance_id is not None else None
        if not member_id:
            member_id = context.unique_id
            if instance_id is None and context.version >= _MEMBER_ID_REQUIRED_SINCE:
                out.answer(reply, join_error(ErrorCode.MEMBER_ID_REQUIRED, member_id))
                return
        elif instance_id is not None and former_id != member_id:
            code = ErrorCode.UNKNOWN_MEMBER_ID if former_id is None else ErrorCode.FENCED_INSTANCE_ID
            out.answer(reply, join_error(code, member_id))
            return
        elif member_id in group.members:
            former_id = member_id
        if former_id is None and subscription.owned:
            # it was fenced: as a new member it must not go on with what others may own by now
            out.answer(reply, join_error(ErrorCode.UNKNOWN_MEMBER_ID, member_id))
            return
        if former_id is None and len(group.members) >= self._config.size_max:
            out.answer(reply, join_error(ErrorCode.GROUP_MAX_SIZE_REACHED, ""))
            return
        out.answer(reply, self._join(out, group, request, context, member_id, former_id, subscription, protocols))

    def _join(
        self,
        out: Outcome,
        live: ConsumerGroup,
        request: JoinGroupRequest,
        context: JoinContext,
        member_id: str,
        former_id: str | None,
        subscription: Subscription,
        protocols: tuple[tuple[str, bytes], ...],
    ) -> JoinGroupResponse:
        timeout_ms = request.rebalance_timeout_ms
        metadata = MemberMetadata(
            request.group_instance_id,
            subscription.rack_id,
            context.client_id,
            context.client_host,
            subscription.topics,
            "",
            request.session_timeout_ms if timeout_ms == -1 else timeout_ms,
            None,
            ClassicMetadata(request.session_timeout_ms, protocols),
        )
        former = None if former_id is None else live.members[former_id]
        former_topics = frozenset() if former is None else live.topics_of(former)
        change = Change(live, out)
        if former_id is not None and former_id != member_id:
            self._replace(change, former_id, member_id)
        if metadata != former:
            change.write(Member(live.group_id, member_id, metadata))
        asked_anew = former is None or (former.topics, former.regex) != (metadata.topics, "")
        self._follow(change, live, frozenset(metadata.topics) != former_topics)
        self._assign(change)
        self._reconcile(change, member_id, self._owned(subscription), asked_anew, joining=True)
        group = change.group
        self._schedule_session(group, member_id)
        if group.current_of(member_id).state is not MemberState.UNREVOKED_PARTITIONS:
            self._timers.cancel(("rebalance", live.group_id, member_id))
        event = partial(self._sync_missing, live.group_id, member_id)
        self._timers.schedule(
            ("member-sync", live.group_id, member_id), metadata.rebalance_timeout_ms, live.group_id, event
        )
        return JoinGroupResponse(
            generation_id=group.current_of(member_id).epoch,
            protocol_type=CONSUMER_PROTOCOL_TYPE,
            protocol_name=protocols[0][0],
            leader="",
            member_id=member_id,
        )

    def _owned(self, subscription: Subscription) -> Assignment:
        """An eager member owns nothing when it joins, and says so."""
        owned = {}
        for name, partitions in subscription.owned.items():
            topic = self._topics.topic(name)
            if topic is not None:
                owned[topic.topic_id] = partitions
        return owned

    def _sync_missing(self, group_id: str, member_id: str, out: Outcome) -> None:
        group = self._table.consumer(group_id)
        if group is not None and member_id in group.members:
            self._remove(out, group, [member_id])

    # -- SyncGroup -----------------------------------------------------------------------------------------------------
    def sync(self, out: Outcome, reply: Reply, group: ConsumerGroup, request: SyncGroupRequest) -> None:
        member_id = request.member_id
        classic = self._check_classic(group, member_id, request.group_instance_id, request.generation_id)
        protocols = dict(classic.protocols)
        name = next(iter(protocols)) if request.protocol_name is None else request.protocol_name
        if request.protocol_type not in (None, CONSUMER_PROTOCOL_TYPE) or name not in protocols:
            raise CoordinatorError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        current = group.current_of(member_id)
        # one that gives up partitions gets what is left to it first: that is how it learns which
        if current.epoch < group.epoch and current.state is not MemberState.UNREVOKED_PARTITIONS:
            self._expect_join(group, member_id)
            raise CoordinatorError(ErrorCode.REBALANCE_IN_PROGRESS)
        self._timers.cancel(("member-sync", group.group_id, member_id))
        self._schedule_session(group, member_id)
        out.answer(
            reply,
            SyncGroupResponse(
                protocol_type=CONSUMER_PROTOCOL_TYPE,
                protocol_name=name,
                assignment=assigned_bytes(current.assigned, protocols[name], self._topics),
            ),
        )

    # -- Heartbeat, LeaveGroup, OffsetCommit ---------------------------------------------------------------------------
    def classic_heartbeat(self, out: Outcome, reply: Reply, group: ConsumerGroup, request: HeartbeatRequest) -> None:
        member_id = request.member_id
        self._check_classic(group, member_id, request.group_instance_id, request.generation_id)
        self._schedule_session(group, member_id)
        if self._should_join(group, member_id):
            self._expect_join(group, member_id)
            raise CoordinatorError(ErrorCode.REBALANCE_IN_PROGRESS)
        out.answer(reply, HeartbeatResponse())

    def leave(self, out: Outcome, reply: Reply, group: ConsumerGroup, identities: list[MemberIdentity]) -> None:
        results = []
        leaving: dict[str, None] = {}
        for identity in identities:
            member_id, instance_id = identity.member_id, identity.group_instance_id
            if not member_id and instance_id is not None:
                # an administrator's word: it is for members of either protocol
                member_id = group.static_members.get(instance_id, "")
                code = ErrorCode.NONE if member_id else ErrorCode.UNKNOWN_MEMBER_ID
            else:
                code = _classic_error(group, member_id, instance_id)
            if member_id in leaving:
                code = ErrorCode.UNKNOWN_MEMBER_ID
            if code is ErrorCode.NONE:
                leaving[member_id] = None
            results.append(
                MemberResponse(
                    member_id=identity.member_id, group_instance_id=identity.group_instance_id, error_code=code
                )
            )
        if leaving:
            self._remove(out, group, leaving)
        out.answer(reply, LeaveGroupResponse(members=results))

    def committed(self, group: ConsumerGroup, member_id: str) -> None:
        """To a member of the classic protocol a commit is a sign of life."""
        metadata = group.members.get(member_id)
        if metadata is not None and metadata.classic is not None:
            self._schedule_session(group, member_id)

    # -- checks --------------------------------------------------------------------------------------------------------
    def _check_classic(
        self, group: ConsumerGroup, member_id: str, instance_id: str | None, generation: int
    ) -> ClassicMetadata:
        code = _classic_error(group, member_id, instance_id)
        if code is ErrorCode.NONE and generation != group.current_of(member_id).epoch:
            code = ErrorCode.ILLEGAL_GENERATION
        if code is not ErrorCode.NONE:
            raise CoordinatorError(code)
        classic = group.members[member_id].classic
        assert classic is not None
        return classic

    def _should_join(self, group: ConsumerGroup, member_id: str) -> bool:
        """For another epoch, to say what it has given up, or to get what others have."""
        current = group.current_of(member_id)
        if current.epoch < group.epoch or current.state is MemberState.UNREVOKED_PARTITIONS:
            return True
        if current.state is not MemberState.UNRELEASED_PARTITIONS:
            return False
        return any(
            group.is_free(topic_id, index)
            for topic_id, partitions in group.target_of(member_id).items()
            for index in partitions
        )

    def _expect_join(self, group: ConsumerGroup, member_id: str) -> None:
        if ("rebalance", group.group_id, member_id) not in self._timers:
            self._schedule_rebalance(group, member_id)


def _supports(group: ConsumerGroup, member_id: str, names: set[str]) -> bool:
    """Whether all other members of the classic protocol have one in common with this one: the group may turn classic
    again."""
    subscriptions = group.subscriptions
    metadata = group.members.get(member_id)
    own = metadata.classic if metadata is not None else None
    others = subscriptions.classic_count - (own is not None)
    if not others:
        return True
    mine = {name for name, _ in own.protocols} if own is not None else set()
    return any(subscriptions.protocols.get(name, 0) - (name in mine) == others for name in names)


def _classic_error(group: ConsumerGroup, member_id: str, instance_id: str | None) -> ErrorCode:
    if instance_id is not None:
        known = group.static_members.get(instance_id)
        if known is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        if known != member_id:
            return ErrorCode.FENCED_INSTANCE_ID
    metadata = group.members.get(member_id)
    return ErrorCode.UNKNOWN_MEMBER_ID if metadata is None or metadata.classic is None else ErrorCode.NONE
