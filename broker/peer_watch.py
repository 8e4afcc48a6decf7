"""Connections held to other brokers only to notice their end: the kernel tells within milliseconds that a process died.

A lost connection proves nothing (it may be the network's doing, or an idle one that was closed), so that it only leads
to a closer look. `is_gone` says more: where a broker has listened nobody listens now.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

from broker.settings import Address

CONNECT_TIMEOUT_S = 2.0
RETRY_S = 0.1
"""Between two attempts to connect to a broker that does not listen."""


class PeerWatch:
    """Brokers are known by their epochs. `on_lost` is called when the connection to one ended or was refused."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._watches: dict[int, asyncio.Task[None]] = {}
        self._gone: set[int] = set()

    def follow(self, brokers: Mapping[int, Address]) -> None:
        """Watch these from now on, and no others."""
        for epoch in self._watches.keys() - brokers.keys():
            self._watches.pop(epoch).cancel()
            self._gone.discard(epoch)
        for epoch in brokers.keys() - self._watches.keys():
            watch = self._watch(epoch, brokers[epoch])
            self._watches[epoch] = asyncio.create_task(watch, name=f"watch-broker-epoch-{epoch}")

    def is_gone(self, epoch: int) -> bool:
        """It was connected once, and the last attempt found nobody listening. One that starts does not listen yet."""
        return epoch in self._gone

    async def close(self) -> None:
        tasks = [*self._watches.values()]
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, epoch: int, address: Address) -> None:
        loop = asyncio.get_running_loop()
        was_connected = False
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    reader, writer = await _connect(address)
            except ConnectionRefusedError:
                if was_connected and epoch not in self._gone:
                    self._gone.add(epoch)
                    self._on_lost()
            except (OSError, TimeoutError):
                # not reachable from here: its lease decides
                self._gone.discard(epoch)
            else:
                was_connected = True
                connected_at = loop.time()
                self._gone.discard(epoch)
                try:
                    with suppress(OSError):
                        await reader.read(1)
                finally:
                    writer.close()
                self._on_lost()
                if loop.time() - connected_at >= RETRY_S:
                    continue
                # else it may refuse connections: not too many
            await asyncio.sleep(RETRY_S)


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises ConnectionRefusedError if nobody listens at any of the name's addresses, OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failure: OSError = ConnectionRefusedError()
    for *_, place in found:
        try:
            return await asyncio.open_connection(str(place[0]), address.port)
        except ConnectionRefusedError:
            pass
        except OSError as error:
            failure = error
    raise failure
