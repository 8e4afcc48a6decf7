"""Adjacent batches of one stream, on their way from memory or from a WAL into an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wal.api import Buffer


@dataclass(frozen=True, slots=True)
class StreamPart:
    """Batches are (base offset, count, max timestamp, data), appended under `epoch`; `size` is their payload's."""

    stream_id: int
    epoch: int
    batches: Sequence[tuple[int, int, int, Buffer]]
    size: int
