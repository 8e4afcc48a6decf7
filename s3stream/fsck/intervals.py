"""Sets of offsets as disjoint half-open intervals. Pure.

What comes mostly in order stays one interval, so that a stream with a hundred thousand ranges costs a few words.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Intervals:
    """Adjacent intervals are one."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> zip[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    @property
    def end(self) -> int:
        """After the last offset; there must be one."""
        return self._ends[-1]

    def add(self, start: int, end: int) -> list[tuple[int, int]]:
        """Add [start, end); returns the parts that were there already."""
        if start >= end:
            return []
        if not self._starts or start > self._ends[-1]:
            self._starts.append(start)
            self._ends.append(end)
            return []
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        present = [
            (max(start, self._starts[i]), min(end, self._ends[i]))
            for i in range(first, last)
            if self._starts[i] < end and self._ends[i] > start
        ]
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        return present

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that are not in the set."""
        gaps = []
        for i in range(bisect_right(self._ends, start), len(self._starts)):
            if self._starts[i] >= end:
                break
            if self._starts[i] > start:
                gaps.append((start, self._starts[i]))
            start = self._ends[i]
        if start < end:
            gaps.append((start, end))
        return gaps
