"""What a producer is answered in each state and by each version; all codes were seen from Kafka 4.3.1."""

from __future__ import annotations

import pytest

from broker.coordinator.transaction.records import TransactionRecord
from broker.coordinator.transaction.states import TransactionState
from protocol.errors import ErrorCode
from tests.broker.coordinator.harness import START_MS
from tests.broker.transaction.harness import BUMPING, PLAIN, T0, T1, Producer, TransactionCoordinator

NONE = ErrorCode.NONE
CONCURRENT = ErrorCode.CONCURRENT_TRANSACTIONS
FENCED = ErrorCode.PRODUCER_FENCED
INVALID_STATE = ErrorCode.INVALID_TXN_STATE
MAPPING = ErrorCode.INVALID_PRODUCER_ID_MAPPING
LAST_EPOCH = 32766


def committed(version: int) -> tuple[TransactionCoordinator, Producer, Producer]:
    """The producer before and after a transaction."""
    coordinator = TransactionCoordinator()
    before = coordinator.init()
    assert coordinator.add(before, version=version) == NONE
    code, after = coordinator.end(before, True, version)
    assert code == NONE
    coordinator.write_markers()
    return coordinator, before, after


def bumped(producer: Producer, by: int = 1) -> Producer:
    return producer[0], producer[1] + by


# -- InitProducerId ----------------------------------------------------------------------------------------------------
def test_every_start_of_a_producer_gets_the_next_epoch() -> None:
    coordinator = TransactionCoordinator()
    assert [coordinator.init(), coordinator.init(), coordinator.init()] == [(1000, 0), (1000, 1), (1000, 2)]


@pytest.mark.parametrize("timeout_ms", [-5, 0, 900_001])
def test_a_timeout_must_be_positive_and_not_above_the_broker_s(timeout_ms: int) -> None:
    assert TransactionCoordinator().init_code(timeout_ms=timeout_ms) == ErrorCode.INVALID_TRANSACTION_TIMEOUT


def test_a_producer_that_names_its_epoch_keeps_its_place_and_may_repeat_itself() -> None:
    coordinator = TransactionCoordinator()
    first = coordinator.init()
    second = coordinator.init(first)
    assert second == bumped(first)
    assert coordinator.init(first) == second
    assert coordinator.init(second) == bumped(second)
    assert coordinator.init_code(first) == FENCED


def test_a_producer_that_names_another_s_id_is_fenced_but_one_that_was_forgotten_begins_anew() -> None:
    coordinator = TransactionCoordinator()
    producer = coordinator.init((7, 5))
    assert producer == (1000, 0)
    assert coordinator.init_code((7, 5)) == FENCED


def test_a_start_aborts_the_ongoing_transaction_and_is_told_to_come_again() -> None:
    coordinator = TransactionCoordinator()
    old = coordinator.init()
    coordinator.add(old, version=PLAIN)
    assert coordinator.init_code() == CONCURRENT
    assert coordinator.describe().transaction_state == "PrepareAbort"
    assert coordinator.init_code() == CONCURRENT
    coordinator.write_markers()
    assert coordinator.init() == bumped(old, 2)
    assert coordinator.add(old, version=PLAIN) == FENCED
    assert coordinator.end(old, True, PLAIN)[0] == FENCED
    assert coordinator.end(old, True, BUMPING)[0] == FENCED


def test_a_producer_of_a_former_epoch_does_not_abort_what_goes_on_now() -> None:
    """Kafka lets it: it compares the producer id only. What it has lost is not worth the holder's transaction."""
    coordinator = TransactionCoordinator()
    old = coordinator.init()
    producer = coordinator.init()
    coordinator.add(producer)
    assert coordinator.init_code(old) == FENCED
    assert coordinator.end(producer, True)[0] == NONE


def test_without_a_producer_id_at_hand_a_producer_is_told_to_come_again() -> None:
    coordinator = TransactionCoordinator()
    coordinator.next_producer_id = None
    assert coordinator.init_code() == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS


# -- AddPartitionsToTxn ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", [PLAIN, BUMPING])
def test_partitions_are_added_once_and_by_their_producer_only(version: int) -> None:
    coordinator = TransactionCoordinator()
    producer = coordinator.init()
    assert coordinator.add(producer, T0, version=version) == NONE
    written = coordinator.log.end_offset
    assert coordinator.add(producer, T0, version=version) == NONE
    assert coordinator.log.end_offset == written
    assert coordinator.add(producer, T1, version=version) == NONE
    assert coordinator.value().partitions == {T0, T1}
    assert coordinator.add(bumped(producer), T0, version=version) == FENCED
    assert coordinator.add((7, 0), T0, version=version) == MAPPING
    assert coordinator.start_add("other", producer, T0).response == MAPPING


