"""`ProducerOrder`: what a producer sends on a connection is appended in its order, also while some of it waits.

Work that need not wait, behind nothing that does, runs at once and leaves nothing behind. What waits is bounded by the
requests that a connection may have in flight and by the memory of requests.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

ProducerKey = tuple[int, int]
"""Connection id and producer id."""


class Work(Protocol):
    def begin(self) -> bool:
        """The work's turn has come. False: it is not done yet, and calls `ProducerOrder.done` when it is."""


class ProducerOrder:
    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[ProducerKey, deque[Work]] = {}

    def __len__(self) -> int:
        """How many producers have work that waits."""
        return len(self._waiting)

    def is_waiting(self, key: ProducerKey) -> bool:
        return key in self._waiting

    def add(self, key: ProducerKey, work: Work) -> None:
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(work)
        elif not work.begin():
            self._waiting[key] = deque((work,))

    def done(self, key: ProducerKey) -> None:
        """The first work of this producer is done, in a later call than its `begin`."""
        waiting = self._waiting[key]
        waiting.popleft()
        while waiting and waiting[0].begin():
            waiting.popleft()
        if not waiting:
            del self._waiting[key]
