"""Compaction under open streams: everything is read as before, from fewer objects."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from s3stream.api import FetchResult, ObjectCorrupt
from s3stream.committed_ranges import CommittedRanges
from s3stream.compaction import compactor as compactor_module
from s3stream.compaction.plan import Limits
from s3stream.compaction.target import OBJECT_SIZE_MIN
from s3stream.object.writer import Batch
from s3stream.stream import S3Stream
from tests.s3stream.rig import SMALL, Rig, read_all, running
from tests.s3stream.sim.virtual_loop import virtual

NEVER = 10**9
LIMITS = Limits(
    split_size=1_500,
    target_size=6_000,
    tiers=((500, 1_500), (1_500, 3_000)),
    run_count_max=8,
    fan_in=3,
    generation_max=2,
)
SETTINGS = replace(SMALL, compaction_interval_ms=NEVER, clean_interval_ms=NEVER, compaction_rate=NEVER)


def rig_of(stream_count: int = 3) -> Rig:
    return Rig(SETTINGS, stream_count, limits=LIMITS)


async def write(rig: Rig, streams: Sequence[S3Stream], rounds: int, size: int = 100) -> None:
    """An object for each round, with a batch of each stream in it."""
    for number in range(rounds):
        for stream in streams:
            stream.append(bytes([number % 256, stream.stream_id]) * (size // 2), 2, number)
        await rig.storage.upload_now()


async def settle(rig: Rig) -> int:
    jobs = 0
    while await rig.storage.compactor.compact():
        jobs += 1
    return jobs


def ranges_of(stream: S3Stream) -> int:
    return len(stream.committed_ranges)


@virtual
async def test_streams_are_read_as_before_from_a_bounded_number_of_objects() -> None:
    rig = rig_of()
    async with running(rig) as streams:
        for _ in range(6):
            await write(rig, streams, 20)
            await settle(rig)
        data = [await read_all(stream) for stream in streams]
        assert [len(each) for each in data] == [12_000] * 3
        assert max(map(ranges_of, streams)) < 4 * LIMITS.fan_in + 2 * LIMITS.run_count_max
        stats = rig.storage.compactor.stats
        assert 0 < stats.bytes_written < 36_000 * 6
        assert stats.conflicts == 0
        await rig.stop()
        again = await rig.start()
        assert [await read_all(stream) for stream in again] == data


@virtual
async def test_what_was_replaced_is_deleted_later_and_a_reader_of_before_finds_its_way() -> None:
    rig = rig_of()
    async with running(rig) as streams:
        await write(rig, streams, 12)
        stream = streams[0]
        data = await read_all(stream)
        old = stream.committed_ranges.located(stream.stream_id, 0, NEVER)
        before = await rig.object_count()
        await settle(rig)
        assert await rig.object_count() > before, "readers may still want them"
        # as in a broker that has not heard of it
        stream.committed_ranges = type(stream.committed_ranges).of(old)
        await rig.storage._cleaner.clean()
        for _, ref in old:
            rig.reader.forget(ref.key)
        rig.storage._cache.capacity = 0
        rig.storage._cache.evict()
        assert await read_all(stream) == data
        assert ranges_of(stream) < len(old)
        assert await stream.seek_timestamp(5) is not None


@virtual
async def test_who_comes_second_changes_nothing() -> None:
    rig = rig_of()
    async with running(rig) as streams:
        await write(rig, streams, 12)
        data = [await read_all(stream) for stream in streams]
        compactor = rig.storage.compactor
        one, other = await asyncio.gather(compactor.compact(), compactor.compact())
        assert one != other
        assert compactor.stats.conflicts == 1
        await settle(rig)
        assert [await read_all(stream) for stream in streams] == data


@virtual
async def test_a_job_over_set_objects_that_comes_second_reads_no_stream_anew() -> None:
    rig = rig_of()
    async with running(rig) as streams:
        await write(rig, streams, 12)
        compactor = rig.storage.compactor
        reloaded: list[int] = []

        async def reload(stream: S3Stream) -> bool:
            reloaded.append(stream.stream_id)
            return True

        compactor._reload = reload
        await asyncio.gather(compactor.compact(), compactor.compact())
        assert compactor.stats.conflicts == 1
        assert reloaded == []


@virtual
async def test_many_tiny_streams_are_split_in_several_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3stream.compaction.sets.OBJECTS_MAX", 2)
    rig = rig_of(5)
    rig.settings = replace(SETTINGS, set_object_age_ms_max=0)
    async with running(rig) as streams:
        await write(rig, streams, 2)
        data = [await read_all(stream) for stream in streams]
        before = rig.memory_catalog.replace_count
        await settle(rig)
        assert rig.memory_catalog.replace_count - before == 2, "what one stream alone is left of is its own"
        assert [await read_all(stream) for stream in streams] == data


@virtual
async def test_many_tiny_objects_are_not_written_as_fast_as_it_goes() -> None:
    rig = Rig(replace(SETTINGS, compaction_rate=10 * OBJECT_SIZE_MIN), 20, limits=replace(LIMITS, split_size=1))
    async with running(rig) as streams:
        await write(rig, streams, LIMITS.fan_in)
        began = asyncio.get_running_loop().time()
        await settle(rig)
        assert rig.storage.compactor.stats.objects_written == 20
        assert 1.0 < asyncio.get_running_loop().time() - began < 3.0, "ten objects a second, after a burst"


@virtual
async def test_a_trimmed_part_is_not_copied_and_a_deleted_stream_goes() -> None:
    rig = rig_of()
    async with running(rig) as streams:
        await write(rig, streams, 9)
        await streams[0].trim(17)
        rig.memory_catalog.delete_stream(streams[2].stream_id)
        await settle(rig)
        assert await read_all(streams[0]) == bytes([8, 1]) * 50
        assert len(await read_all(streams[1])) == 900
        await rig.storage._cleaner.clean()
        live = [each for each in rig.memory_catalog.objects.values() if each.state == "committed"]
        held = {part.stream_id for each in live for part in each.ranges}
        assert held == {streams[0].stream_id, streams[1].stream_id}


@virtual
async def test_a_store_that_is_away_only_puts_it_off() -> None:
    rig = rig_of()
    async with running(rig) as streams:
        await write(rig, streams, 9)
        rig.store_faults.down = True
        assert not await rig.storage.compactor._attempt()
        assert rig.storage.compactor.stats.failures == 1
        rig.store_faults.down = False
        assert await settle(rig) > 0


class EveryOther:
    """Drops every other batch, and the last one."""

    def __init__(self) -> None:
        self.number = 0
        self.last: Batch | None = None
        self.commits = 0

    async def filter(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        kept = []
        for batch in batches:
            self.number += 1
            self.last = None if self.number % 2 else batch
            if self.number % 2:
                kept.append(batch)
        return kept

    async def seal(self) -> Batch | None:
        return None if self.last is None else (*self.last[:3], b"sealed")

    async def before_commit(self) -> None:
        self.commits += 1


async def read_from(stream: S3Stream, offset: int) -> FetchResult:
    return await stream.fetch(offset, 1, NEVER)


@virtual
async def test_after_a_filter_every_offset_finds_the_first_batch_at_or_after_it() -> None:
    rig = rig_of(1)
    async with running(rig) as [stream]:
        await write(rig, [stream], 40)
        await write(rig, [stream], 1, 60)
        chosen = EveryOther()
        assert await rig.storage.compactor.rewrite(stream, 80, chosen, 80)
        assert chosen.commits == ranges_of(stream) - 1
        assert stream.compacted_offset == 80
        for offset in range(80):
            found = await read_from(stream, offset)
            number = offset // 2 + (offset // 2) % 2  # the batch, or the one behind it
            assert found.next_offset > offset
            expected = b"sealed" if number == 40 else bytes([number, stream.stream_id]) * 50
            assert found.next_offset == (80 if number == 40 else 2 * number + 2)
            assert b"".join(found.buffers) == expected
        assert (await read_from(stream, 80)).size == 60
        await rig.stop()
        [again] = await rig.start()
        assert again.compacted_offset == 80
        assert (await read_from(again, 79)).next_offset == 80


@virtual
async def test_a_run_is_merged_though_each_look_saw_only_a_part_of_it_before_set_objects() -> None:
    rig = Rig(replace(SETTINGS, set_object_age_ms_max=0), 3, limits=LIMITS)
    async with running(rig) as streams:
        compactor = rig.storage.compactor
        for _ in range(6):
            await write(rig, streams[:1], 5)
            await write(rig, streams, 2 * LIMITS.run_count_max - 1, size=2)
            compactor.adopts = lambda node: False
            await settle(rig)
            compactor.adopts = lambda node: True
            await settle(rig)
        assert ranges_of(streams[0]) < 2 * LIMITS.run_count_max


@virtual
async def test_what_another_broker_rewrote_is_noticed_and_does_not_keep_neighbours_apart() -> None:
    rig = rig_of()
    async with running(rig) as streams:
        stream = streams[0]
        await write(rig, streams, 20)
        data = await read_all(stream)
        old = stream.committed_ranges.located(stream.stream_id, 0, NEVER)
        await settle(rig)
        stream.committed_ranges = type(stream.committed_ranges).of(old)
        await write(rig, streams, 1)
        await settle(rig)
        live = {info.object_id for info in await rig.catalog.live_objects([stream.stream_id])}
        assert {ref.object_id for _, ref in stream.committed_ranges.located(stream.stream_id, 0, NEVER)} == live
        assert (await read_all(stream))[: len(data)] == data


@virtual
async def test_a_look_at_a_long_row_of_large_ranges_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor_module, "LOOK_COUNT", 4)
    looks: list[int] = []
    located = CommittedRanges.located

    def counted(self: CommittedRanges, stream_id: int, start: int, end: int, count_max: int = NEVER) -> Any:
        looks.append(start)
        assert len(looks) < 100
        return located(self, stream_id, start, end, count_max)

    monkeypatch.setattr(CommittedRanges, "located", counted)
    rig = rig_of(1)
    async with running(rig) as streams:
        await write(rig, streams, 13, size=2_000)
        assert await settle(rig) == 0
        assert ranges_of(streams[0]) == 13
        seen = len(looks)
        await write(rig, streams, 1, size=2_000)
        await settle(rig)
        assert looks[seen] == streams[0].committed_ranges.info(12).end_offset, "what is settled is looked at again"


@virtual
@pytest.mark.parametrize("is_seen_between", [True, False])
async def test_a_stream_that_nobody_writes_to_notices_it_too(is_seen_between: bool) -> None:
    """Also if the set objects came and went between two rounds."""
    rig = rig_of()
    async with running(rig) as streams:
        compactor = rig.storage.compactor
        compactor.adopts = lambda node: False
        await write(rig, streams, 20)
        if is_seen_between:
            await settle(rig)
        else:
            assert not await compactor._merge_any()
        other = copy.copy(compactor)
        other.adopts, other._streams = (lambda node: True), {}
        while await other.compact():
            pass
        await settle(rig)
        for stream in streams:
            live = {info.object_id for info in await rig.catalog.live_objects([stream.stream_id])}
            assert {ref.object_id for _, ref in stream.committed_ranges.located(stream.stream_id, 0, NEVER)} == live


def damaged(data: bytes) -> bytes:
    """As if a bit of its first block had flipped."""
    return data[:20] + bytes([data[20] ^ 1]) + data[21:]


@pytest.mark.parametrize("stream_count", [1, 3])
async def test_what_comes_damaged_once_is_read_again(stream_count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = rig_of(stream_count)
    get_range = rig.memory_store.get_range
    answered: set[str] = set()

    async def flipped_once(key: str, start: int, end: int) -> bytes:
        data = bytes(await get_range(key, start, end))
        if key in answered:
            return data
        answered.add(key)
        return damaged(data)

    async with running(rig) as streams:
        await write(rig, streams, 20)
        monkeypatch.setattr(rig.memory_store, "get_range", flipped_once)
        assert await settle(rig) > 0
        assert answered
        assert max(map(ranges_of, streams)) < LIMITS.run_count_max


@virtual
async def test_what_cannot_be_read_is_left_alone_for_a_while_and_the_rest_is_not() -> None:
    rig = rig_of(1)
    async with running(rig) as [stream]:
        compactor = rig.storage.compactor
        await write(rig, [stream], 15)
        [(_, ref), *_] = stream.committed_ranges.located(stream.stream_id, 0, NEVER)
        data, modified = rig.memory_store._objects[ref.key]
        rig.memory_store._objects[ref.key] = (damaged(data), modified)
        with pytest.raises(ObjectCorrupt):
            await compactor.compact()
        assert await settle(rig) == 0, "it is not tried again and again"
        await write(rig, [stream], 15)
        assert await settle(rig) == 1
        assert ranges_of(stream) == 16
        rig.memory_store._objects[ref.key] = (data, modified)
        await asyncio.sleep(compactor_module.LEFT_ALONE_S)
        assert await settle(rig) == 1
        assert ranges_of(stream) == 2
