"""Many small catalog writes as few: what is asked for while a call is out goes into the next one together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

V = TypeVar("V")


class GroupCall(Generic[V]):
    """`call` gets key -> value, the last value for each key; its error goes to everybody of that group."""

    def __init__(self, call: Callable[[Mapping[int, V]], Awaitable[None]]) -> None:
        self._call = call
        self._waiting: dict[int, V] = {}
        self._wakeup = asyncio.Event()
        self._answer: asyncio.Future[None] | None = None
        self._in_flight: asyncio.Future[None] | None = None
        self._closed: Exception | None = None

    async def submit(self, key: int, value: V) -> None:
        """Return when a call with this key and value, or a later value, has succeeded."""
        if self._closed is not None:
            raise self._closed
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
        self._waiting[key] = value
        self._wakeup.set()
        await asyncio.shield(self._answer)

    async def run(self) -> None:
        """Until cancelled; `stop` has to be called too, it answers who was left waiting."""
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            values, self._waiting = self._waiting, {}
            answer, self._answer = self._answer, None
            assert answer is not None
            self._in_flight = answer
            try:
                await self._call(values)
            except Exception as error:
                _fail(answer, error)
            else:
                if not answer.done():
                    answer.set_result(None)

    def stop(self, error: Exception) -> None:
        """Who waits, or comes later, gets `error`."""
        self._closed = error
        for answer in (self._in_flight, self._answer):
            if answer is not None:
                _fail(answer, error)


def _fail(answer: asyncio.Future[None], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # those who asked may have been cancelled meanwhile
