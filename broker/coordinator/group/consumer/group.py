"""A consumer group as data: what its records say, and what follows from that.

    Empty --------- first member --------------------> Assigning
    Assigning ----- target made for this epoch ------> Reconciling
    Reconciling --- all members are at the target ---> Stable
    any ----------- member or its topics change -----> Assigning
    any ----------- last member goes ----------------> Empty
    Empty --------- deleted, or expired -------------> Dead: not in the table any more

Three epochs: the group's grows with whatever calls for another assignment; the target assignment's is the group epoch
that it was made for; a member's is that of the target that it has reached. None of them goes back.

Persisted state changes only in `apply`, in any order of records of different keys. `owners` follows from the members'
current assignments: only a partition that is not in it may be given to somebody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.group.consumer.records import (
    ConsumerRecord,
    Current,
    GroupEpoch,
    Member,
    Regex,
    Target,
    TargetEpoch,
)
from broker.coordinator.group.consumer.values import (
    NEW_MEMBER,
    NOTHING,
    Assignment,
    CurrentAssignment,
    MemberMetadata,
    MemberState,
    Report,
    ResolvedRegex,
)
from broker.coordinator.group.group import Group, GroupState, GroupType, PartitionCheck
from broker.coordinator.group.subscription import CONSUMER_PROTOCOL_TYPE
from protocol.errors import ErrorCode

FIRST_EPOCH = 1
"""Of a group and of its target assignment before either has a record."""

_MEMBER_EPOCH_SINCE = 9
"""The first version of OffsetCommit that members of the new protocol may use."""


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """What the members ask for, all together: value -> number of members."""

    topics: Mapping[str, int]
    regexes: Mapping[str, int]
    assignors: Mapping[str, int]
    protocols: Mapping[str, int]
    """Those of members that speak the classic protocol."""
    classic_count: int


class ConsumerGroup(Group):
    type: ClassVar = GroupType.CONSUMER
    __slots__ = (
        "_subscriptions",
        "assignment_epoch",
        "assignment_timestamp",
        "checked_generation",
        "current",
        "epoch",
        "members",
        "metadata_hash",
        "owners",
        "persisted",
        "regexes",
        "reported",
        "static_members",
        "target",
    )

    def __init__(self, group_id: str) -> None:
        super().__init__(group_id)
        self.epoch = FIRST_EPOCH
        self.metadata_hash = 0
        self.assignment_epoch = FIRST_EPOCH
        self.assignment_timestamp = 0
        self.members: dict[str, MemberMetadata] = {}
        self.current: dict[str, CurrentAssignment] = {}
        self.target: dict[str, Assignment] = {}
        self.regexes: dict[str, ResolvedRegex] = {}
        self.static_members: dict[str, str] = {}
        """Instance id -> member id."""
        self.owners: dict[bytes, dict[int, str]] = {}
        """Topic id -> partition -> the member that owns it, or has not said yet that it gave it up."""
        self.persisted = {"epoch": False, "target": False}
        """Whether the log has a record of the group's epoch, and of the target's."""
        self.checked_generation = -1
        """The generation of the topics that `metadata_hash` and `regexes` were last compared with. Not persisted."""
        self.reported: dict[str, Report] = {}
        """What each member said last. Not persisted."""
        self._subscriptions: Subscriptions | None = None

    def copy(self) -> ConsumerGroup:
        """One that can be changed on its own; values are shared. Without offsets."""
        group = ConsumerGroup(self.group_id)
        group.epoch, group.metadata_hash = self.epoch, self.metadata_hash
        group.assignment_epoch, group.assignment_timestamp = self.assignment_epoch, self.assignment_timestamp
        group.members = self.members.copy()
        group.current = self.current.copy()
        group.target = self.target.copy()
        group.regexes = self.regexes.copy()
        group.static_members = self.static_members.copy()
        group.owners = self.owners.copy()
        group.persisted = self.persisted.copy()
        group.checked_generation = self.checked_generation
        group._subscriptions = self._subscriptions
        return group

    # -- questions --------------------------------------------------------------------------------------------------
    @property
    def protocol_type(self) -> str | None:
        return CONSUMER_PROTOCOL_TYPE

    @property
    def state(self) -> GroupState:
        if not self.members:
            return GroupState.EMPTY
        epoch = self.assignment_epoch
        if self.epoch > epoch:
            return GroupState.ASSIGNING
        for member_id in self.members:
            current = self.current_of(member_id)
            if current.epoch != epoch or current.state is not MemberState.STABLE:
                return GroupState.RECONCILING
        return GroupState.STABLE

    @property
    def has_records(self) -> bool:
        return any(self.persisted.values()) or bool(self.members or self.current or self.target or self.regexes)

    @property
    def forgettable(self) -> bool:
        return not (self.offsets or self.transactional or self.has_records)

    @property
    def is_unused(self) -> bool:
        return not self.members

    def current_of(self, member_id: str) -> CurrentAssignment:
        return self.current.get(member_id, NEW_MEMBER)

    def target_of(self, member_id: str) -> Assignment:
        return self.target.get(member_id, NOTHING)

    def is_free(self, topic_id: bytes, partition: int) -> bool:
        return partition not in self.owners.get(topic_id, {})

    @property
    def subscriptions(self) -> Subscriptions:
        known = self._subscriptions
        if known is None:
            known = self._subscriptions = _subscriptions(self.members.values())
        return known

    def topics_of(self, metadata: MemberMetadata) -> frozenset[str]:
        """Names that the member is subscribed to, by name or by its regular expression."""
        names = frozenset(metadata.topics)
        resolved = self.regexes.get(metadata.regex)
        return names if resolved is None else names | resolved.topics

    def subscribed_topics(self) -> frozenset[str]:
        """Of all members."""
        subscriptions = self.subscriptions
        resolved = (self.regexes[each].topics for each in subscriptions.regexes if each in self.regexes)
        return frozenset(subscriptions.topics).union(*resolved)

    def is_subscribed_to(self, topic: str) -> bool:
        subscriptions = self.subscriptions
        return topic in subscriptions.topics or any(
            topic in self.regexes[each].topics for each in subscriptions.regexes if each in self.regexes
        )

    # -- committed offsets ------------------------------------------------------------------------------------------
    def expires_since(self, commit_timestamp: int) -> int | None:
        return commit_timestamp

    def check_commit(self, member_id: str, instance_id: str | None, epoch: int, version: int) -> PartitionCheck | None:
        """A member may commit with its epoch, or an older one for partitions that it had at that epoch already: it
        may not have heard of the newer one (KIP-1251). Anybody may (epoch -1) while the group has no members."""
        if epoch < 0 and not self.members:
            return None
        metadata = self.members.get(member_id)
        if metadata is None:
            raise CoordinatorError(ErrorCode.UNKNOWN_MEMBER_ID)
        if metadata.classic is None and version < _MEMBER_EPOCH_SINCE:
            raise CoordinatorError(ErrorCode.UNSUPPORTED_VERSION)
        current = self.current_of(member_id)
        if epoch == current.epoch:
            return None
        stale = ErrorCode.STALE_MEMBER_EPOCH if metadata.classic is None else ErrorCode.ILLEGAL_GENERATION
        if epoch > current.epoch or epoch < 0:
            raise CoordinatorError(stale)
        return _had_at(current, epoch, stale)

    def check_fetch(self, member_id: str | None, member_epoch: int) -> None:
        """Somebody who gives neither a member id nor an epoch may: an administrator."""
        if member_id is None and member_epoch < 0:
            return
        if member_id is None or member_id not in self.members:
            raise CoordinatorError(ErrorCode.UNKNOWN_MEMBER_ID)
        if member_epoch != self.current_of(member_id).epoch:
            raise CoordinatorError(ErrorCode.STALE_MEMBER_EPOCH)

    def check_offset_delete(self) -> None:
        """Allowed."""

    # -- records ----------------------------------------------------------------------------------------------------
    def tombstones(self) -> list[ConsumerRecord]:
        """Of everything that the log has of the group, members first."""
        group_id = self.group_id
        records: list[ConsumerRecord] = [Current(group_id, member_id, None) for member_id in self.current]
        records += [Target(group_id, member_id, None) for member_id in self.target]
        if self.persisted["target"]:
            records.append(TargetEpoch(group_id, None))
        records += [Member(group_id, member_id, None) for member_id in self.members]
        records += [Regex(group_id, expression, None) for expression in self.regexes]
        if self.persisted["epoch"]:
            records.append(GroupEpoch(group_id, None))
        return records

    def apply(self, record: ConsumerRecord) -> None:
        match record:
            case Current():
                self._apply_current(record)
            case Target():
                self._apply_target(record)
            case Member():
                self._apply_member(record)
            case GroupEpoch():
                self._apply_epoch(record)
            case TargetEpoch():
                self._apply_target_epoch(record)
            case Regex():
                self._apply_regex(record)

    def _apply_epoch(self, record: GroupEpoch) -> None:
        self.persisted["epoch"] = record.value is not None
        self.epoch, self.metadata_hash = record.value or (FIRST_EPOCH, 0)

    def _apply_target_epoch(self, record: TargetEpoch) -> None:
        self.persisted["target"] = record.value is not None
        self.assignment_epoch, self.assignment_timestamp = record.value or (FIRST_EPOCH, 0)

    def _apply_member(self, record: Member) -> None:
        self._subscriptions = None
        member_id, metadata = record.member_id, record.value
        former = self.members.get(member_id)
        instance_id = former.instance_id if former is not None else None
        if instance_id is not None and self.static_members.get(instance_id) == member_id:
            del self.static_members[instance_id]
        if metadata is None:
            self.members.pop(member_id, None)
            self.reported.pop(member_id, None)
            return
        self.members[member_id] = metadata
        if metadata.instance_id is not None:
            self.static_members[metadata.instance_id] = member_id

    def _apply_target(self, record: Target) -> None:
        if record.value is None:
            self.target.pop(record.member_id, None)
        else:
            self.target[record.member_id] = record.value

    def _apply_current(self, record: Current) -> None:
        member_id = record.member_id
        former = self.current.pop(member_id, None)
        if former is not None:
            self._own(former, member_id, None)
        if record.value is not None:
            self.current[member_id] = record.value
            self._own(record.value, member_id, member_id)

    def _apply_regex(self, record: Regex) -> None:
        if record.value is None:
            self.regexes.pop(record.expression, None)
        else:
            self.regexes[record.expression] = record.value

    def _own(self, current: CurrentAssignment, member_id: str, owner: str | None) -> None:
        """What the member has, or had, is now the owner's, or nobody's. Inner mappings are shared with copies: they
        are replaced."""
        for owned in (current.assigned, current.revoking):
            for topic_id, partitions in owned.items():
                owners = self.owners.get(topic_id, {}).copy()
                for index in partitions:
                    if owner is not None:
                        owners[index] = owner
                    elif owners.get(index) == member_id:
                        del owners[index]
                if owners:
                    self.owners[topic_id] = owners
                else:
                    self.owners.pop(topic_id, None)


def _subscriptions(members: Iterable[MemberMetadata]) -> Subscriptions:
    topics: dict[str, int] = {}
    regexes: dict[str, int] = {}
    assignors: dict[str, int] = {}
    protocols: dict[str, int] = {}
    classic_count = 0
    for member in members:
        for name in member.topics:
            topics[name] = topics.get(name, 0) + 1
        if member.regex:
            regexes[member.regex] = regexes.get(member.regex, 0) + 1
        if member.server_assignor is not None:
            assignors[member.server_assignor] = assignors.get(member.server_assignor, 0) + 1
        if member.classic is not None:
            classic_count += 1
            for name, _ in member.classic.protocols:
                protocols[name] = protocols.get(name, 0) + 1
    return Subscriptions(topics, regexes, assignors, protocols, classic_count)


def _had_at(current: CurrentAssignment, epoch: int, stale: ErrorCode) -> PartitionCheck:
    def check(topic_id: bytes, index: int) -> None:
        for owned in (current.assigned, current.revoking):
            since = owned.get(topic_id, {}).get(index)
            if since is not None and since <= epoch:
                return
        raise CoordinatorError(stale)

    return check
