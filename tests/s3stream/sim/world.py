"""One simulated broker on a memory WAL, store and catalog, with faults, crashes and a model to compare with.

Everything random comes from one `random.Random(seed)`, all time is virtual: a seed is a whole history, and `trace` is
what happened. After every step the promises of `s3stream.api` are checked against the model.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from s3stream.api import FetchResult, OffsetOutOfRange, StorageError, StorageFull
from s3stream.block_cache import BlockReader
from s3stream.catalog.api import CatalogUnreachable
from s3stream.compaction.plan import Limits
from s3stream.log_cache import BATCH_OVERHEAD
from s3stream.objectstore.api import StoreUnreachable
from s3stream.objectstore.memory import MemoryStore
from s3stream.recovery import recover_wal
from s3stream.settings import StorageSettings
from s3stream.storage import S3Storage
from s3stream.stream import S3Stream
from tests.s3stream.sim.catalog import MemoryCatalog
from tests.s3stream.sim.faults import Faults, Faulty
from wal import fence_wal, open_wal
from wal.memory import MemoryWal, forget

T = TypeVar("T")

NODE = 1
BATCH_SIZE_MAX = 400
SETTINGS = StorageSettings(
    cache_size_max=40_000,
    block_size=6_000,
    upload_interval_ms=200,
    uploads_in_flight_max=3,
    pressure_low_size=12_000,
    pressure_high_size=18_000,
    unuploaded_size_max=30_000,
    object_ids_ahead=4,
    clean_interval_ms=700,
    upload_split_size=2_000,
    compaction_interval_ms=400,
    compaction_rate=10_000_000,
)
LIMITS = Limits(
    split_size=800,
    target_size=4_000,
    tiers=((300, 900), (900, 2_000)),
    run_count_max=6,
    fan_in=3,
    sources_max=4,
    generation_max=2,
    job_size=3_000,
)


async def inline(call: Callable[[], T], /) -> T:
    """Instead of a thread."""
    return call()


@dataclass(slots=True)
class ModelStream:
    """All that was appended and not lost: (base offset, end offset, data).

    `on_commit`: how the stream confirms; `safe_offset`: what it confirmed in that way, which not even the loss of the
    log may cost.
    """

    stream_id: int
    batches: list[tuple[int, int, bytes]] = field(default_factory=list)
    start_offset: int = 0
    confirmed_offset: int = 0
    on_commit: bool = False
    safe_offset: int = 0

    def boundaries(self) -> set[int]:
        return {0} | {end for _, end, _ in self.batches}

    def expect(self, offset: int, end_offset: int) -> bytes:
        return b"".join(data for base, end, data in self.batches if end > offset and base < end_offset)


class World:
    def __init__(self, seed: int, stream_count: int = 3) -> None:
        self.rng = random.Random(seed)
        self.trace: list[str] = []
        self.memory_catalog = MemoryCatalog()
        self.memory_store = MemoryStore()
        self.store_faults = Faults(self.rng, StoreUnreachable, 0.05, 0.1, 0.1)
        self.catalog_faults = Faults(self.rng, CatalogUnreachable, 0.01, 0.05, 0.1)
        self.catalog = cast("Any", Faulty(self.memory_catalog, self.catalog_faults))
        self.store = cast("Any", Faulty(self.memory_store, self.store_faults))
        self.wal_name = f"sim-{seed}"
        self.model = {
            stream_id: ModelStream(stream_id) for stream_id in self.memory_catalog.create_streams(stream_count)
        }
        self.streams: dict[int, S3Stream] = {}
        self.confirmed_calls = 0
        self.paused = False
        self.may_confirm = True
        self.epoch = 0
        self.zombies: list[S3Storage] = []
        self.reader: BlockReader
        self.storage: S3Storage
        self.wal: MemoryWal

    def note(self, *what: object) -> None:
        now = asyncio.get_running_loop().time()
        self.trace.append(f"{now:.6f} " + " ".join(map(str, what)))

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self.epoch = self.memory_catalog.register(NODE)
        self.wal = cast("MemoryWal", await open_wal(f"memory://{self.wal_name}", epoch=self.epoch))
        self.wal.manual = True
        self.may_confirm = True
        self.paused = False
        self.reader = BlockReader(self.store, cache_size=20_000, index_cache_size=20_000, read_ahead_size_max=4_000)
        self.storage = S3Storage(
            self.catalog,
            self.store,
            self.wal,
            self.reader,
            NODE,
            self.epoch,
            SETTINGS,
            may_confirm=lambda: self.may_confirm,
            rng=self.rng,
            offload=inline,
            limits=LIMITS,
        )
        self.storage.set_pressure_listener(self._on_pressure)
        await self.storage.start()
        await self.open_all()

    async def open_all(self) -> None:
        missing = [stream_id for stream_id in self.model if stream_id not in self.streams]
        opened = await self.until_answered(self.storage.open_streams, missing)
        for stream in opened:
            self.adopt(stream)

    async def until_answered(self, call: Callable[..., Any], *args: object) -> Any:
        while True:
            try:
                return await call(*args)
            except (CatalogUnreachable, StoreUnreachable):
                await asyncio.sleep(0.01)

    def adopt(self, stream: S3Stream) -> None:
        """A stream as it was found: everything confirmed is there, and of the rest a prefix."""
        model = self.model[stream.stream_id]
        assert stream.next_offset >= model.confirmed_offset, "a confirmed batch is lost"
        assert stream.next_offset in model.boundaries()
        assert stream.start_offset <= model.start_offset
        model.batches = [batch for batch in model.batches if batch[1] <= stream.next_offset]
        model.confirmed_offset = stream.next_offset
        model.start_offset = stream.start_offset
        stream.confirm_on_commit(model.on_commit)
        stream.on_confirmed = lambda: self._on_confirmed(stream)
        self.streams[stream.stream_id] = stream
        self.note("opened", stream.stream_id, stream.epoch, stream.start_offset, stream.next_offset)

    async def crash(self, zombie: bool, disk_lost: bool = False) -> None:
        """The process dies, and its log may be lost; or it is only paused and goes on as a zombie."""
        self.observe()
        old = self.storage
        kept = self.rng.randrange(6)
        self.wal.crash(kept)
        self.note("crash", "zombie" if zombie else "dead", "disk lost" if disk_lost else kept)
        self.streams = {}
        if disk_lost:
            forget(self.wal_name)
            await (await open_wal(f"memory://{self.wal_name}", epoch=self.epoch)).close()
            for model in self.model.values():
                model.confirmed_offset = model.safe_offset
        if zombie:
            self.zombies.append(old)
        else:
            await self.kill(old)
        await self.reader.close()
        await self.recover()
        await self.start()

    async def kill(self, storage: S3Storage) -> None:
        """Its tasks end without a chance to do anything more."""
        tasks = storage._tasks
        assert tasks is not None
        tasks.cancel()
        storage._append_log.stop()
        await asyncio.wait([tasks])

    async def recover(self) -> None:
        old_epoch = self.epoch
        while True:
            self.epoch = self.memory_catalog.register(NODE)
            fenced = await fence_wal(f"memory://{self.wal_name}")
            try:
                async with asyncio.timeout(self.rng.choice((0.05, 0.3, None))):
                    result = await recover_wal(
                        fenced,
                        self.catalog,
                        self.store,
                        NODE,
                        self.epoch,
                        settings=SETTINGS,
                        rng=self.rng,
                        offload=inline,
                    )
                    self.memory_catalog.recovered(NODE, old_epoch)
                    await asyncio.sleep(self.rng.uniform(0, 0.2))
                    await fenced.discard()
            except TimeoutError:
                self.note("recovery died")
            else:
                self.note("recovered", result.recovered_count, result.dropped_count)
                return
            finally:
                await fenced.close()

    async def stop(self) -> None:
        """A clean shutdown with the faults gone; then everything is read back from the objects."""
        self.store_faults.down = self.catalog_faults.down = False
        self.may_confirm = True
        self.wal.manual = False
        self.wal.sync()
        await asyncio.sleep(1)
        self.observe()
        await self.storage.close()
        await self.reader.close()
        assert not any(info.open for info in self.memory_catalog.streams.values())
        self.streams = {}
        self.note("closed")
        await self.start()
        self.wal.manual = False
        await self.check_all()
        for zombie in self.zombies:
            await self.kill(zombie)
        await self.storage.close()
        await self.reader.close()
        await self.check_bucket()
        forget(self.wal_name)

    async def check_bucket(self) -> None:
        """No leak: after cleaning, the bucket holds what the catalog has committed and nothing else.

        But a zombie may put an object that was given up and deleted before: that is for a check of the whole bucket.
        """
        self.memory_catalog.fenced.add((NODE, self.epoch))
        store, catalog = self.memory_store, self.memory_catalog
        while found := await catalog.abandoned_objects(0, 1000):
            await store.delete_many([key for _, key in found])
            await catalog.forget_objects([object_id for object_id, _ in found])
        committed = {entry.key for entry in catalog.objects.values() if entry.state == "committed"}
        stored = {meta.key async for meta in store.list("")}
        assert stored >= committed
        assert stored == committed or self.zombies

    # -- operations ----------------------------------------------------------------------------------------------

    def append(self) -> None:
        stream = self.rng.choice(list(self.streams.values()))
        model = self.model[stream.stream_id]
        data = self.rng.randbytes(self.rng.randrange(1, BATCH_SIZE_MAX))
        count = self.rng.choice((1, 1, 3, 20))
        refused = self.storage._cache.unuploaded_size >= SETTINGS.unuploaded_size_max
        try:
            base = stream.append(data, count, stream.next_offset)
        except StorageFull:
            assert refused
            self.note("full")
            return
        assert not refused
        assert base == (model.batches[-1][1] if model.batches else 0)
        model.batches.append((base, base + count, data))
        self.note("append", stream.stream_id, base, count, len(data))

    def set_durability(self) -> None:
        stream = self.rng.choice(list(self.streams.values()))
        model = self.model[stream.stream_id]
        model.on_commit = not model.on_commit
        self.note("durability", stream.stream_id, model.on_commit)
        stream.confirm_on_commit(model.on_commit)

    async def read(self) -> None:
        stream = self.rng.choice(list(self.streams.values()))
        model = self.model[stream.stream_id]
        offset = self.rng.randint(max(0, model.start_offset - 2), stream.confirmed_offset + 1)
        end_offset = self.rng.choice((stream.confirmed_offset + 5, offset + self.rng.randrange(1, 50)))
        max_size = self.rng.choice((1, 500, 5_000))
        within = model.start_offset <= offset <= stream.confirmed_offset
        try:
            if self.rng.random() < 0.5:
                result = stream.read_cached(offset, max_size, end_offset)
            else:
                result = await stream.fetch(offset, max_size, end_offset)
        except OffsetOutOfRange:
            assert not within
            return
        except StoreUnreachable:
            return
        assert within
        if result is not None:
            self.check_result(stream, offset, max_size, end_offset, result)
            self.note("read", stream.stream_id, offset, result.next_offset)

    def check_result(self, stream: S3Stream, offset: int, max_size: int, end_offset: int, result: FetchResult) -> None:
        model = self.model[stream.stream_id]
        data = b"".join(result.buffers)
        assert len(data) == result.size
        if result.next_offset == offset:
            assert not data
            assert offset >= min(end_offset, stream.confirmed_offset)
            return
        assert result.next_offset <= stream.confirmed_offset, "an unconfirmed batch was read"
        assert result.next_offset in model.boundaries()
        assert data == model.expect(offset, result.next_offset), "other bytes than were appended"
        last = max(base for base, end, _ in model.batches if end == result.next_offset)
        assert last < end_offset
        assert len(data) <= max_size or len([1 for base, end, _ in model.batches if end > offset and base <= last]) == 1

    async def trim(self) -> None:
        stream = self.rng.choice(list(self.streams.values()))
        model = self.model[stream.stream_id]
        offset = self.rng.randint(model.start_offset, max(model.start_offset, stream.confirmed_offset))
        model.start_offset = max(offset, model.start_offset)
        self.note("trim", stream.stream_id, offset)
        try:
            async with asyncio.timeout(1):
                await stream.trim(offset)
        except TimeoutError:
            self.note("trim timed out")
        assert stream.start_offset == model.start_offset

    async def reopen(self) -> None:
        chosen = self.rng.sample(list(self.streams.values()), self.rng.randint(1, len(self.streams)))
        self.note("close", *(stream.stream_id for stream in chosen))
        self.wal.sync()
        self.may_confirm = True
        self.store_faults.down = False
        await asyncio.gather(*(stream.close() for stream in chosen))
        for stream in chosen:
            model = self.model[stream.stream_id]
            assert stream.committed_offset == stream.next_offset == (model.batches[-1][1] if model.batches else 0)
            model.confirmed_offset = stream.confirmed_offset
            del self.streams[stream.stream_id]
        await self.open_all()

    async def step(self) -> None:
        kind = self.rng.random()
        if kind < 0.45:
            for _ in range(self.rng.choice((1, 2, 10))):
                self.append()
        elif kind < 0.60:
            self.wal.sync(self.rng.choice((1, 3, None)))
        elif kind < 0.75:
            await self.read()
        elif kind < 0.87:
            await asyncio.sleep(self.rng.uniform(0, 0.3))
        elif kind < 0.91:
            await self.trim()
        elif kind < 0.93:
            self.store_faults.down = not self.store_faults.down
        elif kind < 0.94:
            self.may_confirm = not self.may_confirm
        elif kind < 0.96:
            await self.reopen()
        elif kind < 0.975:
            self.store_faults.down = False
            zombie = self.rng.random() < 0.4
            await self.crash(zombie, disk_lost=not zombie and self.rng.random() < 0.4)
        elif kind < 0.985:
            self.set_durability()
        else:
            self.wal.sync()
            self.may_confirm = True
            self.store_faults.down = False
            await self.storage.upload_now()
        self.observe()

    # -- promises ------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        assert self.storage.failed is None, self.storage.failed
        cache = self.storage._cache
        assert cache.unuploaded_size <= SETTINGS.unuploaded_size_max + BATCH_SIZE_MAX + BATCH_OVERHEAD
        assert cache.size <= SETTINGS.cache_size_max + BATCH_SIZE_MAX + BATCH_OVERHEAD
        assert self.paused or cache.unuploaded_size < SETTINGS.pressure_high_size
        for stream_id, stream in self.streams.items():
            model = self.model[stream_id]
            assert stream.committed_offset <= stream.confirmed_offset <= stream.next_offset
            assert stream.confirmed_offset == model.confirmed_offset, "it moved, and nobody was told"
            assert stream.start_offset == model.start_offset

    async def check_all(self) -> None:
        """Read every stream from its start to its end, in steps of random size."""
        for stream in self.streams.values():
            offset = stream.start_offset
            while offset < stream.confirmed_offset:
                max_size = self.rng.choice((1, 1_000, 100_000))
                result = await self.until_answered(stream.fetch, offset, max_size, stream.confirmed_offset)
                assert result.next_offset > offset
                self.check_result(stream, offset, max_size, stream.confirmed_offset, result)
                offset = result.next_offset

    def _on_confirmed(self, stream: S3Stream) -> None:
        self.confirmed_calls += 1
        model = self.model[stream.stream_id]
        if self.streams.get(stream.stream_id) is stream:  # and not a zombie's
            assert stream.confirmed_offset > model.confirmed_offset, "called for nothing"
        model.confirmed_offset = max(model.confirmed_offset, stream.confirmed_offset)
        if stream.tail.awaits_commit:
            committed_offset = self.memory_catalog.streams[stream.stream_id].end_offset
            assert stream.confirmed_offset <= committed_offset, "confirmed and not committed"
            model.safe_offset = max(model.safe_offset, stream.confirmed_offset)

    def _on_pressure(self, paused: bool) -> None:
        self.note("pressure", paused)
        assert paused is not self.paused
        self.paused = paused


async def run_history(seed: int, step_count: int) -> list[str]:
    world = World(seed)
    await world.start()
    for _ in range(step_count):
        await world.step()
    await world.stop()
    return world.trace


__all__ = ["StorageError", "World", "run_history"]
