"""The leader epochs of a partition and the offset at which each began (KIP-101, KIP-279).

Pure. Epochs and start offsets both grow strictly along the list.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

UNDEFINED = -1
"""Kafka's undefined epoch, and undefined offset."""


class LeaderEpochs:
    """`(epoch, start offset)` pairs in order."""

    __slots__ = ("_epochs", "_starts")

    def __init__(self, entries: Iterable[tuple[int, int]] = ()) -> None:
        self._epochs: list[int] = []
        self._starts: list[int] = []
        for epoch, start_offset in entries:
            self.assign(epoch, start_offset)

    @property
    def latest(self) -> int:
        """The newest epoch, or UNDEFINED."""
        return self._epochs[-1] if self._epochs else UNDEFINED

    def entries(self) -> list[tuple[int, int]]:
        return list(zip(self._epochs, self._starts, strict=True))

    def assign(self, epoch: int, start_offset: int) -> None:
        """`epoch` begins at `start_offset`. No effect unless it is newer than the latest.

        Epochs that began at or after `start_offset` never held a record and are forgotten.
        """
        if epoch <= self.latest:
            return
        while self._starts and self._starts[-1] >= start_offset:
            self._starts.pop()
            self._epochs.pop()
        self._epochs.append(epoch)
        self._starts.append(start_offset)

    def trim(self, log_start_offset: int) -> None:
        """Forget the epochs that ended at or before `log_start_offset`; the one that holds it begins there."""
        index = bisect_right(self._starts, log_start_offset) - 1
        if index > 0:
            del self._epochs[:index]
            del self._starts[:index]
        if index >= 0:
            self._starts[0] = log_start_offset

    def epoch_at(self, offset: int) -> int:
        """The epoch that `offset` belongs to, or UNDEFINED if it is before the first known."""
        index = bisect_right(self._starts, offset) - 1
        return self._epochs[index] if index >= 0 else UNDEFINED

    def end_offset(self, epoch: int, end_offset: int) -> tuple[int, int]:
        """The largest known epoch <= `epoch` and the offset at which it ended, as OffsetForLeaderEpoch answers.

        `end_offset` is the end of the latest epoch. Both UNDEFINED if `epoch` is newer than any known; an epoch older
        than any known is answered with itself and the start of the first known.
        """
        if epoch == UNDEFINED or not self._epochs or epoch > self._epochs[-1]:
            return UNDEFINED, UNDEFINED
        if epoch == self._epochs[-1]:
            return epoch, end_offset
        index = bisect_right(self._epochs, epoch)
        if index == 0:
            return epoch, self._starts[0]
        return self._epochs[index - 1], self._starts[index]
