"""A request of this broker to itself: the handler that clients reach through the wire, without the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from broker.peers.errors import PeerUnavailable
from broker.request import Deferred, RequestContext
from broker.server.dispatch import AWAITABLE, DEFERRED, Api, result_kind
from protocol.types import Message

if TYPE_CHECKING:
    from broker.services import Services

log = structlog.get_logger()

_NO_CONNECTION = -1
_LOCAL_HOST = "127.0.0.1"


class LocalBroker:
    def __init__(self, services: Services, apis: Mapping[int, Api], client_id: str) -> None:
        self._services = services
        self._apis = apis
        self._client_id = client_id
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, version: int, request: Message) -> asyncio.Future[Any]:
        """The handler runs before this returns; it may change the request."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        api = self._apis[request.API_KEY]
        context = RequestContext(api.key, version, 0, self._client_id, _NO_CONNECTION, _LOCAL_HOST)
        try:
            result = api.handle(self._services, context, request)
        except Exception as error:
            _failed(api, answer, error)
            return answer
        kind = result_kind(result)
        if kind == AWAITABLE:
            task = asyncio.create_task(self._run(api, answer, result), name=f"local-{api.name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif kind != DEFERRED:
            answer.set_result(result)
        elif result.done:
            answer.set_result(result.response)
        else:
            result.on_complete = lambda deferred: _complete(answer, deferred)
        return answer

    async def close(self) -> None:
        """Wait for what has been begun."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, api: Api, answer: asyncio.Future[Any], result: Awaitable[Any]) -> None:
        try:
            response = await result
        except Exception as error:
            _failed(api, answer, error)
        else:
            if not answer.done():
                answer.set_result(response)


def _complete(answer: asyncio.Future[Any], deferred: Deferred) -> None:
    if not answer.done():
        answer.set_result(deferred.response)


def _failed(api: Api, answer: asyncio.Future[Any], error: Exception) -> None:
    log.error("request of this broker to itself failed", api=api.name, exc_info=error)
    if not answer.done():
        answer.set_exception(PeerUnavailable(f"{api.name} failed: {error}"))
