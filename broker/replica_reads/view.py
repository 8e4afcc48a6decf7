"""`ReplicaView`: a partition that another broker leads, as far as it is committed, for readers of this broker's rack.

To the Fetch handler it is a partition that has nothing in memory. It answers with `BACK_TO_LEADER` when it has nothing
for a reader: at its end, when the data was deleted, when it cannot read them. The leader then says what is true.

Invariants
----------
* Only what is in committed objects is returned, at or above the log's start as the catalog knew it a moment ago.
* A read_committed reader stays below the last stable offset and is told of every aborted transaction in what it got, as
  by the leader. Where the committed part of snapshots and log does not tell (the log's start passed the last snapshot),
  there is nothing here for it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from broker.partition.errors import PartitionError
from broker.partition.load import PartitionLoad
from broker.partition.log_view import READ_COMMITTED
from broker.partition.snapshot import SnapshotUnreadable, decode_snapshot
from broker.partition.waiters import FetchWaiter
from broker.replica_reads.transactions import ReplayedTransactions
from protocol.errors import ErrorCode, InvalidBatch
from s3stream.api import FetchResult, OffsetOutOfRange, StorageError
from s3stream.block_cache import BlockReader
from s3stream.catalog.api import CatalogError, PartitionInfo
from s3stream.committed_stream import CommittedStream
from s3stream.objectstore.api import ObjectMissing, RangeInvalid, StoreError

log = structlog.get_logger()

BACK_TO_LEADER = FetchResult((), 0, -1)
"""The answer (known by identity) to a reader for whom there is nothing here."""
ATTEMPTS_MAX = 3
_REPLAY_SIZE = 1 << 20
_SNAPSHOT_SIZE_MAX = 256 << 20
_UNKNOWN_OFFSET = -1


class ViewOwner(Protocol):
    """What a view asks of those that keep it."""

    async def keep_fresh(self, view: ReplicaView) -> None:
        """Look into the catalog, if that was some time ago."""

    async def refresh(self, view: ReplicaView, *, anew: bool = False) -> bool:
        """Look into the catalog now, or `anew` at all of its objects; False if that was done a moment ago."""


class ReplicaView:
    """See the module docstring. Made by `ReplicaViews` only."""

    __slots__ = (
        "_owner",
        "_replaying",
        "_restored_from",
        "_transactions",
        "closed",
        "index",
        "leader",
        "leader_epoch",
        "load",
        "log",
        "needs_state",
        "refreshed_at",
        "state",
        "topic",
        "used_at",
    )

    def __init__(self, topic: str, info: PartitionInfo, reader: BlockReader, owner: ViewOwner) -> None:
        self.topic = topic
        self.index = info.index
        self.leader = info.leader
        self.leader_epoch = info.leader_epoch
        self.closed = False
        """It was let go of: whoever holds it looks for another one."""
        self.load = PartitionLoad()
        self.log = CommittedStream(info.log_stream_id, reader)
        self.state = CommittedStream(info.state_stream_id, reader)
        self.needs_state = False
        """There is a read_committed reader."""
        self.refreshed_at = self.used_at = float("-inf")
        """By the loop's clock."""
        self._owner = owner
        self._transactions: ReplayedTransactions | None = None
        self._restored_from = 0
        """Of the state stream: snapshots below this offset have nothing new."""
        self._replaying = asyncio.Lock()

    def close(self) -> None:
        """Let go of what it holds: a fetch session may hold the view itself for long."""
        self.closed = True
        self.log.clear()
        self.state.clear()
        self._transactions = None

    # -- what a partition tells -------------------------------------------------------------------------------------
    @property
    def high_watermark(self) -> int:
        """As far as it is known here; -1 as long as nobody read, as for the offsets below."""
        return _UNKNOWN_OFFSET if self.log.info is None else self.log.end_offset

    @property
    def log_start_offset(self) -> int:
        return _UNKNOWN_OFFSET if self.log.info is None else self.log.start_offset

    @property
    def last_stable_offset(self) -> int:
        """-1 also as long as nobody needed it."""
        return _UNKNOWN_OFFSET if self._transactions is None else self._transactions.stable_offset

    @property
    def range_count(self) -> int:
        return self.log.range_count + self.state.range_count

    def check_leader_epoch(self, current_leader_epoch: int) -> None:
        """Raises PartitionError unless the client's epoch is the leader's. KIP-320."""
        if current_leader_epoch >= 0 and current_leader_epoch != self.leader_epoch:
            older = current_leader_epoch < self.leader_epoch
            raise PartitionError(ErrorCode.FENCED_LEADER_EPOCH if older else ErrorCode.UNKNOWN_LEADER_EPOCH)

    def end_offset_for_epoch(self, leader_epoch: int) -> tuple[int, int]:
        """Whether a log has diverged is for the leader to say."""
        raise PartitionError(ErrorCode.NOT_LEADER_OR_FOLLOWER)

    def add_fetch_waiter(self, waiter: FetchWaiter, committed_only: bool = False) -> None:
        """Nobody waits here."""

    def remove_fetch_waiter(self, waiter: FetchWaiter) -> None:
        pass

    # -- reading ----------------------------------------------------------------------------------------------------
    def read(self, offset: int, max_size: int, isolation_level: int) -> FetchResult | None:
        """Nothing is in memory."""
        return None

    async def fetch(self, offset: int, max_size: int, isolation_level: int) -> FetchResult:
        """Whole batches from `offset` on, or BACK_TO_LEADER."""
        try:
            return await self._fetch(offset, max_size, isolation_level == READ_COMMITTED)
        except OffsetOutOfRange:
            return BACK_TO_LEADER  # deleted while it was read
        except (CatalogError, StorageError, StoreError, InvalidBatch) as error:
            log.warning(
                "a reader of this rack is sent back to the leader",
                topic=self.topic,
                partition=self.index,
                offset=offset,
                error=repr(error),
            )
            return BACK_TO_LEADER

    async def _fetch(self, offset: int, max_size: int, committed_only: bool) -> FetchResult:
        self.needs_state |= committed_only
        await self._owner.keep_fresh(self)
        for _ in range(ATTEMPTS_MAX):
            found = BACK_TO_LEADER
            try:
                if self.log.start_offset <= offset < self.log.end_offset:
                    found = await self.log.fetch(offset, max_size, self.log.end_offset)
                    if committed_only:
                        found = await self._bounded(found, offset, max_size)
            except (ObjectMissing, RangeInvalid):
                await self._owner.refresh(self, anew=True)
                continue
            if found.size and offset >= self.log.start_offset and not self.closed:
                return found
            if not await self._owner.refresh(self):
                break
        return BACK_TO_LEADER

    def aborted_transactions(self, start_offset: int, end_offset: int) -> list[tuple[int, int]]:
        """See `LogView.aborted_transactions`."""
        return [] if self._transactions is None else self._transactions.aborted(start_offset, end_offset)

    # -- read_committed ---------------------------------------------------------------------------------------------
    async def _bounded(self, found: FetchResult, offset: int, max_size: int) -> FetchResult:
        """What of `found`, read at `offset`, is below the last stable offset."""
        async with self._replaying:
            transactions = await self._replay_to(found.next_offset)
            if transactions is None:
                return BACK_TO_LEADER
            while transactions.stable_offset <= offset and transactions.end_offset < self.log.end_offset:
                # a long transaction: its marker is farther on
                await self._replay_chunk(transactions)
        stable_offset = transactions.stable_offset
        if found.next_offset <= stable_offset:
            return found
        if stable_offset <= offset:
            return BACK_TO_LEADER
        return await self.log.fetch(offset, max_size, stable_offset)

    async def _replay_to(self, offset: int) -> ReplayedTransactions | None:
        """The transactions as of `offset` at least; None if they cannot be known from what is committed."""
        transactions = self._transactions
        if transactions is None:
            transactions = self._transactions = ReplayedTransactions()
        is_compacted = self.log.info is not None and self.log.info.compacted_offset > 0
        if transactions.end_offset < offset or is_compacted:
            transactions = await self._restore(transactions, is_compacted)
            if transactions.end_offset < self.log.start_offset:
                return None
            while transactions.end_offset < offset:
                await self._replay_chunk(transactions)
            transactions.trim(self.log.start_offset)
        return transactions

    async def _replay_chunk(self, transactions: ReplayedTransactions) -> None:
        found = await self.log.fetch(transactions.end_offset, _REPLAY_SIZE, self.log.end_offset)
        if found.next_offset <= transactions.end_offset:
            raise StorageError(f"stream {self.log.stream_id} returns nothing at {transactions.end_offset}")
        transactions.replay(found.buffers, found.next_offset)
        await asyncio.sleep(0)

    async def _restore(self, transactions: ReplayedTransactions, is_compacted: bool) -> ReplayedTransactions:
        """From the newest snapshot, if it is newer than what is known.

        Of a log that is compacted by key the newest snapshot counts in any case: it forgets the transactions
        whose markers are about to go.
        """
        first = max(self.state.start_offset, self._restored_from)
        for offset in range(self.state.end_offset - 1, first - 1, -1):
            found = await self.state.fetch(offset, _SNAPSHOT_SIZE_MAX, offset + 1)
            try:
                snapshot = await asyncio.to_thread(decode_snapshot, b"".join(found.buffers))
            except SnapshotUnreadable as error:
                log.warning("snapshot skipped", stream=self.state.stream_id, offset=offset, error=str(error))
                continue
            # one beyond the end describes what was given up with a lost disk, or is committed before what it covers
            if snapshot.log_offset <= self.log.end_offset:
                if snapshot.log_offset > transactions.end_offset:
                    transactions.restore(snapshot)
                elif is_compacted and snapshot.log_offset >= self.log.start_offset:
                    # aside: others are told what is known meanwhile
                    renewed = ReplayedTransactions()
                    renewed.restore(snapshot)
                    while renewed.end_offset < transactions.end_offset:
                        await self._replay_chunk(renewed)
                    transactions = self._transactions = renewed
                self._restored_from = offset + 1
                break
        return transactions
