"""Frames come out whole whatever the pieces they arrive in, and sizes out of bounds are refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import FrameTooLarge
from protocol.framing import FrameReader, frame_size
from tests.protocol.strategies import BOUNDED


def framed(content: bytes) -> bytes:
    return struct.pack(">i", len(content)) + content


@BOUNDED
@given(st.lists(st.binary(max_size=50), max_size=8), st.integers(1, 40))
def test_frames_are_whole_whatever_the_pieces(contents: list[bytes], piece_size: int) -> None:
    stream = b"".join(map(framed, contents))
    reader = FrameReader()
    received = []
    for position in range(0, len(stream), piece_size):
        received += reader.receive(stream[position : position + piece_size])
    assert received == contents
    assert reader.missing_size == 0


def test_what_is_missing_is_known() -> None:
    reader = FrameReader()
    assert reader.receive(b"\0\0") == []
    assert reader.missing_size == 2
    assert reader.receive(b"\0\x05ab") == []
    assert reader.missing_size == 3
    assert reader.receive(b"cde") == [b"abcde"]


@pytest.mark.parametrize("size", [-1, -0x80000000, 101, 0x7FFFFFFF])
def test_sizes_out_of_bounds_are_refused_for_good(size: int) -> None:
    reader = FrameReader(size_max=100)
    with pytest.raises(FrameTooLarge):
        frame_size(struct.pack(">i", size), 0, 100)
    assert reader.receive(framed(b"before") + struct.pack(">i", size) + b"x") == [b"before"]
    for _ in range(2):
        with pytest.raises(FrameTooLarge) as raised:
            reader.receive(b"")
        assert (raised.value.size, raised.value.size_max) == (size, 100)


def test_sizes_up_to_the_limit_are_accepted() -> None:
    assert frame_size(struct.pack(">i", 100), 0, 100) == 100
    assert frame_size(b"xx" + struct.pack(">i", 0), 2, 100) == 0
    assert FrameReader(size_max=100).receive(framed(bytes(100))) == [bytes(100)]
