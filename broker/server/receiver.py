"""From received bytes to request frames, without I/O.

A frame on the wire is a signed 32-bit size and as many bytes. Bytes arrive in one of two places:

* the **chunk**, shared by all connections of a loop (a transport fills and reports it in one step, so nothing stays in
  it between connections). Each complete frame in it is copied once, into its own bytearray: records stay mutable for
  stamping, and are kept by the log cache;
* the **open frame**: once the size of an incomplete frame is known to be large, the rest is received straight into it.
  After a large frame another one is expected: then only the head of the chunk is offered, so that hardly any of it
  has to be copied.

An open frame is allocated in steps as its bytes come, each a small multiple of what is there, so a client that
announces 100 MB and sends nothing costs the smallest. Frames are handed out one at a time (`next_frame`), so a
connection that has to stop reading can stop in the middle of a chunk: `keep` moves what is left out of the chunk.
"""

from __future__ import annotations

from struct import Struct

from protocol.errors import FrameTooLarge

CHUNK_SIZE = 262_144
DIRECT_SIZE_MIN = 65_536
"""What is missing of a frame is received straight into it from this size on; less comes through the chunk."""
LARGE_SIZE_MIN = 131_072
"""After a frame of this size, another such frame is expected ..."""
HEAD_SIZE = 2_048
"""... so that this much is received into the chunk, and the rest straight into the frame."""
ALLOCATION_MIN = 65_536
ALLOCATION_STEP = 1_048_576
"""The most that an open frame begins with."""
_ALLOCATION_PER_BYTE = 4

_read_size = Struct(">i").unpack_from


class Receiver:
    """Receives the frames of one connection. `buffer()`, fill it, `received(n)`, then `next_frame()` until None."""

    __slots__ = (
        "_chunk",
        "_chunk_view",
        "_direct_min",
        "_end",
        "_expected",
        "_frame",
        "_frame_received",
        "_frame_size",
        "_head_view",
        "_position",
        "_rest",
        "size_max",
    )

    def __init__(self, chunk: bytearray, size_max: int) -> None:
        self._chunk = chunk
        self._chunk_view = memoryview(chunk)
        self._head_view = self._chunk_view[:HEAD_SIZE]
        self._direct_min = DIRECT_SIZE_MIN
        self._expected = 0
        """About the size of the next frame, if it is expected to be large."""
        self._position = 0
        self._end = 0
        self._rest: bytearray | None = None
        self._frame: bytearray | None = None
        self._frame_size = 0
        self._frame_received = 0
        self.size_max = size_max

    @property
    def open_frame_size(self) -> int:
        """Bytes allocated for the frame that is being received; 0 between frames."""
        return len(self._frame) if self._frame is not None else 0

    @property
    def open_frame_received(self) -> int:
        return self._frame_received if self._frame is not None else 0

    @property
    def in_frame(self) -> bool:
        return self._frame is not None

    def buffer(self) -> memoryview:
        """Where the next bytes belong; valid until `received`."""
        frame = self._frame
        if frame is not None and self._frame_size - self._frame_received >= self._direct_min:
            if self._frame_received == len(frame):
                frame += bytes(min(self._frame_size, 2 * len(frame)) - len(frame))
            return memoryview(frame)[self._frame_received :]
        return self._head_view if self._expected else self._chunk_view

    def received(self, size: int) -> None:
        """`size` bytes have come into what `buffer` returned."""
        frame = self._frame
        if frame is not None and self._frame_size - self._frame_received >= self._direct_min:
            self._frame_received += size
        else:
            self._position = 0
            self._end = size

    def next_frame(self) -> bytearray | None:
        """The next complete frame (without its size), or None: more bytes are needed. Raises FrameTooLarge."""
        frame = self._frame
        if frame is not None:
            return self._continue_frame(frame)
        if self._rest is not None:
            return self._next_of_rest()
        chunk = self._chunk
        position = self._position
        available = self._end - position
        if available >= 4:
            size = _read_size(chunk, position)[0]
            if 0 <= size <= available - 4:
                position += 4
                self._position = end = position + size
                if self._expected or size >= LARGE_SIZE_MIN:
                    self._expect(size)
                return chunk[position:end]
            self._position = position + 4
            return self._continue_frame(self._open_frame(size, available - 4))
        if available:
            self.keep()
        return None

    def keep(self) -> None:
        """Move what is left in the chunk out of it: the connection reads no further for now."""
        if self._position < self._end:
            left = self._chunk[self._position : self._end]
            self._rest = left if self._rest is None else self._rest + left
        self._position = self._end = 0

    def _next_of_rest(self) -> bytearray | None:
        """As `next_frame`, from what was kept (rare: after a pause, or when a size itself came in two parts)."""
        rest = self._rest
        assert rest is not None
        if self._position < self._end:
            rest += self._chunk[self._position : self._end]
            self._position = self._end = 0
        if len(rest) < 4:
            return None
        size = _read_size(rest)[0]
        if 0 <= size <= len(rest) - 4:
            frame = rest[4 : 4 + size]
            del rest[: 4 + size]
            if not rest:
                self._rest = None
            return frame
        received = len(rest) - 4
        self._open_frame(size, received)[:received] = memoryview(rest)[4:]
        self._frame_received = received
        self._rest = None
        return None

    def _open_frame(self, size: int, available: int) -> bytearray:
        if not 0 <= size <= self.size_max:
            raise FrameTooLarge(size, self.size_max)
        first = max(ALLOCATION_MIN, available, min(ALLOCATION_STEP, _ALLOCATION_PER_BYTE * available), self._expected)
        self._frame = frame = bytearray(min(size, first))
        self._frame_size = size
        self._frame_received = 0
        return frame

    def _continue_frame(self, frame: bytearray) -> bytearray | None:
        count = min(self._end - self._position, self._frame_size - self._frame_received)
        if count > 0:
            start = self._frame_received
            if start + count > len(frame):
                frame += bytes(self._frame_size - len(frame))
            with memoryview(frame) as target:
                target[start : start + count] = self._chunk_view[self._position : self._position + count]
            self._position += count
            self._frame_received = start + count
        if self._frame_received < self._frame_size:
            return None
        self._frame = None
        self._expect(self._frame_size)
        return frame

    def _expect(self, size: int) -> None:
        """The next frame may be as large as this one. Only between frames."""
        is_large = size >= LARGE_SIZE_MIN
        self._expected = min(size, ALLOCATION_STEP) if is_large else 0
        self._direct_min = HEAD_SIZE if is_large else DIRECT_SIZE_MIN
