"""`Openings`: in which order thousands of partitions are opened.

A few are opened at a time, in the order given. Those that requests are parked for wait for none of the others: a client
has a few requests out at a time, and tells of the next partition that it wants when the first ones are answered; if
each of these rounds waited for a hundred others, its last partition would wait for most of them. So the others make
room for such a round and for the next one, for a bounded time; and nobody waits for them, so that a broker that serves
other partitions opens them with half of its time.

Invariants
----------
* Each partition is handed to `open_some` once, by one of the two who work side by side.
* After an error nothing more is begun; what the other one is at is finished before the error is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from types import TracebackType

from s3stream.catalog.api import PartitionInfo, TopicInfo

RECOVERIES_MAX = 32
"""Partitions whose state is read at the same time, of those that are asked for, and of the others."""
OPENED_AT_ONCE = 50
"""Partitions that are opened together."""
NEXT_ROUND_S = 0.03
"""How soon a client that has been answered asks for its next partitions."""
MAKE_ROOM_MAX_S = 0.2
"""... and how long the others wait for those that are asked for, before each of their steps."""

Key = tuple[str, int]
"""Topic name and partition index."""
Wanted = tuple[TopicInfo, PartitionInfo]


class Openings:
    """`open_some` opens partitions, with at most what the semaphore admits being read; `asked_for` says what requests
    are parked for."""

    def __init__(
        self,
        open_some: Callable[[Sequence[Wanted], asyncio.Semaphore], Awaitable[None]],
        asked_for: Callable[[], Iterable[Key]],
    ) -> None:
        self._open_some = open_some
        self._asked_for = asked_for
        self._reading_asked = asyncio.Semaphore(RECOVERIES_MAX)
        self._reading_rest = asyncio.Semaphore(RECOVERIES_MAX)
        self._openings: list[_Opening] = []

    def asked(self, key: Key) -> None:
        """A request is parked for this one now."""
        for opening in self._openings:
            if key in opening.waiting:
                opening.asked.set()

    async def open(self, wanted: Iterable[Wanted], *, gently: bool = False) -> None:
        """Returns when all are open. Raises what `open_some` raises.

        `gently`: requests for other partitions are served meanwhile, and get half of the time. What somebody waits for
        is opened as soon as without.
        """
        opening = _Opening(wanted)
        self._openings.append(opening)
        try:
            done = await asyncio.gather(
                self._open_asked(opening), self._open_rest(opening, gently), return_exceptions=True
            )
        finally:
            self._openings.remove(opening)
        for error in done:
            if error is not None:
                raise error

    async def _open_asked(self, opening: _Opening) -> None:
        """Those that somebody is parked for, now and later, until none is left."""
        with opening:
            while opening.waiting:
                opening.asked.clear()
                asked = opening.take(key for key in self._asked_for() if key in opening.waiting)
                if asked:
                    opening.has_room.clear()
                    await self._open_some(asked, self._reading_asked)
                elif not opening.has_room.is_set() and not await _is_set(opening.asked, NEXT_ROUND_S):
                    opening.has_room.set()
                else:
                    await opening.asked.wait()

    async def _open_rest(self, opening: _Opening, gently: bool) -> None:
        clock = asyncio.get_running_loop().time
        with opening:
            while opening.waiting:
                await _is_set(opening.has_room, MAKE_ROOM_MAX_S)
                some = opening.take(islice(opening.waiting, OPENED_AT_ONCE))
                began = clock()
                await self._open_some(some, self._reading_rest)
                if gently and opening.waiting:
                    await asyncio.sleep(clock() - began)


class _Opening:
    """Partitions that nobody has begun to open. Who leaves with an error leaves nothing to begin with."""

    __slots__ = ("asked", "has_room", "waiting")

    def __init__(self, wanted: Iterable[Wanted]) -> None:
        self.waiting = {(topic.name, info.index): (topic, info) for topic, info in wanted}
        self.asked = asyncio.Event()
        """Somebody waits for one of them; or there is none left."""
        self.has_room = asyncio.Event()
        """Nobody waits, nor is about to."""
        self.has_room.set()

    def take(self, keys: Iterable[Key]) -> list[Wanted]:
        return [self.waiting.pop(key) for key in list(keys)]

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.waiting.clear()
        if not self.waiting:
            self.asked.set()
            self.has_room.set()


async def _is_set(event: asyncio.Event, patience_s: float) -> bool:
    """Wait for it, but no longer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await event.wait()
    return event.is_set()
