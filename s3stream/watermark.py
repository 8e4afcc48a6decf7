"""A number that only grows, and those who wait for it to reach a value."""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from itertools import count

_order = count()


class Watermark:
    """`advance` releases everybody whose target is reached; after `fail` every wait for more raises that error."""

    __slots__ = ("_failure", "_waiters", "value")

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._failure: Exception | None = None

    def advance(self, value: int) -> None:
        assert value >= self.value, "a watermark does not go back"
        self.value = value
        waiters = self._waiters
        while waiters and waiters[0][0] <= value:
            future = heappop(waiters)[2]
            if not future.done():
                future.set_result(None)

    def fail(self, error: Exception) -> None:
        """Later failures are ignored: the first one is the reason."""
        if self._failure is not None:
            return
        self._failure = error
        waiters, self._waiters = self._waiters, []
        for _, _, future in waiters:
            if not future.done():
                future.set_exception(error)

    async def wait(self, target: int) -> None:
        """Return once `value` >= target. Raises what `fail` was given."""
        if self.value >= target:
            return
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiters, (target, next(_order), future))
        await future
