"""Streams that are confirmed by their commits: when they are uploaded, what they promise, and beside what."""

from __future__ import annotations

import asyncio

import pytest

from s3stream.api import StreamFailed
from s3stream.recovery import recover_wal
from tests.s3stream.rig import NODE, SMALL, Rig, read_all, running, turn
from tests.s3stream.sim.virtual_loop import virtual
from tests.s3stream.sim.world import inline
from wal import fence_wal, open_wal
from wal.memory import forget

FAR = 10**9
PUT_S = 0.05


class SlowPuts:
    """A store whose PUTs take a fixed time; counts those in flight."""

    def __init__(self, rig: Rig) -> None:
        self.put_count = 0
        self._put = rig.memory_store.put
        rig.memory_store.put = self._slow_put  # type: ignore[method-assign]

    async def _slow_put(self, key: str, pieces: object) -> None:
        self.put_count += 1
        await asyncio.sleep(PUT_S)
        await self._put(key, pieces)  # type: ignore[arg-type]


@virtual
async def test_an_append_is_readable_only_once_it_is_committed() -> None:
    rig = Rig()
    async with running(rig, manual=True) as (stream, _):
        stream.confirm_on_commit(True)
        confirmed: list[int] = []
        stream.on_confirmed = lambda: confirmed.append(stream.confirmed_offset)
        stream.append(b"one", 1, 0)
        rig.store_faults.down = True
        rig.wal.sync()
        await turn()
        assert (stream.confirmed_offset, stream.durable_offset) == (0, 1)
        empty = stream.read_cached(0, FAR, FAR)
        assert empty is not None
        assert empty.next_offset == 0
        rig.store_faults.down = False
        await asyncio.sleep(1)
        assert confirmed == [1]
        assert rig.memory_catalog.streams[stream.stream_id].end_offset == 1
        assert await read_all(stream) == b"one"


@virtual
async def test_with_an_idle_store_an_append_waits_for_one_put_and_with_a_busy_one_for_two() -> None:
    rig = Rig()
    slow = SlowPuts(rig)
    loop = asyncio.get_running_loop()
    async with running(rig) as (stream, _):
        stream.confirm_on_commit(True)
        appended: list[float] = []
        waits: list[float] = []

        def confirmed() -> None:
            waits.extend(loop.time() - each for each in appended[len(waits) : stream.confirmed_offset])

        stream.on_confirmed = confirmed
        for _ in range(200):
            stream.append(b"x" * 10, 1, 0)
            appended.append(loop.time())
            await asyncio.sleep(0.005)
        await asyncio.sleep(1)
        assert len(waits) == 200
        assert waits[0] == pytest.approx(PUT_S, abs=0.002)
        assert max(waits) <= 2 * PUT_S + 0.002
        assert slow.put_count == pytest.approx(1.0 / PUT_S, abs=2), "one after the other"


@virtual
async def test_what_other_streams_append_meanwhile_is_not_cut_into_small_objects() -> None:
    rig = Rig()
    async with running(rig) as (awaiting, other):
        awaiting.confirm_on_commit(True)
        for _ in range(20):
            other.append(b"o" * 10, 1, 0)
            awaiting.append(b"a" * 10, 1, 0)
            await asyncio.sleep(0.01)
            assert awaiting.confirmed_offset == awaiting.next_offset
        assert (other.confirmed_offset, other.committed_offset) == (20, 0)
        assert rig.wal._log.trimmed == 0, "the log has what was not uploaded yet"
        assert rig.storage.pressure().unuploaded_size == 20 * (10 + 400)
        await asyncio.sleep(1)
        assert len(other.ranges()) == 1
        assert other.committed_offset == 20
        assert rig.wal._log.trimmed == rig.wal.end_position
        assert rig.storage.pressure().unuploaded_size == 0
        assert await read_all(other) == b"o" * 200
        assert await read_all(awaiting) == b"a" * 200


