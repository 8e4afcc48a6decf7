"""Time, loads and the log: what becomes of transactions that nobody ends, and of ids that nobody uses."""

from __future__ import annotations

import pytest

from broker.coordinator.memory_log import MemoryLog
from broker.coordinator.transaction.records import (
    TransactionRecord,
    TransactionValue,
    decode_record,
)
from broker.coordinator.transaction.states import TransactionState
from protocol.errors import DecodeError, ErrorCode
from tests.broker.coordinator.harness import START_MS
from tests.broker.transaction.harness import BUMPING, PLAIN, T0, T1, TransactionCoordinator

NONE = ErrorCode.NONE


def ongoing(**config: int) -> tuple[TransactionCoordinator, tuple[int, int]]:
    coordinator = TransactionCoordinator(**config)
    producer = coordinator.init(timeout_ms=20_000)
    coordinator.add(producer, T0, T1)
    return coordinator, producer


# -- time-outs ---------------------------------------------------------------------------------------------------------
def test_a_transaction_is_aborted_soon_after_its_timeout_and_its_producer_fenced_from_it() -> None:
    coordinator, producer = ongoing(abort_check_interval_ms=5_000)
    coordinator.advance(19_999)
    assert coordinator.value().state is TransactionState.ONGOING
    coordinator.advance(5_001)
    assert coordinator.value().state is TransactionState.PREPARE_ABORT
    (job,) = coordinator.jobs
    assert (job.producer_epoch, job.commit, job.transaction_version) == (1, False, BUMPING)
    coordinator.write_markers()
    assert coordinator.end(producer, True)[0] == ErrorCode.INVALID_TXN_STATE
    assert coordinator.end(producer, True, PLAIN)[0] == ErrorCode.PRODUCER_FENCED
    assert coordinator.add(producer) == ErrorCode.PRODUCER_FENCED
    assert coordinator.end(producer, False) == (NONE, (producer[0], 1))


def test_the_next_transaction_has_its_own_time() -> None:
    coordinator, producer = ongoing(abort_check_interval_ms=1_000)
    coordinator.advance(15_000)
    _, producer = coordinator.end(producer, True)
    coordinator.write_markers()
    coordinator.add(producer)
    coordinator.advance(15_000)
    assert coordinator.value().state is TransactionState.ONGOING
    coordinator.advance(7_000)
    assert coordinator.value().state is TransactionState.PREPARE_ABORT


@pytest.mark.parametrize("jump_ms", [-(10**9), 10**9])
def test_a_jump_of_the_wall_clock_neither_ends_nor_prolongs_a_transaction(jump_ms: int) -> None:
    coordinator, _ = ongoing(abort_check_interval_ms=1_000)
    coordinator.wall_offset_ms = jump_ms
    coordinator.advance(19_000)
    assert coordinator.value().state is TransactionState.ONGOING
    coordinator.advance(2_000)
    assert coordinator.value().state is TransactionState.PREPARE_ABORT


def test_the_time_before_a_load_counts() -> None:
    coordinator, _ = ongoing(abort_check_interval_ms=1_000)
    coordinator.advance(15_000)
    coordinator.restart()
    coordinator.advance(4_000)
    assert coordinator.value().state is TransactionState.ONGOING
    coordinator.advance(2_000)
    assert coordinator.value().state is TransactionState.PREPARE_ABORT


# -- decisions ---------------------------------------------------------------------------------------------------------
def test_markers_wait_for_the_decision_to_be_durable() -> None:
    coordinator = TransactionCoordinator(MemoryLog())
    reply = coordinator.start_init()
    coordinator.log.sync()
    producer = reply.response.producer_id, reply.response.producer_epoch
    coordinator.start_add("x", producer, T0)
    ended = coordinator.start_end("x", producer, True)
    assert (ended.done, coordinator.jobs) == (False, [])
    coordinator.log.sync()
    assert ended.response.error_code == NONE
    assert len(coordinator.jobs) == 1


def test_a_decision_that_was_lost_is_not_carried_out() -> None:
    coordinator = TransactionCoordinator(MemoryLog())
    reply = coordinator.start_init()
    coordinator.log.sync()
    producer = reply.response.producer_id, reply.response.producer_epoch
    coordinator.start_add("x", producer, T0)
    coordinator.log.sync()
    ended = coordinator.start_end("x", producer, True)
    coordinator.restart()
    assert ended.response.error_code == ErrorCode.NOT_COORDINATOR
    assert coordinator.jobs == []
    assert coordinator.value().state is TransactionState.ONGOING


@pytest.mark.parametrize("commit", [True, False])
def test_a_decision_is_carried_out_by_whoever_loads_it(commit: bool) -> None:
    coordinator, producer = ongoing()
    coordinator.end(producer, commit)
    for _ in range(3):
        coordinator.restart()
        (job,) = coordinator.jobs
        assert (job.commit, job.remaining) == (commit, {T0, T1})
    coordinator.write_markers()
    expected = TransactionState.COMPLETE_COMMIT if commit else TransactionState.COMPLETE_ABORT
    assert coordinator.value().state is expected
    coordinator.restart()
    assert coordinator.jobs == []


