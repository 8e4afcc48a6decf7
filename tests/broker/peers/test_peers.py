from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from broker.peers import Peers, PeerUnavailable
from broker.peers import remote as remote_module
from broker.request import Deferred
from broker.server.dispatch import Api
from broker.server.listener import Server
from protocol.api_keys import ApiKey
from protocol.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from protocol.messages.list_groups import ListGroupsRequest, ListGroupsResponse
from protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse
from s3stream.catalog.api import BrokerInfo
from tests.broker.server.harness import serving

SELF, OTHER = 1, 2
VERSION = 4


class Image:
    """What peers look at of the metadata image."""

    def __init__(self) -> None:
        self.node_id = SELF
        self.brokers: dict[int, BrokerInfo] = {}

    def broker(self, node_id: int) -> BrokerInfo | None:
        return self.brokers.get(node_id)

    def place(self, host: str, port: int) -> None:
        self.brokers[OTHER] = BrokerInfo(OTHER, 1, host, port, None, "memory://", True, False)


@asynccontextmanager
async def peers_of(image: Image, **options: Any) -> AsyncIterator[Peers]:
    peers = Peers(image, **options)  # type: ignore[arg-type]
    try:
        yield peers
    finally:
        await peers.close()


@asynccontextmanager
async def other_broker(image: Image, handle: Callable[..., Any]) -> AsyncIterator[Server]:
    async with serving({ApiKey.HEARTBEAT: handle}) as server:
        image.place(*server.address)  # type: ignore[attr-defined]
        yield server


def heartbeat(generation: int = 0) -> HeartbeatRequest:
    return HeartbeatRequest(group_id="g", generation_id=generation, member_id="m")


def generation_as_error(services: Any, ctx: Any, request: HeartbeatRequest) -> HeartbeatResponse:
    return HeartbeatResponse(error_code=request.generation_id)


async def test_another_broker_is_asked_over_one_connection_and_answers_in_order() -> None:
    image = Image()
    connections = set()
    client_ids = set()

    def handle(services: Any, ctx: Any, request: HeartbeatRequest) -> HeartbeatResponse:
        connections.add(ctx.connection_id)
        client_ids.add(ctx.client_id)
        return HeartbeatResponse(error_code=request.generation_id)

    async with other_broker(image, handle), peers_of(image) as peers:
        answers = await asyncio.gather(*(peers.call(OTHER, VERSION, heartbeat(each)) for each in range(50)))
    assert [answer.error_code for answer in answers] == [*range(50)]
    assert len(connections) == 1
    assert client_ids == {"broker-1"}


async def test_requests_are_pipelined() -> None:
    """The second request is there before the first one is answered."""
    image = Image()
    parked: list[Deferred] = []
    both = asyncio.Event()

    def handle(services: Any, ctx: Any, request: HeartbeatRequest) -> Deferred:
        parked.append(Deferred())
        if len(parked) == 2:
            both.set()
        return parked[-1]

    async with other_broker(image, handle), peers_of(image) as peers:
        first, second = peers.call(OTHER, VERSION, heartbeat()), peers.call(OTHER, VERSION, heartbeat())
        await asyncio.wait_for(both.wait(), 5)
        assert not first.done()
        parked[1].complete(HeartbeatResponse(error_code=2))
        parked[0].complete(HeartbeatResponse(error_code=1))
        assert [(await first).error_code, (await second).error_code] == [1, 2]


async def test_what_was_asked_when_the_connection_ended_is_unavailable_and_the_next_one_connects_again() -> None:
    image = Image()
    asked = asyncio.Event()

    def never(services: Any, ctx: Any, request: HeartbeatRequest) -> Deferred:
        asked.set()
        return Deferred()

    async with peers_of(image) as peers:
        async with other_broker(image, never) as server:
            unanswered = peers.call(OTHER, VERSION, heartbeat())
            await asyncio.wait_for(asked.wait(), 5)
            for connection in [*server.connections]:
                connection.abort()
            with pytest.raises(PeerUnavailable):
                await unanswered
        async with other_broker(image, generation_as_error):
            assert (await peers.call(OTHER, VERSION, heartbeat(3))).error_code == 3


async def test_a_broker_that_is_gone_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "BACKOFF_MIN_S", 60.0)
    monkeypatch.setattr(remote_module, "BACKOFF_MAX_S", 60.0)
    image = Image()
    async with other_broker(image, generation_as_error):
        pass
    async with peers_of(image) as peers:
        with pytest.raises(PeerUnavailable):
            await peers.call(OTHER, VERSION, heartbeat())
        again = peers.call(OTHER, VERSION, heartbeat())
        assert again.done()
        assert isinstance(again.exception(), PeerUnavailable)


