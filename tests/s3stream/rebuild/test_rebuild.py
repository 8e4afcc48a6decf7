"""A catalog out of the bucket alone: every committed record is served again, and nothing that was deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import delete, insert

from s3stream.api import StreamFailed
from s3stream.catalog.api import CatalogError, NewTopic
from s3stream.catalog.catalog import SqlCatalog
from s3stream.catalog.objects import object_key
from s3stream.catalog.opening import open_database
from s3stream.catalog.schema import BROKER_EPOCH, OBJECT_ID, PRODUCER_ID, STREAM_ID, objects, topics
from s3stream.catalog.snapshot import Snapshot, SnapshotUnreadable, decode_snapshot, encode_snapshot
from s3stream.fsck.checking import Checker, Depth, no_progress
from s3stream.object.writer import build_object
from s3stream.objectstore.api import ObjectMeta, StoreUnreachable
from s3stream.objectstore.memory import MemoryStore
from s3stream.rebuild.log_streams import FoundLog
from s3stream.rebuild.rebuilding import NotEmpty, Rebuilder, Rebuilt
from s3stream.rebuild.snapshots import (
    ForeignBucket,
    claim_bucket,
    newest_snapshot,
    require_newer,
    snapshot_key,
    snapshot_keys,
)
from s3stream.recovery import recover_wal
from tests.s3stream.fsck.world import END, NODE, OBJECT_BATCHES, TOPIC, World, payload
from tests.s3stream.sim.world import inline
from wal import fence_wal
from wal.api import Buffer
from wal.memory import forget

SPAN = OBJECT_BATCHES * 2


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Running, with four objects."""
    found = World(tmp_path)
    await found.open()
    streams = await found.start()
    await found.fill(streams)
    yield found
    await found.close()
    forget(found.wal_name)


async def save(world: World) -> Snapshot:
    snapshot = await world.catalog.snapshot()
    await world.store.put(snapshot_key(snapshot, NODE), [encode_snapshot(snapshot)])
    return snapshot


async def rebuild(world: World, tmp_path: Path, *, with_log: bool = True, url: str | None = None) -> Rebuilt:
    """Lose the database, make another one, and let `world` use it."""
    await world.close()
    world.url = url or f"sqlite:///{tmp_path / 'another.db'}"
    world.database, _ = await open_database(world.url, create=True)
    found = await newest_snapshot(world.store)
    assert found is not None
    log_url = f"memory://{world.wal_name}"
    logs = [FoundLog(NODE, log_url, await fence_wal(log_url))] if with_log else []
    rebuilt = await Rebuilder(world.database, world.store, found[1], logs, no_progress).run()
    for log in logs:
        await log.wal.close()
    world.catalog = SqlCatalog(world.database, found[1].cluster_id)
    return rebuilt


async def crash(world: World) -> None:
    world.storage.lose_lease(StreamFailed("the process is gone"))
    await world.storage.close()


async def recover(world: World) -> None:
    """As a start does."""
    [former] = [each for each in await world.catalog.unrecovered() if each.node_id == NODE]
    wal = await fence_wal(f"memory://{world.wal_name}")
    assert wal.epoch == former.epoch
    by = await world.catalog.register_broker(9, "h", 1, None, "memory://nine", 3_600_000, uuid4())
    await recover_wal(wal, world.catalog, world.store, by.node_id, by.epoch, offload=inline)
    await world.catalog.recovered(former.node_id, former.epoch, by.node_id, by.epoch)
    await wal.discard()
    await wal.close()


async def check(world: World) -> list[str]:
    checker = Checker(world.database, world.store, world.cluster_id, [], Depth(indexes=True, blocks=True))
    return [str(finding) for finding in (await checker.run()).problems]


async def assert_all_is_there(world: World, end: int = END, start: int = 0) -> None:
    opened = await world.start()
    for stream in opened:
        first = start if stream.stream_id == world.log else 0
        expected = [(offset, payload(stream.stream_id, offset)) for offset in range(first, end, 2)]
        assert await world.read(stream) == expected
        assert stream.next_offset == end
    world.append(opened)
    await world.storage.close()


async def test_after_a_clean_stop_everything_is_there(world: World, tmp_path: Path) -> None:
    await world.storage.close()
    await save(world)
    rebuilt = await rebuild(world, tmp_path, with_log=False)
    assert (rebuilt.lost, rebuilt.unnamed, rebuilt.notes, rebuilt.object_count) == ([], [], [], 4)
    assert await check(world) == []
    topic = next(iter((await world.catalog.load_changes(0)).topics.values()))
    assert topic is not None
    assert topic.name == TOPIC
    await assert_all_is_there(world)


async def test_after_a_crash_the_log_is_recovered_as_ever(world: World, tmp_path: Path) -> None:
    await save(world)
    streams = list(world.storage._streams.values())
    world.append(streams)
    await asyncio.sleep(0.01)
    await crash(world)
    rebuilt = await rebuild(world, tmp_path)
    assert rebuilt.waiting_count > 0
    await recover(world)
    assert await check(world) == []
    await assert_all_is_there(world, END + SPAN)


