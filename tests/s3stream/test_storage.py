"""What a storage promises while it runs. Histories with random faults and crashes are in `sim/`."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from structlog.testing import capture_logs

from s3stream.api import OffsetOutOfRange, StorageFull, StreamClosed, StreamFailed, StreamFenced
from s3stream.settings import StorageSettings
from tests.s3stream.rig import NODE, SMALL, Rig, read_all, running, turn
from tests.s3stream.sim.virtual_loop import virtual
from wal import read_wal

FAR = 10**9


# -- confirming ------------------------------------------------------------------------------------------------------


@virtual
async def test_an_append_is_readable_only_once_it_is_durable() -> None:
    rig = Rig()
    async with running(rig, manual=True) as (stream, _):
        assert stream.append(b"one", 1, 0) == 0
        assert stream.append(b"three", 3, 0) == 1
        assert (stream.next_offset, stream.confirmed_offset) == (4, 0)
        empty = stream.read_cached(0, FAR, FAR)
        assert empty is not None
        assert empty.next_offset == 0
        rig.wal.sync(1)
        found = stream.read_cached(0, FAR, FAR)
        assert found is not None
        assert (b"".join(found.buffers), found.next_offset) == (b"one", 1)
        with pytest.raises(OffsetOutOfRange):
            stream.read_cached(2, FAR, FAR)


@virtual
async def test_a_flush_calls_each_stream_once_however_many_batches_it_made_durable() -> None:
    rig = Rig()
    async with running(rig, manual=True) as (first, second):
        calls: list[tuple[int, int, int]] = []
        for stream in (first, second):
            stream.on_confirmed = lambda stream=stream: calls.append(
                (stream.stream_id, first.confirmed_offset, second.confirmed_offset)
            )
        for _ in range(10):
            first.append(b"x", 1, 0)
            second.append(b"y", 2, 0)
        rig.wal.sync()
        assert calls == [(first.stream_id, 10, 20), (second.stream_id, 10, 20)]


@virtual
async def test_a_broker_that_may_not_confirm_confirms_nothing_until_it_may() -> None:
    rig = Rig()
    async with running(rig, manual=True) as (stream, _):
        stream.append(b"x", 1, 0)
        rig.may_confirm = False
        with capture_logs():
            rig.wal.sync()
            await asyncio.sleep(5)
        assert stream.confirmed_offset == stream.committed_offset == 0
        rig.may_confirm = True
        await asyncio.sleep(0.05)
        assert stream.confirmed_offset == 1


@virtual
async def test_after_a_wal_failure_nothing_is_confirmed_and_what_was_confirmed_stays_readable() -> None:
    rig = Rig()
    async with running(rig, manual=True) as (stream, other):
        errors: list[Exception] = []
        stream.on_failed = other.on_failed = errors.append
        stream.append(b"durable", 1, 0)
        rig.wal.sync()
        stream.append(b"lost or not", 1, 0)
        with capture_logs():
            rig.wal.fail("no sync")
        assert [type(error) for error in errors] == [StreamFailed, StreamFailed]
        assert isinstance(rig.storage.failed, StreamFailed)
        with pytest.raises(StreamFailed):
            stream.append(b"more", 1, 0)
        with pytest.raises(StreamFailed):
            await stream.wait_committed(1)
        with pytest.raises(StreamFailed):
            await rig.storage.open_streams([1])
        assert stream.confirmed_offset == 1
        assert await read_all(stream) == b"durable"
        await turn()
        wal = await read_wal(f"memory://{rig.wal_name}")
        assert wal.owner_is_out, "others need not wait for the process to end"


# -- uploading -------------------------------------------------------------------------------------------------------


@virtual
async def test_a_block_is_uploaded_when_it_is_old_and_the_wal_is_trimmed() -> None:
    rig = Rig()
    async with running(rig) as (stream, _):
        stream.append(b"x" * 100, 1, 0)
        await asyncio.sleep(0.9)
        assert stream.committed_offset == 0
        assert rig.storage.pressure().unuploaded_age_ms == 900
        await asyncio.sleep(0.2)
        assert stream.committed_offset == 1
        assert rig.storage.pressure().unuploaded_age_ms == 0
        assert rig.wal._log.trimmed == rig.wal.end_position
        assert await rig.object_count() == 1


@virtual
async def test_a_block_is_uploaded_when_it_is_full() -> None:
    rig = Rig()
    async with running(rig) as (stream, _):
        for _ in range(8):
            stream.append(b"x" * 1000, 1, 0)
        await asyncio.sleep(0.01)
        assert stream.committed_offset == 8


@virtual
async def test_waiting_for_a_commit_does_not_wait_for_the_block_to_be_old() -> None:
    rig = Rig()
    async with running(rig) as (stream, _):
        stream.append(b"x", 1, 0)
        await asyncio.wait_for(stream.wait_committed(1), 0.1)
        assert stream.committed_offset == 1
        assert [(entry.start_offset, entry.end_offset, entry.size) for entry in stream.ranges()] == [(0, 1, 1)]


@virtual
async def test_an_outage_of_the_store_is_waited_for_and_makes_blocks_larger_not_more() -> None:
    rig = Rig()
    async with running(rig) as (stream, _):
        rig.store_faults.down = True
        with capture_logs():
            for _ in range(20):
                stream.append(b"x" * 10, 1, 0)
                await asyncio.sleep(60)
        assert stream.committed_offset == 0
        rig.store_faults.down = False
        await asyncio.sleep(10)
        assert stream.committed_offset == 20
        assert await rig.object_count() <= SMALL.uploads_in_flight_max + 1
        assert await read_all(stream) == b"x" * 200


@virtual
async def test_producers_are_paused_refused_and_let_go_on_as_uploads_fall_behind_and_catch_up() -> None:
    rig = Rig()
    async with running(rig) as (stream, _):
        calls: list[bool] = []
        rig.storage.set_pressure_listener(calls.append)
        rig.store_faults.down = True
        with capture_logs():
            for _ in range(15):
                stream.append(b"x" * 1000, 1, 0)
                await asyncio.sleep(0)
            assert calls == [True]
            while rig.storage.pressure().level < 1.0:
                stream.append(b"x" * 1000, 1, 0)
            with pytest.raises(StorageFull):
                stream.append(b"x", 1, 0)
            assert rig.storage.pressure().unuploaded_size <= SMALL.unuploaded_size_max + 1_400
            rig.store_faults.down = False
            await asyncio.sleep(10)
        assert calls == [True, False]
        assert rig.storage.pressure().level == 0.0
        stream.append(b"x", 1, 0)


@virtual
async def test_a_full_wal_refuses_appends_until_an_upload_makes_room() -> None:
    rig = Rig()
    async with running(rig) as (stream, _):
        rig.wal.size_max = 500
        stream.append(b"x" * 300, 1, 0)
        with pytest.raises(StorageFull):
            stream.append(b"x" * 300, 1, 0)
        assert stream.next_offset == 1
        await asyncio.sleep(1.5)
        assert stream.append(b"x" * 300, 1, 0) == 1


@virtual
async def test_a_commit_whose_answer_is_lost_is_made_once() -> None:
    rig = Rig()
    async with running(rig) as (stream, _):
        stream.append(b"x", 1, 0)
        rig.catalog_faults.fail_after = 1.0
        with capture_logs():
            waiting = asyncio.ensure_future(stream.wait_committed(1))
            await asyncio.sleep(3)
        assert not waiting.done()
        rig.catalog_faults.fail_after = 0.0
        await waiting
        assert rig.memory_catalog.commit_count == 1


@virtual
async def test_an_object_given_up_during_its_upload_is_uploaded_again_as_another() -> None:
    rig = Rig()
    async with running(rig) as (stream, _):
        stream.append(b"x", 1, 0)
        rig.store_faults.delay_max = 1.0
        waiting = asyncio.ensure_future(stream.wait_committed(1))
        await turn()
        rig.memory_catalog.objects.clear()
        with capture_logs():
            await waiting
        assert await read_all(stream) == b"x"


# -- reading ---------------------------------------------------------------------------------------------------------


@virtual
async def test_what_left_the_cache_is_read_from_objects_without_a_gap() -> None:
    rig = Rig()
    async with running(rig) as (stream, _):
        expected = b""
        for number in range(200):
            data = bytes([number]) * 700
            expected += data
            stream.append(data, 1, 0)
            await asyncio.sleep(0.01)
        assert stream.read_cached(0, FAR, FAR) is None
        assert stream.read_cached(199, FAR, FAR) is not None
        assert await read_all(stream) == expected
        assert stream.size == len(expected)


@virtual
async def test_a_trim_hides_at_once_and_the_catalog_learns_it() -> None:
    rig = Rig()
    async with running(rig) as (stream, _):
        for _ in range(10):
            stream.append(b"x" * 100, 1, 0)
        await turn()
        trimming = asyncio.ensure_future(stream.trim(7))
        await asyncio.sleep(0)
        with pytest.raises(OffsetOutOfRange):
            stream.read_cached(6, FAR, FAR)
        with pytest.raises(OffsetOutOfRange):
            await stream.fetch(6, FAR, FAR)
        await trimming
        assert rig.memory_catalog.streams[stream.stream_id].start_offset == 7
        assert await read_all(stream) == b"x" * 300
        await stream.trim(3)
        assert stream.start_offset == 7
        with pytest.raises(OffsetOutOfRange):
            await stream.trim(11)


@virtual
async def test_a_timestamp_is_found_in_objects_and_in_memory() -> None:
    rig = Rig(dataclasses.replace(SMALL, cache_size_max=30_000))
    async with running(rig) as (stream, _):
        for number in range(100):
            stream.append(b"x" * 700, 1, 1_000 + number)
            await asyncio.sleep(0.01)
        assert stream.tail.start_offset > 20
        for timestamp, exact in ((0, 0), (1_010, 10), (1_095, 95), (1_099, 99)):
            offset = await stream.seek_timestamp(timestamp)
            assert offset is not None
            assert offset <= exact
            assert exact - offset <= 10
        assert await stream.seek_timestamp(1_100) is None


# -- fencing, closing ------------------------------------------------------------------------------------------------


@virtual
async def test_a_stream_opened_by_somebody_else_fails_alone() -> None:
    rig = Rig()
    async with running(rig) as (stolen, kept):
        errors: list[Exception] = []
        stolen.on_failed = errors.append
        stolen.append(b"mine", 1, 0)
        kept.append(b"kept", 1, 0)
        rig.memory_catalog.steal(stolen.stream_id)
        await asyncio.sleep(2)
        assert [type(error) for error in errors] == [StreamFenced]
        with pytest.raises(StreamFenced):
            stolen.append(b"more", 1, 0)
        assert (kept.committed_offset, stolen.committed_offset) == (1, 0)
        assert rig.storage.failed is None
        with pytest.raises(StreamFenced):
            await stolen.close()
        rig.memory_catalog.streams[stolen.stream_id] = dataclasses.replace(
            rig.memory_catalog.streams[stolen.stream_id], open=False
        )


@virtual
async def test_what_a_stream_still_had_when_it_was_released_is_nobodys_trouble() -> None:
    rig = Rig()
    async with running(rig) as (released, kept):
        released.append(b"x", 1, 0)
        kept.append(b"y", 1, 0)
        rig.storage.release_streams([released])
        streams = rig.memory_catalog.streams
        streams[released.stream_id] = dataclasses.replace(streams[released.stream_id], open=False)
        await asyncio.sleep(2)
        assert rig.storage.failed is None
        assert kept.committed_offset == 1
        assert streams[released.stream_id].end_offset == 0


@virtual
async def test_an_upload_that_was_fenced_says_nothing_about_a_later_opening() -> None:
    rig = Rig()
    async with running(rig) as (former, _):
        rig.store_faults.down = True
        former.append(b"x", 1, 0)
        await asyncio.sleep(2)
        rig.storage.release_streams([former])
        streams = rig.memory_catalog.streams
        streams[former.stream_id] = dataclasses.replace(streams[former.stream_id], open=False)
        [again] = await rig.storage.open_streams([former.stream_id])
        rig.store_faults.down = False
        await asyncio.sleep(10)
        again.append(b"y", 1, 0)
        await again.wait_committed(1)
        assert await read_all(again) == b"y"


@virtual
async def test_a_fenced_broker_stops_appending_and_commits_nothing() -> None:
    rig = Rig()
    async with running(rig) as (stream, _):
        stream.append(b"x", 1, 0)
        rig.memory_catalog.register(NODE)
        with capture_logs():
            await asyncio.sleep(2)
        assert isinstance(rig.storage.failed, StreamFenced)
        with pytest.raises(StreamFenced):
            stream.append(b"x", 1, 0)
        assert rig.memory_catalog.commit_count == 0


@virtual
async def test_a_deleted_stream_does_not_stand_in_the_way_of_others() -> None:
    rig = Rig()
    async with running(rig) as (deleted, kept):
        deleted.append(b"x", 1, 0)
        kept.append(b"y", 1, 0)
        rig.memory_catalog.delete_stream(deleted.stream_id)
        await asyncio.sleep(2)
        assert kept.committed_offset == 1
        await deleted.trim(1)
        await deleted.close()


@virtual
async def test_many_streams_closed_together_share_one_upload_and_are_readable_by_the_next_owner() -> None:
    rig = Rig(stream_count=20)
    async with running(rig) as streams:
        for stream in streams:
            stream.append(b"%d" % stream.stream_id, 1, 0)
        await asyncio.gather(*(stream.close() for stream in streams))
        assert rig.memory_catalog.commit_count == 1
        with pytest.raises(StreamClosed):
            streams[0].append(b"x", 1, 0)
        with pytest.raises(StreamClosed):
            await streams[0].fetch(0, FAR, FAR)
        assert not any(info.open for info in rig.memory_catalog.streams.values())
        for stream in await rig.storage.open_streams(rig.stream_ids):
            assert await read_all(stream) == b"%d" % stream.stream_id


@virtual
async def test_a_trim_that_meets_a_close_concerns_no_other_stream() -> None:
    rig = Rig()
    async with running(rig) as (closing, kept):
        for stream in (closing, kept):
            stream.append(b"x", 1, 0)
        await rig.storage.upload_now()
        rig.catalog_faults.delay_max = 0.5
        close = asyncio.ensure_future(closing.close())
        while rig.memory_catalog.streams[closing.stream_id].open:  # noqa: ASYNC110 (virtual time)
            await asyncio.sleep(0.01)
        results = await asyncio.gather(closing.trim(1), kept.trim(1), close, return_exceptions=True)
        assert [type(result) for result in results] == [StreamClosed, type(None), type(None)]
        assert rig.memory_catalog.streams[kept.stream_id].start_offset == 1
        assert rig.storage.failed is None


@virtual
async def test_a_closed_storage_left_nothing_in_the_wal() -> None:
    rig = Rig()
    stream, _ = await rig.start()
    stream.append(b"x", 1, 0)
    await rig.stop()
    await rig.stop()
    assert rig.wal._log.untrimmed() == []
    assert rig.memory_catalog.brokers_ == {}
    async with running(rig) as (again, _):
        assert await read_all(again) == b"x"


@virtual
async def test_a_close_that_is_given_up_leaves_the_tail_in_the_wal() -> None:
    rig = Rig()
    stream, _ = await rig.start()
    stream.append(b"x", 1, 0)
    rig.store_faults.down = True
    with capture_logs(), pytest.raises(TimeoutError):
        await asyncio.wait_for(rig.storage.close(), 5)
    assert len(rig.wal._log.untrimmed()) == 1
    assert stream.stream_id in {info.stream_id for info in rig.memory_catalog.streams.values() if info.open}


@virtual
async def test_a_stream_is_not_opened_twice() -> None:
    rig = Rig()
    async with running(rig) as (stream, _):
        with pytest.raises(ValueError, match="open already"):
            await rig.storage.open_streams([stream.stream_id])


@virtual
async def test_orphans_and_trimmed_objects_leave_the_bucket() -> None:
    rig = Rig()
    async with running(rig) as (stream, other):
        await rig.store.put("objects/77", [b"orphan"])
        rig.memory_catalog.objects[77] = type(rig.memory_catalog.objects[1])("objects/77", (NODE, 99), "retired")
        stream.append(b"x", 1, 0)
        other.append(b"y", 1, 0)
        await stream.wait_committed(1)
        await stream.trim(1)
        assert await rig.storage._cleaner.clean() == 1
        assert await rig.object_count() == 1
        await other.trim(1)
        assert await rig.storage._cleaner.clean() == 1
        assert await rig.object_count() == 0
        assert await rig.storage._cleaner.clean() == 0


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="pressure_low_size"):
        StorageSettings(pressure_low_size=2, pressure_high_size=1)
    with pytest.raises(ValueError, match="block_size"):
        StorageSettings(block_size=200 << 20)