async def test_a_connection_that_ends_while_it_is_made_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "BACKOFF_MIN_S", 0.0)
    image = Image()
    async with other_broker(image, generation_as_error), peers_of(image) as peers:
        loop = asyncio.get_running_loop()
        create_connection = loop.create_connection

        async def lost_at_once(*arguments: Any) -> Any:
            transport, link = await create_connection(*arguments)
            transport.abort()
            for _ in range(5):
                await asyncio.sleep(0)
            assert link.lost
            return transport, link

        remote = peers._broker(OTHER)
        assert remote is not None
        remote._loop = SimpleNamespace(  # type: ignore[assignment]
            time=loop.time, create_future=loop.create_future, create_connection=lost_at_once
        )
        with pytest.raises(PeerUnavailable):
            await asyncio.wait_for(remote.call(VERSION, heartbeat()), 5)
        remote._loop = loop
        assert (await asyncio.wait_for(remote.call(VERSION, heartbeat(3)), 5)).error_code == 3


async def test_a_broker_that_moved_is_asked_at_its_new_address() -> None:
    image = Image()
    async with peers_of(image) as peers, other_broker(image, generation_as_error):
        assert (await peers.call(OTHER, VERSION, heartbeat(1))).error_code == 1
        async with other_broker(image, lambda *_: HeartbeatResponse(error_code=9)):
            assert (await peers.call(OTHER, VERSION, heartbeat(1))).error_code == 9


async def test_no_answer_in_time_is_unavailable() -> None:
    image = Image()
    async with other_broker(image, lambda *_: Deferred()), peers_of(image, request_timeout_s=0.05) as peers:
        with pytest.raises(PeerUnavailable, match="in time"):
            await peers.call(OTHER, VERSION, heartbeat())


async def test_what_waits_for_a_broker_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "UNANSWERED_MAX", 3)
    image = Image()
    async with other_broker(image, lambda *_: Deferred()), peers_of(image) as peers:
        waiting = [peers.call(OTHER, VERSION, heartbeat()) for _ in range(3)]
        with pytest.raises(PeerUnavailable, match="too many"):
            await peers.call(OTHER, VERSION, heartbeat())
        await peers.close()
        assert all(isinstance(each, PeerUnavailable) for each in await asyncio.gather(*waiting, return_exceptions=True))


async def test_an_answer_that_is_not_understood_ends_the_connection() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"\0\0\0\x05hello")
        await reader.read()
        writer.close()

    image = Image()
    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    image.place(*server.sockets[0].getsockname())
    async with server, peers_of(image) as peers:
        with pytest.raises(PeerUnavailable):
            await peers.call(OTHER, VERSION, heartbeat())


async def test_an_unknown_broker_is_unavailable() -> None:
    async with peers_of(Image()) as peers:
        for node_id in (SELF, OTHER):
            with pytest.raises(PeerUnavailable, match="not known"):
                await peers.call(node_id, VERSION, heartbeat())


async def test_this_broker_runs_its_own_handlers_in_place() -> None:
    services: Any = object()
    parked = Deferred()

    async def slow(*_: Any) -> ListGroupsResponse:
        await asyncio.sleep(0)
        return ListGroupsResponse(error_code=7)

    def at_once(given: Any, ctx: Any, request: HeartbeatRequest) -> HeartbeatResponse:
        assert given is services
        assert (ctx.api_version, ctx.client_id) == (VERSION, "broker-1")
        return HeartbeatResponse(error_code=request.generation_id)

    def broken(*_: Any) -> ApiVersionsResponse:
        raise ValueError("a defect")

    apis = {
        int(key): Api(key, 0, VERSION, handle)
        for key, handle in (
            (ApiKey.HEARTBEAT, at_once),
            (ApiKey.LIST_GROUPS, slow),
            (ApiKey.SYNC_GROUP, lambda *_: parked),
            (ApiKey.API_VERSIONS, broken),
        )
    }
    async with peers_of(Image()) as peers:
        peers.serve_locally(services, apis)
        immediate = peers.call(SELF, VERSION, heartbeat(5))
        assert immediate.done()
        assert (await immediate).error_code == 5
        assert (await peers.call(SELF, VERSION, ListGroupsRequest())).error_code == 7
        later = peers.call(SELF, VERSION, SyncGroupRequest(group_id="g", generation_id=1, member_id="m"))
        assert not later.done()
        parked.complete(SyncGroupResponse(error_code=6))
        assert (await later).error_code == 6
        with pytest.raises(PeerUnavailable, match="a defect"):
            await peers.call(SELF, VERSION, ApiVersionsRequest())