@virtual
async def test_large_appends_fill_blocks_as_ever() -> None:
    rig = Rig()
    SlowPuts(rig)
    async with running(rig) as (stream, _):
        stream.confirm_on_commit(True)
        for _ in range(18):
            stream.append(b"x" * 1_000, 1, 0)
        await asyncio.sleep(PUT_S + 0.01)
        assert stream.confirmed_offset >= 16, "two full blocks went in parallel"
        await asyncio.sleep(2 * PUT_S)
        assert stream.confirmed_offset == 18


@virtual
async def test_asking_for_an_upload_beside_awaited_appends_returns_when_everything_is_committed() -> None:
    rig = Rig()
    SlowPuts(rig)
    async with running(rig) as (awaiting, other):
        awaiting.confirm_on_commit(True)
        for number in range(5):
            other.append(b"o", 1, 0)
            awaiting.append(b"a", 1, 0)
            if number == 2:
                await rig.storage.upload_now()
                assert (other.committed_offset, awaiting.committed_offset) == (3, 3)
            await asyncio.sleep(0.02)
        await other.wait_committed(5)


@virtual
async def test_the_change_to_commits_holds_back_what_is_not_confirmed_and_the_change_back_lets_it_go() -> None:
    rig = Rig()
    async with running(rig, manual=True) as (stream, _):
        stream.append(b"confirmed by the log", 1, 0)
        rig.wal.sync()
        assert stream.confirmed_offset == 1
        rig.store_faults.down = True
        stream.append(b"held back", 1, 0)
        stream.confirm_on_commit(True)
        rig.wal.sync()
        stream.append(b"not durable", 1, 0)
        assert stream.confirmed_offset == 1
        confirmed: list[int] = []
        stream.on_confirmed = lambda: confirmed.append(stream.confirmed_offset)
        stream.confirm_on_commit(False)
        assert confirmed == [2]
        rig.wal.sync()
        assert confirmed == [2, 3]
        stream.confirm_on_commit(False)
        assert confirmed == [2, 3]


@virtual
async def test_what_waits_in_the_current_block_is_uploaded_at_once_when_the_change_comes() -> None:
    rig = Rig()
    async with running(rig) as (stream, other):
        stream.append(b"x", 1, 0)
        other.append(b"y", 1, 0)
        await asyncio.sleep(0.01)
        stream.confirm_on_commit(True)
        await asyncio.sleep(0.01)
        assert (stream.committed_offset, other.committed_offset) == (1, 0)


@virtual
async def test_the_log_lost_with_its_disk_costs_nothing_that_was_confirmed_by_a_commit() -> None:
    rig = Rig()
    awaiting, other = await rig.start()
    awaiting.confirm_on_commit(True)
    for _ in range(3):
        awaiting.append(b"a", 1, 0)
        other.append(b"o", 1, 0)
        await asyncio.sleep(0.01)
    assert (awaiting.confirmed_offset, other.confirmed_offset) == (3, 3)
    tasks = rig.storage._tasks
    assert tasks is not None
    tasks.cancel()
    await asyncio.wait([tasks])
    rig.wal.crash()
    forget(rig.wal_name)
    former = rig.epoch
    epoch = rig.memory_catalog.register(NODE)
    # a new, empty log in its place
    await (await open_wal(f"memory://{rig.wal_name}", epoch=former)).close()
    fenced = await fence_wal(f"memory://{rig.wal_name}")
    await recover_wal(fenced, rig.catalog, rig.store, NODE, epoch, settings=SMALL, offload=inline)
    rig.memory_catalog.recovered(NODE, former)
    await fenced.close()
    awaiting, other = await rig.start()
    assert (awaiting.next_offset, other.next_offset) == (3, 0)
    assert await read_all(awaiting) == b"aaa"
    await rig.stop()


@virtual
async def test_a_log_that_fails_confirms_nothing_more_whatever_is_committed_already() -> None:
    rig = Rig()
    async with running(rig, manual=True) as (stream, _):
        stream.confirm_on_commit(True)
        errors: list[Exception] = []
        stream.on_failed = errors.append
        stream.append(b"x", 1, 0)
        rig.wal.fail("no sync")
        assert [type(error) for error in errors] == [StreamFailed]
        await asyncio.sleep(1)
        assert stream.confirmed_offset == 0
