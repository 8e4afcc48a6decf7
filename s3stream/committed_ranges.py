"""The committed part of one stream: which object holds which offsets.

Ranges are contiguous and in order; they are kept in parallel arrays, because a stream that trickles for days has
hundreds of thousands of them. The first range may begin below the stream's start offset (its object is shared), the
last one ends at the committed offset.

Compaction replaces runs of ranges by others of the same offsets, while the stream is open. Who is reading goes on in
the object that they found; it outlives its place here by the time after which the cleaner deletes what was replaced.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

from s3stream.api import InvariantBroken, RangeInfo
from s3stream.catalog.api import StreamRange

FOLLOWING_MAX = 4
"""How many objects further on a reader is told about."""


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """A committed object; `shared`: by several streams. `size` locates its footer."""

    object_id: int
    key: str
    size: int
    shared: bool = True


@dataclass(frozen=True, slots=True)
class CommittedRange:
    """`following`: key and size of the objects in which the stream goes on, a few of them, for read-ahead."""

    ref: ObjectRef
    start_offset: int
    end_offset: int
    following: tuple[tuple[str, int], ...]


class CommittedRanges:
    """`size` is the sum of the ranges' sizes, the first one counted in whole."""

    __slots__ = ("_ends", "_refs", "_sizes", "_starts", "_timestamps", "size")

    def __init__(self) -> None:
        self._starts = array("q")
        self._ends = array("q")
        self._sizes = array("q")
        self._timestamps = array("q")
        self._refs: list[ObjectRef] = []
        self.size = 0

    @classmethod
    def of(cls, found: Iterable[tuple[StreamRange, ObjectRef]]) -> CommittedRanges:
        """Of ranges in any order."""
        ranges = cls()
        for entry, ref in sorted(found, key=lambda pair: pair[0].start_offset):
            ranges.append(entry, ref)
        return ranges

    def __len__(self) -> int:
        return len(self._refs)

    def append(self, found: StreamRange, ref: ObjectRef) -> None:
        """Raises InvariantBroken if `found` does not continue the last range."""
        if self._ends and found.start_offset != self._ends[-1]:
            raise InvariantBroken(
                f"stream {found.stream_id}: object {ref.key} begins at offset {found.start_offset}, "
                f"but what is committed ends at {self._ends[-1]}"
            )
        self._starts.append(found.start_offset)
        self._ends.append(found.end_offset)
        self._sizes.append(found.size)
        self._timestamps.append(found.max_timestamp)
        self._refs.append(ref)
        self.size += found.size

    def find(self, offset: int) -> CommittedRange | None:
        """The range that contains `offset`."""
        i = bisect_right(self._starts, offset) - 1
        if i < 0 or offset >= self._ends[i]:
            return None
        return self._at(i)

    def find_timestamp(self, timestamp: int) -> CommittedRange | None:
        """The first range whose max timestamp is >= `timestamp`."""
        for i, newest in enumerate(self._timestamps):
            if newest >= timestamp:
                return self._at(i)
        return None

    def trim(self, start_offset: int) -> None:
        """Forget the ranges that end at or below `start_offset`."""
        count = bisect_right(self._ends, start_offset)
        self.size -= sum(self._sizes[:count])
        for column in (self._starts, self._ends, self._sizes, self._timestamps):
            del column[:count]
        del self._refs[:count]

    def located(
        self, stream_id: int, start_offset: int, end_offset: int, count_max: int = sys.maxsize
    ) -> list[tuple[StreamRange, ObjectRef]]:
        """The ranges that reach into [start, end), with where they are; the first `count_max` of them."""
        first = bisect_right(self._ends, start_offset)
        stop = min(bisect_left(self._starts, end_offset), first + count_max)
        return [(self._range(stream_id, i), self._refs[i]) for i in range(first, stop)]

    def replace(
        self, removed: Sequence[tuple[StreamRange, ObjectRef]], added: Sequence[tuple[StreamRange, ObjectRef]]
    ) -> bool:
        """Put `added` in the place of `removed`; both are in order and cover the same adjacent offsets, but for what
        was trimmed. False, and nothing changed, if `removed` is not what is here."""
        if not removed:
            return False
        removed = [each for each in removed if not self._starts or each[0].end_offset > self._starts[0]]
        if not removed:
            return True
        first = bisect_right(self._ends, removed[0][0].start_offset)
        stop = first + len(removed)
        here = [(self._range(removed[0][0].stream_id, i), self._refs[i]) for i in range(first, min(stop, len(self)))]
        if here != list(removed):
            return False
        added = [each for each in added if each[0].end_offset > removed[0][0].start_offset]
        self.size += sum(each.size for each, _ in added) - sum(each.size for each, _ in removed)
        self._starts[first:stop] = array("q", [each.start_offset for each, _ in added])
        self._ends[first:stop] = array("q", [each.end_offset for each, _ in added])
        self._sizes[first:stop] = array("q", [each.size for each, _ in added])
        self._timestamps[first:stop] = array("q", [each.max_timestamp for each, _ in added])
        self._refs[first:stop] = [ref for _, ref in added]
        return True

    def _range(self, stream_id: int, i: int) -> StreamRange:
        return StreamRange(stream_id, self._starts[i], self._ends[i], self._sizes[i], self._timestamps[i])

    def infos(self) -> Sequence[RangeInfo]:
        """A view, to be used before the next await."""
        return _Infos(self)

    def info(self, i: int) -> RangeInfo:
        return RangeInfo(self._starts[i], self._ends[i], self._sizes[i], self._timestamps[i])

    def _at(self, i: int) -> CommittedRange:
        ref = self._refs[i]
        # one object may hold several ranges of a stream
        following = dict.fromkeys(
            (each.key, each.size) for each in self._refs[i + 1 : i + 1 + FOLLOWING_MAX] if each.key != ref.key
        )
        return CommittedRange(ref, self._starts[i], self._ends[i], tuple(following))


class _Infos(Sequence[RangeInfo]):
    """Made as they are looked at: retention looks at the first few of what may be hundreds of thousands."""

    __slots__ = ("_ranges",)

    def __init__(self, ranges: CommittedRanges) -> None:
        self._ranges = ranges

    def __len__(self) -> int:
        return len(self._ranges)

    @overload
    def __getitem__(self, i: int) -> RangeInfo: ...
    @overload
    def __getitem__(self, i: slice) -> list[RangeInfo]: ...
    def __getitem__(self, i: int | slice) -> RangeInfo | list[RangeInfo]:
        if isinstance(i, slice):
            return [self._ranges.info(each) for each in range(*i.indices(len(self)))]
        return self._ranges.info(i)
