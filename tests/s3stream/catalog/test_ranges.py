from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream.catalog.api import StreamRange
from s3stream.catalog.ranges import RangesCorrupt, decode_live_ranges, decode_ranges, encode_ranges

GOLDEN = "9301ce3ed372a3c421969201cd012c920005920acd03e89263ce00010000cf0000018bcfe56800920007"
GOLDEN_EMPTY = "9301ce4880bfc5c40796909090900090"

INT63 = st.integers(0, 2**63 - 1)


@st.composite
def stream_ranges(draw: st.DrawFn) -> StreamRange:
    start = draw(st.integers(0, 2**62))
    return StreamRange(
        draw(INT63), start, start + draw(st.integers(1, 2**40)), draw(INT63), draw(st.integers(-1, 2**62))
    )


def order(r: StreamRange) -> tuple[int, int]:
    return r.stream_id, r.start_offset


def test_the_bytes_of_version_1_never_change() -> None:
    value = encode_ranges(
        [StreamRange(300, 5, 1005, 65536, 1_700_000_000_007), StreamRange(1, 0, 10, 99, 1_700_000_000_000)]
    )
    assert value.hex() == GOLDEN
    assert encode_ranges([]).hex() == GOLDEN_EMPTY


@given(st.lists(stream_ranges(), max_size=20))
def test_ranges_come_back_sorted(ranges: list[StreamRange]) -> None:
    assert decode_ranges(encode_ranges(ranges)) == tuple(sorted(ranges, key=order))


@given(st.lists(stream_ranges(), max_size=5), st.data())
def test_only_live_ranges_of_the_wanted_streams_are_picked(ranges: list[StreamRange], data: st.DataObject) -> None:
    ids = [r.stream_id for r in ranges]
    wanted = data.draw(st.dictionaries(st.sampled_from([*ids, 0]), st.integers(0, 2**62)))
    expected = [r for r in ranges if r.stream_id in wanted and r.end_offset > wanted[r.stream_id]]
    assert decode_live_ranges(encode_ranges(ranges), wanted) == tuple(sorted(expected, key=order))


def test_every_truncation_and_every_flipped_bit_is_told() -> None:
    value = encode_ranges([StreamRange(i, 0, i + 1, 100, 5) for i in range(3)])
    for length in range(len(value)):
        with pytest.raises(RangesCorrupt):
            decode_ranges(value[:length])
    for position in range(len(value) * 8):
        damaged = bytearray(value)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(RangesCorrupt):
            decode_ranges(bytes(damaged))


def test_a_later_version_is_refused() -> None:
    with pytest.raises(RangesCorrupt, match="version 2"):
        decode_ranges(b"\x93\x02\x00\xc4\x00")
