"""The listening server: accepts connections, holds what they share, and stops gracefully.

Owns every task that handlers run in: a task outlives its connection only until `stop`, which awaits it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Iterable, Mapping
from operator import itemgetter
from typing import Any

import structlog

from broker.server.connection import PRESSURE, STOPPING, Connection
from broker.server.dispatch import Api
from broker.server.limits import RequestMemory, ServerLimits
from broker.server.receiver import CHUNK_SIZE
from broker.services import Services

log = structlog.get_logger()

REPORTS_PER_SECOND_MAX = 10
"""Log lines about connections that were closed for what they sent; more are counted only."""
BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """A bound socket (port 0 picks a free one) that refuses connections until the server starts. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


class Server:
    """`start`, then `stop`. Connections use its attributes."""

    def __init__(self, services: Services, apis: Mapping[int, Api], limits: ServerLimits | None = None) -> None:
        self.services = services
        self.apis = apis
        self.limits = limits or ServerLimits()
        self.loop = asyncio.get_running_loop()
        self.memory = RequestMemory(self.limits.request_memory_max)
        self.fetch_memory = services.fetch_memory
        self.chunk = bytearray(CHUNK_SIZE)
        self.connections: set[Connection] = set()
        self.producers_paused = False
        self.is_stopping = False
        self._connections_by_host: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._next_connection_id = 1
        self._drained = asyncio.Event()
        self._report_second = 0
        self._reports = 0

    async def start(self, listening: socket.socket) -> None:
        """Accept connections on a socket from `bind`, which belongs to the server from now on."""
        self._listener = await self.loop.create_server(lambda: Connection(self), sock=listening, backlog=BACKLOG)
        self._idle_timer = self.loop.call_later(self._idle_interval, self._close_idle)
        self._stall_timer = self.loop.call_later(self._stall_interval, self._close_stalled)

    def pause_producers(self, paused: bool) -> None:
        """Back-pressure of the storage: connections that have produced are not read while `paused`."""
        self.producers_paused = paused
        for connection in self.connections:
            if connection.is_producer:
                if paused:
                    connection.pause(PRESSURE)
                else:
                    connection.resume(PRESSURE)

    async def stop(self) -> None:
        """Accept and read nothing more, let requests in flight finish (long polls not), then close. Idempotent."""
        self.is_stopping = True
        for timer in (self._idle_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.pause(STOPPING)
        self.check_drained()
        try:
            await asyncio.wait_for(self._drained.wait(), self.limits.stop_grace_ms / 1000)
        except TimeoutError:
            log.warning("requests are still in flight at the end of the grace time", grace_ms=self.limits.stop_grace_ms)
        for connection in list(self.connections):
            connection.close()
        await asyncio.sleep(0)
        for connection in list(self.connections):
            connection.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            await self._listener.wait_closed()
            self._listener = None

    # -- for connections --------------------------------------------------------------------------------------------

    def connection_opened(self, connection: Connection) -> int:
        """Returns its id."""
        self.connections.add(connection)
        connection_id = self._next_connection_id
        self._next_connection_id += 1
        host = connection.client_host
        from_host = self._connections_by_host[host] = self._connections_by_host.get(host, 0) + 1
        config = self.services.config
        if len(self.connections) > config.max_connections:
            connection.close(f"more than {config.max_connections} connections (max.connections)")
        elif from_host > config.max_connections_per_ip:
            connection.close(f"more than {config.max_connections_per_ip} from one address (max.connections.per.ip)")
        return connection_id

    def connection_closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        host = connection.client_host
        from_host = self._connections_by_host.get(host, 1) - 1
        if from_host:
            self._connections_by_host[host] = from_host
        else:
            self._connections_by_host.pop(host, None)
        if self.is_stopping:
            self.check_drained()

    def start_task(self, body: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(body)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def check_drained(self) -> None:
        if not any(connection.is_waiting for connection in self.connections):
            self._drained.set()

    def report_closed(self, connection: Connection, reason: str) -> None:
        """One line per connection, rate-limited."""
        second = int(self.loop.time())
        if second != self._report_second:
            if self._reports > REPORTS_PER_SECOND_MAX:
                log.warning("more connections closed", count=self._reports - REPORTS_PER_SECOND_MAX)
            self._report_second = second
            self._reports = 0
        self._reports += 1
        if self._reports <= REPORTS_PER_SECOND_MAX:
            log.warning(
                "connection closed", reason=reason, client=connection.client_host, connection=connection.connection_id
            )

    # -- idle connections -------------------------------------------------------------------------------------------

    @property
    def _idle_interval(self) -> float:
        return self.limits.connections_max_idle_ms / 4000

    def _close_idle(self) -> None:
        now = self.loop.time()
        idle_since_max = now - self.limits.connections_max_idle_ms / 1000
        for connection in list(self.connections):
            if connection.active:
                connection.active = False
                connection.idle_since = now
            elif connection.idle_since <= idle_since_max and (
                connection.is_write_blocked or not connection.has_requests
            ):
                connection.abort()
        self._idle_timer = self.loop.call_later(self._idle_interval, self._close_idle)

    # -- connections that hold memory and do not move ----------------------------------------------------------------

    @property
    def _stall_interval(self) -> float:
        return self.limits.stall_ms / 1000

    def _close_stalled(self) -> None:
        memory, fetch_memory = self.memory, self.fetch_memory
        if memory.is_full:
            stalled = ((each.stalled_request_size, each) for each in self.connections)
            self._make_room(memory.size - memory.size_max // 2, stalled, "a request that does not go on")
        if fetch_memory.is_short:
            stalled = ((each.stalled_response_size, each) for each in self.connections)
            self._make_room(fetch_memory.size - fetch_memory.size_max // 2, stalled, "responses that are not taken")
        for connection in self.connections:
            connection.look()
        self._stall_timer = self.loop.call_later(self._stall_interval, self._close_stalled)

    def _make_room(self, excess: int, stalled: Iterable[tuple[int, Connection]], what: str) -> None:
        """The largest first, until half of the memory is free: a client that was only unlucky tries again."""
        for size, connection in sorted(stalled, key=itemgetter(0), reverse=True):
            if excess <= 0 or not size:
                return
            excess -= size
            self.report_closed(connection, f"{what} took {size} bytes while memory is short")
            connection.abort()
