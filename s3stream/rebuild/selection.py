"""Which objects, and what of each, make the streams. Pure.

An object says which offsets of which streams it holds, not whether it was committed. Taken **newest id first**, each
for the offsets that none before it has, they make what the catalog had, because

* what compaction wrote has greater ids than what it replaced, and stands for exactly the same offsets;
* an upload that was repeated (its commit had failed, or its broker had died) holds the same batches as the one that was
  never committed: only what is durable in the write-ahead log is uploaded, and a recovery uploads all of that;
* a compaction that was never committed is as right as the one that was: it was made of what was committed.

A stream goes on to the first offset that no object has, at or after the end that the snapshot knows. What lies behind
was uploaded while the object before it was not: it is in the write-ahead log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s3stream.catalog.api import StreamRange
from s3stream.fsck.coverage import Coverage
from s3stream.object.reader import IndexEntry

OFFSET_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class StreamBounds:
    """What the snapshot knew: offsets [start, end) were there when it was taken."""

    start_offset: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class StreamResult:
    """`end_offset`: where the stream goes on. `lost`: offsets below it that no object has."""

    end_offset: int
    lost: tuple[tuple[int, int], ...]


class Selection:
    """`add` objects by descending id, then ask for the `results`. `known` may be extended while objects are added."""

    def __init__(self, known: Mapping[int, StreamBounds]) -> None:
        self._bounds = {stream_id: (each.start_offset, OFFSET_MAX) for stream_id, each in known.items()}
        self._known = dict(known)
        self._coverage = Coverage(self._bounds)

    def know(self, stream_id: int) -> None:
        """A stream that the snapshot does not know, because it is younger. Again is no error."""
        self._known.setdefault(stream_id, StreamBounds(0, 0))
        self._bounds.setdefault(stream_id, (0, OFFSET_MAX))

    def add(self, entries: Sequence[IndexEntry]) -> tuple[StreamRange, ...]:
        """What of the object counts, given all newer ones."""
        return self._coverage.adopt(entries)

    def results(self) -> dict[int, StreamResult]:
        found = {}
        for stream_id, bounds in self._known.items():
            least = max(bounds.start_offset, bounds.end_offset)
            lost = tuple(self._coverage.covered[stream_id].missing(bounds.start_offset, least))
            beyond = self._coverage.covered[stream_id].missing(least, OFFSET_MAX)
            found[stream_id] = StreamResult(beyond[0][0] if beyond else OFFSET_MAX, lost)
        return found
