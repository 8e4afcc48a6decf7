"""Owners that live on while others take their log over: whatever was acknowledged is recovered, once, in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import pytest

from tests.s3stream.sim.virtual_loop import run_virtual, virtual
from tests.wal.object.memory_slots import Bucket, MemorySlots
from wal.api import Buffer, WalFailed, WalOfAnotherEpoch, WalUnreachable
from wal.object import ObjectRecoverableWal, ObjectWal, ObjectWalSettings, fence_object_wal, open_object_wal


class World:
    """One bucket, owners one after the other, each unaware of the next; values are numbered for ever."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.bucket = Bucket(seed, delay_s=self.rng.choice([0.001, 0.05]), lost=self.rng.choice([0.0, 0.05, 0.2]))
        self.acknowledged: dict[int, list[int]] = {}
        """Epoch -> values, in the order of their acknowledgement."""
        self.recovered: dict[int, list[int]] = {}
        self.appended: dict[int, list[int]] = {}
        self.taken: set[int] = set()
        self.values = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def own(self, epoch: int) -> None:
        log = await self._open(epoch)
        waiting: list[tuple[int, int]] = []
        acknowledged = self.acknowledged[epoch] = []
        appended = self.appended[epoch] = []
        rng = self.rng
        trimmed: list[int] = self.recovered.setdefault(epoch, [])

        def durable(position: int) -> None:
            while waiting and waiting[0][0] <= position:
                acknowledged.append(waiting.pop(0)[1])

        log.set_listeners(durable, lambda error: None)
        ends: list[tuple[int, int]] = []
        try:
            while True:
                for _ in range(rng.randrange(1, 5)):
                    self.values += 1
                    end = log.append([self.values.to_bytes(4, "big"), bytes(rng.randrange(300))])
                    waiting.append((end, self.values))
                    appended.append(self.values)
                    ends.append((end, self.values))
                await asyncio.sleep(rng.expovariate(1 / 0.03))
                if rng.random() < 0.1 and log.durable_position:
                    # uploaded: as good as recovered, as far as nobody has taken over
                    position = rng.choice([end for end, _ in ends])
                    if position <= log.durable_position and epoch not in self.taken:
                        trimmed += [value for end, value in ends if end <= position and value not in trimmed]
                        log.trim(position)
        except WalFailed:
            return

    async def _open(self, epoch: int) -> ObjectWal:
        settings = ObjectWalSettings(batch_size=600, slot_size_max=1200, in_flight_max=4, mark_delay_s=0.05)
        while True:
            try:
                return await open_object_wal(MemorySlots(self.bucket), epoch, settings=settings)
            except WalUnreachable:
                # the answer may have been lost after the first slot was made: nobody else uses this epoch
                self.bucket.objects.pop(f"{epoch:016x}/{0:016x}", None)
                await asyncio.sleep(0.01)

    async def take_over(self, epoch: int) -> None:
        """As brokers do it: seal, read all, make it durable elsewhere, discard. Any step may fail and be repeated."""
        self.taken.add(epoch)
        already = set(self.recovered[epoch])
        while True:
            try:
                log = await fence_object_wal(MemorySlots(self.bucket))
                assert log.epoch == epoch
                found = await self._read(log)
                if found is not None:
                    self.recovered[epoch] += [value for value in found if value not in already]
                    already.update(found)
                await log.discard()
                return
            except WalUnreachable:
                await asyncio.sleep(0.01)

    async def _read(self, log: ObjectRecoverableWal) -> list[int]:
        return [int.from_bytes(r.data[:4], "big") async for chunk in log.records() for r in chunk]


