"""What a partition remembers of producers: to refuse gaps, to recognise repeats, to know whose transactions are open.

KIP-98, KIP-360, KIP-890.

Pure: no clock; time comes in with the batches. `check` and `check_marker` decide and change nothing, `record` and
`record_marker` take in what was appended, so that live appends and replay from the log end in the same state.

Invariants
----------
* Per producer id the last `BATCHES_KEPT` batches of its current epoch are known, in order of their sequences.
* Sequences go from 0 to 2^31-1 and then on with 0.
* A producer id that is not known here is accepted with any first sequence: it may have been known and expired.
* A producer has at most one open transaction, whose first offset is in its entry and in `transactions`; its entry does
  not expire.
"""

from __future__ import annotations

from typing import NamedTuple

from broker.partition.errors import BatchRefused, PartitionError
from broker.partition.transactions import AbortedTransactions, Transactions
from protocol.errors import ErrorCode

BATCHES_KEPT = 5
"""A producer has at most this many requests in flight to a partition (max.in.flight.requests.per.connection)."""

NO_PRODUCER_ID = -1
NO_TRANSACTION = -1
NO_COORDINATOR_EPOCH = -1
_NO_SEQUENCE = -1
_NO_OFFSET = -1
_SEQUENCE_MAX = 0x7FFFFFFF
_EPOCH_MAX = 0x7FFF
_EPOCH_BUMPED_SINCE = 2
"""The transaction version whose markers carry an epoch above that of the transaction's batches (KIP-890)."""


