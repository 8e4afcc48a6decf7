"""Memory that clients can make the server hold: counted, bounded, and taken back from those who do not move."""

from __future__ import annotations

import asyncio
import os
import struct
from typing import Any

from broker.fetch_memory import GRANT_MIN, FetchMemory
from broker.request import Deferred, RequestContext
from broker.server.limits import ServerLimits
from protocol.api_keys import ApiKey
from protocol.messages.heartbeat import HeartbeatResponse
from protocol.messages.metadata import MetadataResponse
from tests.broker.server.harness import RawClient, serving, until

HEARTBEAT = ApiKey.HEARTBEAT
MIB = 1024 * 1024


def answer(services: Any, ctx: RequestContext, request: Any) -> HeartbeatResponse:
    return HeartbeatResponse()


def test_each_fetch_is_granted_a_share_of_what_is_left_and_always_something() -> None:
    memory = FetchMemory(64 * MIB)
    assert memory.grant(1 * MIB) == 1 * MIB
    grants = []
    for _ in range(100):
        grants.append(memory.grant(50 * MIB))
        memory.charge(grants[-1])
    assert grants[0] == 16 * MIB
    assert grants == sorted(grants, reverse=True)
    assert grants[-1] == GRANT_MIN
    assert memory.size <= memory.size_max + 100 * GRANT_MIN
    memory.release(memory.size)
    assert memory.grant(50 * MIB) == 16 * MIB


async def test_half_requests_that_do_not_go_on_are_closed_when_memory_is_short_and_others_are_served() -> None:
    limits = ServerLimits(request_memory_max=4 * MIB, stall_ms=100)
    async with serving({HEARTBEAT: answer}, limits) as server:
        stalled = [await RawClient.connect(server) for _ in range(6)]
        for client in stalled:
            client.writer.write(struct.pack(">ihhi", 100 * MIB, HEARTBEAT, 4, 1) + bytes(600_000))  # which takes 1 MiB
        await until(lambda: server.memory.is_full)
        client = await RawClient.connect(server)
        for number in range(3):
            client.send(HEARTBEAT, number)
            assert (await client.receive(HEARTBEAT))[0] == number
        await until(lambda: not server.memory.is_full and len(server.connections) <= 1 + len(stalled) // 2)
        assert len(server.connections) > 1
        for each in [client, *stalled]:
            each.close()


async def test_small_requests_one_at_a_time_do_not_wait_for_those_that_hold_the_memory() -> None:
    waiting: list[Deferred] = []

    def later(services: Any, ctx: RequestContext, request: Any) -> Deferred:
        waiting.append(Deferred())
        return waiting[-1]

    limits = ServerLimits(request_memory_max=4 * MIB, stall_ms=60_000)
    async with serving({HEARTBEAT: later}, limits) as server:
        stalled = [await RawClient.connect(server) for _ in range(6)]
        for client in stalled:
            client.writer.write(struct.pack(">ihhi", 100 * MIB, HEARTBEAT, 4, 1) + bytes(MIB))
        await until(lambda: server.memory.is_full)
        client = await RawClient.connect(server)
        for number in range(3):
            client.send(HEARTBEAT, number)
            await until(lambda: bool(waiting))
            waiting.pop().complete(HeartbeatResponse())
            assert (await client.receive(HEARTBEAT))[0] == number
        for each in [client, *stalled]:
            each.close()


async def test_half_requests_stay_while_there_is_memory() -> None:
    async with serving({HEARTBEAT: answer}, ServerLimits(stall_ms=20)) as server:
        client = await RawClient.connect(server)
        client.writer.write(struct.pack(">ihhi", 1 * MIB, HEARTBEAT, 4, 1) + bytes(1000))
        await until(lambda: server.memory.size > 0)
        await asyncio.sleep(0.1)
        assert len(server.connections) == 1
        client.close()


async def test_what_a_handler_reserved_is_released_with_its_answer_or_its_connection() -> None:
    release = asyncio.Event()

    async def reading() -> HeartbeatResponse:
        await release.wait()
        return HeartbeatResponse()

    def reserving(services: Any, ctx: RequestContext, request: Any) -> Any:
        ctx.reserved_size = 1000
        services.fetch_memory.charge(1000)
        return reading()

    async with serving({HEARTBEAT: reserving}) as server:
        one, other = [await RawClient.connect(server) for _ in range(2)]
        one.send(HEARTBEAT, 1)
        other.send(HEARTBEAT, 1)
        await until(lambda: server.fetch_memory.size == 2000)
        one.close()
        await until(lambda: server.fetch_memory.size == 1000)
        release.set()
        await other.receive(HEARTBEAT)
        assert server.fetch_memory.size == 0
        other.close()


async def test_who_takes_nothing_while_memory_is_short_is_closed() -> None:
    payload = os.urandom(100_000).hex()

    def large(services: Any, ctx: RequestContext, request: Any) -> MetadataResponse:
        return MetadataResponse(cluster_id=payload)

    limits = ServerLimits(stall_ms=100)
    async with serving({ApiKey.METADATA: large}, limits) as server:
        server.fetch_memory.size_max = 100_000
        client = await RawClient.connect(server)
        await until(lambda: bool(server.connections))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(500):
            client.send(ApiKey.METADATA, number)
        await until(lambda: not server.connections)
        assert server.fetch_memory.size == 0
        client.close()
