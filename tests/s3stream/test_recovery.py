"""What a WAL holds after a crash gets into objects: all of it, once, in bounded memory, or not silently."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from s3stream.api import InvariantBroken
from s3stream.recovery import IN_FLIGHT_MAX, RecoveryResult, recover_wal
from s3stream.wal_record import WalRecordInvalid, encode_header
from tests.s3stream.rig import NODE, SMALL, Rig, read_all, running
from tests.s3stream.sim.virtual_loop import virtual
from tests.s3stream.sim.world import inline
from wal import fence_wal, open_wal
from wal.api import WalRecord


async def crash(rig: Rig) -> None:
    """The process is gone: its WAL keeps what was durable."""
    rig.wal.crash()
    tasks = rig.storage._tasks
    assert tasks is not None
    tasks.cancel()
    await asyncio.wait([tasks])
    await rig.reader.close()


async def recover(rig: Rig, *, discard: bool = True) -> RecoveryResult:
    rig.epoch = rig.memory_catalog.register(NODE)
    fenced = await fence_wal(f"memory://{rig.wal_name}")
    try:
        with capture_logs():
            result = await recover_wal(
                fenced,
                rig.catalog,
                rig.store,
                NODE,
                rig.epoch,
                settings=SMALL,
                rng=random.Random(4),
                offload=inline,
            )
        if discard:
            for epoch in range(1, rig.epoch):
                rig.memory_catalog.recovered(NODE, epoch)
            await fenced.discard()
    finally:
        await fenced.close()
    return result


async def write_records(rig: Rig, *records: tuple[int, int, int, int]) -> None:
    """A WAL with records (stream id, epoch, base offset, count)."""
    wal: Any = await open_wal(f"memory://{rig.wal_name}", epoch=1)
    for stream_id, epoch, base_offset, count in records:
        wal.append((encode_header(stream_id, epoch, base_offset, count, 0), b"x"))
    wal.sync()
    wal.crash()


@virtual
async def test_everything_durable_is_recovered_and_what_is_committed_is_not_uploaded_again() -> None:
    rig = Rig()
    stream, other = await rig.start(manual=True)
    stream.append(b"committed", 2, 0)
    rig.wal.sync()
    trim, rig.wal.trim = rig.wal.trim, lambda position: None  # type: ignore[method-assign]
    await stream.wait_committed(2)
    rig.wal.trim = trim  # type: ignore[method-assign]
    stream.append(b"durable", 3, 0)
    other.append(b"too", 1, 0)
    rig.wal.sync()
    stream.append(b"not durable", 1, 0)
    await crash(rig)
    result = await recover(rig)
    assert (result.record_count, result.recovered_count, result.dropped_count) == (3, 2, 1)
    assert result.end_offsets == {stream.stream_id: 5, other.stream_id: 1}
    async with running(rig) as (stream, other):
        assert (stream.next_offset, other.next_offset) == (5, 1)
        assert await read_all(stream) == b"committeddurable"
        assert await read_all(other) == b"too"


@virtual
async def test_a_large_log_is_uploaded_in_pieces_and_running_it_again_changes_nothing() -> None:
    rig = Rig()
    stream, _ = await rig.start(manual=True)
    rig.store_faults.down = True
    expected = b""
    for number in range(20):
        stream.append(bytes([number]) * 1_000, 1, 0)
        expected += bytes([number]) * 1_000
        rig.wal.sync()
    with capture_logs():
        await crash(rig)
    rig.store_faults.down = False
    first = await recover(rig, discard=False)
    pieces = rig.memory_catalog.commit_count
    assert pieces >= 2
    assert first.recovered_count == 20
    second = await recover(rig)
    assert (second.recovered_count, second.dropped_count) == (0, 20)
    assert rig.memory_catalog.commit_count == pieces
    async with running(rig) as (stream, _):
        assert await read_all(stream) == expected


@virtual
async def test_a_recovery_reads_no_further_ahead_than_a_few_pieces() -> None:
    rig = Rig()
    rig.epoch = rig.memory_catalog.register(NODE)
    await rig.memory_catalog.open_streams(NODE, rig.epoch, [1])
    rig.store_faults.delay_max = 1.0
    size, count, ahead_max = 1_000, 300, 0

    class LongLog:
        async def records(self) -> AsyncIterator[list[WalRecord]]:
            nonlocal ahead_max
            for number in range(count):
                data = memoryview(encode_header(1, 1, number, 1, 0) + bytes(size))
                yield [WalRecord(number, number + 1, data)]
                await asyncio.sleep(0)
                ahead_max = max(ahead_max, number + 1 - rig.memory_catalog.streams[1].end_offset)

    result = await recover_wal(
        cast("Any", LongLog()), rig.catalog, rig.store, NODE, rig.epoch, settings=SMALL, offload=inline
    )
    assert result.end_offsets == {1: count}
    pieces = IN_FLIGHT_MAX + 1
    assert ahead_max * size <= pieces * SMALL.block_size


@virtual
async def test_records_of_an_older_epoch_and_of_deleted_streams_are_dropped() -> None:
    rig = Rig()
    rig.epoch = rig.memory_catalog.register(NODE)
    first, second = rig.stream_ids
    await rig.memory_catalog.open_streams(NODE, rig.epoch, [first])
    await rig.memory_catalog.open_streams(NODE, rig.epoch, [first])
    rig.memory_catalog.delete_stream(second)
    await write_records(rig, (first, 1, 0, 5), (second, 1, 0, 1), (first, 2, 0, 3))
    result = await recover(rig)
    assert result.end_offsets == {first: 3}
    assert (result.recovered_count, result.dropped_count) == (1, 2)


@pytest.mark.parametrize("record", [(1, 1, 4, 1), (1, 1, 2, 2), (1, 2, 3, 1)], ids=["hole", "overlap", "newer epoch"])
@virtual
async def test_a_record_that_does_not_continue_its_stream_stops_the_recovery(record: tuple[int, int, int, int]) -> None:
    rig = Rig()
    rig.epoch = rig.memory_catalog.register(NODE)
    await rig.memory_catalog.open_streams(NODE, rig.epoch, [1])
    await write_records(rig, (1, 1, 0, 3), record)
    with pytest.raises(InvariantBroken, match="stream 1 goes on at offset 3 under epoch 1"):
        await recover(rig)


@virtual
async def test_a_record_that_is_not_ours_stops_the_recovery() -> None:
    rig = Rig()
    rig.epoch = rig.memory_catalog.register(NODE)
    wal: Any = await open_wal(f"memory://{rig.wal_name}", epoch=1)
    wal.append((b"\x07" * 60,))
    wal.sync()
    wal.crash()
    with pytest.raises(WalRecordInvalid):
        await recover(rig)


@virtual
async def test_a_recovery_by_a_fenced_broker_commits_nothing() -> None:
    rig = Rig()
    stream, _ = await rig.start(manual=True)
    stream.append(b"x", 1, 0)
    rig.wal.sync()
    await crash(rig)
    rig.memory_catalog.register(NODE)
    fenced = await fence_wal(f"memory://{rig.wal_name}")
    with pytest.raises(Exception, match="fenced"):
        await recover_wal(fenced, rig.catalog, rig.store, NODE, rig.epoch, settings=SMALL, offload=inline)
    await fenced.close()
    assert rig.memory_catalog.commit_count == 0
