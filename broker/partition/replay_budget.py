"""How far apart snapshots of partitions' states lie: what a successor of this broker has to replay is bounded.

A broker that takes over reads, of every partition, what was appended since its last snapshot. So the bytes are counted
against one budget of the whole broker, however many partitions it leads; but for so many that snapshots would follow
one another too closely. Partitions that take so much that snapshots would cost use more of the budget than others.
"""

from __future__ import annotations

REPLAYED_SIZE_MAX = 16 << 20
"""Bytes of all partitions of a broker together."""
USUAL_DIVISOR = 4
"""As a rule this part of the budget is used."""
PAUSE_MS = 200
"""Two snapshots of a partition are so far apart, unless it uses all of its share by then."""
INTERVAL_MIN = 256 << 10
"""Bytes of one partition: a snapshot takes about 0.1 ms."""
SNAPSHOT_SHARE = 32
"""A large snapshot (of thousands of producers, many aborted transactions) is repeated after so many times its size."""


class ReplayBudget:
    """Shared by all partitions of a broker."""

    __slots__ = ("interval", "interval_max")

    def __init__(self) -> None:
        self.interval = self.interval_max = 0
        """Bytes appended to one partition between two snapshots of it, as a rule and at most."""
        self.share_among(1)

    def share_among(self, partition_count: int) -> None:
        self.interval_max = max(REPLAYED_SIZE_MAX // max(partition_count, 1), INTERVAL_MIN)
        self.interval = max(self.interval_max // USUAL_DIVISOR, INTERVAL_MIN)

    def is_due(self, appended: int, snapshot_size: int, elapsed_ms: int) -> bool:
        """Another snapshot of a partition, of which `appended` bytes, `interval` at least, and `elapsed_ms` came since
        the last one, which took `snapshot_size`. The time is a clock's, which may have been set: no reason to wait."""
        is_soon = abs(elapsed_ms) < PAUSE_MS and appended < self.interval_max
        return not is_soon and appended >= snapshot_size * SNAPSHOT_SHARE
