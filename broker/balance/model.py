"""What a plan is made from, and what it is made of. Values only."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

Key = tuple[UUID, int]
"""Of a partition: topic id and index."""


class Load(NamedTuple):
    """Per second; `cpu` in cores."""

    bytes_in: float = 0.0
    bytes_out: float = 0.0
    requests: float = 0.0
    cpu: float = 0.0


IDLE = Load()


class BrokerState(NamedTuple):
    """A broker that is alive. `load` is that of the whole process, None if it did not say.

    `accepts`: it may be given something. One that does not answer, or that keeps coming and going, is not.
    """

    node_id: int
    draining: bool = False
    accepts: bool = True
    load: Load | None = IDLE


class PartitionState(NamedTuple):
    """`target`: it is on its way there. `replicas`: the brokers it was assigned to by hand, if it was. `settled`: it
    has not moved for a while. The `cpu` of its load is not known, hence not looked at."""

    topic_id: UUID
    partition_index: int
    leader: int
    target: int | None = None
    replicas: tuple[int, ...] = ()
    settled: bool = True
    load: Load = IDLE

    @property
    def key(self) -> Key:
        return self.topic_id, self.partition_index


class Bounds(NamedTuple):
    """`moves_max`: partitions that may be on the move, those included that are. `only_drain`: nothing else is done."""

    partitions_percentage: int = 10
    load_percentage: int = 25
    moves_max: int = 50
    only_drain: bool = False


class Goal(IntEnum):
    """What a move is for, most important first."""

    DRAIN = 0
    ASSIGNMENT = 1
    PARTITIONS = 2
    LOAD = 3


class Move(NamedTuple):
    topic_id: UUID
    partition_index: int
    source: int
    target: int
    goal: Goal
    reason: str

    @property
    def key(self) -> Key:
        return self.topic_id, self.partition_index
