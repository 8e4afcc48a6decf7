"""Keyed timers of one shard, in virtual time.

`now_ms` is a monotonic clock that the owner moves; nothing here reads one. There is at most one timer per key:
scheduling a key again replaces it. A heartbeat moves its timer with each request, so moving one to a later time is
a dict write: the heap keeps the old entry, which is put back with the new deadline when it comes up.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Generic, TypeVar

Key = tuple[str, ...]
E = TypeVar("E")


class Timer(Generic[E]):
    """`subject` is what the event is about (see `shard`); `event` is called once, when the deadline has passed."""

    __slots__ = ("deadline_ms", "event", "heap_ms", "subject")

    def __init__(self, deadline_ms: int, subject: str | None, event: E) -> None:
        self.deadline_ms = deadline_ms
        self.heap_ms = deadline_ms
        self.subject = subject
        self.event = event


class Timers(Generic[E]):
    """Timers of equal deadline come in the order in which they were scheduled."""

    __slots__ = ("_heap", "_sequence", "_timers", "now_ms")

    def __init__(self, now_ms: int = 0) -> None:
        self.now_ms = now_ms
        self._timers: dict[Key, Timer[E]] = {}
        self._heap: list[tuple[int, int, Key, Timer[E]]] = []
        self._sequence = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._timers

    def schedule(self, key: Key, delay_ms: int, subject: str | None, event: E) -> None:
        deadline_ms = self.now_ms + delay_ms
        timer = self._timers.get(key)
        if timer is not None and timer.heap_ms <= deadline_ms:
            timer.deadline_ms = deadline_ms
            timer.subject = subject
            timer.event = event
            return
        timer = self._timers[key] = Timer(deadline_ms, subject, event)
        self._push(key, timer)

    def cancel(self, key: Key) -> None:
        self._timers.pop(key, None)

    def clear(self) -> None:
        self._timers.clear()
        self._heap.clear()

    def next_ms(self) -> int | None:
        """No timer is due before this; it may be early."""
        heap = self._heap
        while heap and self._timers.get(heap[0][2]) is not heap[0][3]:
            heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self) -> Timer[E] | None:
        """Take out the next timer whose deadline is not after `now_ms`."""
        heap = self._heap
        while heap and heap[0][0] <= self.now_ms:
            _, _, key, timer = heappop(heap)
            if self._timers.get(key) is not timer:
                continue
            if timer.deadline_ms > self.now_ms:
                self._push(key, timer)
                continue
            del self._timers[key]
            return timer
        return None

    def _push(self, key: Key, timer: Timer[E]) -> None:
        timer.heap_ms = timer.deadline_ms
        self._sequence += 1
        heappush(self._heap, (timer.deadline_ms, self._sequence, key, timer))
