"""Random histories, a snapshot now and then, the database lost, the catalog rebuilt: the streams are what they were."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest

from s3stream.api import StreamFailed
from s3stream.catalog.catalog import SqlCatalog
from s3stream.catalog.opening import open_database
from s3stream.catalog.snapshot import encode_snapshot
from s3stream.fsck.checking import Checker, Depth, no_progress
from s3stream.objectstore.memory import MemoryStore
from s3stream.rebuild.log_streams import FoundLog
from s3stream.rebuild.rebuilding import Rebuilder
from s3stream.rebuild.snapshots import newest_snapshot, snapshot_key
from s3stream.recovery import recover_wal
from s3stream.stream import S3Stream
from tests.s3stream.fsck.world import NODE, World
from tests.s3stream.sim.world import inline
from wal import fence_wal
from wal.memory import MemoryWal, forget

STEPS = 40


class History:
    """`batches`: stream id -> base offset -> data, of all that was confirmed; `starts` as trimmed."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.batches: dict[int, dict[int, bytes]] = {}
        self.starts: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        self.saved_starts: dict[int, int] = {}
        self.streams: list[S3Stream] = []

    async def run(self) -> None:
        self.streams = await self.world.start()
        await self.save()
        for _ in range(STEPS):
            await self.step()

    async def step(self) -> None:
        choice = self.rng.random()
        stream = self.rng.choice(self.streams)
        if choice < 0.6:
            for _ in range(self.rng.randrange(1, 6)):
                count = self.rng.randrange(1, 4)
                data = self.rng.randbytes(self.rng.randrange(1, 300))
                offset = stream.append(data, count, self.rng.randrange(1 << 40))
                self.batches.setdefault(stream.stream_id, {})[offset] = data
                self.ends[stream.stream_id] = offset + count
            await asyncio.sleep(0)
        elif choice < 0.8:
            await self.world.storage.upload_now()
        elif choice < 0.88 and stream.confirmed_offset > stream.start_offset:
            offset = self.rng.choice(
                [each for each in self.batches[stream.stream_id] if each >= stream.start_offset]
                or [stream.start_offset]
            )
            if offset <= stream.confirmed_offset:
                await stream.trim(offset)
                self.starts[stream.stream_id] = offset
        elif choice < 0.95:
            await self.save()
        else:
            await self.restart()

    async def save(self) -> None:
        snapshot = await self.world.catalog.snapshot()
        await self.world.store.put(snapshot_key(snapshot, NODE), [encode_snapshot(snapshot)])
        self.saved_starts = dict(self.starts)

    async def restart(self) -> None:
        await self.world.storage.close()
        self.streams = await self.world.start()
        await self.save()

    async def lose(self, *, crash: bool) -> None:
        await cast("MemoryWal", self.world.storage._wal).flush()
        if crash:
            self.world.storage.lose_lease(StreamFailed("the process is gone"))
        await self.world.storage.close()
        await self.world.close()


@pytest.mark.parametrize("seed", range(20))
async def test_a_rebuilt_catalog_serves_what_there_was(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path)
    await world.open()
    history = History(world, seed)
    await history.run()
    await history.lose(crash=seed % 3 != 0)
    store: MemoryStore = world.store
    found = await newest_snapshot(store)
    assert found is not None
    database, _ = await open_database(f"sqlite:///{tmp_path / 'another.db'}", create=True)
    url = f"memory://{world.wal_name}"
    wal = await fence_wal(url)
    rebuilt = await Rebuilder(database, store, found[1], [FoundLog(NODE, url, wal)], no_progress).run()
    assert rebuilt.lost == []
    catalog = world.catalog = SqlCatalog(database, found[1].cluster_id)
    by = await catalog.register_broker(9, "h", 1, None, "memory://nine", 3_600_000, uuid4())
    for former in await catalog.unrecovered():
        assert former.epoch == wal.epoch
        await recover_wal(wal, catalog, store, by.node_id, by.epoch, offload=inline)
        await catalog.recovered(former.node_id, former.epoch, by.node_id, by.epoch)
    await wal.discard()
    await wal.close()
    checker = Checker(database, store, found[1].cluster_id, [], Depth(indexes=True, blocks=True))
    # what was trimmed, or uploaded in vain, is left over in the bucket
    assert {finding.kind for finding in (await checker.run()).problems} <= {"orphan"}
    for stream in await world.start():
        start = stream.start_offset
        assert history.saved_starts.get(stream.stream_id, 0) <= start <= history.starts.get(stream.stream_id, 0)
        assert stream.next_offset == max(history.ends.get(stream.stream_id, 0), start)
        batches = history.batches.get(stream.stream_id, {})
        expected = [(offset, data) for offset, data in sorted(batches.items()) if offset >= start]
        assert await world.read(stream) == expected
    await world.storage.close()
    await database.close()
    forget(world.wal_name)
