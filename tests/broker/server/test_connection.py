"""What a client may rely on: order, pipelining, bounds; and what garbage leads to."""

from __future__ import annotations

import asyncio
import os
import struct
from typing import Any

import pytest
import structlog.testing

from broker.handlers import api_versions
from broker.request import Deferred, RequestContext
from broker.server.limits import ServerLimits
from protocol.api_keys import ApiKey
from protocol.codec import decode_response
from protocol.errors import ErrorCode
from protocol.messages.fetch import FetchResponse
from protocol.messages.heartbeat import HeartbeatResponse
from protocol.messages.metadata import MetadataResponse
from protocol.messages.produce import ProduceResponse
from protocol.private_keys import PrivateApiKey
from tests.broker.server.harness import RawClient, frame, serving, until

HEARTBEAT = ApiKey.HEARTBEAT


def answer(services: Any, ctx: RequestContext, request: Any) -> HeartbeatResponse:
    """The generation id comes back as throttle time, so that a test sees whose answer it is."""
    return HeartbeatResponse(throttle_time_ms=request.generation_id)


class Held:
    """A handler whose answers the test gives."""

    def __init__(self) -> None:
        self.deferreds: list[Deferred] = []
        self.cancelled = 0

    def __call__(self, services: Any, ctx: RequestContext, request: Any) -> Deferred:
        deferred = Deferred()
        deferred.on_cancel = self.count_cancelled
        self.deferreds.append(deferred)
        return deferred

    def count_cancelled(self) -> None:
        self.cancelled += 1


async def test_requests_are_answered_in_order_whatever_finishes_first() -> None:
    held = Held()
    gate = asyncio.Event()

    async def wait(services: Any, ctx: RequestContext, request: Any) -> MetadataResponse:
        await gate.wait()
        return MetadataResponse(cluster_id="later")

    async with serving({HEARTBEAT: answer, ApiKey.FETCH: held, ApiKey.METADATA: wait}) as server:
        client = await RawClient.connect(server)
        client.send(ApiKey.METADATA, 1)
        client.send(ApiKey.FETCH, 2)
        client.send(HEARTBEAT, 3, generation_id=30)
        client.send(ApiKey.FETCH, 4)
        await until(lambda: len(held.deferreds) == 2)
        held.deferreds[1].complete(FetchResponse(session_id=4))
        held.deferreds[0].complete(FetchResponse(session_id=2))
        gate.set()
        assert (await client.receive(ApiKey.METADATA))[0] == 1
        assert (await client.receive(ApiKey.FETCH))[1].session_id == 2
        assert (await client.receive(HEARTBEAT))[1].throttle_time_ms == 30
        assert (await client.receive(ApiKey.FETCH))[1].session_id == 4
        client.close()


async def test_a_deferred_that_is_complete_when_it_is_returned_is_answered() -> None:
    def handle(services: Any, ctx: RequestContext, request: Any) -> Deferred:
        deferred = Deferred()
        deferred.complete(HeartbeatResponse(throttle_time_ms=9))
        return deferred

    async with serving({HEARTBEAT: handle}) as server:
        client = await RawClient.connect(server)
        client.send(HEARTBEAT, 1)
        assert (await client.receive(HEARTBEAT))[1].throttle_time_ms == 9
        client.close()


async def test_a_request_without_an_answer_does_not_hold_up_the_next() -> None:
    async with serving({ApiKey.PRODUCE: lambda services, ctx, request: None, HEARTBEAT: answer}) as server:
        client = await RawClient.connect(server)
        client.send(ApiKey.PRODUCE, 1)
        client.send(HEARTBEAT, 2, generation_id=7)
        assert await client.receive(HEARTBEAT) == (2, HeartbeatResponse(throttle_time_ms=7))
        client.close()


async def test_thousands_of_requests_in_one_write_are_all_answered_in_order() -> None:
    async with serving({HEARTBEAT: answer}, ServerLimits(in_flight_requests_max=3)) as server:
        client = await RawClient.connect(server)
        client.writer.write(b"".join(frame(HEARTBEAT, number, generation_id=number) for number in range(5000)))
        for number in range(5000):
            assert await client.receive(HEARTBEAT) == (number, HeartbeatResponse(throttle_time_ms=number))
        client.close()


