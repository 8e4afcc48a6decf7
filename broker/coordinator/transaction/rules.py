"""What a request means for a transactional id in its present state: done before, to be done, or refused.

Pure functions. They raise CoordinatorError with Kafka's code for each state and each version of the client; all of
these were compared with Kafka 4.3.1.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.transaction import transitions
from broker.coordinator.transaction.records import NO_PRODUCER_EPOCH, TransactionValue
from broker.coordinator.transaction.states import PREPARED, TransactionState
from broker.coordinator.transaction.transitions import BUMPS_EPOCH_SINCE, EPOCH_EXHAUSTED, is_exhausted
from protocol.errors import ErrorCode

_COMPLETE = {True: TransactionState.COMPLETE_COMMIT, False: TransactionState.COMPLETE_ABORT}


def repeats_plain(value: TransactionValue, producer_id: int, epoch: int, commit: bool) -> bool:
    """Whether this ending was done before, by a client whose epoch does not grow; its late requests cannot be told
    from those about its next transaction. Raises CoordinatorError if it can be neither done nor repeated."""
    if value.producer_id != producer_id:
        raise CoordinatorError(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
    if value.producer_epoch != epoch:
        raise CoordinatorError(ErrorCode.PRODUCER_FENCED)
    if value.state in PREPARED:
        raise CoordinatorError(ErrorCode.CONCURRENT_TRANSACTIONS)
    if value.state is TransactionState.ONGOING:
        return False
    if value.state is _COMPLETE[commit]:
        return True
    raise CoordinatorError(ErrorCode.INVALID_TXN_STATE)


def repeats_bumping(value: TransactionValue, producer_id: int, epoch: int, commit: bool) -> bool:
    """The same for a client of `transaction.version` 2: a repeat is known by its epoch, the one before the bump.
    It may also abort where nothing is ongoing here, which takes its epoch on."""
    state = value.state
    if state in PREPARED:
        raise CoordinatorError(ErrorCode.CONCURRENT_TRANSACTIONS)
    if value.producer_id != producer_id:
        rotated = value.previous_producer_id == producer_id and epoch == EPOCH_EXHAUSTED
        if not rotated or value.producer_epoch != 0:
            raise CoordinatorError(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        repeats = True
    else:
        # after an old client's ending the epoch before is another producer's; Kafka does not tell them apart
        repeats = value.producer_epoch == epoch + 1 and value.client_version >= BUMPS_EPOCH_SINCE
        if not repeats and value.producer_epoch != epoch:
            raise CoordinatorError(ErrorCode.PRODUCER_FENCED)
    if repeats:
        if state in (TransactionState.ONGOING, TransactionState.EMPTY):
            raise CoordinatorError(ErrorCode.PRODUCER_FENCED)
        if state is not _COMPLETE[commit]:
            raise CoordinatorError(ErrorCode.INVALID_TXN_STATE)
    elif commit and state is not TransactionState.ONGOING:
        raise CoordinatorError(ErrorCode.INVALID_TXN_STATE)
    return repeats


def reinitialized(
    value: TransactionValue,
    expected: tuple[int, int] | None,
    timeout_ms: int,
    now_ms: int,
    new_producer_id: Callable[[], int],
) -> TransactionValue:
    """KIP-360: a producer that names its id and epoch keeps its place, whoever names another has lost it. Asking
    again with the epoch before the last bump is a repeat, which gets the same answer."""
    epoch = value.producer_epoch
    last_epoch = NO_PRODUCER_EPOCH
    if expected is not None:
        producer_id, expected_epoch = expected
        rotated = producer_id == value.previous_producer_id and is_exhausted(expected_epoch)
        if producer_id != value.producer_id and not rotated:
            raise CoordinatorError(ErrorCode.PRODUCER_FENCED)
        if producer_id != value.producer_id or expected_epoch != epoch:
            if expected_epoch != value.last_producer_epoch:
                raise CoordinatorError(ErrorCode.PRODUCER_FENCED)
            return transitions.initialized(value, epoch, value.last_producer_epoch, timeout_ms, now_ms)
        last_epoch = epoch
    if is_exhausted(epoch):
        return transitions.rotated(value, new_producer_id(), last_epoch, timeout_ms, now_ms)
    return transitions.initialized(value, epoch + 1, last_epoch, timeout_ms, now_ms)
