"""From one value of a transactional id to the next: pure functions, without judgement on whether it may happen.

Producer epochs are int16. 32767 is never a producer's own: only markers carry it, when a transaction ends whose epoch
was *exhausted*, one before that. The producer goes on with a new producer id.

Every change records the producer id before it as the previous one. So the previous one differs only in the value that
brought a new producer id, which is when the producer may still ask with the old one.
"""

from __future__ import annotations

from broker.coordinator.transaction.records import (
    NO_PRODUCER_ID,
    NO_TIMESTAMP,
    TopicPartition,
    TransactionValue,
)
from broker.coordinator.transaction.states import IDLE, TransactionState

EPOCH_EXHAUSTED = 32766

BUMPS_EPOCH_SINCE = 2
"""The `transaction.version` (KIP-890) from which a producer's epoch grows with every end of a transaction."""

_NOTHING: frozenset[TopicPartition] = frozenset()


def is_exhausted(epoch: int) -> bool:
    return epoch >= EPOCH_EXHAUSTED


def created(producer_id: int, timeout_ms: int, now_ms: int) -> TransactionValue:
    return TransactionValue(
        producer_id=producer_id,
        producer_epoch=0,
        timeout_ms=timeout_ms,
        state=TransactionState.EMPTY,
        partitions=_NOTHING,
        last_update_ms=now_ms,
        previous_producer_id=producer_id,
    )


def initialized(value: TransactionValue, epoch: int, last_epoch: int, timeout_ms: int, now_ms: int) -> TransactionValue:
    """The producer begins (again) with this epoch."""
    return value._replace(
        producer_epoch=epoch,
        last_producer_epoch=last_epoch,
        timeout_ms=timeout_ms,
        state=TransactionState.EMPTY,
        partitions=_NOTHING,
        last_update_ms=now_ms,
        start_ms=NO_TIMESTAMP,
        previous_producer_id=value.producer_id,
    )


def rotated(
    value: TransactionValue, producer_id: int, last_epoch: int, timeout_ms: int, now_ms: int
) -> TransactionValue:
    """The producer begins again with a new producer id."""
    return initialized(value, 0, last_epoch, timeout_ms, now_ms)._replace(producer_id=producer_id)


def extended(
    value: TransactionValue, partitions: frozenset[TopicPartition], client_version: int, now_ms: int
) -> TransactionValue:
    """Partitions join the transaction, which begins if there is none."""
    return value._replace(
        state=TransactionState.ONGOING,
        partitions=value.partitions | partitions,
        last_update_ms=now_ms,
        start_ms=now_ms if value.state in IDLE else value.start_ms,
        previous_producer_id=value.producer_id,
        client_version=client_version,
    )


def prepared(
    value: TransactionValue, commit: bool, client_version: int, next_producer_id: int, now_ms: int
) -> TransactionValue:
    """It is decided how the transaction ends. `next_producer_id`: the one that follows if the epoch is exhausted."""
    after = value._replace(
        state=TransactionState.PREPARE_COMMIT if commit else TransactionState.PREPARE_ABORT,
        last_update_ms=now_ms,
        start_ms=now_ms if value.state in IDLE else value.start_ms,
        previous_producer_id=value.producer_id,
        client_version=client_version,
    )
    if client_version < BUMPS_EPOCH_SINCE:
        return after
    return after._replace(
        producer_epoch=value.producer_epoch + 1,
        last_producer_epoch=value.producer_epoch,
        next_producer_id=next_producer_id,
    )


def completed(value: TransactionValue, now_ms: int) -> TransactionValue:
    """All markers are written."""
    commit = value.state is TransactionState.PREPARE_COMMIT
    producer_id, producer_epoch = next_producer(value)
    return value._replace(
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        state=TransactionState.COMPLETE_COMMIT if commit else TransactionState.COMPLETE_ABORT,
        partitions=_NOTHING,
        last_update_ms=now_ms,
        previous_producer_id=value.producer_id,
        next_producer_id=NO_PRODUCER_ID,
    )


def next_producer(value: TransactionValue) -> tuple[int, int]:
    """Producer id and epoch to go on with after this ending."""
    if value.next_producer_id != NO_PRODUCER_ID:
        return value.next_producer_id, 0
    return value.producer_id, value.producer_epoch
