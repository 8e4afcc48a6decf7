"""`Group`: what every kind of group is to the offsets that it committed.

The table of a shard holds one group under one id: a classic one (`classic`), which is also what a simple consumer's
offsets belong to, or one of the new protocol (`consumer.group`). Either turns into the other with its offsets.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import ClassVar

from broker.coordinator.group.records import CommittedOffset
from broker.coordinator.machine import Record

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
        self.transactional: dict[tuple[str, int], int] = {}
        """(topic, partition) -> open transactions that hold an offset for it."""

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

    @abstractmethod
    def check_fetch(self, member_id: str | None, member_epoch: int) -> None:
        """Whether somebody who says that he is this member may fetch the group's offsets."""

    @abstractmethod
    def check_offset_delete(self) -> None:
        """Whether offsets of topics that it is not subscribed to may be deleted."""
