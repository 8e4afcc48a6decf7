"""Connections to a broker that stops are ended at once, not refused, until its log is closed.

That nobody listens means that the process is gone: others would seal its log of objects (`broker/peer_watch.py`) while
it still uploads.
"""

from __future__ import annotations

import asyncio
import socket


class TurningAway:
    """Made of the listening socket; `start` once the server has closed that, `close` at the very end."""

    def __init__(self, listening: socket.socket) -> None:
        self._socket = listening.dup()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(lambda _, writer: writer.close(), sock=self._socket)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._socket.close()
