"""Repeats what failed for reasons that pass: a bounded number of times, with jittered, growing pauses, and only as long
as that does not make things worse (`budget`).

A PUT without an answer is decided by looking: if the object is there with exactly these bytes, the PUT succeeded. A
conditional PUT that is repeated and then finds the key taken is decided in the same way, so whoever uses
`put_if_absent` to choose one winner must put something of its own into the object.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from s3stream.objectstore.api import (
    ObjectExists,
    ObjectMeta,
    ObjectStore,
    StoreError,
    StoreRefused,
    StoreUnreachable,
)
from s3stream.objectstore.budget import Circuit, RetryBudget
from wal.api import Buffer

ATTEMPTS_MAX = 5
PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 5.0
R = TypeVar("R")


class RetryingStore:
    """`sleep`, `clock` and `rng` are for tests."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._sleep = sleep
        self._clock = clock
        self._rng = rng or random.Random()
        self._budget = RetryBudget()
        self._circuit = Circuit()

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        await self._put(self._store.put, key, pieces)

    async def put_if_absent(self, key: str, pieces: Sequence[Buffer]) -> None:
        await self._put(self._store.put_if_absent, key, pieces)

    async def get(self, key: str) -> Buffer:
        return await self._repeat(lambda: self._store.get(key))

    async def get_range(self, key: str, start: int, end: int) -> Buffer:
        async def get() -> Buffer:
            data = await self._store.get_range(key, start, end)
            if len(data) != end - start:
                raise StoreUnreachable(f"{key}: asked for {start}..{end}, got {len(data)} bytes")
            return data

        return await self._repeat(get)

    async def head(self, key: str) -> int | None:
        return await self._repeat(lambda: self._store.head(key))

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._repeat(lambda: self._store.delete_many(keys))

    def list(self, prefix: str) -> AsyncIterator[ObjectMeta]:
        """Not repeated: part of the listing may have been used already."""
        return self._store.list(prefix)

    async def close(self) -> None:
        await self._store.close()

    async def _put(
        self, put: Callable[[str, Sequence[Buffer]], Awaitable[None]], key: str, pieces: Sequence[Buffer]
    ) -> None:
        for attempt in range(ATTEMPTS_MAX):
            self._check()
            try:
                await put(key, pieces)
                self._answered()
                return
            except StoreRefused:
                raise
            except ObjectExists:
                self._answered()
                if attempt > 0 and await self._holds(key, pieces):
                    return
                raise
            except StoreUnreachable:
                self._circuit.failed(self._clock())
                # The last failure is decided too, before it is raised.
                if await self._is_stored(key, pieces):
                    self._answered()
                    return
                if not self._may_repeat(attempt):
                    raise
            await self._sleep(self._pause(attempt))

    async def _is_stored(self, key: str, pieces: Sequence[Buffer]) -> bool:
        """False also if the store does not answer: then the PUT is repeated, which does no harm."""
        try:
            return await self._holds(key, pieces)
        except StoreUnreachable:
            return False

    async def _holds(self, key: str, pieces: Sequence[Buffer]) -> bool:
        size = await self._store.head(key)
        if size != sum(map(len, pieces)):
            return False
        stored = memoryview(await self._store.get(key))
        position = 0
        for piece in pieces:
            if stored[position : position + len(piece)] != piece:
                return False
            position += len(piece)
        return position == len(stored)

    async def _repeat(self, call: Callable[[], Awaitable[R]]) -> R:
        attempt = 0
        while True:
            self._check()
            try:
                result = await call()
            except StoreRefused:
                raise
            except StoreUnreachable:
                self._circuit.failed(self._clock())
                if not self._may_repeat(attempt):
                    raise
            except StoreError:
                self._answered()
                raise
            else:
                self._answered()
                return result
            await self._sleep(self._pause(attempt))
            attempt += 1

    def _check(self) -> None:
        if not self._circuit.may_pass(self._clock()):
            raise StoreUnreachable("the object store has not answered for some time; it is asked once a second")

    def _answered(self) -> None:
        self._circuit.answered()
        self._budget.answered()

    def _may_repeat(self, attempt: int) -> bool:
        return attempt < ATTEMPTS_MAX - 1 and not self._circuit.is_open and self._budget.take()

    def _pause(self, attempt: int) -> float:
        return self._rng.uniform(0.5, 1.0) * min(PAUSE_MAX_S, PAUSE_MIN_S * (1 << attempt))
