from __future__ import annotations

import pytest

from broker.partition.errors import BatchRefused
from broker.partition.verification import NOT_REQUIRED, VerificationGuard, Verifications
from protocol.errors import ErrorCode

PRODUCER = 7


def refusal(verifications: Verifications, guard: VerificationGuard | None) -> ErrorCode | None:
    try:
        verifications.check(PRODUCER, guard)
    except BatchRefused as refused:
        return refused.code
    return None


def test_only_the_guard_that_was_given_out_passes() -> None:
    verifications = Verifications()
    assert refusal(verifications, None) == ErrorCode.INVALID_TXN_STATE
    guard = verifications.begin(PRODUCER, 0, 0, False)
    assert refusal(verifications, guard) is None
    assert refusal(verifications, None) == ErrorCode.INVALID_TXN_STATE
    assert refusal(verifications, VerificationGuard()) == ErrorCode.INVALID_TXN_STATE


def test_what_ended_the_verification_voids_its_guard_for_good() -> None:
    verifications = Verifications()
    guard = verifications.begin(PRODUCER, 0, 0, False)
    verifications.end(PRODUCER)
    assert refusal(verifications, guard) == ErrorCode.INVALID_TXN_STATE
    later = verifications.begin(PRODUCER, 0, 0, False)
    assert refusal(verifications, guard) == ErrorCode.INVALID_TXN_STATE
    assert refusal(verifications, later) is None


def test_batches_on_their_way_together_share_a_guard() -> None:
    verifications = Verifications()
    assert verifications.begin(PRODUCER, 0, 5, False) is verifications.begin(PRODUCER, 0, 7, False)


def test_where_verification_is_switched_off_everything_passes() -> None:
    assert refusal(Verifications(), NOT_REQUIRED) is None


def test_the_lowest_sequence_under_verification_comes_first() -> None:
    verifications = Verifications()
    verifications.begin(PRODUCER, 0, 7, False)
    verifications.begin(PRODUCER, 0, 5, False)
    with pytest.raises(BatchRefused) as refused:
        verifications.check_sequence(PRODUCER, 7, True)
    assert refused.value.code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    verifications.check_sequence(PRODUCER, 5, True)
    verifications.begin(PRODUCER, 1, 9, False)
    verifications.check_sequence(PRODUCER, 9, True)
    verifications.begin(PRODUCER, 0, 1, False)
    verifications.check_sequence(PRODUCER, 9, True)


def test_a_producer_with_an_epoch_per_transaction_begins_with_sequence_0() -> None:
    verifications = Verifications()
    verifications.begin(PRODUCER, 3, 4, True)
    with pytest.raises(BatchRefused) as refused:
        verifications.check_sequence(PRODUCER, 4, False)
    assert refused.value.code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    verifications.check_sequence(PRODUCER, 0, False)
    verifications.check_sequence(PRODUCER, 4, True)


def test_verifications_that_nothing_came_of_are_forgotten() -> None:
    verifications = Verifications()
    verifications.begin(PRODUCER, 0, 0, False)
    verifications.expire(1000, 500)
    verifications.expire(1499, 500)
    assert len(verifications) == 1
    verifications.expire(1500, 500)
    assert len(verifications) == 0
