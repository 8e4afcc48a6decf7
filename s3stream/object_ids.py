"""Object ids, registered in the catalog ahead of their use.

An object is registered before it is uploaded, so that the cleaner finds it if its commit never comes. Registering in
advance keeps the catalog off the way between a block and its PUT.
"""

from __future__ import annotations

import asyncio
from collections import deque

from s3stream.catalog.api import Catalog
from s3stream.retry import Retry
from s3stream.settings import StorageSettings


class ObjectIds:
    """Hands out (object id, key), each once. Ids that came of age are left to the cleaner."""

    def __init__(
        self, catalog: Catalog, node_id: int, broker_epoch: int, retry: Retry, settings: StorageSettings
    ) -> None:
        self._catalog = catalog
        self._node_id = node_id
        self._broker_epoch = broker_epoch
        self._retry = retry
        self._count = settings.object_ids_ahead
        self._age_max = settings.object_id_age_max_ms / 1000
        self._ids: deque[tuple[int, str, float]] = deque()
        self._refilling = asyncio.Lock()

    async def take(self) -> tuple[int, str]:
        """The next (object id, key)."""
        while True:
            now = asyncio.get_running_loop().time()
            while self._ids:
                object_id, key, deadline = self._ids.popleft()
                if now < deadline:
                    return object_id, key
            await self._refill(1)

    async def refill(self) -> None:
        """Top up, unless there are plenty."""
        if len(self._ids) <= self._count // 2 and not self._refilling.locked():
            await self._refill(self._count // 2 + 1)

    async def _refill(self, wanted: int) -> None:
        async with self._refilling:
            if len(self._ids) >= wanted:
                return
            deadline = asyncio.get_running_loop().time() + self._age_max
            prepared = await self._retry(
                "prepare objects",
                self._catalog.prepare_objects,
                self._node_id,
                self._broker_epoch,
                self._count,
            )
            self._ids.extend((object_id, key, deadline) for object_id, key in prepared)
