"""ConsumerGroupHeartbeat: the one request of members of the new protocol. KIP-848, KIP-1082.

A request says what has changed at the member, a response what has changed for it. Behaviour and messages are Kafka
4.3.1's, but that

* regular expressions are resolved at once, where Kafka does it later in the background;
* a member that does not join is not taken to have given up what it was not asked to give up (see `reconciliation`):
  Kafka lets others have it while the member may be about to take it;
* a member that was fenced from a group that has turned classic since is told UNKNOWN_MEMBER_ID, so that it joins again;
  the GROUP_ID_NOT_FOUND of Kafka would end it.
"""

from __future__ import annotations

from typing import NamedTuple

from broker.coordinator import regex
from broker.coordinator.errors import CoordinatorError
from broker.coordinator.group.classic import ClassicGroup
from broker.coordinator.group.consumer.change import Change
from broker.coordinator.group.consumer.group import ConsumerGroup
from broker.coordinator.group.consumer.migration import upgrade_records
from broker.coordinator.group.consumer.progress import Progress
from broker.coordinator.group.consumer.records import ConsumerRecord, Current, Member
from broker.coordinator.group.consumer.values import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    STATIC_LEAVE_EPOCH,
    Assignment,
    CurrentAssignment,
    MemberMetadata,
    MemberState,
    Report,
    assignment_of,
    owns_only,
)
from broker.coordinator.group.group import Group
from broker.coordinator.machine import Outcome
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode
from protocol.messages.consumer_group_heartbeat import Assignment as AssignmentMessage
from protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse,
    TopicPartitions,
)


class HeartbeatContext(NamedTuple):
    """Who asks. `new_member_id` is fresh for each request, for members that bring no id of their own."""

    client_id: str
    client_host: str
    new_member_id: str


