"""A storage on twins of everything, without faults unless a test asks for some."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from s3stream.block_cache import BlockReader
from s3stream.catalog.api import CatalogUnreachable
from s3stream.compaction.plan import Limits
from s3stream.objectstore.api import StoreUnreachable
from s3stream.objectstore.memory import MemoryStore
from s3stream.settings import StorageSettings
from s3stream.storage import S3Storage
from s3stream.stream import S3Stream
from tests.s3stream.sim.catalog import MemoryCatalog
from tests.s3stream.sim.faults import Faults, Faulty
from tests.s3stream.sim.world import inline
from wal import open_wal
from wal.memory import MemoryWal

NODE = 1
_names = (f"rig-{number}" for number in itertools.count())

SMALL = StorageSettings(
    cache_size_max=40_000,
    block_size=10_000,
    upload_interval_ms=1_000,
    pressure_low_size=10_000,
    pressure_high_size=20_000,
    unuploaded_size_max=30_000,
)


class Rig:
    """The parts that outlive one storage, and the storage that is open."""

    def __init__(self, settings: StorageSettings = SMALL, stream_count: int = 2, limits: Limits | None = None) -> None:
        self.settings = settings
        self.limits = limits
        self.memory_catalog = MemoryCatalog()
        self.memory_store = MemoryStore()
        self.stream_ids = self.memory_catalog.create_streams(stream_count)
        self.catalog_faults = Faults(random.Random(1), CatalogUnreachable)
        self.store_faults = Faults(random.Random(2), StoreUnreachable)
        self.catalog = cast("Any", Faulty(self.memory_catalog, self.catalog_faults))
        self.store = cast("Any", Faulty(self.memory_store, self.store_faults))
        self.wal_name = next(_names)
        self.may_confirm = True
        self.epoch = 0
        self.wal: MemoryWal
        self.reader: BlockReader
        self.storage: S3Storage

    async def start(self, *, manual: bool = False) -> list[S3Stream]:
        """Open everything anew and return all streams. With `manual` the test syncs the WAL."""
        self.epoch = self.memory_catalog.register(NODE)
        self.wal = cast("MemoryWal", await open_wal(f"memory://{self.wal_name}", epoch=self.epoch))
        self.wal.manual = manual
        self.reader = BlockReader(self.store)
        self.storage = S3Storage(
            self.catalog,
            self.store,
            self.wal,
            self.reader,
            NODE,
            self.epoch,
            self.settings,
            may_confirm=lambda: self.may_confirm,
            rng=random.Random(3),
            offload=inline,
            limits=self.limits,
        )
        await self.storage.start()
        return await self.storage.open_streams(self.stream_ids)

    async def stop(self) -> None:
        await self.storage.close()
        await self.reader.close()

    async def object_count(self) -> int:
        return len([meta async for meta in self.memory_store.list("")])


@asynccontextmanager
async def running(rig: Rig, *, manual: bool = False) -> AsyncIterator[list[S3Stream]]:
    streams = await rig.start(manual=manual)
    try:
        yield streams
    finally:
        rig.store_faults.down = rig.catalog_faults.down = False
        rig.wal.manual = False
        rig.wal.sync()
        rig.may_confirm = True
        await rig.stop()


async def turn() -> None:
    """Let everything that is ready happen."""
    for _ in range(50):
        await asyncio.sleep(0)


async def read_all(stream: S3Stream) -> bytes:
    data, offset = b"", stream.start_offset
    while offset < stream.confirmed_offset:
        result = await stream.fetch(offset, 1_000, stream.confirmed_offset)
        data += b"".join(result.buffers)
        offset = result.next_offset
    return data
