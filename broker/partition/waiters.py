"""Who waits for a partition: produces for the high watermark to pass their batch, fetches for anything to be readable.

Invariants
----------
* Callbacks of `when_high_watermark` are called in order of their offsets; every one is called exactly once.
* A fetch waiter is told of an advance at most once per WAL flush, and a read_committed one only if the last stable
  offset moved. While a transaction is open it may be told too much, never too little: it looks for itself.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable
from typing import Protocol

from s3stream.api import StorageError, Stream

_UNKNOWN_SIZE = 1 << 62
"""Of what is above the last stable offset when the partition is opened: more than any fetch waits for."""

DurableCallback = Callable[[StorageError | None], None]


class FetchWaiter(Protocol):
    """A fetch that waits for data; registered at every partition it asks for."""

    def advanced(self, size: int) -> None:
        """Up to `size` more bytes are readable."""

    def interrupted(self) -> None:
        """The partition is no longer served here; answer now."""


class Waiters:
    """See the module docstring. `unconfirmed` has (end offset, size) of each batch that is not durable yet."""

    __slots__ = (
        "_committed_size",
        "_failure",
        "_fetches",
        "_last_stable_offset",
        "_log",
        "_waiting",
        "unconfirmed",
    )

    def __init__(self, log: Stream, last_stable_offset: int) -> None:
        self._log = log
        self._waiting: deque[tuple[int, DurableCallback]] = deque()
        self._failure: StorageError | None = None
        self._fetches: dict[FetchWaiter, bool] = {}
        self._last_stable_offset = last_stable_offset
        # bytes confirmed since the last stable offset was at the high watermark
        self._committed_size = 0 if last_stable_offset == log.confirmed_offset else _UNKNOWN_SIZE
        self.unconfirmed: deque[tuple[int, int]] = deque()

    def when_high_watermark(self, offset: int, callback: DurableCallback) -> None:
        """See `Partition.when_high_watermark`."""
        if offset <= self._log.confirmed_offset:
            callback(None)
            return
        if self._failure is not None:
            callback(self._failure)
            return
        waiting = self._waiting
        if waiting and offset < waiting[-1][0]:
            # a repeat of a batch that is in flight waits among the others
            insort(waiting, (offset, callback), key=_offset_of)
        else:
            waiting.append((offset, callback))

    def add_fetch(self, waiter: FetchWaiter, committed_only: bool) -> None:
        self._fetches[waiter] = committed_only

    def remove_fetch(self, waiter: FetchWaiter) -> None:
        self._fetches.pop(waiter, None)

    def advanced(self, high_watermark: int, last_stable_offset: int) -> None:
        """The high watermark moved."""
        unconfirmed = self.unconfirmed
        size = 0
        while unconfirmed and unconfirmed[0][0] <= high_watermark:
            size += unconfirmed.popleft()[1]
        waiting = self._waiting
        while waiting and waiting[0][0] <= high_watermark:
            waiting.popleft()[1](None)
        committed_size = 0
        # what has been confirmed above the last stable offset becomes readable later, at once or in parts
        self._committed_size += size
        if last_stable_offset != self._last_stable_offset:
            self._last_stable_offset = last_stable_offset
            committed_size = self._committed_size
            if last_stable_offset == high_watermark:
                self._committed_size = 0
        if self._fetches:
            for waiter, committed_only in tuple(self._fetches.items()):
                if not committed_only:
                    waiter.advanced(size)
                elif committed_size:
                    waiter.advanced(committed_size)

    def fail(self, error: StorageError) -> None:
        """Nothing more becomes durable."""
        self._failure = error
        waiting, self._waiting = self._waiting, deque()
        for _, callback in waiting:
            callback(error)
        self.interrupt_fetches()

    def interrupt_fetches(self) -> None:
        """Have every waiting fetch answered now."""
        for waiter in tuple(self._fetches):
            waiter.interrupted()


def _offset_of(waiting: tuple[int, DurableCallback]) -> int:
    return waiting[0]
