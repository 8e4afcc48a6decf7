"""A store of slots in memory, with delays, lost answers and outages by seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

from wal.api import Buffer
from wal.object.store import SlotMissing, SlotTaken, StoreTrouble

_READ_LOSS = 0.02


class Bucket:
    """What is stored, and how the store behaves: `lost` is the probability that a write or its answer gets lost; reads
    are tried again by real clients, and hardly ever are."""

    def __init__(self, seed: int = 0, delay_s: float = 0.0, lost: float = 0.0) -> None:
        self.objects: dict[str, bytes] = {}
        self.rng = random.Random(seed)
        self.delay_s = delay_s
        self.lost = lost
        self.creating = 0
        self.creating_max = 0


class MemorySlots:
    """One client of a bucket. What one creates that `loses_slots` never arrives; what it deletes does."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.loses_slots = False
        self.closed = False

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        if self.loses_slots:
            raise StoreTrouble("no answer")
        content = b"".join(pieces)
        bucket = self.bucket
        bucket.creating += 1
        bucket.creating_max = max(bucket.creating_max, bucket.creating)
        try:
            await self._on_the_way()
            stored = bucket.objects.setdefault(key, content)
            await self._on_the_way()
        finally:
            bucket.creating -= 1
        if stored != content:
            raise SlotTaken(key)

    async def read(self, key: str) -> Buffer:
        await self._on_the_way(_READ_LOSS)
        content = self.bucket.objects.get(key)
        if content is None:
            raise SlotMissing(key)
        return memoryview(content)

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        await self._on_the_way(_READ_LOSS)
        for key in [key for key in self.bucket.objects if key.startswith(prefix)]:
            yield key

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._on_the_way()
            self.bucket.objects.pop(key, None)

    async def close(self) -> None:
        self.closed = True

    async def _on_the_way(self, share: float = 1.0) -> None:
        bucket = self.bucket
        if bucket.delay_s:
            await asyncio.sleep(bucket.rng.uniform(0, 2 * bucket.delay_s))
        if bucket.rng.random() < bucket.lost * share:
            raise StoreTrouble("no answer")
