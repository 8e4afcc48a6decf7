"""Writes one object: turns batches into pieces, without joining or copying them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from s3stream.catalog.api import StreamRange
from wal.api import Buffer


class ObjectBatch(NamedTuple):
    """One batch of a stream: `count` offsets from `base_offset` on; the timestamp in ms. A plain tuple will do."""

    base_offset: int
    count: int
    max_timestamp: int
    data: Buffer


@dataclass(frozen=True, slots=True)
class BuiltObject:
    """The object is the concatenation of `pieces`; `ranges` are one per run of adjacent offsets of a stream, in order."""

    pieces: list[Buffer]
    size: int
    ranges: tuple[StreamRange, ...]


def build_object(streams: Iterable[tuple[int, Sequence[tuple[int, int, int, Buffer]]]], block_size: int = 512 << 10) -> BuiltObject:
    """All of `streams` (stream id, its batches by offset), which must come sorted by stream id, as one object.

    Pure computing (CRCs release the GIL): run it in a thread.
    """
    raise NotImplementedError
