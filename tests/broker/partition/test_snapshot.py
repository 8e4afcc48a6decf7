from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.partition.leader_epochs import LeaderEpochs
from broker.partition.producer_state import ProducerStates
from broker.partition.snapshot import SnapshotUnreadable, decode_snapshot, encode_snapshot

GOLDEN_1 = bytes.fromhex(
    "01a3660611"  # version, CRC32C
    "932f"  # log offset 47
    "92920000920228"  # epoch 0 from 0, epoch 2 from 40
    "9194cd03e903cf0000018bcfe569f4"  # producer 1001, epoch 3, last timestamp
    "9294000428cf0000018bcfe568009405062dcf0000018bcfe569f4"  # sequences 0-4 at 40, 5-6 at 45
)

GOLDEN = bytes.fromhex(
    "0299a1072c9434929200009202289396cd03e903cf0000018bcfe569f49294000428cf0000018bcfe568009405062dcf"
    "0000018bcfe569f4ffff96cd03ea00cf0000018bcfe56be8919400022fcf0000018bcfe56be8ff2f96cd03eb07cf0000"
    "018bcfe56ddc9194ffffffcf0000018bcfe56ddc09ff94c40800000000000003ebc4080000000000000032c408000000"
    "0000000033c408000000000000002f"
)


def example() -> tuple[LeaderEpochs, ProducerStates]:
    producers = ProducerStates()
    producers.record(1001, 3, 0, 5, 40, 1_700_000_000_000)
    producers.record(1001, 3, 5, 2, 45, 1_700_000_000_500)
    return LeaderEpochs([(0, 0), (2, 40)]), producers


def transactional_example() -> tuple[LeaderEpochs, ProducerStates]:
    """Producer 1001 without a transaction, 1002 with an open one, 1003 after an aborted one."""
    epochs, producers = example()
    producers.record(1002, 0, 0, 3, 47, 1_700_000_001_000, transactional=True)
    producers.record(1003, 6, 0, 1, 50, 1_700_000_001_000, transactional=True)
    producers.record_marker(1003, 7, 9, False, 51, 1_700_000_001_500)
    producers.transactions.advance(52)
    return epochs, producers


def test_bytes_of_version_2_do_not_change() -> None:
    assert encode_snapshot(52, *transactional_example()) == GOLDEN


@pytest.mark.parametrize(
    ("golden", "log_offset", "expected"), [(GOLDEN_1, 47, example()), (GOLDEN, 52, transactional_example())]
)
def test_golden_bytes_of_every_version_are_read(
    golden: bytes, log_offset: int, expected: tuple[LeaderEpochs, ProducerStates]
) -> None:
    snapshot = decode_snapshot(golden)
    epochs, producers = expected
    assert snapshot.log_offset == log_offset
    assert snapshot.leader_epochs.entries() == epochs.entries()
    assert snapshot.producers == producers


def test_transactions_come_back_with_their_producers() -> None:
    producers = decode_snapshot(GOLDEN).producers
    assert producers.transaction_ongoing(1002, 0)
    assert producers.transactions.first_unstable_offset == 47
    assert producers.transactions.aborted.overlapping(0, 52) == [(1003, 50)]
    assert decode_snapshot(GOLDEN_1).producers.transactions.open_count == 0


@given(
    st.integers(0, 2**62),
    st.lists(st.tuples(st.integers(0, 2**60), st.integers(0, 2**15 - 1), st.integers(0, 2**31 - 1)), max_size=20),
)
def test_round_trip(log_offset: int, appends: list[tuple[int, int, int]]) -> None:
    producers = ProducerStates()
    for offset, (producer_id, epoch, sequence) in enumerate(appends):
        producers.record(producer_id, epoch, sequence, 1, offset, offset)
    snapshot = decode_snapshot(encode_snapshot(log_offset, LeaderEpochs([(1, 5)]), producers))
    assert (snapshot.log_offset, snapshot.producers) == (log_offset, producers)


@pytest.mark.parametrize("length", range(len(GOLDEN)))
def test_a_truncated_snapshot_is_refused(length: int) -> None:
    with pytest.raises(SnapshotUnreadable):
        decode_snapshot(GOLDEN[:length])


def test_a_flipped_bit_is_noticed() -> None:
    for position in range(len(GOLDEN)):
        damaged = bytearray(GOLDEN)
        damaged[position] ^= 0x10
        with pytest.raises(SnapshotUnreadable):
            decode_snapshot(damaged)
