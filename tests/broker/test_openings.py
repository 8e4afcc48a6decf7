"""In which order partitions are opened: who is waited for waits for no others, and all are opened in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from broker.openings import MAKE_ROOM_MAX_S, OPENED_AT_ONCE, Openings, Wanted
from s3stream.catalog.api import PartitionInfo, TopicInfo
from tests.s3stream.sim.virtual_loop import virtual

COUNT = 4 * OPENED_AT_ONCE


def wanted(count: int = COUNT) -> list[Wanted]:
    parts = tuple(PartitionInfo(index, 1, 0, 2 * index, 2 * index + 1) for index in range(count))
    topic = TopicInfo(UUID(int=1), "t", False, 1, parts, {})
    return [(topic, part) for part in parts]


class Opener:
    """Opens after a while; knows who is parked for what."""

    def __init__(self, step_s: float = 0.1) -> None:
        self.opened: list[int] = []
        self.opened_at: dict[int, float] = {}
        self.parked: set[int] = set()
        self.step_s = step_s
        self.failing: set[int] = set()
        self.openings = Openings(self.open_some, lambda: [("t", index) for index in sorted(self.parked)])

    def ask(self, *indexes: int) -> None:
        self.parked.update(indexes)
        for index in indexes:
            self.openings.asked(("t", index))

    async def open_some(self, some: Sequence[Wanted], reading: asyncio.Semaphore) -> None:
        async with reading:
            await asyncio.sleep(self.step_s * len(some) / OPENED_AT_ONCE)
        indexes = [info.index for _, info in some]
        if self.failing.intersection(indexes):
            raise RuntimeError("cannot be opened")
        for index in indexes:
            assert index not in self.opened_at
            self.opened_at[index] = asyncio.get_running_loop().time()
            self.parked.discard(index)
        self.opened += indexes


@virtual
async def test_all_are_opened_in_their_order_when_nobody_asks() -> None:
    opener = Opener()
    await opener.openings.open(wanted())
    assert opener.opened == list(range(COUNT))


@virtual
async def test_what_is_asked_for_round_by_round_waits_for_none_of_the_others() -> None:
    opener = Opener(step_s=10.0)
    opening = asyncio.create_task(opener.openings.open(wanted()))
    await asyncio.sleep(1.0)
    began = asyncio.get_running_loop().time()
    for first in range(COUNT - 20, COUNT, 5):
        opener.ask(*range(first, first + 5))
        while opener.parked:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    assert asyncio.get_running_loop().time() - began < 20 * 10.0 / OPENED_AT_ONCE + 0.2
    assert len(opener.opened) == 20
    await opening
    assert sorted(opener.opened) == list(range(COUNT))


@virtual
async def test_others_are_opened_although_there_is_always_something_asked_for() -> None:
    opener = Opener()
    opening = asyncio.create_task(opener.openings.open(wanted()))
    began = asyncio.get_running_loop().time()
    for index in range(COUNT - 1, 0, -1):
        if opening.done():
            break
        opener.ask(index)
        await asyncio.sleep(0.02)
    await opening
    steps = COUNT / OPENED_AT_ONCE
    assert asyncio.get_running_loop().time() - began < steps * (MAKE_ROOM_MAX_S + opener.step_s) + 0.2
    assert sorted(opener.opened) == list(range(COUNT))


@virtual
async def test_gently_others_have_half_of_the_time_and_what_is_asked_for_does_not_wait() -> None:
    opener = Opener(step_s=1.0)
    opening = asyncio.create_task(opener.openings.open(wanted(), gently=True))
    await asyncio.sleep(1.5)
    opener.ask(COUNT - 1)
    await asyncio.sleep(0.1)
    assert opener.opened == [*range(OPENED_AT_ONCE), COUNT - 1]
    began = asyncio.get_running_loop().time()
    await opening
    assert 5.3 < asyncio.get_running_loop().time() - began < 5.5, "three steps of a second, with as long between them"


@virtual
async def test_after_an_error_nothing_more_is_begun_and_the_same_can_be_opened_again() -> None:
    opener = Opener()
    opener.failing = {OPENED_AT_ONCE + 3}
    opening = asyncio.create_task(opener.openings.open(wanted()))
    await asyncio.sleep(0.15)
    opener.ask(COUNT - 1)
    with pytest.raises(RuntimeError):
        await opening
    assert sorted(opener.opened) == [*range(OPENED_AT_ONCE), COUNT - 1]
    opener.failing = set()
    left = [each for each in wanted() if each[1].index not in opener.opened_at]
    await opener.openings.open(left)
    assert sorted(opener.opened) == list(range(COUNT))
