"""Each kind of damage is found by its name, and repaired or declared unrepairable as the names' meanings say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, update

from s3stream.catalog.api import StreamRange
from s3stream.catalog.objects import object_key, retire_dead
from s3stream.catalog.schema import (
    STREAM_OPEN,
    counters,
    objects,
    partitions,
    streams,
    topics,
)
from s3stream.fsck.checking import Depth
from s3stream.fsck.findings import MEANINGS
from s3stream.fsck.rows import NewObject, insert_committed
from tests.s3stream.fsck.world import END, FILLING, OBJECT_BATCHES, World, payload, stopped_store

SPAN = OBJECT_BATCHES * 2
"""Offsets of one stream in one object."""
Damage = Callable[[World], Awaitable[None]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with stopped_store(tmp_path) as found:
        yield found


async def second(world: World) -> tuple[int, str, list[StreamRange]]:
    return (await world.object_rows())[1]


# -- damage that loses nothing: after the repair all records are there -----------------------------------------------


async def size_in_row(world: World) -> None:
    object_id, _, _ = await second(world)
    await world.sql(update(objects).where(objects.c.object_id == object_id).values(size=objects.c.size + 5))


async def range_too_long(world: World) -> None:
    object_id, _, ranges = await second(world)
    await world.set_ranges(object_id, [replace(ranges[0], end_offset=ranges[0].end_offset + 2), *ranges[1:]])


async def range_too_short(world: World) -> None:
    object_id, _, ranges = await second(world)
    await world.set_ranges(object_id, [replace(ranges[0], end_offset=ranges[0].end_offset - 2), *ranges[1:]])


async def ranges_unreadable(world: World) -> None:
    object_id, _, _ = await second(world)
    await world.sql(update(objects).where(objects.c.object_id == object_id).values(ranges=b"\x93\x01\x00"))


async def row_lost(world: World) -> None:
    object_id, _, _ = await second(world)
    await world.sql(delete(objects).where(objects.c.object_id == object_id))


async def two_objects_hold_the_same(world: World) -> None:
    rows = await world.object_rows()
    (_, key, ranges), (last, *_rest) = rows[1], rows[-1]
    copy = last + 1
    size = await world.store.head(key) or 0
    await world.store.put(object_key(copy), [await world.store.get(key)])
    new = NewObject(copy, size, tuple(ranges))
    await world.sql(delete(objects).where(objects.c.object_id == copy))
    await world.database.write(lambda tx: insert_committed(tx, [new]), idempotent=True)


async def end_set_back(world: World) -> None:
    await world.sql(update(streams).where(streams.c.stream_id == world.log).values(end_offset=END - SPAN))


async def witness_in_another_object(world: World) -> None:
    object_id, _, ranges = await second(world)
    later = max(each.end_offset for each in ranges) + SPAN
    await world.sql(update(objects).where(objects.c.object_id == object_id).values(witness_end_offset=later))


async def orphan(world: World) -> None:
    _, key, _ = await second(world)
    await world.store.put(object_key(1_000), [await world.store.get(key)])
    await world.sql(update(counters).where(counters.c.name == "object_id").values(value=2_000))


async def counter_set_back(world: World) -> None:
    await world.sql(update(counters).where(counters.c.name == "stream_id").values(value=1))


async def stream_row_lost(world: World) -> None:
    await world.sql(delete(streams).where(streams.c.stream_id == world.log))


async def open_at_nobody(world: World) -> None:
    opened = update(streams).where(streams.c.stream_id == world.log)
    await world.sql(opened.values(state=STREAM_OPEN, node_id=7, broker_epoch=77))


async def empty_stream_of_no_partition(world: World) -> None:
    await world.sql(insert(streams).values(stream_id=999, epoch=0, state=0, start_offset=0, end_offset=0))
    await world.sql(update(counters).where(counters.c.name == "stream_id").values(value=1_000))


HARMLESS: dict[str, tuple[Damage, str]] = {
    "size_in_row": (size_in_row, "wrong-size"),
    "range_too_long": (range_too_long, "wrong-range"),
    "range_too_short": (range_too_short, "gap"),
    "ranges_unreadable": (ranges_unreadable, "unreadable-row"),
    "row_lost": (row_lost, "orphan"),
    "row_lost, as seen from the stream": (row_lost, "gap"),
    "two_objects_hold_the_same": (two_objects_hold_the_same, "overlap"),
    "end_set_back": (end_set_back, "beyond-end"),
    "witness_in_another_object": (witness_in_another_object, "wrong-witness"),
    "orphan": (orphan, "orphan"),
    "counter_set_back": (counter_set_back, "counter-behind"),
    "stream_row_lost": (stream_row_lost, "partition-without-stream"),
    "open_at_nobody": (open_at_nobody, "stale-owner"),
    "empty_stream_of_no_partition": (empty_stream_of_no_partition, "stream-without-partition"),
}


async def test_a_store_that_was_stopped_is_clean(world: World) -> None:
    report = await world.check()
    assert report.problems == []
    assert report.object_count == 4
    assert await world.repair() == []


async def test_a_witness_below_the_start_of_its_stream_is_no_damage_brokers_choose_another(world: World) -> None:
    """Compaction leaves such ones: it does not know the starts of the streams that it did not touch."""
    object_id, _, ranges = await second(world)
    await world.sql(update(objects).where(objects.c.object_id == object_id).values(witness_end_offset=0))
    assert (await world.check()).problems == []
    assert await world.database.write(lambda tx: retire_dead(tx, None), idempotent=True) == 1
    witness = select(objects.c.witness_stream_id, objects.c.witness_end_offset).where(objects.c.object_id == object_id)
    row = await world.database.read(lambda tx: tx.execute(witness).one())
    assert tuple(row) in {(each.stream_id, each.end_offset) for each in ranges}


@pytest.mark.parametrize("name", HARMLESS)
async def test_damage_that_loses_nothing_is_named_and_mended(world: World, name: str) -> None:
    damage, kind = HARMLESS[name]
    await damage(world)
    report = await world.check()
    assert kind in {finding.kind for finding in report.problems}, report.problems
    assert {finding.kind for finding in report.problems} <= MEANINGS.keys()
    done = await world.repair()
    assert done
    assert not any(line.startswith("lost") for line in done), done
    after = await world.check()
    assert after.problems == []
    assert await world.repair() == []  # doing it again does nothing
    await all_is_read(world)


async def all_is_read(world: World, without: range = range(0)) -> None:
    """Every record but those `without` is served, and a broker goes on."""
    opened = await world.start()
    for stream in opened:
        expected = [
            (offset, payload(stream.stream_id, offset))
            for offset in range(0, END, 2)
            if stream.stream_id != world.log or offset not in without
        ]
        found = await world.read(stream)
        assert [each for each in found if each[1] != FILLING] == expected
        assert stream.next_offset == END
    world.append(opened)
    await world.storage.close()
    assert (await world.check()).problems == []


# -- damage that loses data: it is named exactly ---------------------------------------------------------------------


async def object_lost(world: World) -> None:
    _, key, _ = await second(world)
    await world.store.delete_many([key])


async def last_object_lost(world: World) -> None:
    _, key, _ = (await world.object_rows())[-1]
    await world.store.delete_many([key])


async def footer_flipped(world: World) -> None:
    _, key, _ = await second(world)
    await world.flip(key, -3)


async def index_flipped(world: World) -> None:
    _, key, _ = await second(world)
    await world.flip(key, -60)


async def object_cut(world: World) -> None:
    _, key, _ = await second(world)
    data = await world.store.get(key)
    await world.store.put(key, [memoryview(data)[: len(data) // 2]])


@pytest.mark.parametrize(
    ("damage", "kind", "number"),
    [
        (object_lost, "missing-object", 1),
        (last_object_lost, "missing-object", 3),
        (footer_flipped, "corrupt-object", 1),
        (index_flipped, "corrupt-object", 1),
        (object_cut, "wrong-size", 1),
    ],
)
async def test_what_a_lost_object_held_is_named_and_its_offsets_are_filled(
    world: World, damage: Damage, kind: str, number: int
) -> None:
    await damage(world)
    report = await world.check()
    [finding] = [each for each in report.problems if each.kind == kind]
    start, end = number * SPAN, (number + 1) * SPAN
    assert f"orders-0 offsets {start} to {end - 1}" in str(finding)
    done = await world.repair()
    assert f"lost: orders-0 offsets {start} to {end - 1}" in done
    assert f"lost: orders-1 offsets {start} to {end - 1}" in done
    assert f"left out: state of orders-0 offsets {start} to {end - 1}" in done
    assert (await world.check()).problems == []
    assert await world.repair() == []
    opened = await world.start()
    found = await world.read(opened[0])
    assert [offset for offset, data in found if data == FILLING] == [start]
    assert len(found) == (END - SPAN) // 2 + 1
    assert opened[0].next_offset == END
    await world.storage.close()


async def test_only_the_damaged_block_is_lost(world: World) -> None:
    _, key, _ = await second(world)
    before = bytes(await world.store.get(key))
    await world.flip(key, before.index(payload(world.log, SPAN + 4)) + 9)
    quick = await world.check(Depth())
    assert quick.problems == []
    [finding] = (await world.check()).problems
    assert finding.kind == "corrupt-block"
    assert f"orders-0 offsets {SPAN} to {2 * SPAN - 1}" in str(finding)
    done = await world.repair()
    assert [line for line in done if line.startswith("lost")] == [f"lost: orders-0 offsets {SPAN} to {2 * SPAN - 1}"]
    assert "damaged/" + key in await world.keys()
    assert (await world.check()).problems == []
    await all_is_read(world, without=range(SPAN, 2 * SPAN))


# -- damage that is named and left alone -----------------------------------------------------------------------------


async def stream_of_no_partition(world: World) -> None:
    await world.sql(delete(partitions).where(partitions.c.partition_index == 1))


async def topic_row_lost(world: World) -> None:
    await world.sql(delete(topics))


async def first_partition_lost(world: World) -> None:
    await world.sql(delete(partitions).where(partitions.c.partition_index == 0))


async def database_of_yesterday(world: World) -> None:
    _, key, _ = await second(world)
    await world.store.put(object_key(5_000), [await world.store.get(key)])


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (stream_of_no_partition, "stream-without-partition"),
        (topic_row_lost, "partition-without-topic"),
        (first_partition_lost, "missing-partition"),
        (database_of_yesterday, "newer-than-catalog"),
    ],
)
async def test_what_cannot_be_mended_is_named_and_stays(world: World, damage: Damage, kind: str) -> None:
    await damage(world)
    before = await world.keys()
    report = await world.check()
    assert kind in {finding.kind for finding in report.problems}
    await world.repair()
    after = await world.check()
    assert kind in {finding.kind for finding in after.problems}
    assert await world.keys() == before


async def test_a_database_of_yesterday_is_not_repaired_over_objects_of_today(world: World) -> None:
    _, key, _ = await second(world)
    today = object_key((await world.catalog.last_object_id()) + 1)
    await world.store.put(today, [b"what is lost if a repair takes this id"])
    await world.store.delete_many([key])
    before = await world.keys()
    assert {"newer-than-catalog", "missing-object"} <= {found.kind for found in (await world.check()).problems}
    assert await world.repair() == []
    assert await world.keys() == before
    assert bytes(await world.store.get(today)).startswith(b"what is lost")


async def test_a_bucket_of_another_cluster_is_not_touched(world: World) -> None:
    await world.store.put("metadata/owner", [b"somebody-else"])
    await object_lost(world)
    before = await world.keys()
    report = await world.check()
    assert [finding.kind for finding in report.problems] == ["foreign-bucket"]
    assert await world.repair() == []
    assert await world.keys() == before


async def test_a_living_broker_keeps_a_repair_from_changing_anything(world: World) -> None:
    await object_lost(world)
    await world.start()
    with pytest.raises(Exception, match="holds its lease"):
        await world.repair()
    assert (await world.check()).problems != []
    await world.storage.close()
