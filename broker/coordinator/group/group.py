"""`Group`: what every kind of group is to the offsets that it committed.

The table of a shard holds one group under one id: a classic one (`classic`), which is also what a simple consumer's
offsets belong to, or one of the new protocol (`consumer.group`). Either turns into the other with its offsets.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import ClassVar

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.group.records import CommittedOffset
from broker.coordinator.machine import Record
from protocol.errors import ErrorCode

_COMMIT_VERSION = 10
"""The version of OffsetCommit whose rules apply to members that commit in transactions."""

PartitionCheck = Callable[[bytes, int], None]
"""Raises CoordinatorError for a partition (topic id, index) that may not be committed."""


class GroupType(Enum):
    """The value is what ListGroups shows."""

    CLASSIC = "classic"
    CONSUMER = "consumer"


class GroupState(Enum):
    """The value is what DescribeGroups, ConsumerGroupDescribe and ListGroups show."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    ASSIGNING = "Assigning"
    RECONCILING = "Reconciling"
    STABLE = "Stable"
    DEAD = "Dead"


class Group:
    """`check_...` raise CoordinatorError."""

    __slots__ = ("group_id", "offsets", "transactional")

    type: ClassVar[GroupType]

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.offsets: dict[str, dict[int, CommittedOffset]] = {}
        self.transactional: dict[tuple[str, int], dict[int, CommittedOffset | None]] = {}
        """(topic, partition) -> producer id -> offset in its open transaction, in the order of the log; None: something
        later counts already. See `transactional_offsets`."""

    def take_offsets(self, other: Group) -> None:
        """All of them, of a group whose place this one takes."""
        self.offsets, other.offsets = other.offsets, {}
        self.transactional, other.transactional = other.transactional, {}

    def offset_keys(self) -> list[tuple[str, int]]:
        """(topic, partition) of every offset that is committed, or pending in a transaction."""
        committed = {(topic, index): None for topic, partitions in self.offsets.items() for index in partitions}
        return [*committed, *(key for key in self.transactional if key not in committed)]

    def put_offset(self, topic: str, partition: int, committed: CommittedOffset) -> None:
        """Replay of a commit outside of transactions."""
        partitions = self.offsets.get(topic)
        if partitions is None:
            partitions = self.offsets[topic] = {}
        partitions[partition] = committed
        if self.transactional:
            held = self.transactional.get((topic, partition), {})
            for producer_id in held:
                held[producer_id] = None

    def drop_offset(self, topic: str, partition: int) -> None:
        """Replay of a tombstone."""
        partitions = self.offsets.get(topic, {})
        partitions.pop(partition, None)
        if not partitions:
            self.offsets.pop(topic, None)
        self.transactional.pop((topic, partition), None)

    @property
    @abstractmethod
    def state(self) -> GroupState: ...

    @property
    @abstractmethod
    def protocol_type(self) -> str | None: ...

    @property
    @abstractmethod
    def forgettable(self) -> bool:
        """Nothing in the log speaks of the group any more, and nobody is about to join."""

    @property
    @abstractmethod
    def is_unused(self) -> bool:
        """It has no members, nobody is about to join, and the log has records of it beside those of offsets."""

    @abstractmethod
    def tombstones(self) -> Sequence[Record]:
        """What removes an empty group, but for its offsets."""

    @abstractmethod
    def is_subscribed_to(self, topic: str) -> bool: ...

    @abstractmethod
    def expires_since(self, commit_timestamp: int) -> int | None:
        """From when on the retention of an offset counts, of a topic that the group is not subscribed to; None: it does
        not expire now."""

    @abstractmethod
    def check_commit(self, member_id: str, instance_id: str | None, epoch: int, version: int) -> PartitionCheck | None:
        """Whether this member, of this generation or member epoch, may commit with this version of OffsetCommit. What
        is returned must hold for each partition as well."""

    def check_transactional_commit(self, member_id: str, instance_id: str | None, epoch: int) -> PartitionCheck | None:
        """The same for TxnOffsetCommit. Producers that do not name a member are not held to be one (KIP-447)."""
        if epoch < 0 and not member_id and instance_id is None:
            return None
        try:
            return self.check_commit(member_id, instance_id, epoch, _COMMIT_VERSION)
        except CoordinatorError as error:
            # the one check that comes last, and that transactions are spared
            if error.code is ErrorCode.REBALANCE_IN_PROGRESS:
                return None
            raise

    @abstractmethod
    def check_fetch(self, member_id: str | None, member_epoch: int) -> None:
        """Whether somebody who says that he is this member may fetch the group's offsets."""

    @abstractmethod
    def check_offset_delete(self) -> None:
        """Whether offsets of topics that it is not subscribed to may be deleted."""
