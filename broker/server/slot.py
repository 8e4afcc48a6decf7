"""The place of one response in the order of a connection's responses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from broker.request import Deferred
from broker.server.dispatch import Api

if TYPE_CHECKING:
    from broker.server.connection import Connection


class Slot:
    """Until it is answered, `size` counts in the request memory and `reserved_size` in the fetch memory."""

    __slots__ = (
        "api",
        "connection",
        "correlation_id",
        "deferred",
        "done",
        "reserved_size",
        "response",
        "size",
        "task",
        "version",
    )

    def __init__(self, connection: Connection, api: Api, version: int, correlation_id: int, size: int) -> None:
        self.connection = connection
        self.api = api
        self.version = version
        self.correlation_id = correlation_id
        self.size = size
        self.reserved_size = 0
        self.done = False
        self.response: Any = None
        self.deferred: Deferred | None = None
        self.task: asyncio.Task[None] | None = None

    def deferred_completed(self, deferred: Deferred) -> None:
        deferred.on_complete = None
        self.deferred = None
        if deferred.refused is not None:
            self.connection.close(str(deferred.refused))
        self.settle(deferred.response)

    def settle(self, response: Any) -> None:
        """`response` None: nothing is sent."""
        self.response = response
        self.done = True
        self.connection.slot_settled(self)

    async def run(self, awaitable: Awaitable[Any]) -> None:
        """The body of the task for a handler that awaits."""
        try:
            response = await awaitable
        except Exception as error:
            self.connection.handler_failed(self, error)
        else:
            self.settle(response)
        finally:
            self.task = None
