"""A partition led here: Kafka's rules over two streams, `log` (the record batches) and `state` (snapshots).

The partition owns producer state, transactions and leader epochs, which are derived from the log. What of the log is
readable is in `log_view`, who waits for it in `waiters`, how snapshots are kept in `state_log`.

Invariants
----------
* Between the check of a batch and its append there is no await, so what was checked still holds.
* A transactional batch opens a transaction only if its coordinator has confirmed that the partition takes part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

import structlog

from broker.config.topic_config import TopicConfig
from broker.partition.append_rules import AppendRules
from broker.partition.errors import BatchPostponed, BatchRefused, PartitionError
from broker.partition.inspection import InspectionBudget
from broker.partition.load import PartitionLoad
from broker.partition.log_view import LogView
from broker.partition.opening import RecoveredState
from broker.partition.producer_state import NO_PRODUCER_ID, ActiveProducer, ProducerStates, SequencedBatch
from broker.partition.replay_budget import ReplayBudget
from broker.partition.state_log import NO_TIMESTAMP, StateLog
from broker.partition.verification import VerificationGuard, Verifications
from broker.partition.waiters import DurableCallback, FetchWaiter, Waiters
from protocol.errors import ErrorCode
from protocol.records import BatchHeader, build_end_txn_marker, stamp, stamp_log_append_time
from protocol.records.header import TRANSACTIONAL
from s3stream.api import StorageError, StorageFull, Stream, StreamClosed
from wal.api import Buffer

log = structlog.get_logger()


class Appended(NamedTuple):
    """Where a produced batch is: half-open offsets, and the time of append for topics that stamp it (else -1)."""

    base_offset: int
    end_offset: int
    log_append_time_ms: int


class Partition(LogView):
    """See the module docstring. All methods are called on the loop's thread."""

    __slots__ = (
        "_failure",
        "_inspections",
        "_replay",
        "_rules",
        "_saved_at_ms",
        "_snapshots",
        "_trimming",
        "_unconfirmed",
        "_unsnapshotted_size",
        "_verifications",
        "_waiters",
        "closed",
        "config",
        "index",
        "leader_epoch",
        "load",
        "producers",
        "streams",
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
        inspections: InspectionBudget | None = None,
        replay: ReplayBudget | None = None,
    ) -> None:
        super().__init__(log_stream, recovered.producers.transactions, recovered.leader_epochs)
        self.topic = topic
        self.topic_id = topic_id
        self.index = index
        self.leader_epoch = leader_epoch
        self.producers: ProducerStates = recovered.producers
        self.streams = (log_stream, state_stream)
        self.closed = False
        self._failure: StorageError | None = None
        self.load = PartitionLoad()
        self._inspections = inspections or InspectionBudget()
        self._replay = replay or ReplayBudget()
        self._verifications = Verifications()
        self._snapshots = StateLog(state_stream, recovered.snapshot_offset)
        self._unsnapshotted_size = recovered.replayed_size
        self._saved_at_ms = 0
        self._waiters = Waiters(log_stream, self.last_stable_offset)
        self._unconfirmed = self._waiters.unconfirmed
        self._trimming = asyncio.Lock()
        self.set_config(config)
        self.leader_epochs.assign(leader_epoch, log_stream.next_offset)
        log_stream.on_confirmed = self._on_confirmed
        log_stream.on_failed = self._on_failed
        if recovered.supersedes:
            self._unsnapshotted_size = self._replay.interval
            self._save(NO_TIMESTAMP)

    # -- configuration and leadership -------------------------------------------------------------------------------
    def set_config(self, config: TopicConfig) -> None:
        """Take the topic's effective configs from now on."""
        self.config = config
        self._rules = AppendRules(config, self._inspections)
        self._log.confirm_on_commit(config.confirms_on_commit)
        self._snapshots.confirm_on_commit(config.confirms_on_commit)

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
    def append_as_leader(
        self,
        records: memoryview,
        now_ms: int,
        zstd: bool = True,
        transactional_id: str | None = None,
        verification: VerificationGuard | None = None,
    ) -> Appended:
        """Check one produced batch, stamp it in place and append it.

        A repeat of an earlier batch is answered with where that one is; like a new one it is acknowledged when the high
        watermark has passed its end. `records` must not change any more afterwards. `zstd`: this client's version of
        Produce may carry that codec. A transactional batch needs `transactional_id` and, unless `transaction_ongoing`,
        the guard of a verification that its coordinator answered.

        Raises BatchRefused (nothing was appended) or an error of the storage.
        """
        if self.closed:
            raise self._refusal()
        rules = self._rules
        try:
            header = rules.check(records, now_ms, zstd)
        except BatchPostponed as error:
            self.expect(error.header, now_ms)
            raise
        stream = self._log
        count = header.last_offset_delta + 1
        producer_id = header.producer_id
        entry = None
        transactional = False
        if producer_id != NO_PRODUCER_ID:
            transactional = header.attributes & TRANSACTIONAL != 0
            entry = self.producers.expecting(producer_id, header.producer_epoch, header.base_sequence, transactional)
            if entry is None or (transactional and transactional_id is None):
                repeated = self._check_producer(header, count, transactional_id, verification)
                if repeated is not None:
                    return Appended(repeated.base_offset, repeated.base_offset + count, repeated.timestamp)
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
            self.expect(header, timestamp)
            raise
        if entry is not None:
            entry.add(header.base_sequence, count, base_offset, timestamp)
        elif producer_id != NO_PRODUCER_ID:
            self.producers.record(
                producer_id, header.producer_epoch, header.base_sequence, count, base_offset, timestamp, transactional
            )
        if transactional and self._verifications:
            self._verifications.end(producer_id)
        if self._unsnapshotted_size >= self._replay.interval:
            self._save_at_interval(now_ms)
        return Appended(base_offset, base_offset + count, append_time)

    def expect(self, header: BatchHeader, timestamp: int) -> None:
        """This batch will come again: what is on its way behind it, of the same producer, must not come before it."""
        if header.producer_id != NO_PRODUCER_ID:
            self.producers.expect(header.producer_id, header.producer_epoch, header.base_sequence, timestamp)

    def _check_producer(
        self, header: BatchHeader, count: int, transactional_id: str | None, verification: VerificationGuard | None
    ) -> SequencedBatch | None:
        """A batch that is not simply its producer's next one: the batch that it repeats, None to append it."""
        if not header.is_transactional:
            return self.producers.check(header.producer_id, header.producer_epoch, header.base_sequence, count)
        if transactional_id is None:
            raise BatchRefused(
                ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "transactional records without a transactional id"
            )
        producers = self.producers
        producer_id, epoch, sequence = header.producer_id, header.producer_epoch, header.base_sequence
        if not producers.transaction_ongoing(producer_id, epoch):
            repeated = producers.find_repeated(producer_id, epoch, sequence, count)
            if repeated is not None:
                return repeated
            self._verifications.check(producer_id, verification)
            self._verifications.check_sequence(producer_id, sequence, producers.has_batches(producer_id))
        return producers.check(producer_id, epoch, sequence, count, True)

    def append_internal(self, batch: bytearray, verification: VerificationGuard | None = None) -> int:
        """Append a batch that the broker itself built; returns the end offset.

        A transactional one opens its transaction. Then `verification`, if there is one, must still stand, unless
        `transaction_ongoing`. Raises BatchRefused, errors of the storage.
        """
        if self.closed:
            raise StreamClosed(f"{self.topic}-{self.index}")
        header = BatchHeader.read(batch)
        producer_id, epoch = header.producer_id, header.producer_epoch
        if producer_id != NO_PRODUCER_ID:
            if verification is not None and not self.producers.transaction_ongoing(producer_id, epoch):
                self._verifications.check(producer_id, verification)
            self.producers.check_epoch(producer_id, epoch)
        base_offset = self._log.next_offset
        stamp(memoryview(batch), base_offset, self.leader_epoch)
        count = header.last_offset_delta + 1
        self._append(batch, base_offset, count, header.max_timestamp)
        if producer_id != NO_PRODUCER_ID:
            self.producers.record(
                producer_id,
                epoch,
                header.base_sequence,
                count,
                base_offset,
                header.max_timestamp,
                header.is_transactional,
            )
            self._verifications.end(producer_id)
        if self._unsnapshotted_size >= self._replay.interval:
            self._save_at_interval(header.max_timestamp)
        return base_offset + count

    def append_marker(
        self,
        producer_id: int,
        producer_epoch: int,
        coordinator_epoch: int,
        commit: bool,
        now_ms: int,
        transaction_version: int,
    ) -> int:
        """End the producer's transaction here, for its transaction coordinator; returns the end offset.

        Written as well if nothing is open: the coordinator repeats what was not answered, and what arrives late from
        the producer is fenced by it. Raises PartitionError (INVALID_PRODUCER_EPOCH, TRANSACTION_COORDINATOR_FENCED),
        errors of the storage.
        """
        if self.closed:
            raise StreamClosed(f"{self.topic}-{self.index}")
        self.producers.check_marker(producer_id, producer_epoch, coordinator_epoch, transaction_version)
        base_offset = self._log.next_offset
        batch = build_end_txn_marker(producer_id, producer_epoch, commit, coordinator_epoch, now_ms)
        if self._rules.log_append_time:
            stamp_log_append_time(batch, base_offset, self.leader_epoch, now_ms)
        else:
            stamp(batch, base_offset, self.leader_epoch)
        self._append(batch, base_offset, 1, now_ms)
        self.producers.record_marker(producer_id, producer_epoch, coordinator_epoch, commit, base_offset, now_ms)
        self._verifications.end(producer_id)
        if self._unsnapshotted_size >= self._replay.interval:
            self._save_at_interval(now_ms)
        return base_offset + 1

    def _append(self, data: Buffer, base_offset: int, count: int, timestamp: int) -> None:
        size = len(data)
        appended_at = self._log.append(data, count, timestamp)
        if appended_at != base_offset:
            raise AssertionError(f"{self.topic}-{self.index}: stamped {base_offset}, appended at {appended_at}")
        self._unsnapshotted_size += size
        load = self.load
        load.bytes_in += size
        load.requests += 1
        self._unconfirmed.append((base_offset + count, size))

    # -- transactions -----------------------------------------------------------------------------------------------
    def transaction_ongoing(self, producer_id: int, producer_epoch: int) -> bool:
        """A transaction of this producer epoch is open here: its batches need no verification."""
        return self.producers.transaction_ongoing(producer_id, producer_epoch)

    def begin_verification(
        self, producer_id: int, producer_epoch: int, base_sequence: int, supports_epoch_bump: bool
    ) -> VerificationGuard:
        """Before the coordinator is asked whether this partition is part of the transaction (KIP-890).

        `supports_epoch_bump`: the client's transactions have an epoch each, so that sequences begin with 0.
        """
        if self.producers.transaction_ongoing(producer_id, producer_epoch):
            return VerificationGuard()
        return self._verifications.begin(producer_id, producer_epoch, base_sequence, supports_epoch_bump)

    def active_producers(self) -> list[ActiveProducer]:
        """Every producer that is known here."""
        return self.producers.active()

    # -- waiting ----------------------------------------------------------------------------------------------------
    def when_high_watermark(self, offset: int, callback: DurableCallback) -> None:
        """Call back with None once the high watermark is at or above `offset`, at once if it is; with the error if the
        log failed first, which leaves open whether what was appended is durable."""
        self._waiters.when_high_watermark(offset, callback)

    def add_fetch_waiter(self, waiter: FetchWaiter, committed_only: bool = False) -> None:
        """`committed_only`: it is told only of what is below the last stable offset."""
        self._waiters.add_fetch(waiter, committed_only)

    def remove_fetch_waiter(self, waiter: FetchWaiter) -> None:
        self._waiters.remove_fetch(waiter)

    def interrupt_fetches(self) -> None:
        """Have every waiting fetch answered now."""
        self._waiters.interrupt_fetches()

    def _on_confirmed(self) -> None:
        high_watermark = self._log.confirmed_offset
        if self._transactions.is_settling:
            self._transactions.advance(high_watermark)
        self._waiters.advanced(high_watermark, self.last_stable_offset)

    def _refusal(self) -> StorageError:
        """Before anything is said about a batch: one out of order behind a refused one would get new sequences."""
        if self._failure is not None:
            return type(self._failure)(*self._failure.args)
        return StreamClosed(f"{self.topic}-{self.index}")

    def _on_failed(self, error: StorageError) -> None:
        log.warning("partition failed", topic=self.topic, partition=self.index, error=str(error))
        self._failure = error
        self.closed = True
        self._waiters.fail(error)

    # -- the start of the log ---------------------------------------------------------------------------------------
    async def delete_records(self, offset: int) -> int:
        """Make `offset` (-1: the high watermark) the log start offset, durably; returns the log start offset.

        Raises PartitionError OFFSET_OUT_OF_RANGE, StorageError.
        """
        high_watermark = self._log.confirmed_offset
        if offset == -1:
            offset = high_watermark
        if offset < 0 or offset > high_watermark:
            raise PartitionError(ErrorCode.OFFSET_OUT_OF_RANGE, f"offset {offset} is not within [0, {high_watermark}]")
        # one at a time: who finds the start moved already must not answer before that is durable
        async with self._trimming:
            if self.closed:
                raise self._refusal()
            if self._log.start_offset < offset > self._snapshots.snapshot_offset and self.producers:
                # their producers may still repeat what goes, and their transactions still have to end
                self._unsnapshotted_size = 0
                await self._snapshots.append_durably(self._log.next_offset, self.leader_epochs, self.producers)
            await self._log.trim(offset)
        self.leader_epochs.trim(self._log.start_offset)
        self._transactions.aborted.trim(self._log.start_offset)
        return self._log.start_offset

    # -- compaction -------------------------------------------------------------------------------------------------
    def aborted_below(self, end_offset: int) -> list[tuple[int, int, int]]:
        """(producer id, first offset, offset of the marker) of the aborted transactions that began below it."""
        return self._transactions.aborted.before(end_offset)

    async def forget_aborted(self, marker_offsets: Iterable[int]) -> None:
        """Transactions of which nothing is left but these markers, which are about to go: for whoever may read the log
        without them, wherever. Raises StorageError."""
        async with self._trimming:
            if self.closed:
                raise self._refusal()
            # also if they are forgotten already: the snapshot that should say so may have failed
            self._transactions.aborted.forget(marker_offsets)
            self._unsnapshotted_size = 0
            await self._snapshots.append_durably(self._log.next_offset, self.leader_epochs, self.producers)
            await self._snapshots.wait_committed()

    # -- snapshots and closing --------------------------------------------------------------------------------------
    async def maintain(self, now_ms: int, producer_id_expiration_ms: int) -> None:
        """Periodic upkeep: forget expired producers and superseded snapshots."""
        self.producers.expire(now_ms - producer_id_expiration_ms)
        self._verifications.expire(now_ms, producer_id_expiration_ms)
        await self._snapshots.trim()

    def save(self, now_ms: int) -> None:
        """Append a snapshot if the log has moved since the last one."""
        if self._snapshots.snapshot_offset != self._log.next_offset:
            self._save(now_ms)

    def _save_at_interval(self, now_ms: int) -> None:
        elapsed_ms = now_ms - self._saved_at_ms
        if self._replay.is_due(self._unsnapshotted_size, self._snapshots.snapshot_size, elapsed_ms):
            self._save(now_ms)

    def _save(self, now_ms: int) -> None:
        try:
            self._snapshots.append(self._log.next_offset, self.leader_epochs, self.producers, now_ms)
        except StorageError as error:
            # the state can be derived from the log; the next snapshot is tried with the next append
            log.warning("no snapshot", topic=self.topic, partition=self.index, error=str(error))
        else:
            self._unsnapshotted_size = 0
            self._saved_at_ms = now_ms

    def hold(self) -> None:
        """Accept nothing for now, until `go_on`; reading goes on."""
        self.closed = True

    def go_on(self) -> None:
        self.closed = self._failure is not None

    def stop(self) -> None:
        """Accept nothing more. What was appended is still acknowledged when it becomes durable."""
        self.closed = True
        self.interrupt_fetches()

    def abandon(self) -> None:
        """Its streams are somebody else's by now: what is not durable yet has an outcome that nobody here can tell."""
        self.closed = True
        self._waiters.fail(StreamClosed(f"{self.topic}-{self.index} is led elsewhere"))

    async def close(self, now_ms: int) -> None:
        """Save the state, wait for the tail, close both streams."""
        self.stop()
        self.save(now_ms)
        await asyncio.gather(self._log.close(), self._snapshots.close())

    async def discard(self) -> None:
        """The topic is gone: answer whoever waits and close the streams without saving anything."""
        self.stop()
        self._waiters.fail(StreamClosed(f"{self.topic}-{self.index} was deleted"))
        await asyncio.gather(self._log.close(), self._snapshots.close())
