"""A TCP proxy of one server: what a process sees of it behind a network that is slow, or broken.

    with Proxy(server_port) as proxy:
        connect_to(proxy.port)
        proxy.rate = 500_000   # bytes a second to the server, over all connections; answers come back unhindered
        proxy.cut()            # packets are dropped: connections stay, nothing arrives, new ones are never answered
        proxy.heal()           # what was held goes on

`refuse` is the other way to be away: connections end, new ones are refused. Runs in a thread with an event loop of
its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
from types import TracebackType

_PIECE_SIZE = 65_536
_TIMEOUT_S = 10.0


class Proxy:
    """Listens on `port` of 127.0.0.1 from `__enter__` to `__exit__`, and before it refuses connections. `rate` may be
    changed at any time; what went to the server is `passed`, in bytes."""

    def __init__(self, target_port: int, *, port: int = 0, rate: float = math.inf) -> None:
        self.target_port = target_port
        self.port = port
        self.rate = rate
        self.passed = 0
        self._free_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stopping: asyncio.Event
        self._passes: asyncio.Event
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        assert self._ready.wait(_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def cut(self) -> None:
        """Let nothing through any more, in either direction, and say nothing about it."""
        self._loop.call_soon_threadsafe(lambda: self._passes.clear())

    def refuse(self) -> None:
        """End all connections, and refuse new ones."""
        asyncio.run_coroutine_threadsafe(self._refuse(), self._loop).result(_TIMEOUT_S)

    def heal(self) -> None:
        asyncio.run_coroutine_threadsafe(self._heal(), self._loop).result(_TIMEOUT_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._passes = asyncio.Event()
        await self._heal()
        self._ready.set()
        await self._stopping.wait()
        await self._refuse()

    async def _heal(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._connected, "127.0.0.1", self.port, limit=_PIECE_SIZE, family=socket.AF_INET
            )
            self.port = self._server.sockets[0].getsockname()[1]
        self._passes.set()

    async def _refuse(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._passes.wait()
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            try:
                await asyncio.gather(
                    self._pass_on(reader, target_writer, to_server=True),
                    self._pass_on(target_reader, writer, to_server=False),
                )
            finally:
                target_writer.close()
        except (OSError, asyncio.CancelledError):
            # as the server would: its end of the connection ends
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_server: bool) -> None:
        while piece := await reader.read(_PIECE_SIZE):
            await self._passes.wait()
            if to_server:
                await self._wait_for_turn(len(piece))
                self.passed += len(piece)
            writer.write(piece)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def _wait_for_turn(self, size: int) -> None:
        """Connections take turns on one line of the given rate."""
        now = self._loop.time()
        self._free_at = max(now, self._free_at) + size / self.rate
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
