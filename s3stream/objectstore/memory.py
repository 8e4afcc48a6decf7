"""`memory://`: the twin for tests and throw-away brokers. Each store opened is its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

from s3stream.objectstore.api import ObjectExists, ObjectMeta, ObjectMissing, RangeInvalid
from wal.api import Buffer


class MemoryStore:
    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, int]] = {}

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        self._objects[key] = (b"".join(pieces), int(time.time() * 1000))

    async def put_if_absent(self, key: str, pieces: Sequence[Buffer]) -> None:
        if key in self._objects:
            raise ObjectExists(f"{key} exists")
        await self.put(key, pieces)

    async def get(self, key: str) -> Buffer:
        return self._find(key)

    async def get_range(self, key: str, start: int, end: int) -> Buffer:
        data = self._find(key)
        if not 0 <= start < end <= len(data):
            raise RangeInvalid(f"{key} has {len(data)} bytes, asked for {start}..{end}")
        return memoryview(data)[start:end]

    async def head(self, key: str) -> int | None:
        found = self._objects.get(key)
        return None if found is None else len(found[0])

    async def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._objects.pop(key, None)

    async def list(self, prefix: str) -> AsyncIterator[ObjectMeta]:
        for key, (data, modified) in list(self._objects.items()):
            if key.startswith(prefix):
                yield ObjectMeta(key, len(data), modified)

    async def close(self) -> None:
        return None

    def _find(self, key: str) -> bytes:
        found = self._objects.get(key)
        if found is None:
            raise ObjectMissing(f"{key} does not exist")
        return found[0]
