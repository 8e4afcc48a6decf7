"""How far apart snapshots of partitions' states lie: what a successor of this broker has to replay is bounded.

A broker that takes over reads, of every partition, what was appended since its last snapshot. So the bytes are counted
against one budget of the whole broker, however many partitions it leads; but for so many that snapshots would follow
one another too closely.
"""

from __future__ import annotations

REPLAYED_SIZE_MAX = 16 << 20
"""Bytes of all partitions of a broker together: less costs CPU when few of them take much."""
INTERVAL_MIN = 256 << 10
"""Bytes of one partition: a snapshot takes about 0.1 ms."""
SNAPSHOT_SHARE = 32
"""A large snapshot (of thousands of producers, many aborted transactions) is repeated after so many times its size."""


class ReplayBudget:
    """Shared by all partitions of a broker."""

    __slots__ = ("interval",)

    def __init__(self) -> None:
        self.interval = REPLAYED_SIZE_MAX
        """Bytes appended to one partition between two snapshots of it."""

    def share_among(self, partition_count: int) -> None:
        self.interval = max(REPLAYED_SIZE_MAX // max(partition_count, 1), INTERVAL_MIN)