async def test_a_connection_with_too_many_requests_in_flight_is_not_served_further() -> None:
    held = Held()
    async with serving({ApiKey.FETCH: held}, ServerLimits(in_flight_requests_max=4)) as server:
        client = await RawClient.connect(server)
        for number in range(10):
            client.send(ApiKey.FETCH, number)
        await until(lambda: len(held.deferreds) == 4)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(held.deferreds) == 4
        for number in range(10):
            await until(lambda wanted=number: len(held.deferreds) > wanted)  # type: ignore[misc]
            held.deferreds[number].complete(FetchResponse())
            assert (await client.receive(ApiKey.FETCH))[0] == number
        client.close()


async def test_request_memory_is_bounded_over_connections_and_given_back() -> None:
    held = Held()
    limits = ServerLimits(request_memory_max=300_000)
    async with serving({ApiKey.FETCH: held, HEARTBEAT: answer}, limits) as server:
        clients = [await RawClient.connect(server) for _ in range(4)]
        for client in clients:
            client.send(ApiKey.FETCH, 1, rack_id="x" * 30_000)
            client.send(ApiKey.FETCH, 2, rack_id="x" * 30_000)
            client.send(ApiKey.FETCH, 3, rack_id="x" * 30_000)
            client.send(ApiKey.FETCH, 4, rack_id="x" * 30_000)
        await until(lambda: server.memory.size >= 300_000)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(held.deferreds) < 16
        assert server.memory.size <= 300_000 + 4 * 30_100
        done = 0
        while done < 16:
            await until(lambda: len(held.deferreds) > done)  # noqa: B023
            held.deferreds[done].complete(FetchResponse())
            done += 1
        for client in clients:
            for number in (1, 2, 3, 4):
                assert (await client.receive(ApiKey.FETCH))[0] == number
        assert server.memory.size == 0
        for client in clients:
            client.close()


async def test_half_received_large_requests_cannot_block_each_other() -> None:
    limits = ServerLimits(request_memory_max=1_500_000)
    async with serving({HEARTBEAT: answer}, limits) as server:
        clients = [await RawClient.connect(server) for _ in range(3)]
        requests = [frame(HEARTBEAT, number, member_id="", group_id="g") for number in range(3)]
        # a request that is large by a tagged field nobody knows: uvarints of tag 99 and of its size
        size = 3_000_000
        tagged = b"\x01" + bytes([99]) + _uvarint(size) + bytes(size)
        for client, request in zip(clients, requests, strict=True):
            body = request[4:-1] + tagged
            client.writer.write(struct.pack(">i", len(body)) + body[:1_000_000])
        await until(lambda: server.memory.size >= 1_500_000)
        for client, request in zip(clients, requests, strict=True):
            client.writer.write((request[4:-1] + tagged)[1_000_000:])
        for number, client in enumerate(clients):
            assert (await client.receive(HEARTBEAT))[0] == number
            client.close()
        await until(lambda: server.memory.size == 0)


def _uvarint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


async def test_a_client_that_does_not_read_is_not_served_further() -> None:
    served = 0
    payload = os.urandom(100_000).hex()

    def handle(services: Any, ctx: RequestContext, request: Any) -> MetadataResponse:
        nonlocal served
        served += 1
        return MetadataResponse(cluster_id=payload)

    async with serving({ApiKey.METADATA: handle}, ServerLimits(write_buffer_size_max=400_000)) as server:
        client = await RawClient.connect(server)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(500):
            client.send(ApiKey.METADATA, number)
        (connection,) = server.connections
        await until(lambda: connection.is_write_blocked)
        before = served
        for _ in range(50):
            await asyncio.sleep(0)
        assert served == before < 500
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for number in range(500):
            assert (await client.receive(ApiKey.METADATA))[0] == number
        client.close()


async def test_storage_pressure_pauses_producers_and_nobody_else() -> None:
    produced = 0

    def produce(services: Any, ctx: RequestContext, request: Any) -> ProduceResponse:
        nonlocal produced
        produced += 1
        return ProduceResponse()

    async with serving({ApiKey.PRODUCE: produce, HEARTBEAT: answer}) as server:
        producer, consumer = await RawClient.connect(server), await RawClient.connect(server)
        producer.send(ApiKey.PRODUCE, 1)
        await producer.receive(ApiKey.PRODUCE)
        server.pause_producers(True)
        producer.send(ApiKey.PRODUCE, 2)
        consumer.send(HEARTBEAT, 1)
        await consumer.receive(HEARTBEAT)
        for _ in range(20):
            await asyncio.sleep(0)
        assert produced == 1
        server.pause_producers(False)
        assert (await producer.receive(ApiKey.PRODUCE))[0] == 2
        producer.close()
        consumer.close()


