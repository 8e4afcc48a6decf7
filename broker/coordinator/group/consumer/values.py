"""The values that a consumer group is made of. All immutable: a group changes by taking another value.

Partitions are told as `Assignment` (topic id -> partitions) where it matters whose they should be, and as `Owned`
(topic id -> partition -> the member epoch at which the member got it) where it matters since when.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

Assignment = Mapping[bytes, frozenset[int]]
Owned = Mapping[bytes, Mapping[int, int]]

NOTHING: Assignment = {}
NOTHING_OWNED: Owned = {}

JOIN_EPOCH = 0
LEAVE_EPOCH = -1
STATIC_LEAVE_EPOCH = -2
"""A static member that will come back: its partitions are kept for it until its session ends."""


class MemberState(IntEnum):
    """As in the record of a member's current assignment."""

    STABLE = 0
    UNREVOKED_PARTITIONS = 1
    """It must give up partitions before it gets to the next epoch."""
    UNRELEASED_PARTITIONS = 2
    """It is at the newest epoch and waits for partitions that others have not given up yet."""


class ClassicMetadata(NamedTuple):
    """What a member that speaks the classic protocol told when it joined; protocols best first."""

    session_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]


class MemberMetadata(NamedTuple):
    """`regex` is empty for none. `classic` None: the member speaks the new protocol."""

    instance_id: str | None
    rack_id: str | None
    client_id: str
    client_host: str
    topics: tuple[str, ...]
    regex: str
    rebalance_timeout_ms: int
    server_assignor: str | None
    classic: ClassicMetadata | None = None


class CurrentAssignment(NamedTuple):
    """Where a member is on its way to the target. `assigned` is what it has been told to have; what is in `revoking` it
    has been told to give up, and owns until it says that it has."""

    epoch: int = 0
    previous_epoch: int = 0
    state: MemberState = MemberState.STABLE
    assigned: Owned = NOTHING_OWNED
    revoking: Owned = NOTHING_OWNED


class Report(NamedTuple):
    """What a member said that it owned, and whether it had been asked to give up something before it said so."""

    owned: Assignment
    asked_to_revoke: bool


class ResolvedRegex(NamedTuple):
    """Which topics a regular expression stands for. `version` is that of the metadata it was resolved on."""

    topics: frozenset[str]
    version: int
    timestamp_ms: int


NEW_MEMBER = CurrentAssignment()


def partitions_of(owned: Owned) -> Assignment:
    return {topic_id: frozenset(partitions) for topic_id, partitions in owned.items()}


def assignment_of(pairs: Iterable[tuple[bytes, Iterable[int]]]) -> Assignment:
    """A topic may be named more than once."""
    assignment: dict[bytes, frozenset[int]] = {}
    for topic_id, partitions in pairs:
        assignment[topic_id] = assignment.get(topic_id, frozenset()).union(partitions)
    return assignment


def owns_only(owned: Assignment, allowed: Owned) -> bool:
    """Whether each of these partitions is one of `allowed`."""
    return all(
        not partitions or (topic_id in allowed and partitions <= allowed[topic_id].keys())
        for topic_id, partitions in owned.items()
    )


def overlap(owned: Assignment, others: Owned) -> bool:
    return any(not others[topic_id].keys().isdisjoint(owned.get(topic_id, ())) for topic_id in others)
