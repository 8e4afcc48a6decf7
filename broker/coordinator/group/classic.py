"""A classic consumer group as data: members, generation, protocol votes, leader; and the offsets it committed.

States and what leads on (KIP-62, KIP-345, KIP-394):

    Empty ------------------- first member ------------------> PreparingRebalance
    PreparingRebalance ------ all joined, or time-out -------> CompletingRebalance (nobody left: Empty)
    CompletingRebalance ----- leader's SyncGroup written ----> Stable
    Stable, Completing... --- member comes, goes, changes ---> PreparingRebalance
    Empty ------------------- deleted, or expired -----------> Dead: not in the table any more

Persisted (changes only in `apply`): the generation with its members and assignments as of the last record. The rest
(pending members, who waits) is soft. Members keep the order in which they joined, so that everything that is decided
by "the first one" is the same on every run.
"""

from __future__ import annotations

from typing import ClassVar

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.group.group import Group, GroupState, GroupType, PartitionCheck
from broker.coordinator.group.records import GroupMetadata, GroupValue, MemberValue
from broker.coordinator.group.subscription import CONSUMER_PROTOCOL_TYPE, subscribed_topics
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode

Protocols = list[tuple[str, bytes]]
"""Name and metadata of what a member supports, best first."""


class Member:
    __slots__ = (
        "assignment",
        "awaiting_join",
        "awaiting_sync",
        "client_host",
        "client_id",
        "instance_id",
        "is_new",
        "member_id",
        "protocols",
        "rebalance_timeout_ms",
        "session_timeout_ms",
    )

    def __init__(
        self,
        member_id: str,
        instance_id: str | None,
        client_id: str,
        client_host: str,
        rebalance_timeout_ms: int,
        session_timeout_ms: int,
        protocols: Protocols,
        assignment: bytes = b"",
    ) -> None:
        self.member_id = member_id
        self.instance_id = instance_id
        self.client_id = client_id
        self.client_host = client_host
        self.rebalance_timeout_ms = rebalance_timeout_ms
        self.session_timeout_ms = session_timeout_ms
        self.protocols = protocols
        self.assignment = assignment
        self.is_new = False
        """Has not had a JoinGroup answered yet, so it cannot heartbeat."""
        self.awaiting_join: Reply | None = None
        self.awaiting_sync: Reply | None = None

    def metadata(self, protocol_name: str | None) -> bytes:
        for name, metadata in self.protocols:
            if name == protocol_name:
                return metadata
        return b""

    @property
    def excused(self) -> bool:
        """A member that waits for the others need not heartbeat; a new one has a time-out of its own."""
        return not self.is_new and (self.awaiting_join is not None or self.awaiting_sync is not None)


