"""The object format: its bytes are pinned, it round-trips, and no damage goes unnoticed."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3stream.api import ObjectCorrupt
from s3stream.catalog.api import StreamRange
from s3stream.object.format import FOOTER_SIZE
from s3stream.object.reader import Block, NeedMore, ObjectIndex, read_block, read_index
from s3stream.object.writer import Batch, BuiltObject, ObjectWriter, build_object

GOLDEN_SHA256 = "de91f9fcaf68fed0e3d63f08bf98a3bebc0fc13145e97304e1664191cd1fb716"
SMALL = [
    (7, [(100, 3, 5000, b"abc"), (103, 1, 4000, b"defgh")]),
    (9, [(0, 2, -1, b"x" * 40), (10, 5, 6000, b"y" * 40), (15, 1, 7000, b"z" * 40)]),
]


def whole(built: BuiltObject) -> bytes:
    data = b"".join(built.pieces)
    assert len(data) == built.size
    return data


def parse(data: bytes) -> tuple[ObjectIndex, list[Block]]:
    index = read_index("key", len(data), data)
    assert isinstance(index, ObjectIndex)
    view = memoryview(data)
    entries = [index.entry(number) for number in range(index.count)]
    return index, [read_block("key", entry, view[entry.position : entry.position + entry.size]) for entry in entries]


def test_the_bytes_of_an_object_never_change() -> None:
    data = whole(build_object(SMALL, block_size=64))
    assert data[:8] == b"abcdefgh"
    assert data[8:16] == bytes([0, 0, 0, 0, 3, 0, 0, 0])
    assert data[16:24] == bytes([0, 0, 0, 0, 3, 0, 0, 0])
    assert data[24:48].hex() == "0700000000000000" + "6400000000000000" + "04000000" + "02000000"
    assert data[-FOOTER_SIZE:][:16].hex() == b"TROBJECT".hex() + "01000000" + "04000000"
    assert hashlib.sha256(data).hexdigest() == GOLDEN_SHA256


def test_ranges_are_runs_of_adjacent_offsets() -> None:
    assert build_object(SMALL, block_size=64).ranges == (
        StreamRange(7, 100, 104, 8, 5000),
        StreamRange(9, 0, 2, 40, -1),
        StreamRange(9, 10, 16, 80, 7000),
    )


def test_big_batches_are_neither_copied_nor_joined() -> None:
    batches: list[Batch] = [(n, 1, 0, bytearray(5000)) for n in range(4)]
    pieces = build_object([(1, batches)]).pieces
    assert all(any(piece is batch[3] for piece in pieces) for batch in batches)


def test_batches_out_of_order_are_refused() -> None:
    writer = ObjectWriter()
    writer.add(5, [(10, 5, 0, b"a")])
    for stream_id, base_offset in ((4, 0), (5, 14)):
        with pytest.raises(ValueError, match="after"):
            writer.add(stream_id, [(base_offset, 1, 0, b"b")])
    with pytest.raises(ValueError, match="after"):
        ObjectWriter().add(1, [(0, 2, 0, b"a"), (1, 1, 0, b"b")])


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[int, list[Batch]]]:
    result = []
    for stream_id in sorted(draw(st.sets(st.integers(0, 2**63), max_size=5))):
        offset = draw(st.integers(0, 2**50))
        batches: list[Batch] = []
        for _ in range(draw(st.integers(1, 8))):
            offset += draw(st.sampled_from([0, 0, 0, 1, 2**33]))
            count = draw(st.integers(1, 2**31))
            data = draw(st.binary(min_size=1, max_size=60))
            batches.append((offset, count, draw(st.integers(-1, 2**50)), data))
            offset += count
        result.append((stream_id, batches))
    return result


@settings(max_examples=100, deadline=None)
@given(streams(), st.integers(1, 200))
def test_every_batch_is_found_by_offset_and_by_time(content: list[tuple[int, list[Batch]]], block_size: int) -> None:
    built = build_object(content, block_size)
    index, blocks = parse(whole(built))
    assert sum(entry.size for entry in built.ranges) == sum(len(b[3]) for _, batches in content for b in batches)
    for stream_id, batches in content:
        for base_offset, count, timestamp, data in batches:
            for offset in (base_offset, base_offset + count - 1):
                number = index.find(stream_id, offset)
                assert number is not None
                found, next_offset = blocks[number].slice(offset, 0, 2**63)
                assert (bytes(found), next_offset) == (data, base_offset + count)
            entry = index.find_timestamp(stream_id, timestamp)
            assert entry is not None
            assert entry.max_timestamp >= timestamp
            first = next(batch for batch in batches if batch[2] >= timestamp)
            assert entry.start_offset <= first[0] < entry.end_offset
        assert index.find(stream_id, batches[-1][0] + batches[-1][1]) is None
        assert index.find_timestamp(stream_id, 2**60) is None
    assert index.find(2**63 + 1, 0) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 30)), min_size=1, max_size=12), st.data())
def test_a_slice_is_bounded_by_size_and_end_offset(shape: list[tuple[int, int]], data: st.DataObject) -> None:
    batches: list[Batch] = []
    offset = 50
    for count, size in shape:
        batches.append((offset, count, 0, bytes([len(batches)]) * size))
        offset += count
    _, (block,) = parse(whole(build_object([(1, batches)])))
    start = data.draw(st.integers(50, offset - 1))
    max_size = data.draw(st.integers(0, 400))
    end_offset = data.draw(st.integers(40, offset + 10))
    expected, expected_next, size = [], start, 0
    for base_offset, count, _, content in batches:
        if base_offset + count <= start:
            continue
        if base_offset >= end_offset or (expected and size + len(content) > max_size):
            break
        expected.append(content)
        size += len(content)
        expected_next = base_offset + count
    found, next_offset = block.slice(start, max_size, end_offset)
    assert (bytes(found), next_offset) == (b"".join(expected), expected_next)


def test_the_reader_says_how_much_of_the_tail_it_needs() -> None:
    content = [(stream_id, [(0, 1, 0, b"x")]) for stream_id in range(3000)]
    data = whole(build_object(content))
    first = read_index("key", len(data), b"")
    assert isinstance(first, NeedMore)
    second = read_index("key", len(data), data[-first.size :])
    assert isinstance(second, NeedMore)
    index = read_index("key", len(data), data[-second.size :])
    assert isinstance(index, ObjectIndex)
    assert index.count == 3000


def test_every_flipped_bit_is_noticed() -> None:
    data = whole(build_object(SMALL, block_size=64))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << random.Random(position).randrange(8)
        with pytest.raises(ObjectCorrupt, match="position"):
            parse(bytes(damaged))


def test_every_truncation_is_noticed() -> None:
    data = whole(build_object(SMALL, block_size=64))
    for size in range(FOOTER_SIZE, len(data)):
        with pytest.raises(ObjectCorrupt):
            read_index("key", len(data), data[:size])
        with pytest.raises(ObjectCorrupt):
            read_index("key", size, data[:size])
    index, _ = parse(data)
    entry = index.entry(1)
    for size in range(entry.size):
        with pytest.raises(ObjectCorrupt):
            read_block("key", entry, memoryview(data)[entry.position : entry.position + size])


def test_a_block_read_from_the_wrong_place_is_noticed() -> None:
    same_shape = [(1, [(0, 1, 0, b"aaaa")]), (2, [(0, 1, 0, b"bbbb")])]
    data = whole(build_object(same_shape))
    index, _ = parse(data)
    first, second = index.entry(0), index.entry(1)
    assert first.size == second.size
    with pytest.raises(ObjectCorrupt, match="not the block"):
        read_block("key", first, memoryview(data)[second.position : second.position + second.size])


def test_random_bytes_are_no_object() -> None:
    rng = random.Random(1)
    for _ in range(200):
        data = rng.randbytes(rng.randint(FOOTER_SIZE, 200))
        with pytest.raises(ObjectCorrupt):
            read_index("key", len(data), data)