class SequencedBatch(NamedTuple):
    """A batch that was appended: its sequences (last one inclusive), base offset, and max timestamp in ms."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    timestamp: int


_new_batch = tuple.__new__
"""Twice as fast as the constructor of a named tuple, for the hot path."""


class ActiveProducer(NamedTuple):
    """A producer that is known, as DescribeProducers shows it; -1 for what there is not."""

    producer_id: int
    epoch: int
    last_sequence: int
    last_timestamp: int
    coordinator_epoch: int
    current_txn_first_offset: int


class ProducerEntry:
    """One producer id: its epoch, its last batches (oldest first, never empty), when it was last heard of, the epoch of
    the transaction coordinator that wrote its last marker, and the first offset of its open transaction.

    `next_sequence` follows from the last batch.
    """

    __slots__ = ("batches", "coordinator_epoch", "current_txn_first_offset", "epoch", "last_timestamp", "next_sequence")

    def __init__(
        self,
        epoch: int,
        batches: list[SequencedBatch],
        last_timestamp: int,
        coordinator_epoch: int = NO_COORDINATOR_EPOCH,
        current_txn_first_offset: int = NO_TRANSACTION,
    ) -> None:
        self.epoch = epoch
        self.batches = batches
        self.last_timestamp = last_timestamp
        self.coordinator_epoch = coordinator_epoch
        self.current_txn_first_offset = current_txn_first_offset
        self.next_sequence = (batches[-1].last_sequence + 1) & _SEQUENCE_MAX

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProducerEntry) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def has_batches(self) -> bool:
        """Batches of the current epoch are known."""
        return self.batches[-1].base_offset >= 0

    def add(self, first_sequence: int, count: int, base_offset: int, timestamp: int) -> None:
        """Take in the next batch of the current epoch."""
        last_sequence = (first_sequence + count - 1) & _SEQUENCE_MAX
        batches = self.batches
        batches.append(_new_batch(SequencedBatch, (first_sequence, last_sequence, base_offset, timestamp)))
        if len(batches) > BATCHES_KEPT:
            del batches[0]
        self.next_sequence = (last_sequence + 1) & _SEQUENCE_MAX
        self.last_timestamp = timestamp


def last_sequence_of(first_sequence: int, count: int) -> int:
    """The sequence of the last of `count` records."""
    return (first_sequence + count - 1) & _SEQUENCE_MAX


class ProducerStates:
    """All producers of one partition, by producer id."""

    __slots__ = ("_entries", "transactions")

    def __init__(self) -> None:
        self._entries: dict[int, ProducerEntry] = {}
        self.transactions = Transactions()

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ProducerStates)
            and self._entries == other._entries
            and self.transactions == other.transactions
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def entries(self) -> dict[int, ProducerEntry]:
        """By producer id; for snapshots and inspection."""
        return self._entries

    def active(self) -> list[ActiveProducer]:
        return [
            ActiveProducer(
                producer_id,
                entry.epoch,
                entry.batches[-1].last_sequence if entry.has_batches else _NO_SEQUENCE,
                entry.last_timestamp,
                entry.coordinator_epoch,
                entry.current_txn_first_offset,
            )
            for producer_id, entry in self._entries.items()
        ]

    def last_batches(self) -> dict[int, tuple[int, int]]:
        """Producer id -> (epoch, base offset of its last batch, -1 if none is known)."""
        return {key: (entry.epoch, entry.batches[-1].base_offset) for key, entry in self._entries.items()}

    def transaction_ongoing(self, producer_id: int, epoch: int) -> bool:
        """A transaction of this producer epoch is open."""
        entry = self._entries.get(producer_id)
        return entry is not None and entry.current_txn_first_offset >= 0 and entry.epoch == epoch

    def find_repeated(self, producer_id: int, epoch: int, first_sequence: int, count: int) -> SequencedBatch | None:
        """The batch that this one is a repeat of."""
        entry = self._entries.get(producer_id)
        if entry is not None and entry.epoch == epoch:
            last_sequence = last_sequence_of(first_sequence, count)
            for batch in entry.batches:
                if batch.first_sequence == first_sequence and batch.last_sequence == last_sequence:
                    return batch
        return None

    def has_batches(self, producer_id: int) -> bool:
        """Batches of its current epoch are known."""
        entry = self._entries.get(producer_id)
        return entry is not None and entry.has_batches

    def expecting(self, producer_id: int, epoch: int, first_sequence: int, transactional: bool) -> ProducerEntry | None:
        """The producer's entry, if this is simply the next batch of what it does: of its epoch, in sequence, and part
        of its open transaction or of none. Everything else is for `check`."""
        entry = self._entries.get(producer_id)
        if (
            entry is not None
            and first_sequence == entry.next_sequence
            and epoch == entry.epoch
            and transactional == (entry.current_txn_first_offset >= 0)
        ):
            return entry
        return None

    def check(
        self, producer_id: int, epoch: int, first_sequence: int, count: int, transactional: bool = False
    ) -> SequencedBatch | None:
        """None: append it. A batch: this is a repeat of that one, which was appended before.

        Raises BatchRefused with INVALID_PRODUCER_EPOCH, OUT_OF_ORDER_SEQUENCE_NUMBER, or INVALID_TXN_STATE for a batch
        that is not part of the producer's open transaction.
        """
        entry = self._entries.get(producer_id)
        if entry is None:
            return None
        if epoch == entry.epoch:
            expected = entry.next_sequence
            if first_sequence == expected:
                # a full cycle of sequences between two of five batches is impossible, so this is no repeat
                if entry.current_txn_first_offset >= 0 and not transactional:
                    raise _outside_transaction(producer_id)
                return None
            if (repeated := self.find_repeated(producer_id, epoch, first_sequence, count)) is not None:
                return repeated
            raise BatchRefused(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {producer_id}: sequence {first_sequence} came where {expected} was expected",
            )
        if epoch < entry.epoch:
            raise _fenced(producer_id, epoch, entry.epoch)
        if first_sequence != 0:
            raise BatchRefused(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {producer_id}: new epoch {epoch} begins with sequence {first_sequence}, not 0",
            )
        if entry.current_txn_first_offset >= 0 and not transactional:
            raise _outside_transaction(producer_id)
        return None

    def check_epoch(self, producer_id: int, epoch: int) -> None:
        """A batch without sequence, from a coordinator. Raises BatchRefused INVALID_PRODUCER_EPOCH."""
        entry = self._entries.get(producer_id)
        if entry is not None and epoch < entry.epoch:
            raise _fenced(producer_id, epoch, entry.epoch)

    def check_marker(self, producer_id: int, epoch: int, coordinator_epoch: int, transaction_version: int) -> None:
        """A marker may be written. Raises PartitionError INVALID_PRODUCER_EPOCH or TRANSACTION_COORDINATOR_FENCED.

        From transaction version 2 on its epoch is above that of the transaction's batches: one of the same epoch would
        be late, and is accepted only as the repeat of a marker whose transaction has ended, or where epochs have run
        out.
        """
        entry = self._entries.get(producer_id)
        if entry is None:
            return
        if epoch < entry.epoch or (
            epoch == entry.epoch
            and transaction_version >= _EPOCH_BUMPED_SINCE
            and entry.current_txn_first_offset >= 0
            and epoch != _EPOCH_MAX
        ):
            raise PartitionError(
                ErrorCode.INVALID_PRODUCER_EPOCH,
                f"producer {producer_id}: a marker of epoch {epoch}, the current epoch is {entry.epoch}",
            )
        if coordinator_epoch < entry.coordinator_epoch:
            raise PartitionError(
                ErrorCode.TRANSACTION_COORDINATOR_FENCED,
                f"producer {producer_id}: a marker of coordinator epoch {coordinator_epoch}, the last one was of "
                f"{entry.coordinator_epoch}",
            )

    def record(
        self,
        producer_id: int,
        epoch: int,
        first_sequence: int,
        count: int,
        base_offset: int,
        timestamp: int,
        transactional: bool = False,
    ) -> None:
        """Take in an appended batch; those of coordinators have no sequence (-1)."""
        entry = self._entries.get(producer_id)
        if entry is None:
            entry = self._entries[producer_id] = ProducerEntry(epoch, [_nothing(timestamp)], timestamp)
        if entry.epoch != epoch or not entry.has_batches:
            entry.epoch = epoch
            entry.batches.clear()
        if first_sequence >= 0:
            entry.add(first_sequence, count, base_offset, timestamp)
        else:
            entry.batches = [SequencedBatch(_NO_SEQUENCE, _NO_SEQUENCE, base_offset, timestamp)]
            entry.next_sequence = 0
            entry.last_timestamp = timestamp
        if transactional and entry.current_txn_first_offset < 0:
            entry.current_txn_first_offset = base_offset
            self.transactions.begin(base_offset)

    def record_marker(
        self, producer_id: int, epoch: int, coordinator_epoch: int, committed: bool, offset: int, timestamp: int
    ) -> None:
        """Take in an appended marker. It ends the open transaction, if there is one."""
        entry = self._entries.get(producer_id)
        if entry is None or entry.epoch != epoch:
            first_offset = NO_TRANSACTION if entry is None else entry.current_txn_first_offset
            entry = self._entries[producer_id] = ProducerEntry(epoch, [_nothing(timestamp)], timestamp)
            entry.current_txn_first_offset = first_offset
        if entry.current_txn_first_offset >= 0:
            self.transactions.end(producer_id, entry.current_txn_first_offset, offset, committed)
            entry.current_txn_first_offset = NO_TRANSACTION
        entry.coordinator_epoch = coordinator_epoch
        entry.last_timestamp = timestamp

    def expect(self, producer_id: int, epoch: int, first_sequence: int, timestamp: int) -> None:
        """A batch that may be sent again was refused: a producer that is new begins with this one and no later one."""
        if producer_id not in self._entries:
            self._entries[producer_id] = ProducerEntry(epoch, [_nothing(timestamp, first_sequence)], timestamp)

    def restore(self, producer_id: int, entry: ProducerEntry) -> None:
        """Put back an entry of a snapshot."""
        self._entries[producer_id] = entry

    def restore_transactions(self, aborted: AbortedTransactions | None) -> None:
        """After all entries of a snapshot: open again what they say is open."""
        self.transactions = Transactions(
            (each.current_txn_first_offset for each in self._entries.values() if each.current_txn_first_offset >= 0),
            aborted,
        )

    def expire(self, before_timestamp: int) -> int:
        """Forget producers whose last batch is older (`producer.id.expiration.ms`); returns how many.

        A transaction that is open stays: its marker has to find it, and the last stable offset waits for it.
        """
        expired = [
            key
            for key, entry in self._entries.items()
            if entry.last_timestamp < before_timestamp and entry.current_txn_first_offset < 0
        ]
        for key in expired:
            del self._entries[key]
        return len(expired)


def _nothing(timestamp: int, next_sequence: int = 0) -> SequencedBatch:
    """In the place of the batches of an epoch that has none: the first one will have `next_sequence`."""
    return SequencedBatch(_NO_SEQUENCE, next_sequence - 1, _NO_OFFSET, timestamp)


def _fenced(producer_id: int, epoch: int, current_epoch: int) -> BatchRefused:
    return BatchRefused(
        ErrorCode.INVALID_PRODUCER_EPOCH,
        f"producer {producer_id}: epoch {epoch} is older than the current epoch {current_epoch}",
    )


def _outside_transaction(producer_id: int) -> BatchRefused:
    return BatchRefused(
        ErrorCode.INVALID_TXN_STATE,
        f"producer {producer_id}: a batch outside of the transaction that it has open here",
    )
