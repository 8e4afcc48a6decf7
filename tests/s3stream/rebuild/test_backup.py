"""When snapshots of the metadata are written: soon after changes, seldom, and not at all when nothing changes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from s3stream.catalog.api import CatalogUnreachable
from s3stream.catalog.schema import CHANGE_SEQ, COUNTERS, OBJECT_ID, SCHEMA_VERSION, counters
from s3stream.catalog.snapshot import Snapshot
from s3stream.objectstore.faults import FaultyStore, parse_rules
from s3stream.objectstore.memory import MemoryStore
from s3stream.rebuild.backup import INTERVAL_MIN_S, KEPT_COUNT, LOOK_INTERVAL_S, MetadataBackup
from s3stream.rebuild.snapshots import SNAPSHOT_PREFIX, newest_snapshot, snapshot_keys
from tests.s3stream.sim.virtual_loop import virtual
from tests.s3stream.sim.world import inline


class Source:
    """A catalog of nothing but counters."""

    def __init__(self) -> None:
        self.seq = 1
        self.object_id = 0
        self.down = False
        self.asked = 0
        self.listeners: list[Callable[[object], None]] = []

    async def snapshot(self) -> Snapshot:
        self.asked += 1
        if self.down:
            raise CatalogUnreachable("away")
        now_ms = int(asyncio.get_running_loop().time() * 1000)
        values = COUNTERS | {CHANGE_SEQ: self.seq, OBJECT_ID: self.object_id}
        rows = [[name, value] for name, value in values.items()]
        return Snapshot("cluster", SCHEMA_VERSION, now_ms, {counters.name: (["name", "value"], rows)})

    def change(self) -> None:
        self.seq += 1
        for listener in self.listeners:
            listener(None)


async def written(store: MemoryStore) -> int:
    found = await newest_snapshot(store)
    return 0 if found is None else found[1].seq


def begin(source: Source, store: MemoryStore | FaultyStore, *, is_writer: bool = True) -> MetadataBackup:
    backup = MetadataBackup(source, store, 1, inline)
    backup.follow(source.listeners.append, lambda: is_writer)
    return backup


@virtual
async def test_a_change_is_written_within_a_second() -> None:
    source, store = Source(), MemoryStore()
    backup = begin(source, store)
    await asyncio.sleep(1)
    assert await written(store) == 1
    await asyncio.sleep(LOOK_INTERVAL_S + 7)
    source.change()
    await asyncio.sleep(1)
    assert await written(store) == 2
    await backup.stop()


@virtual
async def test_many_changes_are_few_snapshots_and_few_are_kept() -> None:
    source, store = Source(), MemoryStore()
    backup = begin(source, store)
    for _ in range(600):
        source.change()
        await asyncio.sleep(0.1)
    assert source.asked <= 60 / INTERVAL_MIN_S + 2
    await asyncio.sleep(INTERVAL_MIN_S + 1)
    assert await written(store) == source.seq
    assert len(await snapshot_keys(store)) == KEPT_COUNT
    await backup.stop()


@virtual
async def test_nothing_is_written_while_nothing_changes() -> None:
    source, store = Source(), MemoryStore()
    backup = begin(source, store)
    await asyncio.sleep(3600)
    assert len(await snapshot_keys(store)) == 1
    await backup.stop()
    assert len(await snapshot_keys(store)) == 1


@virtual
async def test_while_objects_are_uploaded_the_newest_one_knows_of_all_but_the_latest() -> None:
    source, store = Source(), MemoryStore()
    backup = begin(source, store)
    for minute in range(60):
        source.object_id = 1 + 60 * minute
        await asyncio.sleep(60)
    found = await newest_snapshot(store)
    assert found is not None
    assert found[1].counter(OBJECT_ID) >= source.object_id - 60 * 7
    assert len({key.split("/")[-1] for key in await snapshot_keys(store)}) == KEPT_COUNT
    await backup.stop()


@virtual
async def test_what_fails_is_tried_again() -> None:
    source, memory = Source(), MemoryStore()
    store = FaultyStore(memory, parse_rules("put error"), random.Random(1))
    backup = begin(source, store)
    source.down = True
    await asyncio.sleep(20)
    source.down = False
    await asyncio.sleep(20)
    assert await written(memory) == 0
    store.set_rules(())
    await asyncio.sleep(10)
    assert await written(memory) == 1
    await backup.stop()


@virtual
async def test_one_broker_writes_and_each_that_stops_leaves_the_last_state() -> None:
    source, store = Source(), MemoryStore()
    backup = begin(source, store, is_writer=False)
    source.change()
    await asyncio.sleep(100)
    assert await written(store) == 0
    await backup.stop()
    assert await written(store) == 2
    assert all(key.startswith(SNAPSHOT_PREFIX) for key in await snapshot_keys(store))


@virtual
async def test_who_has_to_write_since_another_broker_is_gone_serves_first() -> None:
    source, store = Source(), MemoryStore()
    is_writer = False
    backup = MetadataBackup(source, store, 1, inline)
    backup.follow(source.listeners.append, lambda: is_writer)
    await asyncio.sleep(10)
    is_writer = True
    source.change()
    await asyncio.sleep(INTERVAL_MIN_S)
    assert source.asked == 0
    await asyncio.sleep(2)
    assert await written(store) == 2
    source.change()
    await asyncio.sleep(INTERVAL_MIN_S + 1)
    assert await written(store) == 3
    await backup.stop()


@virtual
async def test_a_catalog_that_takes_long_to_read_is_left_alone_after_a_change() -> None:
    source, store = Source(), MemoryStore()
    quick = source.snapshot

    async def slow() -> Snapshot:
        await asyncio.sleep(0.3)
        return await quick()

    source.snapshot = slow  # type: ignore[method-assign]
    backup = begin(source, store)
    await asyncio.sleep(20)
    asked = source.asked
    source.change()
    await asyncio.sleep(2.9)
    assert source.asked == asked
    await asyncio.sleep(1)
    assert await written(store) == 2
    await backup.stop()
