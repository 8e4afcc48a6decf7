from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream.wal_record import HEADER_SIZE, WalRecordInvalid, decode_record, encode_header

U64 = st.integers(0, 2**64 - 1)


def test_the_layout_on_disk_does_not_change() -> None:
    header = encode_header(stream_id=0x0102, epoch=3, base_offset=0x0A0B0C, count=5, max_timestamp=-1)
    assert header.hex() == ("01000000000000050000000000000102000000000000000300000000000a0b0cffffffffffffffff")
    assert len(header) == HEADER_SIZE == 40


@given(U64, U64, U64, st.integers(1, 2**32 - 1), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=100))
def test_a_record_is_read_as_it_was_written(
    stream_id: int, epoch: int, base_offset: int, count: int, max_timestamp: int, batch: bytes
) -> None:
    data = encode_header(stream_id, epoch, base_offset, count, max_timestamp) + batch
    record = decode_record(memoryview(data))
    assert (record.stream_id, record.epoch, record.base_offset, record.count, record.max_timestamp) == (
        stream_id,
        epoch,
        base_offset,
        count,
        max_timestamp,
    )
    assert record.end_offset == base_offset + count
    assert record.batch == batch


@pytest.mark.parametrize("size", range(HEADER_SIZE))
def test_a_record_shorter_than_its_header_is_refused(size: int) -> None:
    with pytest.raises(WalRecordInvalid, match="shorter"):
        decode_record(memoryview(encode_header(1, 1, 0, 1, 0)[:size]))


def test_an_unknown_version_is_refused_and_named() -> None:
    data = bytearray(encode_header(1, 1, 0, 1, 0))
    data[0] = 2
    with pytest.raises(WalRecordInvalid, match="version 2"):
        decode_record(memoryview(data))


def test_a_record_that_covers_no_offset_is_refused() -> None:
    with pytest.raises(WalRecordInvalid, match="covers no offset"):
        decode_record(memoryview(encode_header(1, 1, 0, 0, 0)))