def test_nothing_is_added_while_a_transaction_ends_whoever_asks() -> None:
    coordinator = TransactionCoordinator()
    producer = coordinator.init()
    coordinator.add(producer)
    _, after = coordinator.end(producer, True)
    for asking in (producer, after, (7, 0)):
        assert coordinator.add(asking) == CONCURRENT
        assert coordinator.verify(asking, T0) == CONCURRENT
    coordinator.write_markers()
    assert coordinator.add(producer) == FENCED
    assert coordinator.add(after) == NONE


def test_verification_tells_each_partition() -> None:
    coordinator = TransactionCoordinator()
    producer = coordinator.init()
    abortable = ErrorCode.TRANSACTION_ABORTABLE
    assert coordinator.verify(producer, T0) == {T0: abortable}
    coordinator.add(producer, T0, version=PLAIN)
    assert coordinator.verify(producer, T0, T1) == {T0: NONE, T1: abortable}
    assert coordinator.verify(bumped(producer), T0) == FENCED
    assert coordinator.verify((7, 0), T0) == MAPPING
    coordinator.end(producer, True, PLAIN)
    coordinator.write_markers()
    assert coordinator.verify(producer, T0) == {T0: abortable}


# -- EndTxn ------------------------------------------------------------------------------------------------------------
def test_an_old_client_keeps_its_epoch_and_is_answered_by_the_state() -> None:
    coordinator, producer, after = committed(PLAIN)
    assert after == producer
    assert coordinator.end(producer, True, PLAIN)[0] == NONE
    assert coordinator.end(producer, False, PLAIN)[0] == INVALID_STATE
    coordinator.add(producer, version=PLAIN)
    assert coordinator.end(producer, False, PLAIN)[0] == NONE
    assert coordinator.end(producer, False, PLAIN)[0] == CONCURRENT
    coordinator.write_markers()
    assert coordinator.end(producer, False, PLAIN)[0] == NONE
    assert coordinator.end(producer, True, PLAIN)[0] == INVALID_STATE


@pytest.mark.parametrize("commit", [True, False])
def test_an_old_client_cannot_end_what_it_has_not_begun(commit: bool) -> None:
    coordinator = TransactionCoordinator()
    producer = coordinator.init()
    assert coordinator.end(producer, commit, PLAIN)[0] == INVALID_STATE
    assert coordinator.end(bumped(producer), commit, PLAIN)[0] == FENCED
    assert coordinator.end((7, 0), commit, PLAIN)[0] == MAPPING
    assert coordinator.start_end("other", producer, commit, PLAIN).response.error_code == MAPPING


def test_a_new_client_goes_on_with_the_next_epoch_and_may_repeat_itself() -> None:
    coordinator, producer, after = committed(BUMPING)
    assert after == bumped(producer)
    assert coordinator.end(producer, True) == (NONE, after)
    assert coordinator.end(producer, False)[0] == INVALID_STATE
    assert coordinator.end(after, True)[0] == INVALID_STATE
    assert coordinator.end(bumped(after), True)[0] == FENCED
    assert coordinator.end((7, 0), True)[0] == MAPPING


@pytest.mark.parametrize("commit", [True, False])
def test_a_late_ending_touches_no_later_transaction(commit: bool) -> None:
    coordinator, producer, after = committed(BUMPING)
    coordinator.add(after)
    assert coordinator.end(producer, commit)[0] == FENCED
    assert coordinator.value().state is TransactionState.ONGOING


def test_a_new_client_may_abort_where_nothing_was_added_and_not_commit() -> None:
    coordinator = TransactionCoordinator()
    producer = coordinator.init()
    assert coordinator.end(producer, True)[0] == INVALID_STATE
    assert coordinator.end(producer, False) == (NONE, bumped(producer))
    assert coordinator.end(producer, False) == (NONE, bumped(producer))
    assert coordinator.end(bumped(producer), False) == (NONE, bumped(producer, 2))
    assert coordinator.jobs == []


def test_a_repeat_while_markers_are_written_is_told_to_come_again() -> None:
    coordinator = TransactionCoordinator()
    producer = coordinator.init()
    coordinator.add(producer)
    _, after = coordinator.end(producer, True)
    for commit in (True, False):
        assert coordinator.end(producer, commit)[0] == CONCURRENT
    coordinator.write_markers()
    assert coordinator.end(producer, True) == (NONE, after)


