"""A partition's snapshots: appended to its `state` stream, made durable where something depends on them, trimmed.

A snapshot is appended after the batches it covers, and the WAL keeps that order, so it is never durable before them.
"""

from __future__ import annotations

import asyncio

from broker.partition.leader_epochs import LeaderEpochs
from broker.partition.producer_state import ProducerStates
from broker.partition.snapshot import encode_snapshot
from s3stream.api import StorageError, Stream

SNAPSHOTS_KEPT = 4
NO_TIMESTAMP = -1


class StateLog:
    """`snapshot_offset` is the log offset of the newest snapshot (0: none), `snapshot_size` its bytes."""

    __slots__ = ("_state", "snapshot_offset", "snapshot_size")

    def __init__(self, state_stream: Stream, snapshot_offset: int) -> None:
        self._state = state_stream
        self.snapshot_offset = snapshot_offset
        self.snapshot_size = 0

    def confirm_on_commit(self, wanted: bool) -> None:
        """As the log: when the log's start moves, a snapshot must be as safe as what it stands for."""
        self._state.confirm_on_commit(wanted)

    def append(
        self, log_offset: int, leader_epochs: LeaderEpochs, producers: ProducerStates, now_ms: int = NO_TIMESTAMP
    ) -> None:
        """Append a snapshot of the state as of `log_offset`, the end of the log. Raises StorageError."""
        snapshot = encode_snapshot(log_offset, leader_epochs, producers)
        self._state.append(snapshot, 1, now_ms)
        self.snapshot_offset = log_offset
        self.snapshot_size = len(snapshot)

    async def append_durably(self, log_offset: int, leader_epochs: LeaderEpochs, producers: ProducerStates) -> None:
        """As `append`, and wait until it is durable. One at a time. Raises StorageError."""
        self.append(log_offset, leader_epochs, producers)
        end_offset = self._state.next_offset
        durable = asyncio.get_running_loop().create_future()

        def confirmed() -> None:
            if self._state.confirmed_offset >= end_offset and not durable.done():
                durable.set_result(None)

        def failed(error: StorageError) -> None:
            if not durable.done():
                durable.set_exception(error)

        self._state.on_confirmed = confirmed
        self._state.on_failed = failed
        try:
            await durable
        finally:
            self._state.on_confirmed = self._state.on_failed = None

    async def wait_committed(self) -> None:
        """Until every snapshot is in an object, where others find it, too."""
        await self._state.wait_committed(self._state.next_offset)

    async def trim(self) -> None:
        """Forget superseded snapshots."""
        oldest_kept = self._state.confirmed_offset - SNAPSHOTS_KEPT
        if oldest_kept > self._state.start_offset:
            await self._state.trim(oldest_kept)

    async def close(self) -> None:
        await self._state.close()
