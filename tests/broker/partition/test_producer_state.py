from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.partition.errors import BatchRefused
from broker.partition.producer_state import BATCHES_KEPT, ProducerStates
from protocol.errors import ErrorCode

LAST = 2**31 - 1


@dataclass
class Model:
    """Sequences as plain numbers: everything that was ever appended, per producer."""

    epochs: dict[int, int] = field(default_factory=dict)
    appended: dict[int, list[tuple[int, int, int, int]]] = field(default_factory=dict)

    def expect(self, producer: int, epoch: int, first: int, count: int) -> int | ErrorCode | None:
        """None: append; a number: the base offset of the original; else the error."""
        if producer not in self.epochs:
            return None
        current = self.epochs[producer]
        if epoch < current:
            return ErrorCode.INVALID_PRODUCER_EPOCH
        if epoch > current:
            return None if first == 0 else ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        mine = [each for each in self.appended[producer] if each[0] == epoch]
        for _, base_sequence, length, base_offset in mine[-BATCHES_KEPT:]:
            if (base_sequence, length) == (first, count):
                return base_offset
        _, base_sequence, length, _ = mine[-1]
        expected = (base_sequence + length) % 2**31
        return None if first == expected else ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER

    def append(self, producer: int, epoch: int, first: int, count: int, base_offset: int) -> None:
        self.epochs[producer] = epoch
        self.appended.setdefault(producer, []).append((epoch, first, count, base_offset))


def attempt(states: ProducerStates, producer: int, epoch: int, first: int, count: int) -> int | ErrorCode | None:
    try:
        repeated = states.check(producer, epoch, first, count)
    except BatchRefused as refused:
        return refused.code
    return None if repeated is None else repeated.base_offset


sequences = st.one_of(st.integers(0, 12), st.integers(LAST - 6, LAST))
steps = st.lists(
    st.tuples(st.integers(1, 2), st.integers(0, 2), st.one_of(sequences, st.just("next")), st.integers(1, 4)),
    max_size=60,
)


@given(steps)
def test_agrees_with_a_model_that_forgets_nothing(script: list[tuple[int, int, int | str, int]]) -> None:
    states, model, offset = ProducerStates(), Model(), 0
    for producer, epoch, wish, count in script:
        if wish == "next":
            history = model.appended.get(producer)
            first = (history[-1][1] + history[-1][2]) % 2**31 if history else 0
            epoch = model.epochs.get(producer, epoch)
        else:
            assert isinstance(wish, int)
            first = wish
        expected = model.expect(producer, epoch, first, count)
        assert attempt(states, producer, epoch, first, count) == expected
        if expected is None:
            states.record(producer, epoch, first, count, offset, 1000 + offset)
            model.append(producer, epoch, first, count, offset)
            offset += count


def test_an_unknown_producer_may_begin_anywhere() -> None:
    assert ProducerStates().check(7, 3, 4711, 10) is None


def test_sequences_wrap_within_and_between_batches() -> None:
    states = ProducerStates()
    states.record(1, 0, LAST - 1, 4, 100, 0)
    assert attempt(states, 1, 0, 2, 1) is None
    assert attempt(states, 1, 0, LAST - 1, 4) == 100
    states.record(1, 0, 2, 1, 104, 0)
    assert attempt(states, 1, 0, 3, 1) is None


@pytest.mark.parametrize("back", range(1, 8))
def test_the_last_five_batches_are_recognised_and_older_ones_refused(back: int) -> None:
    states = ProducerStates()
    for sequence in range(10):
        states.record(1, 0, sequence, 1, 50 + sequence, 0)
    expected = 60 - back if back <= 5 else ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert attempt(states, 1, 0, 10 - back, 1) == expected


def test_producers_not_heard_of_expire() -> None:
    states = ProducerStates()
    states.record(1, 0, 0, 1, 0, 1000)
    states.record(2, 0, 0, 1, 1, 2000)
    assert states.expire(1500) == 1
    assert list(states.entries) == [2]
