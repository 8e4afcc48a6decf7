"""What a partition remembers of idempotent producers, to refuse gaps and to recognise repeats (KIP-98, KIP-360).

Pure: no clock; time comes in with the batches. `check` decides and changes nothing, `record` takes in a batch that was
appended, so that live appends and replay from batch headers end in the same state.

Invariants
----------
* Per producer id the last `BATCHES_KEPT` batches of its current epoch are known, in order of their sequences.
* Sequences go from 0 to 2^31-1 and then on with 0.
* A producer id that is not known here is accepted with any first sequence: it may have been known and expired.

Transactions add to `ProducerEntry` the first offset of an open transaction and the coordinator epoch; nothing else here
depends on how a batch came to be appended.
"""

from __future__ import annotations

from typing import NamedTuple

from broker.partition.errors import BatchRefused
from protocol.errors import ErrorCode

BATCHES_KEPT = 5
"""A producer has at most this many requests in flight to a partition (max.in.flight.requests.per.connection)."""

NO_PRODUCER_ID = -1
_SEQUENCE_MAX = 0x7FFFFFFF


class SequencedBatch(NamedTuple):
    """A batch that was appended: its sequences (last one inclusive), base offset, and max timestamp in ms."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    timestamp: int


class ProducerEntry:
    """One producer id: its epoch, its last batches (oldest first), and when it was last heard of."""

    __slots__ = ("batches", "epoch", "last_timestamp")

    def __init__(self, epoch: int, batches: list[SequencedBatch], last_timestamp: int) -> None:
        self.epoch = epoch
        self.batches = batches
        self.last_timestamp = last_timestamp

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ProducerEntry)
            and self.epoch == other.epoch
            and self.batches == other.batches
            and self.last_timestamp == other.last_timestamp
        )

    __hash__ = None  # type: ignore[assignment]


def last_sequence_of(first_sequence: int, count: int) -> int:
    """The sequence of the last of `count` records."""
    return (first_sequence + count - 1) & _SEQUENCE_MAX


class ProducerStates:
    """All producers of one partition, by producer id."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[int, ProducerEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProducerStates) and self._entries == other._entries

    __hash__ = None  # type: ignore[assignment]

    @property
    def entries(self) -> dict[int, ProducerEntry]:
        """By producer id; for snapshots and inspection."""
        return self._entries

    def check(self, producer_id: int, epoch: int, first_sequence: int, count: int) -> SequencedBatch | None:
        """None: append it. A batch: this is a repeat of that one, which was appended before.

        Raises BatchRefused with INVALID_PRODUCER_EPOCH or OUT_OF_ORDER_SEQUENCE_NUMBER.
        """
        entry = self._entries.get(producer_id)
        if entry is None:
            return None
        if epoch == entry.epoch:
            expected = (entry.batches[-1].last_sequence + 1) & _SEQUENCE_MAX
            if first_sequence == expected and count > 0:
                # a full cycle of sequences between two of five batches is impossible, so this is no repeat
                return None
            last_sequence = last_sequence_of(first_sequence, count)
            for batch in entry.batches:
                if batch.first_sequence == first_sequence and batch.last_sequence == last_sequence:
                    return batch
            raise BatchRefused(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {producer_id}: sequence {first_sequence} came where {expected} was expected",
            )
        if epoch < entry.epoch:
            raise BatchRefused(
                ErrorCode.INVALID_PRODUCER_EPOCH,
                f"producer {producer_id}: epoch {epoch} is older than the current epoch {entry.epoch}",
            )
        if first_sequence != 0:
            raise BatchRefused(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"producer {producer_id}: new epoch {epoch} begins with sequence {first_sequence}, not 0",
            )
        return None

    def record(
        self, producer_id: int, epoch: int, first_sequence: int, count: int, base_offset: int, timestamp: int
    ) -> None:
        """Take in an appended batch."""
        batch = SequencedBatch(first_sequence, (first_sequence + count - 1) & _SEQUENCE_MAX, base_offset, timestamp)
        entry = self._entries.get(producer_id)
        if entry is None:
            self._entries[producer_id] = ProducerEntry(epoch, [batch], timestamp)
            return
        if entry.epoch != epoch:
            entry.epoch = epoch
            entry.batches = [batch]
        else:
            batches = entry.batches
            batches.append(batch)
            if len(batches) > BATCHES_KEPT:
                del batches[0]
        entry.last_timestamp = timestamp

    def expect(self, producer_id: int, epoch: int, first_sequence: int, timestamp: int) -> None:
        """A batch that may be sent again was refused: a producer that is new begins with this one and no later one."""
        if producer_id not in self._entries:
            nothing = SequencedBatch(-1, (first_sequence - 1) & _SEQUENCE_MAX, -1, timestamp)
            self._entries[producer_id] = ProducerEntry(epoch, [nothing], timestamp)

    def restore(self, producer_id: int, entry: ProducerEntry) -> None:
        """Put back an entry of a snapshot."""
        self._entries[producer_id] = entry

    def expire(self, before_timestamp: int) -> int:
        """Forget producers whose last batch is older (`producer.id.expiration.ms`); returns how many."""
        expired = [key for key, entry in self._entries.items() if entry.last_timestamp < before_timestamp]
        for key in expired:
            del self._entries[key]
        return len(expired)
