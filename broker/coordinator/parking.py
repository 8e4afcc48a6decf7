"""`Parking`: requests for shards that are about to serve, which wait for that instead of being refused.

A coordinator that moved, or whose broker died, is away for a moment. Clients that are told COORDINATOR_LOAD_IN_PROGRESS
ask again, but some only two or three times within a fraction of a second (librdkafka's commits), and then their
application hears of it. So what is asked meanwhile is parked, for `PARKED_S` at most, and done in the order in which it
came; what would be too much, or waits too long, is refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode

PARKED_S = 5.0
"""Below every client's time-out for a request."""
PARKED_MAX = 1000
"""Requests of one shard."""

S = TypeVar("S")


@dataclass(eq=False, slots=True)
class _Waiting(Generic[S]):
    reply: Reply
    submit: Callable[[S], None]
    expiry: asyncio.TimerHandle


class Parking(Generic[S]):
    """`refusal` gives the error for what waited too long for a partition's shard."""

    def __init__(self, refusal: Callable[[int], ErrorCode]) -> None:
        self._refusal = refusal
        self._waiting: dict[int, deque[_Waiting[S]]] = {}

    def __contains__(self, index: int) -> bool:
        """Whether anything waits for the shard of this partition."""
        return index in self._waiting

    def park(self, index: int, reply: Reply, submit: Callable[[S], None]) -> None:
        waiting = self._waiting.setdefault(index, deque())
        if len(waiting) >= PARKED_MAX:
            reply.refuse(self._refusal(index))
            return
        # they expire in the order in which they came
        expiry = asyncio.get_running_loop().call_later(PARKED_S, self._expire, index)
        waiting.append(_Waiting(reply, submit, expiry))

    def submit_first(self, index: int, shard: S) -> bool:
        """Let the one that has waited longest have its turn; False if there was none."""
        waiting = self._take(index)
        if waiting is None:
            return False
        waiting.submit(shard)
        return True

    def refuse(self, index: int, code: ErrorCode) -> None:
        """All that wait for this shard."""
        while (waiting := self._take(index)) is not None:
            waiting.reply.refuse(code)

    def waited_for(self) -> list[int]:
        return [*self._waiting]

    def _expire(self, index: int) -> None:
        waiting = self._take(index)
        if waiting is not None:
            waiting.reply.refuse(self._refusal(index))

    def _take(self, index: int) -> _Waiting[S] | None:
        waiting = self._waiting.get(index)
        if waiting is None:
            return None
        first = waiting.popleft()
        first.expiry.cancel()
        if not waiting:
            del self._waiting[index]
        return first
