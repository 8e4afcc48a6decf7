"""What a handler is given and what it gives back.

A handler is `handle(services, ctx, request)`. It returns

* a response message: answered at once;
* an awaitable of one: run as a task that the connection owns;
* a `Deferred`: completed later by a callback on the loop's thread, without task or future (Produce, Fetch);
* None: no answer at all (Produce with acks=0).

It may raise `Refused`, if it has nothing to answer with.

Responses leave a connection in the order of its requests, whichever of these they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Refused(Exception):
    """No answer exists for what the client sent: its connection closes, as Kafka's does, and a log line says why."""


class RequestContext:
    """Who asks, and how. One per request; `principal`, `client_id`, address and listener come from the connection."""

    __slots__ = (
        "api_key",
        "api_version",
        "client_host",
        "client_id",
        "connection_id",
        "correlation_id",
        "listener",
        "principal",
        "reserved_size",
        "throttle_time_ms",
    )

    def __init__(
        self,
        api_key: int,
        api_version: int,
        correlation_id: int,
        client_id: str | None,
        connection_id: int,
        client_host: str,
        listener: str = "PLAINTEXT",
        principal: str = "User:ANONYMOUS",
    ) -> None:
        self.api_key = api_key
        self.api_version = api_version
        self.correlation_id = correlation_id
        self.client_id = client_id
        self.connection_id = connection_id
        self.client_host = client_host
        self.listener = listener
        self.principal = principal
        self.throttle_time_ms = 0
        self.reserved_size = 0
        """Bytes of the fetch memory that a handler charged before it returned an awaitable; the connection releases
        them when the response is handed to the transport."""


class Deferred:
    """A response that comes later. `complete` is called at most once; `on_complete` is set by the connection.

    `refused`, if set before, closes the connection instead: there is no answer to it.
    `cancelled` becomes true, and `on_cancel` is called, when the connection is gone and nobody waits any more.
    """

    __slots__ = ("cancelled", "done", "on_cancel", "on_complete", "refused", "response")

    def __init__(self) -> None:
        self.response: Any = None
        self.refused: Refused | None = None
        self.on_complete: Callable[[Deferred], None] | None = None
        self.on_cancel: Callable[[], None] | None = None
        self.cancelled = False
        self.done = False

    def complete(self, response: Any) -> None:
        """Also before the handler returns. `response` None: no answer is sent."""
        self.response = response
        self.done = True
        if self.on_complete is not None and not self.cancelled:
            self.on_complete(self)

    def cancel(self) -> None:
        self.cancelled = True
        if self.on_cancel is not None:
            self.on_cancel()
