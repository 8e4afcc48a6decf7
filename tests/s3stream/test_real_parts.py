"""The storage on a file WAL, SQLite and a directory of objects: the parts fit, across a take-over by another node."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from uuid import uuid4

import pytest

from s3stream.block_cache import BlockReader
from s3stream.catalog import open_catalog
from s3stream.catalog.api import Catalog, NewTopic
from s3stream.objectstore import ObjectStore, open_store
from s3stream.recovery import recover_wal
from s3stream.settings import StorageSettings
from s3stream.storage import S3Storage
from s3stream.stream import S3Stream
from tests.s3stream.rig import read_all
from wal import fence_wal, open_wal

MIB = 1 << 20
SETTINGS = StorageSettings(
    cache_size_max=4 * MIB,
    block_size=MIB // 2,
    upload_interval_ms=20,
    pressure_low_size=MIB,
    pressure_high_size=2 * MIB,
    unuploaded_size_max=3 * MIB,
)


async def open_storage(
    catalog: Catalog, store: ObjectStore, node_id: int, wal_url: str, settings: StorageSettings = SETTINGS
) -> tuple[S3Storage, int]:
    broker = await catalog.register_broker(node_id, "localhost", 9092, None, wal_url, 60_000, uuid4())
    wal = await open_wal(wal_url, epoch=broker.epoch)
    storage = S3Storage(catalog, store, wal, BlockReader(store), node_id, broker.epoch, settings)
    await storage.start()
    return storage, broker.epoch


async def create_streams(catalog: Catalog, count: int) -> list[int]:
    topic = await catalog.create_topic(NewTopic("t", [1] * count, {}))
    return [partition.log_stream_id for partition in topic.partitions]


async def fill(streams: list[S3Stream], count: int) -> list[bytes]:
    contents = [b""] * len(streams)
    for number in range(count):
        for i, stream in enumerate(streams):
            data = b"%d:%d;" % (i, number) * 400
            if stream.next_offset - stream.committed_offset > 200:
                await stream.wait_committed(stream.next_offset - 100)
            stream.append(data, 1, number)
            contents[i] += data
        await asyncio.sleep(0)
    return contents


async def test_what_was_written_is_read_after_a_clean_restart_on_another_node(tmp_path: Path) -> None:
    catalog = await open_catalog(f"sqlite:///{tmp_path}/catalog.db")
    store = await open_store(f"file://{tmp_path}/objects")
    stream_ids = await create_streams(catalog, 3)
    storage, _ = await open_storage(catalog, store, 1, f"file://{tmp_path}/wal1")
    streams = await storage.open_streams(stream_ids)
    contents = await fill(streams, 900)
    await storage.upload_now()
    assert streams[0].read_cached(0, 1_000, 10) is None
    assert [await read_all(stream) for stream in streams] == contents
    await streams[0].trim(100)
    await storage.close()

    storage, _ = await open_storage(catalog, store, 2, f"file://{tmp_path}/wal2")
    streams = await storage.open_streams(stream_ids)
    contents[0] = contents[0][len(b"".join(b"0:%d;" % number * 400 for number in range(100))) :]
    assert [await read_all(stream) for stream in streams] == contents
    assert await streams[1].seek_timestamp(899) is not None
    await storage.close()
    await store.close()
    await catalog.close()


async def test_an_unuploaded_tail_is_taken_over_by_another_node(tmp_path: Path) -> None:
    catalog = await open_catalog(f"sqlite:///{tmp_path}/catalog.db")
    store = await open_store(f"file://{tmp_path}/objects")
    stream_ids = await create_streams(catalog, 2)
    wal_url = f"file://{tmp_path}/wal1"
    settings = dataclasses.replace(SETTINGS, upload_interval_ms=3_600_000)
    storage, old_epoch = await open_storage(catalog, store, 1, wal_url, settings)
    streams = await storage.open_streams(stream_ids)
    contents = await fill(streams, 400)
    await storage._wal.flush()
    closing = asyncio.ensure_future(storage.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert await catalog.fence_broker(1, old_epoch)
    other, epoch = await open_storage(catalog, store, 2, f"file://{tmp_path}/wal2")
    fenced = await fence_wal(wal_url)
    result = await recover_wal(fenced, catalog, store, 2, epoch, settings=SETTINGS)
    await catalog.recovered(1, old_epoch, 2, epoch)
    await fenced.discard()
    await fenced.close()
    assert result.recovered_count > 0
    streams = await other.open_streams(stream_ids)
    assert [stream.next_offset for stream in streams] == [400, 400]
    assert [await read_all(stream) for stream in streams] == contents
    await other.close()
    await store.close()
    await catalog.close()
