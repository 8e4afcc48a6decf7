"""Views over a real storage whose streams another broker has open, with a catalog and a store that may fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from broker.partition.log_view import READ_COMMITTED
from broker.replica_reads import views as views_module
from broker.replica_reads.view import BACK_TO_LEADER, ReplicaView
from broker.replica_reads.views import AT_END_S, FRESH_S, IDLE_S, ReplicaViews
from protocol.records import stamp
from s3stream.block_cache import BlockReader
from s3stream.catalog.api import PartitionInfo, TopicInfo
from s3stream.stream import S3Stream
from tests.broker.partition.batches import batch
from tests.s3stream.rig import Rig, running
from tests.s3stream.sim.virtual_loop import virtual

FAR = 10**9


class Replica:
    """Another broker's views of the rig's streams: (1, 2) are partition 0, (3, 4) partition 1, and so on."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.reader = BlockReader(rig.store)
        self.views = ReplicaViews(rig.catalog, self.reader)
        ids = rig.stream_ids
        partitions = [
            PartitionInfo(index, 1, 5, *pair) for index, pair in enumerate(zip(ids[::2], ids[1::2], strict=True))
        ]
        self.topic = TopicInfo(UUID(int=1), "t", False, 3, tuple(partitions), {})

    def view(self, index: int = 0) -> ReplicaView:
        return self.views.get(self.topic, self.topic.partitions[index])

    async def read(self, offset: int, index: int = 0) -> bytes | None:
        """All that the view gives from `offset` on; None if that is nothing."""
        view, data = self.view(index), b""
        while (found := await view.fetch(offset, 30, 0)) is not BACK_TO_LEADER:
            data += b"".join(found.buffers)
            offset = found.next_offset
        return data or None


@asynccontextmanager
async def cluster(stream_count: int = 2) -> AsyncIterator[tuple[Rig, list[S3Stream], Replica]]:
    rig = Rig(stream_count=stream_count)
    async with running(rig) as streams:
        replica = Replica(rig)
        yield rig, streams, replica
        replica.views.close()
        await replica.reader.close()


async def commit(stream: S3Stream, *batches: bytes) -> None:
    for each in batches:
        stream.append(each, 1, 0)
    await stream.wait_committed(stream.next_offset)


@virtual
async def test_a_reader_gets_what_is_committed_and_goes_back_for_the_rest() -> None:
    async with cluster() as (_, (log, _), replica):
        await commit(log, b"a" * 20, b"b" * 20)
        log.append(b"only in the log", 1, 0)
        assert await replica.read(0) == b"a" * 20 + b"b" * 20
        view = replica.view()
        assert (view.log_start_offset, view.high_watermark, view.last_stable_offset) == (0, 2, -1)
        assert await replica.read(2) is None
        assert await replica.read(7) is None
        await commit(log)
        assert await replica.read(2) is None, "it was looked at a moment ago"
        await asyncio.sleep(AT_END_S)
        assert await replica.read(2) == b"only in the log"


@virtual
async def test_the_leader_notices_nothing() -> None:
    async with cluster() as (rig, (log, _), replica):
        await commit(log, b"a")
        before = rig.memory_catalog.streams[log.stream_id]
        assert await replica.read(0) == b"a"
        assert rig.memory_catalog.streams[log.stream_id] == before
        await commit(log, b"b")


@virtual
async def test_what_was_deleted_is_not_read_any_more_a_moment_later() -> None:
    async with cluster() as (_, (log, _), replica):
        await commit(log, b"a")
        await commit(log, b"b")
        assert await replica.read(0) == b"ab"
        await log.trim(1)
        await asyncio.sleep(FRESH_S)
        assert await replica.read(0) is None
        assert replica.view().log_start_offset == 1
        assert await replica.read(1) == b"b"


@virtual
async def test_objects_that_were_replaced_are_looked_up_again() -> None:
    async with cluster() as (rig, (log, _), replica):
        await commit(log, b"a")
        await commit(log, b"b")
        view = replica.view()
        assert (await view.fetch(0, FAR, 0)).size == 1
        *_, entry = [each for each in rig.memory_catalog.objects.values() if each.state == "committed"]
        data = await rig.memory_store.get(entry.key)
        await rig.memory_store.put("elsewhere", [data])
        await rig.memory_store.delete_many([entry.key])
        entry.key = "elsewhere"
        found = await view.fetch(1, FAR, 0)
        assert b"".join(found.buffers) == b"b"


