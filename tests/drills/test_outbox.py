"""When a producer may send what again, and in which order."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from drills.client.backoff import Backoff
from drills.client.outbox import IN_FLIGHT_MAX, Batch, Outbox, Verdict
from protocol.errors import ErrorCode

PAUSE_S = 0.1


def new_outbox(items: int = 0) -> Outbox[int]:
    outbox: Outbox[int] = Outbox(lambda batch, sequence: b"%d+%d" % (sequence, len(batch)), lambda item: item * 1024)
    for item in range(items):
        outbox.put(item)
    return outbox


def take_one(outbox: Outbox[int], item: int, now: float = 0.0, epoch: int = 1) -> Batch[int]:
    outbox.put(item)
    batch = outbox.take(now, epoch)
    assert batch is not None
    return batch


def pause_s(_failures: int) -> float:
    return PAUSE_S


def test_five_requests_are_in_flight_and_no_more() -> None:
    outbox = new_outbox()
    batches = [take_one(outbox, item) for item in range(IN_FLIGHT_MAX)]
    outbox.put(9)
    assert outbox.take(0.0, 1) is None
    outbox.answered(batches[0], ErrorCode.NONE, 0.0, pause_s)
    last = outbox.take(0.0, 1)
    assert last is not None
    assert [batch.sequence for batch in (*batches, last)] == [0, 1, 2, 3, 4, 5]


def test_a_batch_is_bounded_and_one_that_is_too_large_goes_alone() -> None:
    outbox = new_outbox()
    for kib in (100, 100, 100, 900, 1):
        outbox.put(kib)
    batches = [outbox.take(0.0, 1) for _ in range(4)]
    assert [batch and batch.items for batch in batches] == [[100, 100], [100], [900], [1]]


def test_what_was_refused_is_sent_again_after_a_pause_alone_and_in_order() -> None:
    outbox = new_outbox()
    first, second = take_one(outbox, 1), take_one(outbox, 2)
    outbox.put(3)
    assert outbox.answered(second, ErrorCode.NOT_LEADER_OR_FOLLOWER, 0.0, pause_s) is Verdict.RETRY
    assert outbox.take(9.0, 1) is None  # the first one may still be acknowledged
    outbox.answered(first, ErrorCode.NETWORK_EXCEPTION, 0.0, pause_s)
    assert outbox.take(PAUSE_S / 2, 1) is None
    assert outbox.due(PAUSE_S / 2) == PAUSE_S
    assert outbox.take(PAUSE_S, 1) is first
    assert outbox.take(9.0, 1) is None
    outbox.answered(first, ErrorCode.DUPLICATE_SEQUENCE_NUMBER, 0.2, pause_s)
    assert outbox.take(9.0, 1) is second
    assert (first.sequence, second.sequence) == (0, 1)


def test_a_newer_leader_ends_the_pause() -> None:
    outbox = new_outbox()
    batch = take_one(outbox, 1, epoch=4)
    outbox.answered(batch, ErrorCode.NOT_LEADER_OR_FOLLOWER, 0.0, pause_s)
    assert outbox.take(0.01, 4) is None
    assert outbox.take(0.01, 5) is batch


def test_a_sequence_out_of_order_is_retried_behind_another_batch_and_fails_alone() -> None:
    outbox = new_outbox()
    first, second = take_one(outbox, 1), take_one(outbox, 2)
    assert outbox.answered(second, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, 0.0, pause_s) is Verdict.RETRY
    assert outbox.answered(first, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, 0.0, pause_s) is Verdict.FAILED


def test_what_no_retry_helps_with_reaches_the_application() -> None:
    outbox = new_outbox()
    assert outbox.answered(take_one(outbox, 1), ErrorCode.MESSAGE_TOO_LARGE, 0.0, pause_s) is Verdict.FAILED
    assert outbox.is_empty


class Leader:
    """An idempotent broker that answers in any order and loses answers."""

    def __init__(self) -> None:
        self.log: list[int] = []

    def append(self, batch: Batch[int]) -> int:
        if batch.sequence < len(self.log):
            return ErrorCode.DUPLICATE_SEQUENCE_NUMBER
        if batch.sequence > len(self.log):
            return ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        self.log += batch.items
        return ErrorCode.NONE


@given(st.integers(0, 2**32))
def test_whatever_is_refused_or_lost_everything_arrives_once_and_in_order(seed: int) -> None:
    chance = random.Random(seed)
    outbox, leader = new_outbox(), Leader()
    sent = 0
    now = 0.0
    on_the_way: list[Batch[int]] = []
    arrived: list[tuple[Batch[int], int]] = []
    while sent < 60 or not outbox.is_empty:
        now += 0.01
        if sent < 60 and chance.random() < 0.5:
            outbox.put(sent)
            sent += 1
        while (batch := outbox.take(now, 1)) is not None:
            on_the_way.append(batch)
        if on_the_way and chance.random() < 0.7:
            arrived += reach(on_the_way.pop(0), leader, chance)
        if arrived and chance.random() < 0.7:
            outbox.answered(*arrived.pop(0), now, pause_s)
    assert leader.log == list(range(60))


def reach(batch: Batch[int], leader: Leader, chance: random.Random) -> Sequence[tuple[Batch[int], int]]:
    lot = chance.random()
    if lot < 0.1:
        return [(batch, ErrorCode.NOT_LEADER_OR_FOLLOWER)]
    if lot < 0.2:
        return [(batch, ErrorCode.NETWORK_EXCEPTION)]
    code = leader.append(batch)
    return [(batch, ErrorCode.NETWORK_EXCEPTION if lot < 0.3 else code)]


def test_pauses_double_up_to_a_second() -> None:
    backoff = Backoff(random.Random(1))
    pauses = [backoff.pause_s(failures) for failures in range(7)]
    assert pauses[0] == 0
    assert all(0.08 * 2**n <= pause <= min(0.12 * 2**n, 1.0) for n, pause in enumerate(pauses[1:]) if n < 3)
    assert max(pauses) <= 1.0
    assert backoff.pause_s(1_000) >= 0.8