class ClassicGroup(Group):
    type: ClassVar = GroupType.CLASSIC
    __slots__ = (
        "awaiting_join_count",
        "generation",
        "leader",
        "members",
        "new_member_added",
        "pending_members",
        "pending_sync",
        "persisted",
        "previous_state",
        "protocol_name",
        "protocol_type",
        "state",
        "state_timestamp",
        "static_members",
        "subscribed",
        "support",
    )

    def __init__(self, group_id: str) -> None:
        super().__init__(group_id)
        self.state: GroupState = GroupState.EMPTY
        self.previous_state = GroupState.DEAD
        self.state_timestamp: int | None = None
        self.generation = 0
        self.protocol_type: str | None = None
        self.protocol_name: str | None = None
        self.leader: str | None = None
        self.members: dict[str, Member] = {}
        self.static_members: dict[str, str] = {}
        """Instance id -> member id."""
        self.pending_members: dict[str, None] = {}
        """Ids that were given out (KIP-394) and have not come back."""
        self.pending_sync: dict[str, None] = {}
        """Members of this generation whose SyncGroup is still missing."""
        self.support: dict[str, int] = {}
        """Protocol name -> number of members that support it."""
        self.awaiting_join_count = 0
        self.new_member_added = False
        self.subscribed: frozenset[str] | None = None
        """Topics that a generation of consumers is subscribed to; None: not known."""
        self.persisted = False
        """The log has a record of the group, beside those of its offsets."""

    # -- questions --------------------------------------------------------------------------------------------------
    @property
    def uses_consumer_protocol(self) -> bool:
        return self.protocol_type == CONSUMER_PROTOCOL_TYPE

    @property
    def all_joined(self) -> bool:
        return self.awaiting_join_count == len(self.members) and not self.pending_members

    @property
    def can_rebalance(self) -> bool:
        return self.state in (GroupState.EMPTY, GroupState.STABLE, GroupState.COMPLETING_REBALANCE)

    @property
    def rebalance_timeout_ms(self) -> int:
        """The longest of the members'."""
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

    @property
    def forgettable(self) -> bool:
        return not (self.persisted or self.offsets or self.transactional or self.members or self.pending_members)

    @property
    def is_unused(self) -> bool:
        return self.state is GroupState.EMPTY and self.persisted and not self.pending_members

    def tombstones(self) -> list[GroupMetadata]:
        return [GroupMetadata(self.group_id, None)]

    def is_subscribed_to(self, topic: str) -> bool:
        """An unknown subscription of consumers counts as everything."""
        return self.uses_consumer_protocol if self.subscribed is None else topic in self.subscribed

    def expires_since(self, commit_timestamp: int) -> int | None:
        """From the moment that the group became empty; for a simple consumer, and for topics that a stable group of
        consumers no longer subscribes to, from the commit. KIP-211."""
        if self.protocol_type is not None:
            if self.state is GroupState.EMPTY:
                return commit_timestamp if self.state_timestamp is None else self.state_timestamp
            if self.state is not GroupState.STABLE or self.subscribed is None:
                return None
        return commit_timestamp

    def check_commit(self, member_id: str, instance_id: str | None, epoch: int, version: int) -> PartitionCheck | None:
        """A member of the generation may commit; anybody (generation -1) while the group has no members."""
        if epoch < 0 and self.state is GroupState.EMPTY:
            return None
        if epoch < 0 and not member_id and instance_id is None:
            raise CoordinatorError(ErrorCode.UNKNOWN_MEMBER_ID)
        error = self.member_error(member_id, instance_id)
        if error is ErrorCode.NONE and epoch != self.generation:
            error = ErrorCode.ILLEGAL_GENERATION
        if error is ErrorCode.NONE and self.state is GroupState.COMPLETING_REBALANCE:
            error = ErrorCode.REBALANCE_IN_PROGRESS
        if error is not ErrorCode.NONE:
            raise CoordinatorError(error)
        return None

    def check_fetch(self, member_id: str | None, member_epoch: int) -> None:
        """Anybody may."""

    def check_offset_delete(self) -> None:
        if self.state is not GroupState.EMPTY and not self.uses_consumer_protocol:
            raise CoordinatorError(ErrorCode.NON_EMPTY_GROUP)

    def member_error(self, member_id: str, instance_id: str | None) -> ErrorCode:
        """Whether this is a member, and, where it is a static one, still the one with that instance id."""
        if instance_id is not None:
            known = self.static_members.get(instance_id)
            if known is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            if known != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
        return ErrorCode.NONE if member_id in self.members else ErrorCode.UNKNOWN_MEMBER_ID

    def supports(self, protocol_type: str, protocols: Protocols) -> bool:
        """Whether a joining member has a protocol in common with all members there are."""
        if not self.members:
            return bool(protocol_type) and bool(protocols)
        everybody = len(self.members)
        return protocol_type == self.protocol_type and any(self.support.get(name) == everybody for name, _ in protocols)

    def select_protocol(self) -> str:
        """Each member votes for its first protocol that all support; most votes win, then the earliest member."""
        everybody = len(self.members)
        votes: dict[str, int] = {}
        for member in self.members.values():
            for name, _ in member.protocols:
                if self.support[name] == everybody:
                    votes[name] = votes.get(name, 0) + 1
                    break
        return max(votes, key=votes.__getitem__)

    # -- membership -------------------------------------------------------------------------------------------------
    def add(self, member: Member, protocol_type: str) -> None:
        if not self.members:
            self.protocol_type = protocol_type
        if member.instance_id is not None:
            self.static_members[member.instance_id] = member.member_id
        if self.leader is None:
            self.leader = member.member_id
        self.members[member.member_id] = member
        self.pending_members.pop(member.member_id, None)
        self._count_support(member.protocols, 1)

    def remove(self, member: Member) -> None:
        """The member must not wait for anything any more."""
        member_id = member.member_id
        del self.members[member_id]
        self._count_support(member.protocols, -1)
        if member.instance_id is not None:
            self.static_members.pop(member.instance_id, None)
        if self.leader == member_id:
            self.leader = next(iter(self.members), None)
        self.pending_sync.pop(member_id, None)

    def replace_static(self, old: Member, member_id: str) -> Member:
        """The same instance under a new member id, in the old one's place. KIP-345."""
        assert old.instance_id is not None
        member = Member(
            member_id,
            old.instance_id,
            old.client_id,
            old.client_host,
            old.rebalance_timeout_ms,
            old.session_timeout_ms,
            old.protocols,
            old.assignment,
        )
        self.members = {
            each.member_id: each for each in (member if known is old else known for known in self.members.values())
        }
        self.static_members[old.instance_id] = member_id
        if self.leader == old.member_id:
            self.leader = member_id
        self.pending_sync.pop(old.member_id, None)
        return member

    def update(self, member: Member, protocols: Protocols, rebalance_timeout_ms: int, session_timeout_ms: int) -> None:
        self._count_support(member.protocols, -1)
        self._count_support(protocols, 1)
        member.protocols = protocols
        member.rebalance_timeout_ms = rebalance_timeout_ms
        member.session_timeout_ms = session_timeout_ms

    def elect_joined_leader(self) -> bool:
        """Keep the leader if it has rejoined, else take the first member that has; False if nobody has."""
        leader = self.members.get(self.leader or "")
        if leader is None or leader.awaiting_join is None:
            leader = next((each for each in self.members.values() if each.awaiting_join is not None), None)
            if leader is None:
                return False
            self.leader = leader.member_id
        return True

    def _count_support(self, protocols: Protocols, change: int) -> None:
        for name, _ in protocols:
            count = self.support.get(name, 0) + change
            if count:
                self.support[name] = count
            else:
                del self.support[name]

    # -- states -----------------------------------------------------------------------------------------------------
    def transition(self, state: GroupState, now_ms: int) -> None:
        self.previous_state = self.state
        self.state = state
        self.state_timestamp = now_ms

    def next_generation(self, now_ms: int) -> None:
        """The join phase is over: with members, their generation begins."""
        self.generation += 1
        self.pending_sync.clear()
        if self.members:
            self.protocol_name = self.select_protocol()
            self.transition(GroupState.COMPLETING_REBALANCE, now_ms)
        else:
            self.protocol_name = None
            self.transition(GroupState.EMPTY, now_ms)
        self._compute_subscription()

    def _compute_subscription(self) -> None:
        self.subscribed = None
        if not self.uses_consumer_protocol:
            return
        topics: set[str] = set()
        for member in self.members.values():
            subscription = subscribed_topics(member.metadata(self.protocol_name))
            if subscription is None:
                return
            topics.update(subscription)
        self.subscribed = frozenset(topics)

    # -- the record -------------------------------------------------------------------------------------------------
    def record(self, assignments: dict[str, bytes], now_ms: int) -> GroupMetadata:
        """The group as it is now, with these assignments (member id -> bytes; none: empty)."""
        return GroupMetadata(
            self.group_id,
            GroupValue(
                self.protocol_type or "",
                self.generation,
                self.protocol_name,
                self.leader,
                now_ms,
                tuple(
                    MemberValue(
                        member.member_id,
                        member.instance_id,
                        member.client_id,
                        member.client_host,
                        member.rebalance_timeout_ms,
                        member.session_timeout_ms,
                        member.metadata(self.protocol_name),
                        assignments.get(member.member_id, b""),
                    )
                    for member in self.members.values()
                ),
            ),
        )

    def creation_record(self, now_ms: int) -> GroupMetadata:
        """That the group exists, while its first members are still joining."""
        return GroupMetadata(self.group_id, GroupValue("", 0, None, None, now_ms))

    def apply(self, value: GroupValue) -> None:
        """Take over what was persisted.

        While the group lives here, whoever wrote the record has already brought the soft state to what it says; what
        is left are the assignments, and that the generation is Stable. A record without members says nothing to a
        group that has some: it is the one of its creation.
        """
        self.persisted = True
        if not value.members:
            if not self.members and self.state is GroupState.EMPTY:
                self.generation = value.generation
                self.protocol_type = value.protocol_type or None
                self.protocol_name = value.protocol_name
                self.leader = None
                self.state_timestamp = None if value.state_timestamp == -1 else value.state_timestamp
                self._compute_subscription()
            return
        if self.members:
            for saved in value.members:
                self.members[saved.member_id].assignment = saved.assignment
        else:
            self._load(value)
        self.transition(GroupState.STABLE, value.state_timestamp)
        if value.state_timestamp == -1:
            self.state_timestamp = None

    def _load(self, value: GroupValue) -> None:
        self.generation = value.generation
        self.protocol_name = value.protocol_name
        for saved in value.members:
            protocols = [(value.protocol_name or "", saved.subscription)]
            self.add(
                Member(
                    saved.member_id,
                    saved.instance_id,
                    saved.client_id,
                    saved.client_host,
                    saved.rebalance_timeout_ms,
                    saved.session_timeout_ms,
                    protocols,
                    saved.assignment,
                ),
                value.protocol_type,
            )
        self.leader = value.leader
        self._compute_subscription()
