"""Connections held to other brokers only to notice their end: the kernel tells within milliseconds that a process died.

A lost connection proves nothing (it may be the network's doing, or an idle one that was closed), so that it only leads
to a closer look. `is_gone` says more: where a broker has listened nobody listens now, several times in a row. One that
stops still listens, and closes connections at once: it is `absent` as well, that is, clients had better not be sent to
it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

from broker.settings import Address

CONNECT_TIMEOUT_S = 2.0
STAYS_S = 0.1
"""A connection that has lasted for so long was not turned away."""
RETRY_S, RETRY_MAX_S = 0.02, 1.0
"""Between two attempts to connect to a broker that does not listen: each pause is twice the former one."""
REFUSALS_MIN = 3
"""So many in a row mean that nobody listens: a listener may be opened anew, or have no room, for a moment."""


class PeerWatch:
    """Brokers are known by their epochs. `on_change` is called when a connection ended, and when `absent` changed."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._watches: dict[int, asyncio.Task[None]] = {}
        self._refusals: dict[int, int] = {}
        """Since it took a connection last."""
        self._turns_away: set[int] = set()

    def follow(self, brokers: Mapping[int, Address]) -> None:
        """Watch these from now on, and no others."""
        for epoch in self._watches.keys() - brokers.keys():
            self._watches.pop(epoch).cancel()
            self._refusals.pop(epoch, None)
            self._turns_away.discard(epoch)
        for epoch in brokers.keys() - self._watches.keys():
            watch = self._watch(epoch, brokers[epoch])
            self._watches[epoch] = asyncio.create_task(watch, name=f"watch-broker-epoch-{epoch}")

    def is_gone(self, epoch: int) -> bool:
        """It was connected once, and the last attempts found nobody listening. One that starts does not listen yet."""
        return self._refusals.get(epoch, 0) >= REFUSALS_MIN

    @property
    def absent(self) -> frozenset[int]:
        """Those that refuse connections, or close them as soon as they are made."""
        return frozenset(self._turns_away.union(self._refusals))

    async def close(self) -> None:
        tasks = [*self._watches.values()]
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, epoch: int, address: Address) -> None:
        was_connected = False
        pause_s = RETRY_S
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    reader, writer = await _connect(address)
            except ConnectionRefusedError:
                if was_connected:
                    self._found(epoch, refused=True, turns_away=False)
            except (OSError, TimeoutError):
                # not reachable from here: its lease decides
                self._found(epoch, refused=False, turns_away=False)
            else:
                was_connected = True
                ended: asyncio.Task[bytes] = asyncio.create_task(reader.read(1))
                try:
                    stays = not (await asyncio.wait([ended], timeout=STAYS_S))[0]
                    self._found(epoch, refused=False, turns_away=not stays)
                    with suppress(OSError):
                        await ended
                finally:
                    ended.cancel()
                    writer.close()
                if stays:
                    self._on_change()
                    pause_s = RETRY_S
                    continue
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    def _found(self, epoch: int, *, refused: bool, turns_away: bool) -> None:
        before = self.absent
        if refused:
            self._refusals[epoch] = self._refusals.get(epoch, 0) + 1
        else:
            self._refusals.pop(epoch, None)
        if turns_away:
            self._turns_away.add(epoch)
        else:
            self._turns_away.discard(epoch)
        if refused or self.absent != before:
            self._on_change()


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
