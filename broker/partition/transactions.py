"""The transactions of one partition: which are open, which ended but not durably yet, and which were aborted.

Pure; offsets only. Producers and their epochs are `broker.partition.producer_state`'s.

A transaction begins with its first batch and ends with a marker (control batch). From its first offset on a
read_committed reader sees nothing until the marker is durable; records of aborted ones it skips by the index here.

Invariants
----------
* Open transactions are kept in order of their first offsets; these are unique.
* `first_unstable_offset` is the smallest first offset of a transaction that is open, or whose marker is at or above the
  high watermark; `NONE_UNSTABLE` if there is none.
* Aborted transactions are kept in order of their last offsets, that is of their markers. Of an entry, every later one
  begins at or after its `stable offset`: the smallest first offset still open when it ended.
* Live appends and replay of the same log end in the same state, once the high watermark has passed all of it.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence

NONE_UNSTABLE = 2**63 - 1
"""Above every offset."""

_INT64 = "q"
_COLUMNS = 4


class AbortedTransactions:
    """The index of aborted transactions, in columns: 32 bytes for each."""

    __slots__ = ("_first_offsets", "_last_offsets", "_producer_ids", "_stable_offsets")

    def __init__(self) -> None:
        self._producer_ids = array(_INT64)
        self._first_offsets = array(_INT64)
        self._last_offsets = array(_INT64)
        self._stable_offsets = array(_INT64)

    def __len__(self) -> int:
        return len(self._last_offsets)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AbortedTransactions) and self.columns() == other.columns()

    __hash__ = None  # type: ignore[assignment]

    def add(self, producer_id: int, first_offset: int, last_offset: int, stable_offset: int) -> None:
        """`last_offset` is that of the marker, beyond that of every entry before."""
        self._producer_ids.append(producer_id)
        self._first_offsets.append(first_offset)
        self._last_offsets.append(last_offset)
        self._stable_offsets.append(stable_offset)

    def overlapping(self, start_offset: int, end_offset: int) -> list[tuple[int, int]]:
        """`(producer id, first offset)` of those with an offset in [start, end), in order of their markers."""
        found: list[tuple[int, int]] = []
        first_offsets, stable_offsets = self._first_offsets, self._stable_offsets
        for index in range(bisect_left(self._last_offsets, start_offset), len(first_offsets)):
            if first_offsets[index] < end_offset:
                found.append((self._producer_ids[index], first_offsets[index]))
            if stable_offsets[index] >= end_offset:
                break
        return found

    def before(self, end_offset: int) -> list[tuple[int, int, int]]:
        """`(producer id, first offset, last offset)` of those that began below `end_offset`."""
        columns = zip(self._producer_ids, self._first_offsets, self._last_offsets, strict=True)
        return [each for each in columns if each[1] < end_offset]

    def forget(self, last_offsets: Iterable[int]) -> bool:
        """Forget those with these last offsets; True if there were any."""
        gone = set(last_offsets)
        kept = [index for index, last in enumerate(self._last_offsets) if last not in gone]
        if len(kept) == len(self._last_offsets):
            return False
        for column in (self._producer_ids, self._first_offsets, self._last_offsets, self._stable_offsets):
            column[:] = array(_INT64, [column[index] for index in kept])
        return True

    def trim(self, log_start_offset: int) -> None:
        """Forget those whose markers are below `log_start_offset`."""
        count = bisect_left(self._last_offsets, log_start_offset)
        if count:
            for column in (self._producer_ids, self._first_offsets, self._last_offsets, self._stable_offsets):
                del column[:count]

    def columns(self) -> list[bytes]:
        """For snapshots: producer ids, first, last and stable offsets, as big-endian int64."""
        return [
            _swapped(column).tobytes()
            for column in (self._producer_ids, self._first_offsets, self._last_offsets, self._stable_offsets)
        ]

    @classmethod
    def from_columns(cls, columns: Sequence[bytes]) -> AbortedTransactions:
        """Back from `columns`. Raises ValueError."""
        if len(columns) != _COLUMNS or len({len(column) for column in columns}) != 1:
            raise ValueError("columns of aborted transactions differ in length")
        aborted = cls()
        decoded = (_swapped(array(_INT64, column)) for column in columns)
        aborted._producer_ids, aborted._first_offsets, aborted._last_offsets, aborted._stable_offsets = decoded
        return aborted


def _swapped(column: array[int]) -> array[int]:
    if sys.byteorder == "little":
        column = array(_INT64, column)
        column.byteswap()
    return column


class Transactions:
    """See the module docstring."""

    __slots__ = ("_ended", "_open", "aborted", "first_unstable_offset")

    def __init__(self, open_first_offsets: Iterable[int] = (), aborted: AbortedTransactions | None = None) -> None:
        self._open: dict[int, None] = dict.fromkeys(sorted(open_first_offsets))
        self._ended: deque[tuple[int, int]] = deque()
        self.aborted = aborted if aborted is not None else AbortedTransactions()
        self.first_unstable_offset = next(iter(self._open), NONE_UNSTABLE)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Transactions)
            and self._open == other._open
            and self._ended == other._ended
            and self.aborted == other.aborted
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def open_count(self) -> int:
        return len(self._open)

    @property
    def is_settling(self) -> bool:
        """A marker is not durable yet, so that `advance` may have something to do."""
        return bool(self._ended)

    def begin(self, first_offset: int) -> None:
        """`first_offset` is beyond every one before."""
        self._open[first_offset] = None
        if self.first_unstable_offset == NONE_UNSTABLE:
            self.first_unstable_offset = first_offset

    def end(self, producer_id: int, first_offset: int, marker_offset: int, committed: bool) -> None:
        """The transaction that began at `first_offset` ends with the marker; unstable until that is durable."""
        del self._open[first_offset]
        self._ended.append((marker_offset, first_offset))
        if not committed:
            self.aborted.add(producer_id, first_offset, marker_offset, next(iter(self._open), marker_offset + 1))

    def advance(self, high_watermark: int) -> None:
        """What ended below the high watermark is stable."""
        ended = self._ended
        while ended and ended[0][0] < high_watermark:
            ended.popleft()
        first = next(iter(self._open), NONE_UNSTABLE)
        self.first_unstable_offset = min(first, min((each[1] for each in ended), default=NONE_UNSTABLE))