@pytest.mark.integration
async def test_it_may_be_another_kind_of_database(world: World, tmp_path: Path, postgres_url: str) -> None:
    """And the check and the repair work there."""
    await world.storage.close()
    await save(world)
    await rebuild(world, tmp_path, with_log=False, url=postgres_url)
    assert await check(world) == []
    again = await world.catalog.snapshot()
    assert decode_snapshot(encode_snapshot(again)) == again
    await assert_all_is_there(world)
    object_id, key, _ = (await world.object_rows())[1]
    await world.sql(delete(objects).where(objects.c.object_id == object_id))
    assert any(key in line and "orphan" in line for line in await check(world))
    assert await world.repair()
    assert await check(world) == []
    await world.store.delete_many([key])
    assert f"lost: orders-1 offsets {SPAN} to {2 * SPAN - 1}" in await world.repair()
    assert await check(world) == []


async def test_what_was_committed_after_the_snapshot_is_there(world: World, tmp_path: Path) -> None:
    await save(world)
    await world.fill(list(world.storage._streams.values()), 3)
    await world.storage.close()
    rebuilt = await rebuild(world, tmp_path)
    assert rebuilt.object_count == 7
    await assert_all_is_there(world, END + 3 * SPAN)


async def test_what_was_trimmed_stays_away(world: World, tmp_path: Path) -> None:
    stream = world.storage._streams[world.log]
    await stream.trim(SPAN + 6)
    await save(world)
    await world.storage.close()
    await rebuild(world, tmp_path)
    await assert_all_is_there(world, start=SPAN + 6)


async def test_a_deleted_topic_stays_away(world: World, tmp_path: Path) -> None:
    other = await world.catalog.create_topic(NewTopic("other", [NODE], {}))
    await world.storage.open_streams([other.partitions[0].log_stream_id])
    await world.fill(list(world.storage._streams.values()), 1)
    await world.storage.close()
    await world.catalog.delete_topic(other.topic_id)
    await save(world)
    rebuilt = await rebuild(world, tmp_path)
    assert rebuilt.topic_count == 1
    assert rebuilt.unnamed == []
    await assert_all_is_there(world, END + SPAN)


async def test_a_topic_that_is_younger_than_the_snapshot_comes_back_without_its_name(
    world: World, tmp_path: Path
) -> None:
    await save(world)
    other = await world.catalog.create_topic(NewTopic("other", [NODE], {}))
    log_id = other.partitions[0].log_stream_id
    await world.storage.open_streams([log_id])
    await world.fill(list(world.storage._streams.values()), 1)
    await world.storage.close()
    rebuilt = await rebuild(world, tmp_path)
    assert rebuilt.unnamed == [f"recovered-{log_id}"]
    assert await check(world) == []
    [info] = await world.catalog.stream_infos([log_id])
    assert (info.start_offset, info.end_offset) == (0, SPAN)


async def test_an_upload_that_was_never_committed_does_no_harm(world: World, tmp_path: Path) -> None:
    """It holds what the log holds, and is cut where the object before it is missing."""
    await save(world)
    await world.storage.close()
    batches = [(offset, 2, 0, payload(world.log, offset)) for offset in range(END - 4, END, 2)]
    built = build_object([(world.log, batches)])
    await world.store.put(object_key(500), built.pieces)
    beyond = build_object([(world.log, [(END + 10, 2, 0, payload(world.log, END + 10))])])
    await world.store.put(object_key(501), beyond.pieces)
    rebuilt = await rebuild(world, tmp_path)
    assert rebuilt.leftover_count == 1
    await assert_all_is_there(world)


async def test_a_log_that_is_not_found_is_named_and_its_streams_stay_closed_to_everybody(
    world: World, tmp_path: Path
) -> None:
    await save(world)
    await world.storage.close()
    rebuilt = await rebuild(world, tmp_path, with_log=False)
    assert ["was not found" in note for note in rebuilt.notes] == [True]
    [info] = await world.catalog.stream_infos([world.log])
    assert (info.open, info.end_offset) == (True, END)


async def test_a_lost_object_is_named(world: World, tmp_path: Path) -> None:
    await world.storage.close()
    await save(world)
    _, key, _ = (await world.object_rows())[1]
    await world.store.delete_many([key])
    rebuilt = await rebuild(world, tmp_path)
    assert f"orders-0 offsets {SPAN} to {2 * SPAN - 1}" in rebuilt.lost
    assert await world.repair()
    assert await check(world) == []


async def test_ids_and_epochs_do_not_go_back(world: World, tmp_path: Path) -> None:
    before = await save(world)
    await world.catalog.allocate_producer_ids(NODE, world.epoch, 1000)
    await world.fill(list(world.storage._streams.values()), 2)
    await world.storage.close()
    later = await world.catalog.snapshot()
    await rebuild(world, tmp_path)
    after = await world.catalog.snapshot()
    for counter in (OBJECT_ID, STREAM_ID, PRODUCER_ID, BROKER_EPOCH):
        assert after.counter(counter) > later.counter(counter) >= before.counter(counter)


