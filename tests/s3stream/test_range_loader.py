from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from s3stream import range_loader
from s3stream.catalog import open_catalog
from s3stream.catalog.api import BrokerInfo, Catalog, NewObject, ObjectInfo, StreamRange
from s3stream.committed_ranges import ObjectRef
from s3stream.range_loader import PRELOADED_MAX_S, RangeLoader, build_each
from s3stream.retry import Retry
from s3stream.settings import StorageSettings
from tests.s3stream.catalog.steps import commit, new_streams, open_streams, register, span


class Rig:
    """A stream that broker 1 writes to, and the loader of broker 2, which opens it."""

    def __init__(self, catalog: Catalog, writer: BrokerInfo, heir: BrokerInfo, stream_id: int) -> None:
        self.catalog = catalog
        self.writer = writer
        self.heir = heir
        self.stream_id = stream_id
        self.epochs: dict[int, int] = {}
        self.end = 0
        self.reads: list[int] = []
        """Of how many objects the loader was told, each time."""
        self.loader = RangeLoader(self, Retry(StorageSettings()))  # type: ignore[arg-type]

    async def live_objects(self, stream_ids: Sequence[int], after: int = 0) -> list[ObjectInfo]:
        found = await self.catalog.live_objects(stream_ids, after)
        self.reads.append(len(found))
        return found

    async def write(self, count: int, object_id: int | None = None) -> int:
        """An object of so many records."""
        written = span(self.stream_id, self.end, self.end + count)
        self.end += count
        return await commit(self.catalog, self.writer, self.epochs, written, object_id=object_id)

    async def hand_over(self) -> list[tuple[int, int]]:
        """The ranges that the heir has then."""
        await self.catalog.close_streams(self.writer.node_id, self.writer.epoch, self.epochs)
        infos = await self.catalog.open_streams(self.heir.node_id, self.heir.epoch, [self.stream_id])
        [ranges] = await self.loader.load_opened(infos)
        return [(each.start_offset, each.end_offset) for each in ranges.infos()]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    catalog = await open_catalog("sqlite://")
    writer, heir = await register(catalog, 1), await register(catalog, 2)
    stream_id, _ = await new_streams(catalog)
    made = Rig(catalog, writer, heir, stream_id)
    made.epochs = await open_streams(catalog, writer, [stream_id])
    yield made
    await catalog.close()


async def test_only_what_came_since_is_read_when_a_stream_is_opened(rig: Rig, monkeypatch: Any) -> None:
    monkeypatch.setattr(range_loader, "OBJECT_IDS_OVERLAP", 0)
    for _ in range(20):
        await rig.write(10)
    await rig.loader.preload([rig.stream_id])
    await rig.write(5)
    assert await rig.hand_over() == [*((start, start + 10) for start in range(0, 200, 10)), (200, 205)]
    assert rig.reads == [20, 1]


async def test_an_empty_stream_needs_nothing(rig: Rig) -> None:
    await rig.loader.preload([rig.stream_id])
    assert await rig.hand_over() == []


async def test_what_was_committed_under_an_older_id_is_found(rig: Rig, monkeypatch: Any) -> None:
    monkeypatch.setattr(range_loader, "OBJECT_IDS_OVERLAP", 0)
    [(early, _)] = await rig.catalog.prepare_objects(1, rig.writer.epoch, 1)
    await rig.write(10)
    await rig.loader.preload([rig.stream_id])
    await rig.write(10, object_id=early)
    assert await rig.hand_over() == [(0, 10), (10, 20)]
    assert rig.reads == [1, 0, 2], "the newer ones left a gap, so all were read again"


async def test_what_was_trimmed_since_is_left_out(rig: Rig) -> None:
    for _ in range(4):
        await rig.write(10)
    await rig.loader.preload([rig.stream_id])
    await rig.catalog.trim_streams(1, rig.writer.epoch, {rig.stream_id: (rig.epochs[rig.stream_id], 25)})
    assert await rig.hand_over() == [(20, 30), (30, 40)]


async def test_objects_that_were_merged_since_do_no_harm(rig: Rig) -> None:
    merged = [await rig.write(10) for _ in range(3)]
    await rig.loader.preload([rig.stream_id])
    removed = {object_id: [span(rig.stream_id, at, at + 10)] for object_id, at in zip(merged, (0, 10, 20), strict=True)}
    [(new, _)] = await rig.catalog.prepare_objects(1, rig.writer.epoch, 1)
    added = [NewObject(new, 3000, (span(rig.stream_id, 0, 30),), 1)]
    await rig.catalog.replace_objects(1, rig.writer.epoch, removed, added)
    await rig.write(10)
    assert (await rig.hand_over())[-1] == (30, 40)


async def test_what_was_read_ahead_long_ago_is_not_used(rig: Rig, monkeypatch: Any) -> None:
    await rig.write(10)
    monkeypatch.setattr(range_loader, "PRELOADED_MAX_S", -PRELOADED_MAX_S)
    await rig.loader.preload([rig.stream_id])
    await rig.write(10)
    assert await rig.hand_over() == [(0, 10), (10, 20)]
    assert rig.reads == [1, 2]


async def test_others_get_their_turn_while_the_ranges_of_many_streams_are_built() -> None:
    ref = ObjectRef(1, "key", 100)
    located = [[(StreamRange(i, 0, 10, 5, 0), ref), (StreamRange(i, 10, 20, 5, 0), ref)] for i in range(5000)]
    built = asyncio.create_task(build_each(located))
    turns = 0
    while not built.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 5000 * 2 / 1000
    assert [each.size for each in built.result()] == [10] * 5000
