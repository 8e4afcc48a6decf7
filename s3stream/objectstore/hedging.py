"""A second request for a ranged GET that takes unusually long: whichever answers first counts.

Object stores answer a small part of requests ten times slower than the rest, and a reader feels each of them. When a
GET has taken longer than nearly all the latest ones did, it is asked for again, on another connection most likely. Of
every hundred GETs a few may be doubled, so that a store that is slow as a whole is not asked twice for everything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from s3stream.objectstore.api import ObjectMeta, ObjectStore
from wal.api import Buffer

DELAY_MIN_S = 0.05
SLOWER = 2.0
"""... than the `QUANTILE` of the latest ones."""
QUANTILE = 0.95
LATEST_COUNT = 128
LATEST_COUNT_MIN = 16
SHARE = 0.05
TOKENS_MAX = 8.0


class Hedge:
    """How long to wait before a second request, if one may be made at all. Pure."""

    __slots__ = ("_delay_s", "_latest", "_since", "_tokens")

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=LATEST_COUNT)
        self._tokens = 0.0
        self._delay_s: float | None = None
        self._since = 0

    def observe(self, took_s: float) -> None:
        """A GET took so long to be answered."""
        self._latest.append(took_s)
        self._tokens = min(TOKENS_MAX, self._tokens + SHARE)
        self._since += 1
        if len(self._latest) >= LATEST_COUNT_MIN and self._since >= LATEST_COUNT_MIN:
            self._since = 0
            ordered = sorted(self._latest)
            self._delay_s = max(DELAY_MIN_S, SLOWER * ordered[int(QUANTILE * (len(ordered) - 1))])

    def delay_s(self) -> float | None:
        """None: no second request."""
        return self._delay_s if self._tokens >= 1.0 else None

    def spend(self) -> bool:
        """Whether a second request may be made now: others that began with this one may have used it up."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class HedgingStore:
    """`hedged` counts second requests, `won` those that were answered first."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._hedge = Hedge()
        self.hedged = 0
        self.won = 0

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        await self._store.put(key, pieces)

    async def put_if_absent(self, key: str, pieces: Sequence[Buffer]) -> None:
        await self._store.put_if_absent(key, pieces)

    async def get(self, key: str) -> Buffer:
        return await self._store.get(key)

    async def get_range(self, key: str, start: int, end: int) -> Buffer:
        loop = asyncio.get_running_loop()
        began = loop.time()
        delay_s = self._hedge.delay_s()
        if delay_s is None:
            data = await self._store.get_range(key, start, end)
        else:
            data = await self._get_twice(key, start, end, delay_s)
        self._hedge.observe(loop.time() - began)
        return data

    async def _get_twice(self, key: str, start: int, end: int, delay_s: float) -> Buffer:
        first = asyncio.ensure_future(self._store.get_range(key, start, end))
        requests = {first}
        try:
            done, _ = await asyncio.wait(requests, timeout=delay_s)
            if not done and self._hedge.spend():
                self.hedged += 1
                requests.add(asyncio.ensure_future(self._store.get_range(key, start, end)))
            if not done:
                done, _ = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
                if len(done) == 1 and len(requests) == 2 and next(iter(done)).exception() is not None:
                    # the other one may still make it
                    done, _ = await asyncio.wait(requests - done)
            chosen = next((each for each in done if each.exception() is None), next(iter(done)))
            self.won += chosen is not first
            return chosen.result()
        finally:
            for each in requests:
                each.cancel()
            await asyncio.gather(*requests, return_exceptions=True)

    async def head(self, key: str) -> int | None:
        return await self._store.head(key)

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._store.delete_many(keys)

    def list(self, prefix: str) -> AsyncIterator[ObjectMeta]:
        return self._store.list(prefix)

    async def close(self) -> None:
        await self._store.close()
