"""Producer ids, handed out from blocks that the catalog allocates to this broker.

An id is given to one producer only. A block that is not used up when the broker stops is lost, as in Kafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from s3stream.catalog.api import CatalogError

log = structlog.get_logger()

BLOCK_COUNT = 1000
PREFETCH_BELOW_COUNT = 100
"""The next block is asked for in the background when fewer ids than this are left."""

AllocateBlock = Callable[[int], Awaitable[int]]
"""Given a count, the first id of a block of so many (`Catalog.allocate_producer_ids` for this broker's epoch)."""


class ProducerIds:
    """`take` is synchronous as long as there is an id at hand; `next_id` waits for the catalog when there is none."""

    def __init__(self, allocate: AllocateBlock) -> None:
        self._allocate = allocate
        self._ids = range(0)
        self._next_ids: range | None = None
        self._allocating: asyncio.Task[None] | None = None

    def take(self) -> int | None:
        """An id, or None if there is none at hand: the catalog is being asked."""
        if not self._ids:
            if self._next_ids is None:
                self._start_allocation()
                return None
            self._ids, self._next_ids = self._next_ids, None
        producer_id = self._ids[0]
        self._ids = self._ids[1:]
        if len(self._ids) < PREFETCH_BELOW_COUNT and self._next_ids is None:
            self._start_allocation()
        return producer_id

    @property
    def at_hand(self) -> bool:
        """Whether `take` gives an id."""
        return bool(self._ids) or self._next_ids is not None

    async def wait(self) -> None:
        """Until there are ids at hand. Raises CatalogError."""
        while not self.at_hand:
            await asyncio.shield(self._start_allocation())

    async def next_id(self) -> int:
        """An id. Raises CatalogError."""
        while True:
            await self.wait()
            producer_id = self.take()
            if producer_id is not None:
                return producer_id

    async def close(self) -> None:
        if self._allocating is not None:
            self._allocating.cancel()
            await asyncio.gather(self._allocating, return_exceptions=True)

    def _start_allocation(self) -> asyncio.Task[None]:
        if self._allocating is None:
            self._allocating = asyncio.create_task(self._allocate_block(), name="producer-id-block")
            self._allocating.add_done_callback(self._allocation_done)
        return self._allocating

    async def _allocate_block(self) -> None:
        first = await self._allocate(BLOCK_COUNT)
        self._next_ids = range(first, first + BLOCK_COUNT)

    def _allocation_done(self, task: asyncio.Task[None]) -> None:
        self._allocating = None
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, CatalogError):
                raise error
            log.warning("no block of producer ids", error=str(error))