@virtual
async def test_what_cannot_be_read_here_is_for_the_leader() -> None:
    async with cluster() as (rig, (log, _), replica):
        await commit(log, b"a")
        [meta] = [meta async for meta in rig.memory_store.list("")]
        await rig.memory_store.delete_many([meta.key])
        with capture_logs():
            assert await replica.read(0) is None
            await rig.memory_store.put(meta.key, [bytes(meta.size)])
            assert await replica.read(0) is None


@virtual
async def test_without_the_catalog_what_is_known_is_read_on() -> None:
    async with cluster(4) as (rig, (log, _, other, _), replica):
        await commit(log, b"a")
        await commit(log, b"b")
        await commit(other, b"o")
        assert (await replica.view().fetch(0, FAR, 0)).size
        rig.catalog_faults.down = True
        await asyncio.sleep(FRESH_S * 2)
        with capture_logs() as logs:
            found = await replica.view().fetch(1, FAR, 0)
            assert b"".join(found.buffers) == b"b"
            assert await replica.view().fetch(2, FAR, 0) is BACK_TO_LEADER
            assert await replica.view(1).fetch(0, FAR, 0) is BACK_TO_LEADER
        assert {each["event"] for each in logs} == {"a reader of this rack is sent back to the leader"}
        rig.catalog_faults.down = False
        await asyncio.sleep(FRESH_S)
        assert await replica.read(0, 1) == b"o"


@virtual
async def test_views_that_are_read_at_the_same_time_are_looked_up_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(20) as (rig, streams, replica):
        for log in streams[::2]:
            log.append(b"x", 1, 0)
        await rig.storage.upload_now()
        calls: list[int] = []
        stream_infos = rig.memory_catalog.stream_infos

        async def counted(stream_ids: list[int]) -> object:
            calls.append(len(stream_ids))
            await asyncio.sleep(0.01)
            return await stream_infos(stream_ids)

        monkeypatch.setattr(rig.memory_catalog, "stream_infos", counted)
        found = await asyncio.gather(*(replica.view(index).fetch(0, FAR, 0) for index in range(10)))
        assert all(each.size == 1 for each in found)
        assert calls == [1, 9], "one was on its way when the others came"


@virtual
async def test_a_committed_reader_of_a_log_without_transactions_reads_all_of_it() -> None:
    async with cluster() as (_, (log, _), replica):
        for offset in range(3):
            plain = batch()
            stamp(memoryview(plain), offset, 0)
            await commit(log, plain)
        view, offset = replica.view(), 0
        while offset < 3:
            found = await view.fetch(offset, FAR, READ_COMMITTED)
            assert found.next_offset > offset
            offset = found.next_offset
        assert view.last_stable_offset == 3
        assert view.aborted_transactions(0, 3) == []


@virtual
async def test_views_that_nobody_reads_are_let_go() -> None:
    async with cluster(4) as (_, (log, *_), replica):
        await commit(log, b"a")
        first, second = replica.view(0), replica.view(1)
        await replica.read(0)
        for _ in range(4):
            await asyncio.sleep(IDLE_S / 2)
            assert replica.view(1) is second
        assert first.closed
        assert not second.closed
        assert len(replica.views) == 1
        await asyncio.sleep(IDLE_S * 2)
        assert len(replica.views) == 0
        assert await replica.read(0) == b"a"


@virtual
async def test_the_ranges_of_all_views_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views_module, "RANGES_MAX", 5)
    async with cluster(6) as (_, (first, _, second, _, third, _), replica):
        for log in (first, second):
            for _ in range(3):
                await commit(log, b"x")
        for _ in range(6):
            await commit(third, b"y")
        views = [replica.view(index) for index in range(3)]
        assert (await views[0].fetch(0, FAR, 0)).size == 1
        assert (await views[1].fetch(0, FAR, 0)).size == 1
        assert [view.closed for view in views] == [True, False, False]
        await views[2].fetch(0, FAR, 0)
        assert [view.closed for view in views] == [True, True, True]
        assert len(replica.views) == 0
