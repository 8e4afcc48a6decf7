"""Grouped catalog writes: everybody gets an answer, and nobody a cancellation that was not theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from s3stream.group_call import GroupCall


async def test_what_is_asked_for_during_a_call_goes_into_the_next_one_together() -> None:
    calls: list[Mapping[int, str]] = []
    started, gate = asyncio.Event(), asyncio.Event()

    async def call(values: Mapping[int, str]) -> None:
        calls.append(values)
        started.set()
        await gate.wait()

    group = GroupCall(call)
    running = asyncio.create_task(group.run())
    waiting = [asyncio.create_task(group.submit(1, "a"))]
    await started.wait()
    waiting += [asyncio.create_task(group.submit(key, value)) for key, value in ((1, "b"), (2, "c"), (1, "d"))]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*waiting)
    assert calls == [{1: "a"}, {1: "d", 2: "c"}]
    running.cancel()


async def test_who_waits_when_the_task_ends_gets_the_reason_and_not_a_cancellation() -> None:
    started = asyncio.Event()

    async def call(values: Mapping[int, int]) -> None:
        started.set()
        await asyncio.Event().wait()

    group = GroupCall(call)
    running = asyncio.create_task(group.run())
    first = asyncio.create_task(group.submit(1, 1))
    await started.wait()
    second = asyncio.create_task(group.submit(2, 2))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    group.stop(RuntimeError("the storage failed"))
    for waiting in (first, second):
        with pytest.raises(RuntimeError, match="the storage failed"):
            await waiting
    with pytest.raises(RuntimeError, match="the storage failed"):
        await group.submit(3, 3)
