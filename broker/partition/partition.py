"""A partition led here: Kafka's rules over two streams, `log` (the record batches) and `state` (snapshots).

The partition owns producer state and leader epochs, which are derived from the log, and everything that waits for it:
produces wait for the high watermark to pass their batch, fetches for it to pass anything at all.

Invariants
----------
* log start offset <= last stable offset <= high watermark <= log end offset; the high watermark is the log's confirmed
  (durable) offset and nothing at or above it is ever read or acknowledged.
* Between the check of a batch and its append there is no await, so what was checked still holds.
* Waiters of `when_high_watermark` are called in order of their offsets; every one is called exactly once.
* A fetch waiter is told of an advance at most once per WAL flush.
* A snapshot of the state is appended after the batches it covers, and the WAL keeps that order, so it is never durable
  before them.

Transactions come in at two places: `last_stable_offset`, which every read_committed read is bounded by, and
`_check_and_record`, through which every batch passes.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import structlog

from broker.config.topic_config import TopicConfig
from broker.partition.append_rules import AppendRules
from broker.partition.errors import PartitionError
from broker.partition.leader_epochs import LeaderEpochs
from broker.partition.opening import RecoveredState
from broker.partition.producer_state import NO_PRODUCER_ID, ProducerStates
from broker.partition.snapshot import encode_snapshot
from broker.partition.time_lookup import TimestampOffset, max_timestamp_offset, offset_for_timestamp
from protocol.errors import ErrorCode
from protocol.records import BatchHeader, stamp, stamp_log_append_time
from s3stream.api import FetchResult, StorageError, StorageFull, Stream, StreamClosed
from wal.api import Buffer

log = structlog.get_logger()

SNAPSHOT_INTERVAL_SIZE = 64 << 20
"""Bytes appended between two snapshots: what an opening after a crash has to replay at most."""
SNAPSHOTS_KEPT = 4
READ_COMMITTED = 1
_NO_TIMESTAMP = -1

DurableCallback = Callable[[StorageError | None], None]


class Appended(NamedTuple):
    """Where a produced batch is: half-open offsets, and the time of append for topics that stamp it (else -1)."""

    base_offset: int
    end_offset: int
    log_append_time_ms: int


class FetchWaiter(Protocol):
    """A fetch that waits for data; registered at every partition it asks for."""

    def advanced(self, size: int) -> None:
        """`size` more bytes are readable."""

    def interrupted(self) -> None:
        """The partition is no longer served here; answer now."""


_NOTHING = FetchResult(buffers=(), size=0, next_offset=-1)


class Partition:
    """See the module docstring. All methods are called on the loop's thread."""

    __slots__ = (
        "_appended_size",
        "_confirmed_size",
        "_failure",
        "_fetch_waiters",
        "_log",
        "_rules",
        "_snapshot_offset",
        "_state",
        "_trimming",
        "_unconfirmed",
        "_unsnapshotted_size",
        "_waiting",
        "closed",
        "config",
        "index",
        "leader_epoch",
        "leader_epochs",
        "producers",
        "topic",
        "topic_id",
    )

    def __init__(
        self,
        topic: str,
        topic_id: bytes,
        index: int,
        leader_epoch: int,
        log_stream: Stream,
        state_stream: Stream,
        config: TopicConfig,
        recovered: RecoveredState,
    ) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.index = index
        self.leader_epoch = leader_epoch
        self.leader_epochs: LeaderEpochs = recovered.leader_epochs
        self.producers: ProducerStates = recovered.producers
        self.closed = False
        self._log = log_stream
        self._state = state_stream
        self._snapshot_offset = recovered.snapshot_offset
        self._unsnapshotted_size = recovered.replayed_size
        self._appended_size = 0
        self._confirmed_size = 0
        self._unconfirmed: deque[tuple[int, int]] = deque()
        self._waiting: deque[tuple[int, DurableCallback]] = deque()
        self._failure: StorageError | None = None
        self._trimming = asyncio.Lock()
        self._fetch_waiters: dict[FetchWaiter, None] = {}
        self.set_config(config)
        self.leader_epochs.assign(leader_epoch, log_stream.next_offset)
        log_stream.on_confirmed = self._on_confirmed
        log_stream.on_failed = self._on_failed

    # -- offsets ----------------------------------------------------------------------------------------------------
    @property
    def log_start_offset(self) -> int:
        return self._log.start_offset

    @property
    def high_watermark(self) -> int:
        return self._log.confirmed_offset

    @property
    def last_stable_offset(self) -> int:
        """The bound of read_committed reads: no open transaction begins below it."""
        return self._log.confirmed_offset

    @property
    def log_end_offset(self) -> int:
        return self._log.next_offset

    @property
    def size(self) -> int:
        """Bytes retained, un-uploaded ones included."""
        return self._log.size

    @property
    def log(self) -> Stream:
        """The log's stream, for retention and inspection."""
        return self._log

    # -- configuration and leadership -------------------------------------------------------------------------------
    def set_config(self, config: TopicConfig) -> None:
        """Take the topic's effective configs from now on."""
        self.config = config
        self._rules = AppendRules(config)

    def set_leader_epoch(self, leader_epoch: int) -> None:
        """This broker leads on under a newer epoch."""
        self.leader_epoch = leader_epoch
        self.leader_epochs.assign(leader_epoch, self._log.next_offset)

    def check_leader_epoch(self, current_leader_epoch: int) -> None:
        """Raises PartitionError unless the client's epoch is ours (-1: it does not know one). KIP-320."""
        if current_leader_epoch >= 0 and current_leader_epoch != self.leader_epoch:
            older = current_leader_epoch < self.leader_epoch
            raise PartitionError(ErrorCode.FENCED_LEADER_EPOCH if older else ErrorCode.UNKNOWN_LEADER_EPOCH)

    # -- appending --------------------------------------------------------------------------------------------------
    def append_as_leader(self, records: memoryview, now_ms: int, zstd: bool = True) -> Appended:
        """Check one produced batch, stamp it in place and append it.

        A repeat of an earlier batch is answered with where that one is; like a new one it is acknowledged when the high
        watermark has passed its end. `records` must not change any more afterwards. `zstd`: this client's version of
        Produce may carry that codec.

        Raises BatchRefused (nothing was appended) or an error of the storage.
        """
        if self.closed:
            raise StreamClosed(f"{self.topic}-{self.index}")
        rules = self._rules
        header = rules.check(records, now_ms, zstd)
        stream = self._log
        count = header.last_offset_delta + 1
        producer_id = header.producer_id
        if producer_id != NO_PRODUCER_ID:
            repeated = self.producers.check(producer_id, header.producer_epoch, header.base_sequence, count)
            if repeated is not None:
                end_offset = repeated.base_offset + count
                return Appended(repeated.base_offset, end_offset, repeated.timestamp)
        base_offset = stream.next_offset
        if rules.log_append_time:
            timestamp = append_time = now_ms
            stamp_log_append_time(records, base_offset, self.leader_epoch, now_ms)
        else:
            timestamp = header.max_timestamp
            append_time = -1
            stamp(records, base_offset, self.leader_epoch)
        try:
            self._append(records, base_offset, count, timestamp)
        except StorageFull:
            if producer_id != NO_PRODUCER_ID:
                # those that are on their way behind it must not come before it
                self.producers.expect(producer_id, header.producer_epoch, header.base_sequence, timestamp)
            raise
        if producer_id != NO_PRODUCER_ID:
            self.producers.record(
                producer_id, header.producer_epoch, header.base_sequence, count, base_offset, timestamp
            )
        if self._unsnapshotted_size >= SNAPSHOT_INTERVAL_SIZE:
            self._append_snapshot(now_ms)
        return Appended(base_offset, base_offset + count, append_time)

    def append_internal(self, batch: bytearray) -> int:
        """Append a batch that the broker itself built; returns the end offset. Raises errors of the storage."""
        if self.closed:
            raise StreamClosed(f"{self.topic}-{self.index}")
        header = BatchHeader.read(batch)
        base_offset = self._log.next_offset
        stamp(memoryview(batch), base_offset, self.leader_epoch)
        count = header.last_offset_delta + 1
        self._append(batch, base_offset, count, header.max_timestamp)
        return base_offset + count

    def _append(self, data: Buffer, base_offset: int, count: int, timestamp: int) -> None:
        size = len(data)
        appended_at = self._log.append(data, count, timestamp)
        if appended_at != base_offset:
            raise AssertionError(f"{self.topic}-{self.index}: stamped {base_offset}, appended at {appended_at}")
        self._appended_size += size
        self._unsnapshotted_size += size
        self._unconfirmed.append((base_offset + count, self._appended_size))

    # -- waiting ----------------------------------------------------------------------------------------------------
    def when_high_watermark(self, offset: int, callback: DurableCallback) -> None:
        """Call back with None once the high watermark is at or above `offset`, at once if it is; with the error if the
        log failed first, which leaves open whether what was appended is durable."""
        if offset <= self._log.confirmed_offset:
            callback(None)
            return
        if self._failure is not None:
            callback(self._failure)
            return
        waiting = self._waiting
        if waiting and offset < waiting[-1][0]:
            # a repeat of a batch that is in flight waits among the others
            insort(waiting, (offset, callback), key=_offset_of)
        else:
            waiting.append((offset, callback))

    def add_fetch_waiter(self, waiter: FetchWaiter) -> None:
        self._fetch_waiters[waiter] = None

    def remove_fetch_waiter(self, waiter: FetchWaiter) -> None:
        self._fetch_waiters.pop(waiter, None)

    @property
    def has_fetch_waiters(self) -> bool:
        return bool(self._fetch_waiters)

    def _on_confirmed(self) -> None:
        high_watermark = self._log.confirmed_offset
        unconfirmed = self._unconfirmed
        confirmed_size = self._confirmed_size
        while unconfirmed and unconfirmed[0][0] <= high_watermark:
            confirmed_size = unconfirmed.popleft()[1]
        waiting = self._waiting
        while waiting and waiting[0][0] <= high_watermark:
            waiting.popleft()[1](None)
        size = confirmed_size - self._confirmed_size
        self._confirmed_size = confirmed_size
        if self._fetch_waiters:
            for waiter in tuple(self._fetch_waiters):
                waiter.advanced(size)

    def _on_failed(self, error: StorageError) -> None:
        log.warning("partition failed", topic=self.topic, partition=self.index, error=str(error))
        self._fail(error)

    def _fail(self, error: StorageError) -> None:
        self._failure = error
        waiting, self._waiting = self._waiting, deque()
        for _, callback in waiting:
            callback(error)
        self.interrupt_fetches()

    def interrupt_fetches(self) -> None:
        """Have every waiting fetch answered now."""
        for waiter in tuple(self._fetch_waiters):
            waiter.interrupted()

    # -- reading ----------------------------------------------------------------------------------------------------
    def read(self, offset: int, max_size: int, isolation_level: int) -> FetchResult | None:
        """Whole batches from `offset` on out of memory; None if they have to be fetched. Raises PartitionError."""
        end_offset = self.last_stable_offset if isolation_level == READ_COMMITTED else self._log.confirmed_offset
        if offset == end_offset:
            return _NOTHING
        self._check_offset(offset)
        if offset > end_offset:
            return _NOTHING
        return self._log.read_cached(offset, max_size, end_offset)

    async def fetch(self, offset: int, max_size: int, isolation_level: int) -> FetchResult:
        """As `read`, from whichever tier has it."""
        end_offset = self.last_stable_offset if isolation_level == READ_COMMITTED else self._log.confirmed_offset
        self._check_offset(offset)
        if offset >= end_offset:
            return _NOTHING
        return await self._log.fetch(offset, max_size, end_offset)

    def _check_offset(self, offset: int) -> None:
        if offset < self._log.start_offset or offset > self._log.next_offset:
            raise PartitionError(
                ErrorCode.OFFSET_OUT_OF_RANGE,
                f"offset {offset} is not within [{self._log.start_offset}, {self._log.next_offset}]",
            )

    async def offset_for_timestamp(self, timestamp: int, isolation_level: int) -> TimestampOffset | None:
        """The first record whose timestamp is at or after `timestamp`, or None."""
        end_offset = self.last_stable_offset if isolation_level == READ_COMMITTED else self._log.confirmed_offset
        return await offset_for_timestamp(self._log, timestamp, end_offset)

    async def max_timestamp_offset(self) -> TimestampOffset | None:
        """The first record that has the largest timestamp, or None if the log is empty."""
        return await max_timestamp_offset(self._log)

    def end_offset_for_epoch(self, leader_epoch: int) -> tuple[int, int]:
        """(epoch, end offset) as OffsetForLeaderEpoch answers; the current epoch so far ends at the high watermark."""
        return self.leader_epochs.end_offset(leader_epoch, self._log.confirmed_offset)

    # -- the start of the log ---------------------------------------------------------------------------------------
    async def delete_records(self, offset: int) -> int:
        """Make `offset` (-1: the high watermark) the log start offset, durably; returns the log start offset.

        Raises PartitionError OFFSET_OUT_OF_RANGE.
        """
        high_watermark = self._log.confirmed_offset
        if offset == -1:
            offset = high_watermark
        if offset < 0 or offset > high_watermark:
            raise PartitionError(ErrorCode.OFFSET_OUT_OF_RANGE, f"offset {offset} is not within [0, {high_watermark}]")
        # one at a time: who finds the start moved already must not answer before that is durable
        async with self._trimming:
            if self._log.start_offset < offset > self._snapshot_offset and self.producers:
                await self._save_durably()
            await self._log.trim(offset)
        self.leader_epochs.trim(self._log.start_offset)
        return self._log.start_offset

    # -- snapshots and closing --------------------------------------------------------------------------------------
    async def maintain(self, now_ms: int, producer_id_expiration_ms: int) -> None:
        """Periodic upkeep: forget expired producers and superseded snapshots."""
        self.producers.expire(now_ms - producer_id_expiration_ms)
        oldest_kept = self._state.confirmed_offset - SNAPSHOTS_KEPT
        if oldest_kept > self._state.start_offset:
            await self._state.trim(oldest_kept)

    def save(self, now_ms: int) -> None:
        """Append a snapshot if the log has moved since the last one."""
        if self._snapshot_offset != self._log.next_offset:
            self._append_snapshot(now_ms)

    async def _save_durably(self) -> None:
        """Before batches go that the state comes from: their producers may still repeat them. Raises StorageError."""
        self._snapshot(_NO_TIMESTAMP)
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

    def _append_snapshot(self, now_ms: int) -> None:
        try:
            self._snapshot(now_ms)
        except StorageError as error:
            # the state can be derived from the log; the next snapshot is tried with the next append
            log.warning("no snapshot", topic=self.topic, partition=self.index, error=str(error))

    def _snapshot(self, now_ms: int) -> None:
        log_offset = self._log.next_offset
        self._state.append(encode_snapshot(log_offset, self.leader_epochs, self.producers), 1, now_ms)
        self._snapshot_offset = log_offset
        self._unsnapshotted_size = 0

    def stop(self) -> None:
        """Accept nothing more. What was appended is still acknowledged when it becomes durable."""
        self.closed = True
        self.interrupt_fetches()

    async def close(self, now_ms: int) -> None:
        """Save the state, wait for the tail, close both streams."""
        self.stop()
        self.save(now_ms)
        await asyncio.gather(self._log.close(), self._state.close())

    async def discard(self) -> None:
        """The topic is gone: answer whoever waits and close the streams without saving anything."""
        self.stop()
        self._fail(StreamClosed(f"{self.topic}-{self.index} was deleted"))
        await asyncio.gather(self._log.close(), self._state.close())


def _offset_of(waiting: tuple[int, DurableCallback]) -> int:
    return waiting[0]