async def test_a_client_that_leaves_cancels_what_it_waits_for_but_not_what_it_changes() -> None:
    held = Held()
    finished = asyncio.Event()
    gate = asyncio.Event()

    async def create(services: Any, ctx: RequestContext, request: Any) -> Any:
        await gate.wait()
        finished.set()
        return None

    async with serving({ApiKey.FETCH: held, ApiKey.CREATE_TOPICS: create}) as server:
        client = await RawClient.connect(server)
        client.send(ApiKey.FETCH, 1)
        client.send(ApiKey.CREATE_TOPICS, 2)
        await until(lambda: len(held.deferreds) == 1)
        client.close()
        await until(lambda: held.cancelled == 1)
        assert held.deferreds[0].cancelled
        gate.set()
        async with asyncio.timeout(5):
            await finished.wait()
        assert server.memory.size == 0


async def test_a_handler_that_raises_is_answered_with_unknown_server_error() -> None:
    def sync(services: Any, ctx: RequestContext, request: Any) -> Any:
        raise RuntimeError("defect")

    async def later(services: Any, ctx: RequestContext, request: Any) -> Any:
        raise RuntimeError("defect")

    async with serving({HEARTBEAT: sync, ApiKey.LEAVE_GROUP: later, ApiKey.METADATA: later}) as server:
        client = await RawClient.connect(server)
        with structlog.testing.capture_logs() as logs:
            client.send(HEARTBEAT, 1)
            client.send(ApiKey.LEAVE_GROUP, 2)
            assert (await client.receive(HEARTBEAT))[1].error_code == ErrorCode.UNKNOWN_SERVER_ERROR
            assert (await client.receive(ApiKey.LEAVE_GROUP))[1].error_code == ErrorCode.UNKNOWN_SERVER_ERROR
        assert [entry["api"] for entry in logs] == ["HEARTBEAT", "LEAVE_GROUP"]
        client.close()


async def test_a_failed_handler_whose_answer_has_no_error_code_ends_the_connection() -> None:
    def handle(services: Any, ctx: RequestContext, request: Any) -> Any:
        raise RuntimeError("defect")

    async with serving({ApiKey.PRODUCE: handle, ApiKey.METADATA: handle}) as server:
        for api, version in ((ApiKey.PRODUCE, 9), (ApiKey.METADATA, 12)):
            client = await RawClient.connect(server)
            client.send(api, 1, version)
            assert await client.closed_by_server()


