"""Frames come out whole and in order, however the bytes come in."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.server.receiver import (
    ALLOCATION_MIN,
    ALLOCATION_STEP,
    DIRECT_SIZE_MIN,
    HEAD_SIZE,
    LARGE_SIZE_MIN,
    Receiver,
)
from protocol.errors import FrameTooLarge

SIZE_MAX = 8 * 1024 * 1024


def framed(payload: bytes) -> bytes:
    return struct.pack(">i", len(payload)) + payload


def feed(receiver: Receiver, data: bytes, step: int, stop_after: int | None = None) -> list[bytes]:
    """As a transport does; with `stop_after` the reader keeps what is left after so many frames of one chunk."""
    frames = []
    position = 0
    while position < len(data):
        buffer = receiver.buffer()
        count = min(step, len(buffer), len(data) - position)
        buffer[:count] = data[position : position + count]
        del buffer
        position += count
        receiver.received(count)
        taken = 0
        while (frame := receiver.next_frame()) is not None:
            frames.append(bytes(frame))
            taken += 1
            if stop_after is not None and taken == stop_after:
                receiver.keep()
                taken = 0
    return frames


@given(
    sizes=st.lists(st.integers(0, 300), max_size=20),
    step=st.integers(1, 400),
    chunk_size=st.integers(8, 512),
    stop_after=st.none() | st.integers(1, 3),
)
def test_small_frames_survive_any_split_and_any_pause(
    sizes: list[int], step: int, chunk_size: int, stop_after: int | None
) -> None:
    payloads = [bytes([index % 256]) * size for index, size in enumerate(sizes)]
    receiver = Receiver(bytearray(chunk_size), SIZE_MAX)
    assert feed(receiver, b"".join(map(framed, payloads)), step, stop_after) == payloads


@pytest.mark.parametrize("step", [1000, 65_536, 262_144, 10_000_000])
@pytest.mark.parametrize(
    "sizes",
    [
        [DIRECT_SIZE_MIN - 1],
        [DIRECT_SIZE_MIN],
        [ALLOCATION_STEP + 1, 5],
        [5, 4 * ALLOCATION_STEP + 7, 0, 70_000],
        [LARGE_SIZE_MIN, LARGE_SIZE_MIN + 1, LARGE_SIZE_MIN - 1, 3, HEAD_SIZE - 4, HEAD_SIZE, LARGE_SIZE_MIN],
        [LARGE_SIZE_MIN] * 5 + [10] * 500 + [LARGE_SIZE_MIN + HEAD_SIZE],
    ],
)
def test_large_frames_survive_any_split(sizes: list[int], step: int) -> None:
    payloads = [(bytes(range(256)) * (size // 256 + 1))[:size] for size in sizes]
    receiver = Receiver(bytearray(262_144), SIZE_MAX)
    assert feed(receiver, b"".join(map(framed, payloads)), step) == payloads


@pytest.mark.parametrize(("sent", "allocated"), [(1, ALLOCATION_MIN), (100_000, 400_000), (400_000, ALLOCATION_STEP)])
def test_an_announced_size_costs_a_small_multiple_of_what_was_sent(sent: int, allocated: int) -> None:
    receiver = Receiver(bytearray(1_000_000), SIZE_MAX)
    assert feed(receiver, struct.pack(">i", SIZE_MAX) + bytes(sent), 1_000_000) == []
    assert receiver.open_frame_size == allocated
    assert receiver.in_frame


@pytest.mark.parametrize("size", [-1, -(2**31), SIZE_MAX + 1, 2**31 - 1])
@pytest.mark.parametrize("step", [1, 4])
def test_a_size_out_of_bounds_is_refused(size: int, step: int) -> None:
    receiver = Receiver(bytearray(1024), SIZE_MAX)
    with pytest.raises(FrameTooLarge):
        feed(receiver, struct.pack(">i", size), step)


def test_a_frame_does_not_share_memory_with_the_chunk() -> None:
    chunk = bytearray(1024)
    receiver = Receiver(chunk, SIZE_MAX)
    receiver.buffer()[:7] = framed(b"abc")
    receiver.received(7)
    frame = receiver.next_frame()
    chunk[:] = bytes(1024)
    assert frame == b"abc"


def test_after_a_large_frame_all_but_the_head_of_the_next_is_received_in_place() -> None:
    receiver = Receiver(bytearray(1 << 20), SIZE_MAX)
    size = 2 * LARGE_SIZE_MIN
    assert feed(receiver, framed(bytes(size)), 100_000) == [bytes(size)]
    head = receiver.buffer()
    assert len(head) == HEAD_SIZE
    head[:] = struct.pack(">i", size) + bytes(HEAD_SIZE - 4)
    del head
    receiver.received(HEAD_SIZE)
    assert receiver.next_frame() is None
    rest = receiver.buffer()
    assert len(rest) == size - (HEAD_SIZE - 4)
    rest[:] = b"x" * len(rest)
    count = len(rest)
    del rest
    receiver.received(count)
    frame = receiver.next_frame()
    assert frame is not None
    assert frame[HEAD_SIZE:] == b"x" * (size - HEAD_SIZE)


def test_a_former_frame_lets_a_client_have_no_more_than_a_step_in_advance() -> None:
    receiver = Receiver(bytearray(1 << 20), SIZE_MAX)
    assert len(feed(receiver, framed(bytes(SIZE_MAX)), 1 << 20)) == 1
    assert feed(receiver, struct.pack(">i", SIZE_MAX), 4) == []
    assert receiver.open_frame_size == ALLOCATION_STEP