class ConsumerMembership(Progress):
    def heartbeat(
        self, out: Outcome, reply: Reply, request: ConsumerGroupHeartbeatRequest, context: HeartbeatContext
    ) -> None:
        """`request` is well formed (see the handler)."""
        try:
            if request.member_epoch in (LEAVE_EPOCH, STATIC_LEAVE_EPOCH):
                response = self._leave(out, request)
            else:
                response = self._heartbeat(out, request, context)
        except CoordinatorError as error:
            response = ConsumerGroupHeartbeatResponse(error_code=error.code, error_message=str(error))
        out.answer(reply, response)

    # -- joining, and staying ------------------------------------------------------------------------------------------
    def _heartbeat(
        self, out: Outcome, request: ConsumerGroupHeartbeatRequest, context: HeartbeatContext
    ) -> ConsumerGroupHeartbeatResponse:
        group_id, member_id = request.group_id, request.member_id or context.new_member_id
        joining = request.member_epoch == JOIN_EPOCH
        self._check_request(request)
        live = self._table.groups.get(group_id)
        upgrade = None
        if isinstance(live, ConsumerGroup):
            group = live
        elif not joining:
            if isinstance(live, ClassicGroup) and live.uses_consumer_protocol and live.members:
                # it was fenced, and the group has turned classic since: it may join, which turns it back
                raise _no_member(live, member_id)
            raise _not_found(group_id, live, "Consumer group")
        else:
            group = ConsumerGroup(group_id)
            if isinstance(live, ClassicGroup):
                upgrade = self._upgraded(live)
                for record in upgrade:
                    group.apply(record)
        owned = _owned(request)
        former_id = self._find(group, request, member_id, owned)
        if former_id is None and len(group.members) >= self._config.size_max:
            raise CoordinatorError(
                ErrorCode.GROUP_MAX_SIZE_REACHED,
                f"The consumer group has reached its maximum capacity of {self._config.size_max} members.",
            )

        change = Change(group, out)
        if upgrade is not None and isinstance(live, ClassicGroup):
            out.records += upgrade
            if live.persisted:
                out.records += live.tombstones()
            self._classic.release(live, out)
            for each in group.members:
                self._schedule_session(group, each)
        former = None if former_id is None else group.members[former_id]
        if former_id is not None and (former_id != member_id or (joining and group.current_of(former_id).epoch < 0)):
            self._replace(change, former_id, member_id)
        metadata = _metadata(former, request, context)
        former_topics = frozenset() if former is None else group.topics_of(former)
        if metadata != former:
            change.write(Member(group_id, member_id, metadata))
        asked_anew = former is None or (former.topics, former.regex) != (metadata.topics, metadata.regex)
        subscription_changed = asked_anew and self._topics_asked(change, metadata) != former_topics
        self._follow(change, live if isinstance(live, ConsumerGroup) else None, subscription_changed)
        self._assign(change)
        current = change.group.current_of(member_id)
        # one that is behind has missed where it is: it hears that before it gets any further
        tell = joining or _is_full(request) or request.member_epoch < current.epoch
        if joining or request.member_epoch == current.epoch:
            if not joining and isinstance(live, ConsumerGroup):
                owned = _believed(live, request, current, owned)
            tell |= self._reconcile(change, member_id, owned, asked_anew, joining=joining)
        group = change.group
        self._schedule_session(group, member_id)
        current = group.current_of(member_id)
        response = ConsumerGroupHeartbeatResponse(
            member_id=member_id,
            member_epoch=current.epoch,
            heartbeat_interval_ms=self._config.heartbeat_interval_ms(group_id),
        )
        if tell:
            response.assignment = AssignmentMessage(
                topic_partitions=[
                    TopicPartitions(topic_id=topic_id, partitions=sorted(partitions))
                    for topic_id, partitions in sorted(current.assigned.items())
                ]
            )
        return response

    def _check_request(self, request: ConsumerGroupHeartbeatRequest) -> None:
        assignor = request.server_assignor
        if assignor is not None and assignor not in self._config.assignors:
            raise CoordinatorError(
                ErrorCode.UNSUPPORTED_ASSIGNOR,
                f"ServerAssignor {assignor} is not supported. "
                f"Supported assignors: {', '.join(self._config.assignors)}.",
            )
        expression = request.subscribed_topic_regex
        if expression:
            try:
                regex.check(expression)
            except regex.InvalidRegex as error:
                raise CoordinatorError(
                    ErrorCode.INVALID_REGULAR_EXPRESSION,
                    f"SubscribedTopicRegex `{expression}` is not a valid regular expression: {error}.",
                ) from None

    def _topics_asked(self, change: Change, metadata: MemberMetadata) -> frozenset[str]:
        """An expression that nobody has asked for yet is not among the group's."""
        names = frozenset(metadata.topics)
        return names | self._topics.matching(metadata.regex) if metadata.regex else names

    # -- who it is -----------------------------------------------------------------------------------------------------
    def _find(
        self, group: ConsumerGroup, request: ConsumerGroupHeartbeatRequest, member_id: str, owned: Assignment | None
    ) -> str | None:
        """The member that this is, or whose place it takes; None: a new one. Raises CoordinatorError."""
        joining, instance_id = request.member_epoch == JOIN_EPOCH, request.instance_id
        if instance_id is None:
            if member_id not in group.members:
                if joining:
                    return None
                raise _no_member(group, member_id)
        elif joining:
            known = group.static_members.get(instance_id)
            if known is None:
                return member_id if member_id in group.members else None
            if group.members[known].classic is None and group.current_of(known).epoch != STATIC_LEAVE_EPOCH:
                raise CoordinatorError(
                    ErrorCode.UNRELEASED_INSTANCE_ID,
                    f"Static member {member_id} with instance id {instance_id} cannot join the group because the "
                    f"instance id is owned by {known} member.",
                )
            return known
        else:
            _check_instance(group, member_id, instance_id)
        if not joining:
            _check_epoch(group, member_id, request.member_epoch, owned)
        return member_id

    # -- leaving -------------------------------------------------------------------------------------------------------
    def _leave(self, out: Outcome, request: ConsumerGroupHeartbeatRequest) -> ConsumerGroupHeartbeatResponse:
        group_id, member_id = request.group_id, request.member_id
        group = self._table.groups.get(group_id)
        if not isinstance(group, ConsumerGroup):
            raise _not_found(group_id, group)
        if request.instance_id is not None:
            _check_instance(group, member_id, request.instance_id)
        elif member_id not in group.members:
            raise _no_member(group, member_id)
        if request.member_epoch == LEAVE_EPOCH:
            self._remove(out, group, [member_id])
        else:
            # its session goes on: it is expected back, and nobody else gets what it has until that is over
            out.write(Current(group_id, member_id, group.current_of(member_id)._replace(epoch=STATIC_LEAVE_EPOCH)))
            self._cancel_timers(group_id, member_id)
            self._schedule_session(group, member_id)
        return ConsumerGroupHeartbeatResponse(member_id=member_id, member_epoch=request.member_epoch)

    # -- upgrade -------------------------------------------------------------------------------------------------------
    def _upgraded(self, group: ClassicGroup) -> list[ConsumerRecord]:
        """Its members as those of a consumer group. Raises CoordinatorError if it cannot become one."""
        if not group.members:
            return []
        why = None
        records = upgrade_records(group, self._topics) if group.uses_consumer_protocol else None
        if not self._config.upgrade:
            why = "because the online upgrade is disabled"
        elif records is None:
            why = "because the group does not use the consumer embedded protocol"
        elif len(group.members) > self._config.size_max:
            why = "because the group size exceeds the consumer group maximum size"
        if records is None or why is not None:
            raise CoordinatorError(
                ErrorCode.GROUP_ID_NOT_FOUND,
                f"Cannot upgrade classic group {group.group_id} to consumer group {why}.",
            )
        return records