async def history(seed: int) -> World:
    world = World(seed)
    for epoch in range(1, 4):
        world.tasks.append(asyncio.create_task(world.own(epoch)))
        await asyncio.sleep(world.rng.uniform(0.2, 3.0))
        while epoch not in world.acknowledged:
            assert not world.tasks[-1].done(), world.tasks[-1].result()
            await asyncio.sleep(0.05)
        await world.take_over(epoch)
        await asyncio.sleep(world.rng.uniform(0, 0.2))
    world.bucket.lost = 0.0
    await asyncio.wait(world.tasks, timeout=600)
    for task in world.tasks:
        assert task.done(), "a former owner goes on"
        task.result()
    return world


@pytest.mark.parametrize("seed", range(60))
def test_nothing_acknowledged_is_lost_when_a_log_is_taken_from_a_living_owner(seed: int) -> None:
    world = run_virtual(history(seed))
    for epoch, acknowledged in world.acknowledged.items():
        recovered = world.recovered[epoch]
        appended = world.appended[epoch]
        assert acknowledged == appended[: len(acknowledged)]
        assert recovered == appended[: len(recovered)], "in order, once, without a hole"
        assert len(recovered) >= len(acknowledged)


def test_the_histories_have_owners_that_were_interrupted() -> None:
    worlds = [run_virtual(history(seed)) for seed in range(5)]
    assert all(len(world.acknowledged[1]) < len(world.appended[1]) for world in worlds)
    assert sum(len(world.acknowledged[1]) for world in worlds) > 100


class _Interrupted(MemorySlots):
    """A client of whom others get ahead: `meanwhile` runs before its first write arrives."""

    def __init__(self, bucket: Bucket, meanwhile: Callable[[], Awaitable[None]]) -> None:
        super().__init__(bucket)
        self._meanwhile: Callable[[], Awaitable[None]] | None = meanwhile

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        await super().create(key, pieces)


@virtual
async def test_a_seal_in_the_place_of_a_trimmed_slot_is_taken_back() -> None:
    bucket = Bucket()
    log = await open_object_wal(MemorySlots(bucket), 1)
    ends: list[int] = []

    async def write(count: int) -> None:
        for _ in range(count):
            ends.append(log.append([len(ends).to_bytes(4, "big")]))
            await log.flush()

    async def get_ahead() -> None:
        await write(5)
        log.trim(ends[7])
        await asyncio.sleep(2)

    await write(5)
    fenced = await fence_object_wal(_Interrupted(bucket, get_ahead))
    assert [int.from_bytes(r.data, "big") async for chunk in fenced.records() for r in chunk] == [8, 9]
    log.append([b"late"])
    with pytest.raises(WalFailed, match="sealed"):
        await log.flush()


@virtual
async def test_nothing_is_deleted_before_a_later_slot_says_so() -> None:
    bucket = Bucket()
    store = MemorySlots(bucket)
    log = await open_object_wal(store, 1)
    ends = []
    for n in range(5):
        ends.append(log.append([bytes([n])]))
        await log.flush()
    log.trim(ends[2])
    store.loses_slots = True
    await asyncio.sleep(5)
    fenced = await fence_object_wal(MemorySlots(bucket))
    assert [r.data[0] async for chunk in fenced.records() for r in chunk] == [0, 1, 2, 3, 4]


async def test_a_log_of_another_epoch_is_left_alone() -> None:
    bucket = Bucket()
    log = await open_object_wal(MemorySlots(bucket), 2)
    for epoch in (1, 3):
        with pytest.raises(WalOfAnotherEpoch):
            await fence_object_wal(MemorySlots(bucket), epoch=epoch)
    log.append([b"record"])
    await log.flush()
    await log.close()


@virtual
async def test_two_that_discard_a_log_at_once_are_both_done() -> None:
    bucket = Bucket()
    log = await open_object_wal(MemorySlots(bucket), 1)
    for number in range(8):
        log.append([bytes([number])])
        await log.flush()
    first, second = [await fence_object_wal(MemorySlots(bucket)) for _ in range(2)]
    await first.discard()
    await second.discard()
    await log.close()
    again = await fence_object_wal(MemorySlots(bucket))
    assert [chunk async for chunk in again.records()] == []
