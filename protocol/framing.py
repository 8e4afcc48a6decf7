"""Frames on a connection, without I/O: a signed big-endian 32-bit size and as many bytes.

`frame_size` is the check alone, for receivers that have their own buffers; `FrameReader` is all of it, for clients and
tests.
"""

from __future__ import annotations

import struct

from protocol.errors import FrameTooLarge
from protocol.types import Buffer

SIZE_SIZE = 4
"""Size of the size."""

DEFAULT_SIZE_MAX = 100 << 20
"""As Kafka's `socket.request.max.bytes`."""

_unpack = struct.Struct(">i").unpack_from


def frame_size(buffer: Buffer, position: int = 0, size_max: int = DEFAULT_SIZE_MAX) -> int:
    """The size of the frame that starts at `position`, where its four bytes are. Raises FrameTooLarge."""
    size: int = _unpack(buffer, position)[0]
    if not 0 <= size <= size_max:
        raise FrameTooLarge(size, size_max)
    return size


class FrameReader:
    """Cuts a stream of bytes into frames. A refused size stays where it is: it is refused again."""

    __slots__ = ("_buffer", "size_max")

    def __init__(self, size_max: int = DEFAULT_SIZE_MAX) -> None:
        self._buffer = bytearray()
        self.size_max = size_max

    def receive(self, data: Buffer) -> list[bytes]:
        """Take in what was received; returns the frames that are complete now, without their sizes.

        Raises FrameTooLarge; the connection cannot go on.
        """
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        position, end = 0, len(buffer)
        while end - position >= SIZE_SIZE:
            try:
                stop = position + SIZE_SIZE + frame_size(buffer, position, self.size_max)
            except FrameTooLarge:
                if not frames:
                    raise
                break
            if stop > end:
                break
            frames.append(bytes(memoryview(buffer)[position + SIZE_SIZE : stop]))
            position = stop
        del buffer[:position]
        return frames

    @property
    def missing_size(self) -> int:
        """How many more bytes the next frame needs, or its size field if that is not there; 0 between frames."""
        buffered = len(self._buffer)
        if not buffered:
            return 0
        if buffered < SIZE_SIZE:
            return SIZE_SIZE - buffered
        return SIZE_SIZE + frame_size(self._buffer, 0, self.size_max) - buffered
