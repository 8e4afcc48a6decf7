"""A real `Server` on a loopback port with handlers of the test's choice, and a raw client."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from broker.config.broker_config import BrokerConfig
from broker.fetch_memory import FetchMemory
from broker.server.dispatch import Api
from broker.server.limits import ServerLimits
from broker.server.listener import Server, bind
from protocol.api_keys import ApiKey
from protocol.codec import decode_response, encode_request, request_class, supported_versions
from s3stream.settings import FETCH_MEMORY_MAX

TIMEOUT_S = 5.0


@asynccontextmanager
async def serving(
    handlers: Mapping[ApiKey, Callable[..., Any]],
    limits: ServerLimits | None = None,
    broker_configs: Mapping[str, str] | None = None,
) -> AsyncIterator[Server]:
    apis = {}
    for key, handle in handlers.items():
        low, high = supported_versions(key)
        apis[int(key)] = Api(key, low, high, handle)
    services: Any = SimpleNamespace(config=BrokerConfig(broker_configs), fetch_memory=FetchMemory(FETCH_MEMORY_MAX))
    server = Server(services, apis, limits)
    listening = bind("127.0.0.1", 0)
    server.address = listening.getsockname()  # type: ignore[attr-defined]
    await server.start(listening)
    try:
        yield server
    finally:
        await server.stop()


class RawClient:
    """Sends frames, reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, server: Server) -> RawClient:
        return cls(*await asyncio.open_connection(*server.address))  # type: ignore[attr-defined]

    def send(self, key: ApiKey, correlation_id: int, version: int | None = None, **fields: Any) -> None:
        self.writer.write(frame(key, correlation_id, version, **fields))

    async def receive(self, key: ApiKey, version: int | None = None) -> tuple[int, Any]:
        """Correlation id and response."""
        return decode_response(key, supported_versions(key)[1] if version is None else version, await self.frame())

    async def frame(self) -> bytes:
        async with asyncio.timeout(TIMEOUT_S):
            (size,) = struct.unpack(">i", await self.reader.readexactly(4))
            return await self.reader.readexactly(size)

    async def closed_by_server(self) -> bool:
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        self.writer.close()


def frame(key: ApiKey, correlation_id: int, version: int | None = None, **fields: Any) -> bytes:
    """One request with its size, of the highest version unless one is given."""
    version = supported_versions(key)[1] if version is None else version
    return encode_request(key, version, correlation_id, "test", request_class(key)(**fields))


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
