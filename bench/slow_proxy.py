"""A TCP proxy in front of a real store that lets only so many bytes a second through to it.

Answers come back unhindered: the store behind it takes slowly, as one that is far away or overloaded does, and reads of
what it holds are fast. Runs in a thread with an event loop of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType

_PIECE_SIZE = 65_536
_START_TIMEOUT_S = 10.0


class SlowProxy:
    """`rate` (bytes per second, over all connections) may be changed at any time; what went through is `passed`."""

    def __init__(self, target_port: int, rate: float) -> None:
        self.rate = rate
        self.passed = 0
        self.port = 0
        self._target_port = target_port
        self._free_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stopping: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="slow-proxy", daemon=True)

    def __enter__(self) -> SlowProxy:
        self._thread.start()
        assert self._ready.wait(_START_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=_PIECE_SIZE)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        store_reader, store_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        ends = (self._pass_on(reader, store_writer, slowly=True), self._pass_on(store_reader, writer, slowly=False))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*ends)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slowly: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE_SIZE):
                if slowly:
                    await self._wait_for_turn(len(piece))
                    self.passed += len(piece)
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def _wait_for_turn(self, size: int) -> None:
        """Connections take turns on one line of the given rate."""
        now = self._loop.time()
        self._free_at = max(now, self._free_at) + size / self.rate
        await asyncio.sleep(self._free_at - now)
