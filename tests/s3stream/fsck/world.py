"""A stopped store to be damaged: two partitions, several objects, a catalog in a file, a bucket in memory."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, select, update

from s3stream.block_cache import BlockReader
from s3stream.catalog.api import NewTopic, StreamRange
from s3stream.catalog.catalog import SqlCatalog
from s3stream.catalog.database import Database
from s3stream.catalog.opening import open_database
from s3stream.catalog.ranges import decode_ranges, encode_ranges
from s3stream.catalog.schema import objects
from s3stream.fsck.checking import Checker, Depth
from s3stream.fsck.findings import Report
from s3stream.fsck.logs import BrokerLog
from s3stream.fsck.repairing import Repairer
from s3stream.object.writer import Batch
from s3stream.objectstore.memory import MemoryStore
from s3stream.settings import StorageSettings
from s3stream.storage import S3Storage
from s3stream.stream import S3Stream
from tests.s3stream.sim.world import inline
from wal import fence_wal, open_wal

NODE = 1
TOPIC = "orders"
DEEP = Depth(indexes=True, blocks=True)
BATCH_SIZE = 200
OBJECT_BATCHES = 10
"""Batches of each stream in one object; each of them covers two offsets."""
OBJECT_COUNT = 4
END = OBJECT_COUNT * OBJECT_BATCHES * 2
FILLING = b"nothing here"
_names = (f"fsck-{number}" for number in itertools.count())


def filler(is_log: bool, start: int, end: int) -> list[Batch]:
    return [(start, end - start, 0, FILLING)]


def payload(stream_id: int, offset: int) -> bytes:
    return f"{stream_id}:{offset}:".encode().ljust(BATCH_SIZE, b".")


class World:
    """`log` and `state` are the streams of partition 0, `other` the log of partition 1."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path / 'catalog.db'}"
        self.store = MemoryStore()
        self.wal_name = next(_names)
        self.database: Database
        self.catalog: SqlCatalog
        self.cluster_id = ""
        self.epoch = 0
        self.log = self.state = self.other = 0
        self.storage: S3Storage

    async def open(self) -> None:
        self.database, self.cluster_id = await open_database(self.url, create=True)
        self.catalog = SqlCatalog(self.database, self.cluster_id)
        await self.store.put("metadata/owner", [self.cluster_id.encode()])
        topic = await self.catalog.create_topic(NewTopic(TOPIC, [NODE, NODE], {}))
        self.log, self.state = topic.partitions[0].log_stream_id, topic.partitions[0].state_stream_id
        self.other = topic.partitions[1].log_stream_id

    async def start(self) -> list[S3Stream]:
        """Streams: log, state, other; recovers nothing."""
        former = await self.catalog.brokers()
        for broker in former:
            await self.catalog.fence_broker(broker.node_id, broker.epoch)
        info = await self.catalog.register_broker(
            NODE, "host", 9092, None, f"memory://{self.wal_name}", 3_600_000, uuid4()
        )
        self.epoch = info.epoch
        wal = await open_wal(f"memory://{self.wal_name}", epoch=info.epoch)
        settings = StorageSettings(object_ids_ahead=2)
        self.storage = S3Storage(
            self.catalog,
            self.store,
            wal,
            BlockReader(self.store),
            NODE,
            info.epoch,
            settings,
            rng=random.Random(3),
            offload=inline,
        )
        await self.storage.start()
        return list(await self.storage.open_streams([self.log, self.state, self.other]))

    async def fill(self, streams: Sequence[S3Stream], count: int = OBJECT_COUNT) -> None:
        """So many objects, each with batches of all streams."""
        for _ in range(count):
            self.append(streams)
            await self.storage.upload_now()

    def append(self, streams: Sequence[S3Stream]) -> None:
        for stream in streams:
            for _ in range(OBJECT_BATCHES):
                stream.append(payload(stream.stream_id, stream.next_offset), 2, 1_700_000_000_000)

    async def close(self) -> None:
        await self.database.close()

    # -- looking and damaging ---------------------------------------------------------------------------------------

    async def check(self, depth: Depth = DEEP, logs: Sequence[BrokerLog] = ()) -> Report:
        return await self.checker(depth, logs).run()

    def checker(self, depth: Depth = DEEP, logs: Sequence[BrokerLog] = ()) -> Checker:
        return Checker(self.database, self.store, self.cluster_id, logs, depth)

    async def repair(self, depth: Depth = DEEP, logs: Sequence[BrokerLog] = ()) -> list[str]:
        checker = self.checker(depth, logs)
        report = await checker.run()
        repairer = Repairer(self.database, self.store, checker, report, filler)
        await repairer.run()
        return repairer.done

    async def fence_log(self) -> BrokerLog:
        url = f"memory://{self.wal_name}"
        return BrokerLog(NODE, self.epoch, url, await fence_wal(url))

    async def sql(self, statement: Any) -> Any:
        def run(tx: Connection) -> Any:
            result = tx.execute(statement)
            return result.all() if result.returns_rows else None

        return await self.database.write(run, idempotent=True)

    async def object_rows(self) -> list[tuple[int, str, list[StreamRange]]]:
        """Committed objects: id, key, ranges."""
        rows = await self.sql(
            select(objects.c.object_id, objects.c.object_key, objects.c.ranges)
            .where(objects.c.was_committed)
            .order_by(objects.c.object_id)
        )
        return [(row.object_id, row.object_key, list(decode_ranges(row.ranges))) for row in rows]

    async def set_ranges(self, object_id: int, ranges: Sequence[StreamRange]) -> None:
        await self.sql(update(objects).where(objects.c.object_id == object_id).values(ranges=encode_ranges(ranges)))

    async def keys(self) -> set[str]:
        return {meta.key async for meta in self.store.list("")}

    async def flip(self, key: str, position: int) -> None:
        data = bytearray(await self.store.get(key))
        data[position] ^= 1
        await self.store.put(key, [data])

    async def read(self, stream: S3Stream) -> list[tuple[int, bytes]]:
        """(Offset at which the batch begins, batch) of all that a reader gets."""
        found: list[tuple[int, bytes]] = []
        offset = stream.start_offset
        while offset < stream.confirmed_offset:
            result = await stream.fetch(offset, 1, stream.confirmed_offset)
            assert result.next_offset > offset
            found.append((offset, bytes(b"".join(result.buffers))))
            offset = result.next_offset
        return found


@asynccontextmanager
async def stopped_store(path: Path) -> AsyncIterator[World]:
    """Filled and stopped cleanly."""
    world = World(path)
    await world.open()
    streams = await world.start()
    await world.fill(streams)
    await world.storage.close()
    try:
        yield world
    finally:
        await world.close()