def test_clients_of_both_kinds_may_follow_each_other() -> None:
    coordinator = TransactionCoordinator()
    producer = coordinator.init()
    coordinator.add(producer, version=PLAIN)
    _, after = coordinator.end(producer, True, BUMPING)
    coordinator.write_markers()
    assert after == bumped(producer)
    coordinator.add(after, version=BUMPING)
    assert coordinator.end(after, True, PLAIN)[0] == NONE
    coordinator.write_markers()
    assert coordinator.end(after, True, PLAIN)[0] == NONE
    assert coordinator.end(after, True, BUMPING)[0] == INVALID_STATE
    assert coordinator.end(after, False, BUMPING) == (NONE, bumped(after))


def test_a_fenced_new_client_is_not_told_that_another_s_commit_was_its_own() -> None:
    """Kafka does, if the other is an old client: its ending leaves the epoch one above that of the fenced."""
    coordinator = TransactionCoordinator()
    fenced = coordinator.init()
    other = coordinator.init()
    coordinator.add(other, version=PLAIN)
    assert coordinator.end(other, True, PLAIN)[0] == NONE
    coordinator.write_markers()
    assert coordinator.end(fenced, True, BUMPING)[0] == FENCED


# -- the last epoch ----------------------------------------------------------------------------------------------------
def at_last_epoch() -> tuple[TransactionCoordinator, Producer]:
    coordinator = TransactionCoordinator()
    producer_id, _ = coordinator.init()
    value = coordinator.value()._replace(producer_epoch=LAST_EPOCH)
    coordinator.log.append([TransactionRecord("x", value).encode()], START_MS)
    coordinator.restart()
    return coordinator, (producer_id, LAST_EPOCH)


def test_after_the_last_epoch_comes_the_next_producer_id() -> None:
    coordinator, producer = at_last_epoch()
    assert producer == (1000, LAST_EPOCH)
    restarted = TransactionCoordinator(coordinator.log.survivor(), first_producer_id=2000)
    assert restarted.init() == (2000, 0)

    assert coordinator.init_code((1000, LAST_EPOCH - 1)) == FENCED
    assert coordinator.init(producer) == (1001, 0)
    assert coordinator.init(producer) == (1001, 0)
    assert coordinator.init_code((1000, LAST_EPOCH - 1)) == FENCED
    assert coordinator.init((1001, 0)) == (1001, 1)
    assert coordinator.init_code(producer) == FENCED


def test_a_transaction_of_the_last_epoch_ends_with_a_new_producer_id() -> None:
    coordinator, producer = at_last_epoch()
    coordinator.add(producer)
    assert coordinator.end(producer, True) == (NONE, (1001, 0))
    (job,) = coordinator.jobs
    assert (job.producer_id, job.producer_epoch) == (1000, LAST_EPOCH + 1)
    assert coordinator.add((1001, 0)) == CONCURRENT
    coordinator.restart()
    coordinator.write_markers()
    assert coordinator.end(producer, True) == (NONE, (1001, 0))
    assert coordinator.end(producer, False)[0] == INVALID_STATE
    assert coordinator.add((1001, 0)) == NONE
    assert coordinator.end(producer, True)[0] == MAPPING


def test_a_fence_at_the_last_epoch_brings_a_new_producer_id() -> None:
    coordinator, producer = at_last_epoch()
    coordinator.add(producer)
    assert coordinator.init_code() == CONCURRENT
    coordinator.write_markers()
    assert coordinator.end(producer, False) == (NONE, (1001, 0))
    assert coordinator.end(producer, True)[0] == INVALID_STATE
    assert coordinator.init(producer) == (1001, 0)
    assert coordinator.init() == (1001, 1)


def test_an_old_client_at_the_last_epoch_goes_on() -> None:
    coordinator, producer = at_last_epoch()
    for _ in range(2):
        coordinator.add(producer, version=PLAIN)
        assert coordinator.end(producer, True, PLAIN)[0] == NONE
        coordinator.write_markers()


def test_an_ending_that_needs_a_producer_id_waits_until_there_is_one() -> None:
    coordinator, producer = at_last_epoch()
    coordinator.add(producer)
    coordinator.next_producer_id = None
    assert coordinator.end(producer, True)[0] == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    coordinator.advance(80_000)
    assert coordinator.value().state is TransactionState.ONGOING
    coordinator.next_producer_id = 5000
    coordinator.advance(10_000)
    assert coordinator.value().state is TransactionState.PREPARE_ABORT