async def test_a_database_in_use_is_not_written(world: World) -> None:
    await world.storage.close()
    snapshot = await save(world)
    with pytest.raises(NotEmpty, match="not empty"):
        await Rebuilder(world.database, world.store, snapshot, [], no_progress).run()


async def test_a_bucket_has_one_owner(world: World) -> None:
    await claim_bucket(world.store, world.cluster_id)
    with pytest.raises(ForeignBucket, match="rebuild-catalog"):
        await claim_bucket(world.store, "another")
    await world.storage.close()


async def test_a_database_of_yesterday_is_refused(world: World) -> None:
    await save(world)
    last = await world.catalog.last_object_id()

    async def yesterday() -> int:
        return last - 1

    await require_newer(world.store, world.catalog.last_object_id)
    with pytest.raises(ForeignBucket, match="older"):
        await require_newer(world.store, yesterday)
    await world.storage.close()


async def test_a_snapshot_of_another_broker_during_a_start_refuses_nobody(world: World) -> None:
    class Slow(MemoryStore):
        """Another broker takes ids and writes a snapshot while it is listed."""

        async def list(self, prefix: str) -> AsyncIterator[ObjectMeta]:
            await world.catalog.prepare_objects(NODE, world.epoch, 10)
            await save(world)
            async for meta in world.store.list(prefix):
                yield meta

    await require_newer(Slow(), world.catalog.last_object_id)
    await world.storage.close()


async def test_a_database_of_a_moment_ago_is_refused_by_what_was_uploaded_since(world: World) -> None:
    async def a_moment_ago() -> int:
        return 0

    assert await world.store.head(object_key(1)) is not None
    assert await snapshot_keys(world.store) == []
    await require_newer(world.store, world.catalog.last_object_id)
    with pytest.raises(ForeignBucket, match="older"):
        await require_newer(world.store, a_moment_ago)
    await world.storage.close()


async def test_uploads_of_another_broker_during_a_start_refuse_nobody(world: World) -> None:
    last = await world.catalog.last_object_id()

    class Busy(MemoryStore):
        """Another broker takes ids and uploads while it is looked at."""

        async def head(self, key: str) -> int | None:
            if await world.catalog.last_object_id() == last:
                await world.catalog.prepare_objects(NODE, world.epoch, 10)
            return 5 if key == object_key(last + 3) else None

    await require_newer(Busy(), world.catalog.last_object_id)
    await world.storage.close()


async def test_a_store_without_conditional_puts_is_claimed_too(world: World) -> None:
    class Plain(MemoryStore):
        async def put_if_absent(self, key: str, pieces: Sequence[Buffer]) -> None:
            raise StoreUnreachable("NotImplemented: a header implies functionality that is not implemented")

    store = Plain()
    for _ in range(2):
        await claim_bucket(store, world.cluster_id)
    with pytest.raises(ForeignBucket):
        await claim_bucket(store, "another")
    await world.storage.close()


async def test_a_damaged_snapshot_is_passed_over(world: World) -> None:
    await world.storage.close()
    older = await save(world)
    newer = replace(older, taken_at_ms=older.taken_at_ms + 1)
    data = bytearray(encode_snapshot(newer))
    data[-5] ^= 1
    await world.store.put(snapshot_key(newer, NODE), [data])
    found = await newest_snapshot(world.store)
    assert found is not None
    assert found[1].taken_at_ms == older.taken_at_ms
    await world.store.delete_many([snapshot_key(older, NODE)])
    with pytest.raises(SnapshotUnreadable):
        await newest_snapshot(world.store)


async def test_the_newest_snapshot_is_that_of_the_newest_state_whatever_the_clock_said(world: World) -> None:
    former = await world.catalog.snapshot()
    await world.catalog.prepare_objects(NODE, world.epoch, 10)
    behind = replace(await world.catalog.snapshot(), taken_at_ms=former.taken_at_ms - 60_000)
    for snapshot in (behind, former):
        await world.store.put(snapshot_key(snapshot, NODE), [encode_snapshot(snapshot)])
    assert await snapshot_keys(world.store) == [snapshot_key(former, NODE), snapshot_key(behind, NODE)]
    assert await newest_snapshot(world.store) == (snapshot_key(behind, NODE), behind)
    await world.storage.close()


async def test_a_snapshot_is_a_round_trip_and_every_cut_is_noticed(world: World) -> None:
    await world.sql(insert(topics).values(topic_id=uuid4(), name="x", internal=True, replication_factor=3))
    snapshot = await world.catalog.snapshot()
    data = encode_snapshot(snapshot)
    decoded = decode_snapshot(data)
    assert decoded == snapshot
    assert decoded.fingerprint() == snapshot.fingerprint()
    for size in range(0, len(data), 7):
        with pytest.raises(CatalogError):
            decode_snapshot(data[:size])
    await world.storage.close()
