"""What the object WAL promises beside the contract: batches, order, trimming, faults, format."""

from __future__ import annotations

import asyncio

import pytest

from tests.s3stream.sim.virtual_loop import virtual
from tests.wal.object.memory_slots import Bucket, MemorySlots
from wal.api import Buffer, WalCorrupt, WalError, WalFailed, WalForeign, WalNotRecovered, WalUnreachable
from wal.object import ObjectWal, ObjectWalSettings, fence_object_wal, open_object_wal
from wal.object.format import slot_key


async def open_log(bucket: Bucket, epoch: int = 1, settings: ObjectWalSettings | None = None) -> ObjectWal:
    return await open_object_wal(MemorySlots(bucket), epoch, settings=settings)


async def recovered(bucket: Bucket, *, discard: bool = False) -> list[tuple[int, int, bytes]]:
    log = await fence_object_wal(MemorySlots(bucket))
    found = [(r.position, r.end, bytes(r.data)) async for chunk in log.records() for r in chunk]
    if discard:
        await log.discard()
    await log.close()
    return found


@virtual
async def test_what_was_durable_is_recovered_in_order() -> None:
    bucket = Bucket()
    log = await open_log(bucket)
    durable: list[int] = []
    log.set_listeners(durable.append, lambda error: None)
    records: list[list[Buffer]] = [[b"a"], [b"", b"bc", memoryview(b"xdex")[1:3]], [], [bytearray(5000)]]
    ends = [log.append(record) for record in records]
    assert log.durable_position < log.end_position == ends[-1]
    await log.flush()
    assert durable == [ends[-1]], "what is appended together shares a slot"
    found = await recovered(bucket)
    assert [data for _, _, data in found] == [b"".join(record) for record in records]
    assert [end for _, end, _ in found] == ends
    assert [start for start, _, _ in found][1:] == ends[:-1]


@virtual
async def test_an_idle_log_writes_soon_and_a_busy_one_collects() -> None:
    bucket = Bucket(delay_s=0.05)
    log = await open_log(bucket)
    loop = asyncio.get_running_loop()
    start = loop.time()
    log.append([b"x"])
    await log.flush()
    assert loop.time() - start < 0.25
    count = len(bucket.objects)
    for _ in range(1000):
        log.append([b"y" * 100])
        await asyncio.sleep(0.001)
    await log.flush()
    assert len(bucket.objects) - count <= 25, "one slot in 100 ms, or when the one before has arrived"


@virtual
async def test_a_store_that_answers_at_once_is_not_asked_for_every_append() -> None:
    bucket = Bucket(delay_s=0.001)
    log = await open_log(bucket)
    loop = asyncio.get_running_loop()
    durable_at: list[float] = []
    log.set_listeners(lambda position: durable_at.append(loop.time()), lambda error: None)
    for after_idle in range(2):
        await asyncio.sleep(1)
        start = loop.time()
        log.append([b"x"])
        await asyncio.sleep(0.01)
        assert durable_at[after_idle] - start < 0.01, "an idle log does not wait"
    durable_at.clear()
    for _ in range(1000):
        log.append([b"y" * 100])
        await asyncio.sleep(0.001)
    assert 35 <= len(durable_at) <= 41, "one slot in 25 ms"
    await log.flush()


@virtual
async def test_a_busy_log_has_several_slots_on_their_way_and_no_more_than_allowed() -> None:
    bucket = Bucket(delay_s=0.2)
    log = await open_log(bucket, settings=ObjectWalSettings(batch_size=1000, slot_size_max=4000, in_flight_max=3))
    durable: list[int] = []
    log.set_listeners(durable.append, lambda error: None)
    ends = [log.append([b"x" * 500]) for _ in range(100)]
    await log.flush()
    assert bucket.creating_max == 3
    assert durable == sorted(set(durable))
    assert durable[-1] == ends[-1]


@virtual
async def test_a_record_bigger_than_a_slot_has_its_own() -> None:
    bucket = Bucket()
    log = await open_log(bucket, settings=ObjectWalSettings(slot_size_max=1000))
    for size in (10, 5000, 10):
        log.append([b"x" * size])
    await log.flush()
    assert [len(data) for _, _, data in await recovered(bucket)] == [10, 5000, 10]


@virtual
async def test_trimmed_slots_are_deleted_and_the_others_recovered() -> None:
    bucket = Bucket()
    log = await open_log(bucket)
    ends = []
    for n in range(10):
        ends.append(log.append([bytes([n])]))
        await log.flush()
    log.trim(ends[6])
    await asyncio.sleep(2)
    assert sorted(bucket.objects) == [slot_key(1, sequence) for sequence in (8, 9, 10, 11)], "with a mark at the end"
    assert [data[0] for _, _, data in await recovered(bucket)] == [7, 8, 9]


@virtual
async def test_an_idle_log_that_was_trimmed_writes_no_more_marks() -> None:
    bucket = Bucket()
    log = await open_log(bucket)
    end = log.append([b"x"])
    await log.flush()
    for _ in range(10):
        log.trim(end)
        await asyncio.sleep(2)
    assert sorted(bucket.objects) == [slot_key(1, 2)]


