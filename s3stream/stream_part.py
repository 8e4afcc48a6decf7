"""Adjacent batches of one stream, on their way from memory or from a WAL into an object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wal.api import Buffer


@dataclass(frozen=True, slots=True)
class StreamPart:
    """Batches are (base offset, count, max timestamp, data), appended under `epoch`; `size` is their payload's.

    `batches` may be an iterator that can be used once: its tuples are made where it is used, off the event loop.
    """

    stream_id: int
    epoch: int
    batches: Iterable[tuple[int, int, int, Buffer]]
    size: int