def test_a_job_from_before_a_load_completes_nothing() -> None:
    coordinator, producer = ongoing()
    coordinator.end(producer, True, PLAIN)
    (stale,) = coordinator.jobs
    coordinator.restart()
    coordinator.finish(stale)
    assert coordinator.value().state is TransactionState.PREPARE_COMMIT


def test_what_is_described_of_an_ending_are_the_partitions_without_a_marker() -> None:
    coordinator, producer = ongoing()
    coordinator.end(producer, True)
    coordinator.jobs[0].remaining.discard(T0)
    described = coordinator.describe()
    assert described.transaction_state == "PrepareCommit"
    assert [(each.topic, each.partitions) for each in described.topics] == [("t", [1])]
    assert coordinator.describe("other").error_code == ErrorCode.TRANSACTIONAL_ID_NOT_FOUND


# -- expiry ------------------------------------------------------------------------------------------------------------
def test_an_id_that_is_not_used_is_forgotten_and_begins_anew() -> None:
    coordinator = TransactionCoordinator(id_expiration_ms=10_000, id_expiration_check_interval_ms=1_000)
    coordinator.init()
    coordinator.advance(9_000)
    producer = coordinator.init()
    coordinator.advance(9_000)
    assert coordinator.value().producer_epoch == 1
    coordinator.advance(2_000)
    assert coordinator.shard.machine.transactions == {}
    assert coordinator.end(producer, True)[0] == ErrorCode.INVALID_PRODUCER_ID_MAPPING
    coordinator.restart()
    assert coordinator.shard.machine.transactions == {}
    assert coordinator.init() == (1001, 0)


def test_an_id_with_a_transaction_is_not_forgotten() -> None:
    coordinator, producer = ongoing(
        id_expiration_ms=1_000, id_expiration_check_interval_ms=100, abort_check_interval_ms=10**6
    )
    coordinator.advance(5_000)
    coordinator.end(producer, True)
    coordinator.advance(5_000)
    assert coordinator.value().state is TransactionState.PREPARE_COMMIT


# -- records -----------------------------------------------------------------------------------------------------------
FULL = TransactionValue(
    producer_id=4000,
    producer_epoch=32767,
    timeout_ms=60_000,
    state=TransactionState.PREPARE_COMMIT,
    partitions=frozenset((("t", 1), ("t", 0), ("u", 7))),
    last_update_ms=START_MS + 5,
    start_ms=START_MS,
    previous_producer_id=4000,
    next_producer_id=4001,
    client_version=2,
)
EMPTY = TransactionValue(
    producer_id=4000,
    producer_epoch=0,
    timeout_ms=60_000,
    state=TransactionState.EMPTY,
    partitions=frozenset(),
    last_update_ms=START_MS,
    previous_producer_id=4000,
)


def test_the_bytes_of_a_record_are_these_for_ever() -> None:
    assert TransactionRecord("tx", FULL).encode() == (
        bytes.fromhex("0000 0002 7478"),
        bytes.fromhex(
            "0001 0000000000000fa0 7fff 0000ea60 02"
            "03 0274 03 00000000 00000001 00 0275 02 00000007 00"
            "0000018bcfe56805 0000018bcfe56800"
            "03 0008 0000000000000fa0 0108 0000000000000fa1 0202 0002"
        ),
    )
    assert TransactionRecord("tx", EMPTY).encode()[1] == bytes.fromhex(
        "0001 0000000000000fa0 0000 0000ea60 00 00 0000018bcfe56800 ffffffffffffffff 01 0008 0000000000000fa0"
    )
    assert TransactionRecord("tx", None).encode() == (bytes.fromhex("0000 0002 7478"), None)


@pytest.mark.parametrize("value", [FULL, EMPTY, None])
def test_a_record_comes_back_as_it_was(value: TransactionValue | None) -> None:
    record = TransactionRecord("tx", value)
    assert decode_record(*record.encode()) == record


def test_a_record_of_version_0_is_read() -> None:
    value = bytes.fromhex(
        "0000 0000000000000fa0 0003 0000ea60 01 00000001 0001 74 00000001 00000000 0000018bcfe56805 0000018bcfe56800"
    )
    record = decode_record(bytes.fromhex("0000 0002 7478"), value)
    assert record is not None
    assert record.value == TransactionValue(
        4000, 3, 60_000, TransactionState.ONGOING, frozenset((("t", 0),)), START_MS + 5, START_MS
    )


def test_damaged_records_are_refused_and_strange_ones_passed_over() -> None:
    key, value = TransactionRecord("tx", FULL).encode()
    assert value is not None
    for size in range(len(value)):
        with pytest.raises(DecodeError):
            decode_record(key, value[:size])
    with pytest.raises(DecodeError, match="status 9"):
        decode_record(key, value[:16] + b"\x09" + value[17:])
    assert decode_record(b"\x00\x05", b"whatever") is None
