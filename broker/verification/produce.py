"""The transaction of one Produce request: which of its partitions need verification, and what came of it.

A partition whose transaction is open here needs none. The others get a guard from the partition before the coordinator
is asked: an abort marker that comes in between takes it away, so that nothing is appended to a transaction that has
ended meanwhile.
"""

from __future__ import annotations

from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING

from broker.partition.errors import PartitionError
from broker.partition.verification import NOT_REQUIRED, VerificationGuard
from broker.verification.codes import Support, produce_refusal, produce_support
from broker.verification.verification import TopicPartition, Transaction, Verdicts
from protocol.errors import ErrorCode, InvalidBatch
from protocol.records import validate_batches
from protocol.records.header import ATTRIBUTES_POSITION, HEADER_SIZE, TRANSACTIONAL

if TYPE_CHECKING:
    from broker.partition.partition import Appended, Partition

_NO_PRODUCER = -1
_unpack = Struct(">h20xqhi").unpack_from
"""Of a batch's header, from its attributes on: attributes, producer id, producer epoch, base sequence."""


class ProduceTransaction:
    """`transactional_id` as the request gives it. Batches are looked at before they are validated."""

    __slots__ = (
        "_batches",
        "_failed",
        "_guards",
        "_looked_at",
        "_verifies",
        "producer_epoch",
        "producer_id",
        "support",
        "transactional_id",
    )

    def __init__(self, transactional_id: str, version: int, verification_enabled: bool) -> None:
        self.transactional_id = transactional_id
        self.producer_id = _NO_PRODUCER
        self.producer_epoch = -1
        self.support = produce_support(version)
        self._verifies = verification_enabled or self.support is Support.IMPLICIT_ADD
        self._batches: list[tuple[Partition, int]] = []
        """With their base sequences."""
        self._looked_at: set[Partition] = set()
        self._guards: dict[Partition, VerificationGuard] = {}
        self._failed: dict[Partition, PartitionError] = {}

    def add(self, partition: Partition, records: memoryview) -> bool:
        """Look at a batch of the request. False: it is of another producer than the ones before."""
        self._looked_at.add(partition)
        if len(records) < HEADER_SIZE:
            return True
        attributes, producer_id, producer_epoch, base_sequence = _unpack(records, ATTRIBUTES_POSITION)
        if not attributes & TRANSACTIONAL or producer_id == _NO_PRODUCER:
            return True
        if self.producer_id == _NO_PRODUCER:
            self.producer_id = producer_id
            self.producer_epoch = producer_epoch
        elif (producer_id, producer_epoch) != (self.producer_id, self.producer_epoch):
            return False
        self._batches.append((partition, base_sequence))
        return True

    def begin_verification(self) -> list[TopicPartition]:
        """Take a guard for every partition that needs one; these are to be asked for. Empty: append at once."""
        asked: list[TopicPartition] = []
        producer_id, producer_epoch = self.producer_id, self.producer_epoch
        for partition, base_sequence in self._batches:
            if partition.transaction_ongoing(producer_id, producer_epoch):
                continue
            if not self._verifies:
                self._guards[partition] = NOT_REQUIRED
                continue
            try:
                self._guards[partition] = partition.begin_verification(
                    producer_id, producer_epoch, base_sequence, self.support is Support.IMPLICIT_ADD
                )
            except PartitionError as error:
                self._failed[partition] = error
            else:
                asked.append((partition.topic, partition.index))
        return asked

    def transaction(self) -> Transaction:
        return Transaction(
            self.transactional_id, self.producer_id, self.producer_epoch, self.support is Support.IMPLICIT_ADD
        )

    def verified(self, verdicts: Verdicts) -> None:
        for partition in self._guards:
            verdict = verdicts[partition.topic, partition.index]
            if verdict is not ErrorCode.NONE:
                code, message = produce_refusal(verdict, self.support)
                self._failed[partition] = PartitionError(code, message or code.name)

    def append(self, partition: Partition, records: memoryview, now_ms: int, zstd: bool) -> Appended:
        """As `Partition.append_as_leader`. A partition that was opened since its batch was looked at knows nothing of a
        verification; the producer comes again, with this batch first."""
        if partition not in self._looked_at:
            with suppress(InvalidBatch):
                partition.expect(validate_batches(records), now_ms)
            raise PartitionError(ErrorCode.NOT_LEADER_OR_FOLLOWER, "the partition was opened again meanwhile")
        if self._failed and (error := self._failed.get(partition)) is not None:
            raise error
        return partition.append_as_leader(
            records, now_ms, zstd, self.transactional_id, self._guards.get(partition) if self._guards else None
        )
