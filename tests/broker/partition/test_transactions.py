"""The index of a partition's transactions against a model that keeps the whole log."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.partition.transactions import NONE_UNSTABLE, AbortedTransactions, Transactions


@dataclass
class Model:
    """Transactions as (producer, first offset, marker offset or None, committed)."""

    high_watermark: int = 0
    all: list[tuple[int, int, int | None, bool]] = field(default_factory=list)

    def first_unstable(self) -> int:
        unstable = [first for _, first, marker, _ in self.all if marker is None or marker >= self.high_watermark]
        return min(unstable, default=NONE_UNSTABLE)

    def aborted(self, start: int, end: int, log_start: int) -> set[tuple[int, int]]:
        return {
            (producer, first)
            for producer, first, marker, committed in self.all
            if marker is not None and not committed and marker >= max(start, log_start) and first < end
        }


steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 5)),
        st.tuples(st.just("commit"), st.integers(0, 5)),
        st.tuples(st.just("abort"), st.integers(0, 5)),
        st.tuples(st.just("flush"), st.integers(0, 4)),
        st.tuples(st.just("trim"), st.integers(0, 100)),
    ),
    max_size=80,
)


@given(steps)
def test_agrees_with_a_model_of_the_whole_log(script: list[tuple[str, int]]) -> None:
    transactions, model = Transactions(), Model()
    offset = log_start = 0
    ongoing: dict[int, int] = {}
    for action, number in script:
        if action == "begin" and number not in ongoing:
            ongoing[number] = offset
            transactions.begin(offset)
            model.all.append((number, offset, None, False))
            offset += 3
        elif action in ("commit", "abort") and number in ongoing:
            first = ongoing.pop(number)
            transactions.end(number, first, offset, action == "commit")
            model.all.remove((number, first, None, False))
            model.all.append((number, first, offset, action == "commit"))
            offset += 1
        elif action == "flush":
            model.high_watermark = max(model.high_watermark, offset - number)
            transactions.advance(model.high_watermark)
        elif action == "trim":
            log_start = max(log_start, model.high_watermark * number // 100)
            transactions.aborted.trim(log_start)
        assert transactions.first_unstable_offset == model.first_unstable()
        assert transactions.open_count == len(ongoing)
        stable = min(model.high_watermark, model.first_unstable())
        for start in range(log_start, stable, 4):
            for end in range(start + 1, stable + 1, 5):
                found = transactions.aborted.overlapping(start, end)
                # one that began beyond the end does no harm, but would be of no use
                assert set(found) == model.aborted(start, end, log_start)


def test_a_transaction_is_unstable_until_its_marker_is_durable() -> None:
    transactions = Transactions()
    transactions.begin(10)
    transactions.end(1, 10, 15, True)
    transactions.advance(15)
    assert transactions.first_unstable_offset == 10
    transactions.advance(16)
    assert transactions.first_unstable_offset == NONE_UNSTABLE


def test_a_transaction_that_hangs_keeps_none_of_those_that_ended_behind_it() -> None:
    transactions = Transactions()
    transactions.begin(0)
    for offset in range(10, 10_000, 10):
        transactions.begin(offset)
        transactions.end(1, offset, offset + 5, True)
        transactions.advance(offset + 6)
    assert (transactions.open_count, transactions.is_settling) == (1, False)
    assert transactions.first_unstable_offset == 0
    assert len(transactions.aborted) == 0


def test_a_look_up_reads_no_more_than_what_may_overlap() -> None:
    """The end of the index is found by the stable offsets, not by walking all of it."""
    aborted = AbortedTransactions()
    for offset in range(0, 100_000, 10):
        aborted.add(7, offset, offset + 5, offset + 6)

    class Counting:
        reads = 0

        def __getitem__(self, index: int) -> int:
            Counting.reads += 1
            return index * 10

        def __len__(self) -> int:
            return 10_000

    aborted._first_offsets = Counting()  # type: ignore[assignment]
    assert aborted.overlapping(500, 530) == [(7, 500), (7, 510), (7, 520)]
    assert Counting.reads < 10


@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)), max_size=10))
def test_columns_round_trip(entries: list[tuple[int, int]]) -> None:
    aborted = AbortedTransactions()
    for offset, (producer_id, first_offset) in enumerate(entries):
        aborted.add(producer_id, first_offset, offset, offset + 1)
    assert AbortedTransactions.from_columns(aborted.columns()) == aborted


@pytest.mark.parametrize("columns", [[b""] * 3, [b"", b"", b"", bytes(8)], [bytes(7)] * 4])
def test_columns_of_another_shape_are_refused(columns: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"length|multiple"):
        AbortedTransactions.from_columns(columns)
