"""The bytes of the WAL's format never change."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wal.file.format import (
    FRAME_HEADER_SIZE,
    SEGMENT_HEADER_SIZE,
    SLOT_SIZE,
    Checkpoint,
    SegmentHeader,
    State,
    decode_frame_header,
    encode_frame,
    frame_is_intact,
    frame_sizes,
    segment_name,
    segment_sequence,
)
from wal.file.owner import decode_owner, encode_owner

SEGMENT_TAIL = "0600000000000000000000006955e58e"
CHECKPOINT_TAIL = "050000000000000000000000314ede1a"
OWNER_CRC = "38ab2e4b"
FRAME_CRC = 1186187172
HEADER = SegmentHeader(chain=1, log_id=2, sequence=3, epoch=4, position=5, size=6)
CHECKPOINT = Checkpoint(State.CLEAN, generation=1, log_id=2, epoch=3, trim_position=4, end_position=5)


def test_a_segment_header() -> None:
    expected = "545257414c53454701000000010000000200000000000000030000000000000004000000000000000500000000000000"
    assert HEADER.encode()[:48].hex() == expected
    assert HEADER.encode()[48:].hex() == SEGMENT_TAIL
    assert SegmentHeader.decode(HEADER.encode()) == HEADER


def test_an_owner() -> None:
    data = encode_owner("cluster")
    assert data.hex() == "545257414c4f574e01000000" + OWNER_CRC + b"cluster".hex() + 57 * "00"
    assert decode_owner(data) == "cluster"
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        with pytest.raises(ValueError, match="checksum"):
            decode_owner(bytes(damaged))


def test_a_checkpoint_slot() -> None:
    expected = "545257414c434b5001000000020000000100000000000000020000000000000003000000000000000400000000000000"
    assert CHECKPOINT.encode()[:48].hex() == expected
    assert CHECKPOINT.encode()[48:].hex() == CHECKPOINT_TAIL
    assert Checkpoint.decode(CHECKPOINT.encode()) == CHECKPOINT
    known = dataclasses.replace(CHECKPOINT, machine=0x01020304)
    assert known.encode()[56:60].hex() == "04030201"
    assert Checkpoint.decode(known.encode()) == known


def test_a_frame() -> None:
    pieces, crc = encode_frame([[b"ab", b"c"], [b""], [b"d"]], [3, 0, 1], 7, 8, 9, 10)
    frame = b"".join(pieces)
    assert frame[:36].hex() == "1ca1579e0300000007000000000000000800000000000000040000000100000009000000"
    assert frame[40:].hex() == "030000000000000001000000" + b"abcd".hex()
    assert frame[36:40] == crc.to_bytes(4, "little")
    assert crc == FRAME_CRC


def test_every_flipped_bit_of_a_header_or_slot_is_noticed() -> None:
    for position in range(SEGMENT_HEADER_SIZE):
        data = bytearray(HEADER.encode())
        data[position] ^= 16
        assert SegmentHeader.decode(data) is None
    for position in range(SLOT_SIZE):
        data = bytearray(CHECKPOINT.encode())
        data[position] ^= 16
        assert Checkpoint.decode(data) is None
    assert SegmentHeader.decode(b"") is None
    assert Checkpoint.decode(bytes(SLOT_SIZE)) is None


@given(st.lists(st.lists(st.binary(max_size=40), max_size=4), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_a_frame_round_trips_and_notices_damage(records: list[list[bytes]], seed: int) -> None:
    sizes = [sum(map(len, record)) for record in records]
    pieces, crc = encode_frame(records, sizes, 2**60, 2**61, 77, seed)
    frame = bytearray(b"".join(pieces))
    header = decode_frame_header(frame)
    assert header is not None
    assert (header.epoch, header.position, header.chain, header.crc) == (2**60, 2**61, 77, crc)
    assert header.frame_size == len(frame)
    assert list(frame_sizes(memoryview(frame), header.count)) == sizes
    assert bytes(frame[FRAME_HEADER_SIZE + 4 * header.count :]) == b"".join(map(b"".join, records))
    assert frame_is_intact(memoryview(frame), header, seed)
    assert not frame_is_intact(memoryview(frame), header, seed ^ 1)
    for position in range(len(frame)):
        frame[position] ^= 1
        damaged = decode_frame_header(frame)
        assert (
            damaged is None or damaged.frame_size != len(frame) or not frame_is_intact(memoryview(frame), damaged, seed)
        )
        frame[position] ^= 1


def test_segment_names_sort_by_sequence() -> None:
    assert segment_name(0x2A) == "000000000000002a.wal"
    assert segment_sequence("000000000000002a.wal") == 0x2A
    assert [segment_sequence(name) for name in ("checkpoint", "x.wal", "zzzzzzzzzzzzzzzz.wal")] == [None] * 3