GARBAGE = {
    "negative size": struct.pack(">i", -5),
    "2 GB size": struct.pack(">i", 2**31 - 1),
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "unknown api": struct.pack(">ihhih", 10, 9999, 0, 1, -1),
    "no header": struct.pack(">i", 3) + b"abc",
    "empty": struct.pack(">i", 0),
    "unsupported version": struct.pack(">ihhih", 10, HEARTBEAT, 77, 1, -1),
    "cut off": frame(HEARTBEAT, 1, 0, group_id="group")[:3] + b"\x0a" + frame(HEARTBEAT, 1, 0)[4:14],
    "client id beyond the end": struct.pack(">ihhih", 10, HEARTBEAT, 0, 1, 500),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_ends_its_connection_with_one_line_and_no_other(garbage: bytes) -> None:
    async with serving({HEARTBEAT: answer}) as server:
        other, client = await RawClient.connect(server), await RawClient.connect(server)
        with structlog.testing.capture_logs() as logs:
            client.writer.write(garbage)
            assert await client.closed_by_server()
        assert [entry["event"] for entry in logs] == ["connection closed"]
        assert logs[0]["reason"]
        other.send(HEARTBEAT, 5)
        assert (await other.receive(HEARTBEAT))[0] == 5
        other.close()


async def test_what_was_asked_before_the_garbage_is_answered() -> None:
    async with serving({HEARTBEAT: answer}) as server:
        client = await RawClient.connect(server)
        client.writer.write(frame(HEARTBEAT, 1) + struct.pack(">i", -1))
        assert (await client.receive(HEARTBEAT))[0] == 1
        assert await client.closed_by_server()


async def test_an_unsupported_version_of_api_versions_is_answered_in_v0() -> None:
    async with serving({ApiKey.API_VERSIONS: api_versions.handle, HEARTBEAT: answer}) as server:
        client = await RawClient.connect(server)
        client.writer.write(struct.pack(">ihhih", 14, ApiKey.API_VERSIONS, 99, 7, -1) + b"\0\0\0\0")
        correlation_id, response = decode_response(ApiKey.API_VERSIONS, 0, await client.frame())
        assert correlation_id == 7
        assert response.error_code == ErrorCode.UNSUPPORTED_VERSION
        assert [(each.api_key, each.max_version) for each in response.api_keys] == [(ApiKey.API_VERSIONS, 4)]
        client.send(HEARTBEAT, 8)
        assert (await client.receive(HEARTBEAT))[0] == 8
        client.close()


async def test_an_unsupported_version_of_a_private_api_is_answered_in_its_first_version() -> None:
    async with serving({PrivateApiKey.DESCRIBE_LOAD: lambda *_: None}) as server:
        client = await RawClient.connect(server)
        client.writer.write(struct.pack(">ihhih", 10, PrivateApiKey.DESCRIBE_LOAD, 77, 5, -1))
        correlation_id, response = decode_response(PrivateApiKey.DESCRIBE_LOAD, 0, await client.frame())
        assert (correlation_id, response.error_code) == (5, ErrorCode.UNSUPPORTED_VERSION)
        client.close()


async def test_connections_above_the_limits_are_closed() -> None:
    async with serving({HEARTBEAT: answer}, broker_configs={"max.connections.per.ip": "2"}) as server:
        clients = [await RawClient.connect(server) for _ in range(3)]
        assert await clients[2].closed_by_server()
        clients[0].close()
        await until(lambda: len(server.connections) == 1)
        again = await RawClient.connect(server)
        again.send(HEARTBEAT, 1)
        await again.receive(HEARTBEAT)
        again.close()
        clients[1].close()


async def test_an_idle_connection_is_closed_and_a_waiting_one_is_not() -> None:
    held = Held()
    async with serving({ApiKey.FETCH: held}, ServerLimits(connections_max_idle_ms=40)) as server:
        idle, waiting = await RawClient.connect(server), await RawClient.connect(server)
        waiting.send(ApiKey.FETCH, 1)
        assert await idle.closed_by_server()
        assert len(server.connections) == 1
        held.deferreds[0].complete(FetchResponse())
        assert (await waiting.receive(ApiKey.FETCH))[0] == 1
        waiting.close()


async def test_a_stop_lets_requests_finish_and_does_not_wait_for_long_polls() -> None:
    polls, changes = Held(), Held()
    async with serving({ApiKey.FETCH: polls, HEARTBEAT: changes}) as server:
        poller, client = await RawClient.connect(server), await RawClient.connect(server)
        poller.send(ApiKey.FETCH, 1)
        client.send(HEARTBEAT, 2)
        await until(lambda: len(polls.deferreds) == len(changes.deferreds) == 1)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        changes.deferreds[0].complete(HeartbeatResponse())
        assert (await client.receive(HEARTBEAT))[0] == 2
        await stopping
        assert polls.cancelled == 1
        assert await poller.closed_by_server()
        assert await client.closed_by_server()


async def test_nothing_is_dispatched_behind_a_request_that_closed_the_connection() -> None:
    dispatched: list[int] = []

    def fail(services: Any, ctx: RequestContext, request: Any) -> MetadataResponse:
        raise ValueError("a defect")

    def note(services: Any, ctx: RequestContext, request: Any) -> HeartbeatResponse:
        dispatched.append(ctx.correlation_id)
        return HeartbeatResponse()

    async with serving({ApiKey.LIST_OFFSETS: fail, HEARTBEAT: note}) as server:
        client = await RawClient.connect(server)
        client.writer.write(frame(HEARTBEAT, 1) + frame(ApiKey.LIST_OFFSETS, 2) + frame(HEARTBEAT, 3))
        assert (await client.receive(HEARTBEAT))[0] == 1
        assert await client.closed_by_server()
        assert dispatched == [1]