def _metadata(
    former: MemberMetadata | None, request: ConsumerGroupHeartbeatRequest, context: HeartbeatContext
) -> MemberMetadata:
    """The former, with what the request says; what it does not say has not changed. It speaks the new protocol now."""
    known = former or MemberMetadata(None, None, "", "", (), "", -1, None)
    topics, expression = request.subscribed_topic_names, request.subscribed_topic_regex
    return MemberMetadata(
        known.instance_id if request.instance_id is None else request.instance_id,
        known.rack_id if request.rack_id is None else request.rack_id,
        context.client_id,
        context.client_host,
        known.topics if topics is None else tuple(dict.fromkeys(topics)),
        known.regex if expression is None else expression,
        known.rebalance_timeout_ms if request.rebalance_timeout_ms == -1 else request.rebalance_timeout_ms,
        known.server_assignor if request.server_assignor is None else request.server_assignor,
    )


def _owned(request: ConsumerGroupHeartbeatRequest) -> Assignment | None:
    if request.topic_partitions is None:
        return None
    return assignment_of((each.topic_id, each.partitions) for each in request.topic_partitions)


def _believed(
    group: ConsumerGroup, request: ConsumerGroupHeartbeatRequest, current: CurrentAssignment, owned: Assignment | None
) -> Assignment | None:
    """What the member owns for sure, by what it says now or said last; None: not known.

    Clients do not repeat what has not changed, but after they missed a response they say everything. So what is said
    in full may be said without having heard what to give up: it counts only when it is said again.
    """
    member_id = request.member_id
    said = group.reported.get(member_id)
    if owned is None:
        return None if said is None else said.owned
    asked_to_revoke = current.state is MemberState.UNREVOKED_PARTITIONS
    group.reported[member_id] = Report(owned, asked_to_revoke)
    if _is_full(request) and said != (owned, True):
        return None
    return owned


def _is_full(request: ConsumerGroupHeartbeatRequest) -> bool:
    """A member that tells everything wants to be told everything: it has missed a response."""
    return (
        request.rebalance_timeout_ms != -1
        and request.topic_partitions is not None
        and (request.subscribed_topic_names is not None or request.subscribed_topic_regex is not None)
    )


def _check_epoch(group: ConsumerGroup, member_id: str, epoch: int, owned: Assignment | None) -> None:
    """A member whose last response was lost comes with the epoch before, and with nothing that it has not been told
    to have."""
    current = group.current_of(member_id)
    if epoch > current.epoch:
        relation = "greater"
    elif epoch < current.epoch and (
        epoch != current.previous_epoch or owned is None or not owns_only(owned, current.assigned)
    ):
        relation = "smaller"
    else:
        return
    raise CoordinatorError(
        ErrorCode.FENCED_MEMBER_EPOCH,
        f"The consumer group member has a {relation} member epoch ({epoch}) than the one known by the group "
        f"coordinator ({current.epoch}). The member must abandon all its partitions and rejoin.",
    )


def _check_instance(group: ConsumerGroup, member_id: str, instance_id: str) -> None:
    known = group.static_members.get(instance_id)
    if known is None:
        raise CoordinatorError(ErrorCode.UNKNOWN_MEMBER_ID, f"Instance id {instance_id} is unknown.")
    if known != member_id:
        raise CoordinatorError(
            ErrorCode.FENCED_INSTANCE_ID,
            f"Static member {member_id} with instance id {instance_id} was fenced by member {known}.",
        )


def _no_member(group: Group, member_id: str) -> CoordinatorError:
    return CoordinatorError(
        ErrorCode.UNKNOWN_MEMBER_ID, f"Member {member_id} is not a member of group {group.group_id}."
    )


def _not_found(group_id: str, group: Group | None, missing: str = "Group") -> CoordinatorError:
    what = f"{missing} {group_id} not found." if group is None else f"Group {group_id} is not a consumer group."
    return CoordinatorError(ErrorCode.GROUP_ID_NOT_FOUND, what)
