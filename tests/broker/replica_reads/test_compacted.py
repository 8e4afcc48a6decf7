"""A view of a log that its leader compacts by key: transactions and objects of different passes are not combined."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from broker.partition.log_view import READ_COMMITTED
from broker.replica_reads.view import BACK_TO_LEADER
from broker.replica_reads.views import FRESH_S, ReplicaViews
from protocol.records import decode_records, iter_batches
from s3stream.block_cache import BlockReader
from s3stream.catalog.api import PartitionInfo, TopicInfo
from tests.broker.compaction.test_cleaner import RETENTION_MS, Bench, a_rig
from tests.broker.partition.committed_reader import visible_offsets
from tests.s3stream.rig import running
from tests.s3stream.sim.virtual_loop import virtual

FAR = 10**9


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    async def call(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    monkeypatch.setattr(asyncio, "to_thread", call)


class Reader:
    """A read_committed consumer of a view of the bench's partition."""

    def __init__(self, bench: Bench) -> None:
        self.blocks = BlockReader(bench.rig.store)
        self.views = ReplicaViews(bench.rig.catalog, self.blocks)
        info = PartitionInfo(0, 1, 1, *bench.rig.stream_ids)
        self.topic = TopicInfo(UUID(int=1), "t", False, 1, (info,), {})

    async def read(self, offset: int = 0) -> dict[bytes | None, bytes | None]:
        """What is visible from `offset` on, the last of each key, a few seconds after whatever happened last."""
        await asyncio.sleep(FRESH_S)
        view = self.views.get(self.topic, self.topic.partitions[0])
        seen: dict[bytes | None, bytes | None] = {}
        while (found := await view.fetch(offset, FAR, READ_COMMITTED)) is not BACK_TO_LEADER:
            visible = set(visible_offsets(found.buffers, view.aborted_transactions(offset, found.next_offset), offset))
            for buffer in found.buffers:
                for header, data in iter_batches(buffer):
                    if not header.is_control:
                        seen |= {each.key: each.value for each in decode_records(data) if each.offset in visible}
            offset = found.next_offset
        return seen

    async def close(self) -> None:
        self.views.close()
        await self.blocks.close()


async def an_aborted_and_a_committed_transaction(bench: Bench) -> None:
    await bench.produce(("a", "1"), ("gone", None))
    await bench.produce(("b", "aborted"), producer=7, transactional=True)
    await bench.end(7, commit=False)
    await bench.produce(("c", "1"), producer=7, transactional=True)
    await bench.end(7, commit=True)
    await bench.produce(("d", "1"))


async def compact_until_it_is_forgotten(bench: Bench) -> None:
    """Without new records: a tombstone asks for the passes."""
    for _ in range(5):
        await bench.clean_all()
        bench.now_ms += RETENTION_MS
    assert bench.partition.aborted_transactions(0, FAR) == []


@virtual
async def test_what_was_aborted_is_not_read_from_objects_that_were_replaced_long_ago() -> None:
    bench = Bench(a_rig())
    async with running(bench.rig) as streams:
        await bench.open(streams)
        await an_aborted_and_a_committed_transaction(bench)
        reader = Reader(bench)
        expected = await reader.read()
        assert expected == {b"a": b"1", b"gone": None, b"c": b"1", b"d": b"1"}
        await compact_until_it_is_forgotten(bench)
        await bench.produce(("e", "1"))
        end_offset = streams[0].next_offset
        bench.partition.save(bench.now_ms)
        await bench.produce(("f", "1"))
        assert await reader.read(end_offset) == {b"f": b"1"}
        del expected[b"gone"]
        assert await reader.read() == {**expected, b"e": b"1", b"f": b"1"}
        await reader.close()


@virtual
async def test_what_was_committed_is_read_after_the_marker_of_an_aborted_transaction_is_gone() -> None:
    bench = Bench(a_rig())
    async with running(bench.rig) as streams:
        await bench.open(streams)
        await an_aborted_and_a_committed_transaction(bench)
        reader = Reader(bench)
        expected = await reader.read()
        del expected[b"gone"]
        await compact_until_it_is_forgotten(bench)
        assert streams[1].committed_offset == streams[1].next_offset, "as are the objects without the marker"
        former = {each.key for each in bench.rig.memory_catalog.objects.values() if each.state != "committed"}
        await bench.rig.memory_store.delete_many(sorted(former))
        for key in former:
            reader.blocks.forget(key)
        assert await reader.read() == expected
        await reader.close()
