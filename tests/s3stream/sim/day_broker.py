"""A broker of a simulated day: a real storage on a log in memory, which is stopped, killed, and taken over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Protocol, cast

from s3stream.api import StreamFailed
from s3stream.block_cache import BlockReader
from s3stream.compaction.plan import Limits
from s3stream.recovery import recover_wal
from s3stream.settings import StorageSettings
from s3stream.storage import S3Storage
from s3stream.stream import S3Stream
from tests.s3stream.sim.catalog import MemoryCatalog
from tests.s3stream.sim.day_model import ModelStream
from tests.s3stream.sim.world import inline
from wal import fence_wal, open_wal
from wal.memory import MemoryWal

SETTINGS = StorageSettings(
    cache_size_max=600_000,
    block_size=60_000,
    upload_interval_ms=10_000,
    uploads_in_flight_max=3,
    pressure_low_size=150_000,
    pressure_high_size=250_000,
    unuploaded_size_max=400_000,
    upload_split_size=16_000,
    compaction_interval_ms=30_000,
    compaction_rate=200_000,
    set_object_age_ms_max=3_600_000,
)
"""Sizes to the scale of the streams; the times after which objects are deleted are the real ones."""
LIMITS = Limits(
    split_size=4_000,
    target_size=200_000,
    tiers=((1_000, 8_000), (8_000, 40_000), (40_000, 100_000)),
    run_count_max=12,
    fan_in=5,
    sources_max=8,
    generation_max=2,
    job_size=300_000,
)


class Surroundings(Protocol):
    """What a broker needs of its day."""

    rng: random.Random
    memory_catalog: MemoryCatalog
    catalog: Any
    store: Any
    models: dict[int, ModelStream]

    def is_up(self, node: int) -> bool: ...
    async def until_answered(self, call: Callable[..., Any], *args: object) -> Any: ...


class Broker:
    """One of the two; `streams` are those that it has open and that are not on their way elsewhere."""

    def __init__(self, node: int, day: Surroundings) -> None:
        self.node = node
        self.day = day
        self.wal_name = f"day-{id(day)}-{node}"
        self.streams: dict[int, S3Stream] = {}
        self.is_up = False
        self.storage: S3Storage
        self.reader: BlockReader
        self.wal: MemoryWal

    async def start(self) -> None:
        day = self.day
        epoch = day.memory_catalog.register(self.node)
        self.wal = cast("MemoryWal", await open_wal(f"memory://{self.wal_name}", epoch=epoch))
        self.wal.manual = True
        self.reader = BlockReader(day.store, cache_size=100_000, index_cache_size=40_000, read_ahead_size_max=20_000)
        self.storage = S3Storage(
            day.catalog,
            day.store,
            self.wal,
            self.reader,
            self.node,
            epoch,
            SETTINGS,
            rng=day.rng,
            offload=inline,
            limits=LIMITS,
        )
        self.storage.compactor.adopts = lambda node: node == self.node or not day.is_up(node)
        await self.storage.start()
        self.is_up = True

    async def open(self, stream_ids: list[int], *, ahead: bool = False) -> None:
        if ahead:
            await self.day.until_answered(self.storage.preload_streams, stream_ids)
        for stream in await self.day.until_answered(self.storage.open_streams, stream_ids):
            model = self.day.models[stream.stream_id]
            model.adopt(stream.start_offset, stream.next_offset)
            stream.on_confirmed = lambda stream=stream, model=model: self._confirmed(stream, model)
            self.streams[stream.stream_id] = stream

    def _confirmed(self, stream: S3Stream, model: ModelStream) -> None:
        assert stream.confirmed_offset > model.confirmed_offset
        model.confirmed_offset = stream.confirmed_offset

    async def let_go(self, stream_ids: list[int]) -> None:
        """Close some streams; the log is at work as it always is meanwhile."""
        streams = [self.streams.pop(stream_id) for stream_id in stream_ids]
        self.wal.sync()
        await asyncio.gather(*(stream.close() for stream in streams))

    async def stop(self) -> list[int]:
        """Returns the streams that it had."""
        had = list(self.streams)
        self.streams = {}
        self.wal.sync()
        await self.storage.close()
        self.is_up = False
        await self.reader.close()
        return had

    async def kill(self) -> list[int]:
        had = list(self.streams)
        self.streams = {}
        self.is_up = False
        self.wal.crash(self.day.rng.randrange(6))
        self.storage.lose_lease(StreamFailed("the process is dead"))
        await self.storage.close()
        await self.reader.close()
        return had

    async def take_over(self, dead: Broker) -> None:
        """Recover the log of a dead broker, and end its registration's claims."""
        epoch = self.day.memory_catalog.fence(dead.node)
        fenced = await fence_wal(f"memory://{dead.wal_name}")
        try:
            await recover_wal(
                fenced,
                self.day.catalog,
                self.day.store,
                self.node,
                self.day.memory_catalog.brokers_[self.node],
                settings=SETTINGS,
                rng=self.day.rng,
                offload=inline,
            )
            self.day.memory_catalog.recovered(dead.node, epoch)
            await fenced.discard()
        finally:
            await fenced.close()
