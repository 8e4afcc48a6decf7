"""What readers see of a partition: its offsets, its records up to a bound, and the aborted transactions among them.

Invariants
----------
* log start offset <= last stable offset <= high watermark <= log end offset; the high watermark is the log's confirmed
  (durable) offset and nothing at or above it is ever read or acknowledged.
* Below the last stable offset every transaction has ended durably, and the index of aborted transactions is complete:
  what a read_committed reader is told depends on the offsets it got, not on the tier they came from.
"""

from __future__ import annotations

from broker.partition.errors import PartitionError
from broker.partition.leader_epochs import LeaderEpochs
from broker.partition.time_lookup import TimestampOffset, max_timestamp_offset, offset_for_timestamp
from broker.partition.transactions import Transactions
from protocol.errors import ErrorCode
from s3stream.api import FetchResult, Stream

READ_COMMITTED = 1
"""The isolation level; everything else reads up to the high watermark."""

_NOTHING = FetchResult(buffers=(), size=0, next_offset=-1)


class LogView:
    """See the module docstring. The reading half of `Partition`."""

    __slots__ = ("_log", "_transactions", "leader_epochs")

    def __init__(self, log_stream: Stream, transactions: Transactions, leader_epochs: LeaderEpochs) -> None:
        self._log = log_stream
        self._transactions = transactions
        self.leader_epochs = leader_epochs

    @property
    def log_start_offset(self) -> int:
        return self._log.start_offset

    @property
    def high_watermark(self) -> int:
        return self._log.confirmed_offset

    @property
    def last_stable_offset(self) -> int:
        """The bound of read_committed reads: below it no transaction is open, nor ended but not durably."""
        high_watermark = self._log.confirmed_offset
        unstable = self._transactions.first_unstable_offset
        # a transaction's beginning may have been deleted
        return high_watermark if high_watermark <= unstable else max(unstable, self._log.start_offset)

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

    def aborted_transactions(self, start_offset: int, end_offset: int) -> list[tuple[int, int]]:
        """`(producer id, first offset)` of aborted transactions with an offset in [start, end), for who read those."""
        aborted = self._transactions.aborted
        return aborted.overlapping(start_offset, end_offset) if aborted else []

    def end_offset(self, isolation_level: int) -> int:
        """Up to where may be read."""
        return self.last_stable_offset if isolation_level == READ_COMMITTED else self._log.confirmed_offset

    def read(self, offset: int, max_size: int, isolation_level: int) -> FetchResult | None:
        """Whole batches from `offset` on out of memory; None if they have to be fetched. Raises PartitionError."""
        end_offset = self.end_offset(isolation_level)
        if offset == end_offset:
            return _NOTHING
        self._check_offset(offset)
        if offset > end_offset:
            return _NOTHING
        return self._log.read_cached(offset, max_size, end_offset)

    async def fetch(self, offset: int, max_size: int, isolation_level: int) -> FetchResult:
        """As `read`, from whichever tier has it."""
        end_offset = self.end_offset(isolation_level)
        self._check_offset(offset)
        if offset >= end_offset:
            return _NOTHING
        found = await self._log.fetch(offset, max_size, end_offset)
        # what the log began with meanwhile is gone, and out of the index of aborted transactions
        self._check_offset(offset)
        return found

    def _check_offset(self, offset: int) -> None:
        if offset < self._log.start_offset or offset > self._log.next_offset:
            raise PartitionError(
                ErrorCode.OFFSET_OUT_OF_RANGE,
                f"offset {offset} is not within [{self._log.start_offset}, {self._log.next_offset}]",
            )

    async def offset_for_timestamp(self, timestamp: int, isolation_level: int) -> TimestampOffset | None:
        """The first record whose timestamp is at or after `timestamp`, or None."""
        return await offset_for_timestamp(self._log, timestamp, self.end_offset(isolation_level))

    async def max_timestamp_offset(self, isolation_level: int) -> TimestampOffset | None:
        """The first record that has the largest timestamp; None if the log is empty, or if that may not be read yet."""
        found = await max_timestamp_offset(self._log)
        return found if found is not None and found.offset < self.end_offset(isolation_level) else None

    def end_offset_for_epoch(self, leader_epoch: int) -> tuple[int, int]:
        """(epoch, end offset) as OffsetForLeaderEpoch answers; the current epoch so far ends at the high watermark."""
        return self.leader_epochs.end_offset(leader_epoch, self._log.confirmed_offset)
