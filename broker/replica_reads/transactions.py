"""The transactions of a partition that another broker leads, as its committed log tells of them.

The leader's snapshots (in the `state` stream) say which transactions were open and aborted at an offset of the log; the
headers of the batches after it say the rest. Both are read only as far as a reader needs them.

Invariant: below `stable_offset` every transaction has ended, and `aborted` has all that were aborted; hence a reader
that stays below it is told what the leader would tell.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.partition.snapshot import PartitionSnapshot
from broker.partition.transactions import Transactions
from protocol.records import BatchHeader, iter_batches, parse_end_txn_marker
from wal.api import Buffer


class ReplayedTransactions:
    """Everything below `end_offset` has been looked at: nothing of a log at first."""

    __slots__ = ("_open", "_transactions", "end_offset")

    def __init__(self) -> None:
        self.end_offset = 0
        self._open: dict[int, int] = {}
        """Producer id -> first offset of its open transaction."""
        self._transactions = Transactions()

    @property
    def stable_offset(self) -> int:
        return min(self._transactions.first_unstable_offset, self.end_offset)

    def aborted(self, start_offset: int, end_offset: int) -> list[tuple[int, int]]:
        """`(producer id, first offset)` of aborted transactions with an offset in [start, end)."""
        return self._transactions.aborted.overlapping(start_offset, end_offset)

    def restore(self, snapshot: PartitionSnapshot) -> None:
        """Go on from a snapshot: it knows all that was before it."""
        self.end_offset = snapshot.log_offset
        self._transactions = snapshot.producers.transactions
        self._open = {
            producer_id: entry.current_txn_first_offset
            for producer_id, entry in snapshot.producers.entries.items()
            if entry.current_txn_first_offset >= 0
        }

    def replay(self, buffers: Iterable[Buffer], next_offset: int) -> None:
        """Take in whole batches, from `end_offset` to `next_offset`."""
        for buffer in buffers:
            for header, batch in iter_batches(buffer):
                if header.is_transactional:
                    self._replay_batch(header, batch)
        self.end_offset = next_offset
        self._transactions.advance(next_offset)

    def _replay_batch(self, header: BatchHeader, batch: Buffer) -> None:
        producer_id = header.producer_id
        if not header.is_control:
            if producer_id not in self._open:
                self._open[producer_id] = header.base_offset
                self._transactions.begin(header.base_offset)
        elif (marker := parse_end_txn_marker(batch)) is not None:
            first_offset = self._open.pop(producer_id, None)
            if first_offset is not None:
                self._transactions.end(producer_id, first_offset, header.base_offset, marker.committed)

    def trim(self, log_start_offset: int) -> None:
        self._transactions.aborted.trim(log_start_offset)
