"""How far to read ahead: grows while a reader goes on where it stopped, starts anew where that proved wasted.

A reader is known by the stream and the offset at which it will go on, so that several readers of one stream do not
disturb each other. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections import OrderedDict

WINDOW_MIN = 1 << 20
READERS_MAX = 4096
"""Readers remembered; the least recently seen is forgotten first."""


class Reader:
    """`window` is how many bytes past its last read are worth reading ahead."""

    __slots__ = ("window",)

    def __init__(self) -> None:
        self.window = 0


class ReadAhead:
    def __init__(self, window_max: int) -> None:
        self._window_max = window_max
        self._readers: OrderedDict[tuple[int, int], Reader] = OrderedDict()

    def observe(self, stream_id: int, offset: int, next_offset: int) -> Reader:
        """Somebody has read [offset, next_offset); says how far to read ahead for them."""
        reader = self._readers.pop((stream_id, offset), None)
        if reader is None:
            reader = Reader()
        elif next_offset > offset:
            reader.window = min(self._window_max, max(WINDOW_MIN, reader.window * 2))
        self._readers[stream_id, next_offset] = reader
        if len(self._readers) > READERS_MAX:
            self._readers.popitem(last=False)
        return reader

    @staticmethod
    def wasted(reader: object) -> None:
        """Blocks that were read ahead for `reader` were evicted before it came to them."""
        if isinstance(reader, Reader):
            reader.window = 0