@virtual
async def test_an_unreachable_store_delays_and_loses_nothing() -> None:
    bucket = Bucket(seed=3, delay_s=0.01, lost=0.4)
    log = None
    while log is None:
        try:
            log = await open_log(bucket)
        except WalUnreachable:
            bucket.objects.clear()
    for n in range(200):
        log.append([n.to_bytes(2, "big")])
        await asyncio.sleep(0.003)
    await log.flush()
    bucket.lost = 0.0
    assert [int.from_bytes(data, "big") for _, _, data in await recovered(bucket)] == [*range(200)]


@virtual
async def test_a_sealed_log_fails_with_its_next_append() -> None:
    bucket = Bucket()
    log = await open_log(bucket)
    failures: list[WalError] = []
    log.set_listeners(lambda position: None, failures.append)
    log.append([b"a"])
    await log.flush()
    assert len(await recovered(bucket, discard=True)) == 1
    log.append([b"b"])
    with pytest.raises(WalFailed, match="sealed"):
        await log.flush()
    assert len(failures) == 1
    with pytest.raises(WalFailed):
        log.append([b"c"])
    await log.close()
    other = await open_log(bucket, 2)
    end = other.append([b"d"])
    await other.flush()
    assert await recovered(bucket) == [(end - 5, end, b"d")]


@virtual
async def test_records_must_be_recovered_before_the_log_is_opened_again() -> None:
    bucket = Bucket()
    log = await open_log(bucket)
    end = log.append([b"x"])
    await log.close()
    for discard in (False, True):
        with pytest.raises(WalNotRecovered):
            await open_log(bucket, 2)
        assert len(await recovered(bucket, discard=discard)) == 1
    assert await recovered(bucket) == []
    again = await open_log(bucket, 2)
    assert again.end_position == end
    with pytest.raises(WalError, match="epoch"):
        await open_log(bucket, 2)


@virtual
async def test_a_log_that_was_trimmed_to_its_end_and_closed_leaves_nothing_behind() -> None:
    bucket = Bucket()
    log = await open_log(bucket)
    end = log.append([b"x"])
    await log.flush()
    log.trim(end)
    await asyncio.gather(log.close(), log.close())
    assert len(bucket.objects) == 1
    assert await recovered(bucket) == []
    again = await open_log(bucket, 2)
    assert again.end_position == end
    await again.close()
    assert sorted(bucket.objects) == [slot_key(2, 0), slot_key(2, 1)] or sorted(bucket.objects) == [slot_key(2, 1)]


@virtual
async def test_a_recovery_that_died_while_it_discarded_is_run_again() -> None:
    bucket = Bucket()
    log = await open_log(bucket)
    for n in range(5):
        log.append([bytes([n])])
        await log.flush()
    fenced = await fence_object_wal(MemorySlots(bucket))
    await fenced.discard()
    for sequence in (2, 4):
        bucket.objects[slot_key(1, sequence)] = b"left behind"
    assert await recovered(bucket, discard=True) == []
    await open_log(bucket, 2)
    assert not {slot_key(1, 2), slot_key(1, 4)} & bucket.objects.keys()
    assert slot_key(1, 6) in bucket.objects, "the seal stays"


@virtual
async def test_slots_that_never_arrived_are_the_end_and_ones_that_vanished_are_damage() -> None:
    bucket = Bucket()
    log = await open_log(bucket)
    for n in range(6):
        log.append([bytes([n])])
        await log.flush()
    del bucket.objects[slot_key(1, 3)]
    with pytest.raises(WalCorrupt, match=slot_key(1, 3)):
        await recovered(bucket)
    del bucket.objects[slot_key(1, 6)], bucket.objects[slot_key(1, 5)], bucket.objects[slot_key(1, 4)]
    assert [data[0] for _, _, data in await recovered(bucket)] == [0, 1]


@virtual
async def test_no_log_is_unreachable() -> None:
    with pytest.raises(WalUnreachable):
        await fence_object_wal(MemorySlots(Bucket()))


@virtual
async def test_a_log_of_another_cluster_is_left_alone() -> None:
    bucket = Bucket()
    log = await open_object_wal(MemorySlots(bucket), 1, "ours")
    log.append([b"x"])
    await log.flush()
    before = dict(bucket.objects)
    with pytest.raises(WalForeign, match="ours"):
        await fence_object_wal(MemorySlots(bucket), "theirs")
    with pytest.raises(WalForeign, match="ours"):
        await open_object_wal(MemorySlots(bucket), 2, "theirs")
    assert bucket.objects == before
    await (await fence_object_wal(MemorySlots(bucket), "ours")).discard()
    await open_object_wal(MemorySlots(bucket), 2, "ours")


@virtual
async def test_a_damaged_or_missing_slot_is_named() -> None:
    for damage in ("flip", "cut", "other", "gone"):
        bucket = Bucket()
        log = await open_log(bucket)
        for n in range(4):
            log.append([bytes([n]) * 100])
            await log.flush()
        key = slot_key(1, 2)
        fenced = await fence_object_wal(MemorySlots(bucket))
        slot = bytearray(bucket.objects[key])
        if damage == "flip":
            slot[-1] ^= 1
        elif damage == "cut":
            del slot[-1:]
        elif damage == "other":
            slot = bytearray(bucket.objects[slot_key(1, 3)])
        bucket.objects[key] = bytes(slot)
        if damage == "gone":
            del bucket.objects[key]
        with pytest.raises(WalCorrupt, match=key):
            assert [chunk async for chunk in fenced.records()]
