from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.partition.leader_epochs import LeaderEpochs
from broker.partition.producer_state import ProducerStates
from broker.partition.snapshot import SnapshotUnreadable, decode_snapshot, encode_snapshot

GOLDEN = bytes.fromhex(
    "01a3660611"  # version, CRC32C
    "932f"  # log offset 47
    "92920000920228"  # epoch 0 from 0, epoch 2 from 40
    "9194cd03e903cf0000018bcfe569f4"  # producer 1001, epoch 3, last timestamp
    "9294000428cf0000018bcfe568009405062dcf0000018bcfe569f4"  # sequences 0-4 at 40, 5-6 at 45
)


def example() -> tuple[LeaderEpochs, ProducerStates]:
    producers = ProducerStates()
    producers.record(1001, 3, 0, 5, 40, 1_700_000_000_000)
    producers.record(1001, 3, 5, 2, 45, 1_700_000_000_500)
    return LeaderEpochs([(0, 0), (2, 40)]), producers


def test_bytes_of_version_1_do_not_change() -> None:
    assert encode_snapshot(47, *example()) == GOLDEN


def test_golden_bytes_are_read() -> None:
    snapshot = decode_snapshot(GOLDEN)
    epochs, producers = example()
    assert snapshot.log_offset == 47
    assert snapshot.leader_epochs.entries() == epochs.entries()
    assert snapshot.producers == producers


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
