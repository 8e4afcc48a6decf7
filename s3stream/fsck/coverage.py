"""Which offsets of which streams the objects hold, and what of an object still adds to it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from s3stream.catalog.api import StreamRange
from s3stream.fsck.intervals import Intervals
from s3stream.fsck.object_content import payload_size
from s3stream.object.reader import IndexEntry


class Coverage:
    """`bounds`: stream id -> (start, end) of what is wanted; other streams are of no interest."""

    def __init__(self, bounds: Mapping[int, tuple[int, int]]) -> None:
        self.bounds = bounds
        self.covered: defaultdict[int, Intervals] = defaultdict(Intervals)

    def add(self, ranges: Sequence[StreamRange]) -> None:
        for each in ranges:
            bounds = self.bounds.get(each.stream_id)
            if bounds is not None:
                self.covered[each.stream_id].add(max(each.start_offset, bounds[0]), each.end_offset)

    def gaps(self, stream_id: int) -> list[tuple[int, int]]:
        start, end = self.bounds[stream_id]
        return self.covered[stream_id].missing(start, end)

    def lacks(self, entry: IndexEntry) -> bool:
        """Whether the block has offsets that are wanted and not covered yet."""
        bounds = self.bounds.get(entry.stream_id)
        if bounds is None:
            return False
        start, end = max(entry.start_offset, bounds[0]), min(entry.end_offset, bounds[1])
        return start < end and bool(self.covered[entry.stream_id].missing(start, end))

    def adopt(self, entries: Sequence[IndexEntry]) -> tuple[StreamRange, ...]:
        """The parts of an object that fill gaps, which are covered from now on. `entries` in the order of the index."""
        adopted: list[StreamRange] = []
        for entry in entries:
            bounds = self.bounds.get(entry.stream_id)
            if bounds is None:
                continue
            start, end = max(entry.start_offset, bounds[0]), min(entry.end_offset, bounds[1])
            if start >= end:
                continue
            for begin, stop in self.covered[entry.stream_id].missing(start, end):
                part = StreamRange(entry.stream_id, begin, stop, payload_size(entry), entry.max_timestamp)
                _append(adopted, part)
                self.covered[entry.stream_id].add(begin, stop)
        return tuple(adopted)

    def adds_nothing(self, entries: Sequence[IndexEntry]) -> bool:
        """Everything in these blocks is below a start, in other objects, or of streams that are gone."""
        for entry in entries:
            bounds = self.bounds.get(entry.stream_id)
            if bounds is not None:
                start = max(entry.start_offset, bounds[0])
                if self.covered[entry.stream_id].missing(start, max(start, entry.end_offset)):
                    return False
        return True


def merged(parts: Sequence[StreamRange]) -> tuple[StreamRange, ...]:
    """Adjacent ranges as one. `parts` come in order."""
    ranges: list[StreamRange] = []
    for part in parts:
        _append(ranges, part)
    return tuple(ranges)


def _append(ranges: list[StreamRange], part: StreamRange) -> None:
    last = ranges[-1] if ranges else None
    if last is not None and last.stream_id == part.stream_id and last.end_offset == part.start_offset:
        timestamp = max(last.max_timestamp, part.max_timestamp)
        ranges[-1] = StreamRange(part.stream_id, last.start_offset, part.end_offset, last.size + part.size, timestamp)
    else:
        ranges.append(part)
