"""Connections of one client to the brokers, and the metadata it keeps: what producers and consumers share.

A broker is connected when it is first asked something, and again after a pause when that failed. Metadata is asked for
when somebody needs it (`refresh`), of the connected broker with the fewest requests without answer, again and again
with growing pauses as long as leaders do not change or somebody still needs it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from drills.client.backoff import RECONNECT_FIRST_S, RECONNECT_MAX_S, Backoff
from drills.client.connection import CONNECT_TIMEOUT_S, Connection, Disconnected
from drills.client.view import Address, View
from drills.waiting import until
from protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from protocol.types import Message

METADATA_VERSION = 12
START_TIMEOUT_S = 30.0
METADATA_AGE_MAX_S = 5.0
"""Kafka's `metadata.max.age.ms` is 5 minutes; a drill is shorter than that."""


class _Link:
    """To one address: a connection, or the time before which none is tried."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.connecting: asyncio.Task[Connection] | None = None
        self.failures = 0
        self.not_before = 0.0


class Client:
    """`topics` are those whose leaders it follows. `on_change` callbacks run when a leader changed or a connection was
    made: whoever waits for that looks again."""

    def __init__(self, name: str, bootstrap: Sequence[Address], topics: Sequence[str], chance: random.Random) -> None:
        self.name = name
        self.view = View()
        self.retry_backoff = Backoff(chance)
        self.on_change: list[Callable[[], None]] = []
        self._bootstrap = list(bootstrap)
        self._topics = list(topics)
        self._chance = chance
        self._reconnect_backoff = Backoff(chance, RECONNECT_FIRST_S, RECONNECT_MAX_S)
        self._links: dict[Address, _Link] = {}
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when the leaders of its topics are known, all of them. Raises TimeoutError."""
        self._follower = asyncio.create_task(self._follow(), name=f"{self.name}-metadata")
        self.refresh()
        try:
            await until(self._knows_all, START_TIMEOUT_S)
        except TimeoutError:
            raise TimeoutError(f"{self.name}: not all of {', '.join(self._topics)} is led") from None

    def _knows_all(self) -> bool:
        leaders = self.view.leaders.items()
        return bool(self.view.nodes) and all(
            any(place.topic == topic for place, _ in leaders)
            and all(leader.node_id >= 0 for place, leader in leaders if place.topic == topic)
            for topic in self._topics
        )

    async def close(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            with suppress(asyncio.CancelledError):
                await self._follower
        for link in self._links.values():
            if link.connecting is not None:
                link.connecting.cancel()
                await asyncio.gather(link.connecting, return_exceptions=True)
            if link.connection is not None:
                link.connection.close()

    # -- asking brokers ---------------------------------------------------------------------------------------------
    def ready(self, node_id: int) -> Connection | None:
        """The connection to a broker, now. If there is none, one is begun as soon as that may be tried again."""
        address = self.view.nodes.get(node_id)
        if address is None:
            return None
        link = self._link(address)
        if link.connection is None and link.connecting is None and self._loop.time() >= link.not_before:
            self._connect(address, link)
        return link.connection

    async def call(self, node_id: int, version: int, request: Message) -> Any:
        """Ask one broker. Raises Disconnected."""
        address = self.view.nodes.get(node_id)
        if address is None:
            raise Disconnected(f"broker {node_id} is not known")
        return await (await self._connected(address)).call(version, request)

    async def call_any(self, version: int, request: Message) -> Any:
        """Ask whoever answers soonest, by its looks. Raises Disconnected."""
        return await (await self._connected(self._least_loaded())).call(version, request)

    def refresh(self) -> None:
        """Metadata is needed."""
        self._wanted.set()

    # -- connections ------------------------------------------------------------------------------------------------
    def _link(self, address: Address) -> _Link:
        return self._links.setdefault(address, _Link())

    def _least_loaded(self) -> Address:
        """Connected ones first, those with fewer requests without answer before others; then any that may be tried."""
        known = list(dict.fromkeys([*self.view.nodes.values(), *self._bootstrap]))
        self._chance.shuffle(known)

        def cost(address: Address) -> tuple[int, float]:
            link = self._link(address)
            if link.connection is not None:
                return (0, link.connection.unanswered_count)
            return (1, link.not_before)

        return min(known, key=cost)

    async def _connected(self, address: Address) -> Connection:
        link = self._link(address)
        if link.connection is not None:
            return link.connection
        if link.connecting is None:
            if self._loop.time() < link.not_before:
                raise Disconnected(f"{address}: not reachable a moment ago")
            self._connect(address, link)
        assert link.connecting is not None
        try:
            return await asyncio.shield(link.connecting)
        except OSError as error:
            raise Disconnected(f"{address}: {error}") from None

    def _connect(self, address: Address, link: _Link) -> None:
        link.connecting = asyncio.create_task(self._open(address, link), name=f"{self.name}-to-{address}")
        link.connecting.add_done_callback(lambda task: self._connected_or_not(link, task))

    async def _open(self, address: Address, link: _Link) -> Connection:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await self._loop.create_connection(
                lambda: Connection(str(address), self.name, lambda: self._lost(link)), address.host, address.port
            )
        return connection

    def _connected_or_not(self, link: _Link, task: asyncio.Task[Connection]) -> None:
        link.connecting = None
        if task.cancelled():
            return
        if task.exception() is not None or task.result().lost:
            self._lost(link)
            return
        link.connection = task.result()
        link.failures = 0
        self._changed()

    def _lost(self, link: _Link) -> None:
        """What was asked fails after this, and is tried again by whoever asked."""
        link.connection = None
        link.failures += 1
        pause_s = self._reconnect_backoff.pause_s(link.failures)
        link.not_before = self._loop.time() + pause_s
        self._loop.call_later(pause_s, self._changed)
        self.refresh()

    def _changed(self) -> None:
        for callback in self.on_change:
            callback()

    # -- metadata ---------------------------------------------------------------------------------------------------
    async def _follow(self) -> None:
        request = MetadataRequest(
            topics=[MetadataRequestTopic(name=name) for name in self._topics], allow_auto_topic_creation=False
        )
        failures = 0
        while True:
            if not self._wanted.is_set():
                failures = 0
                with suppress(TimeoutError):
                    async with asyncio.timeout(METADATA_AGE_MAX_S):
                        await self._wanted.wait()
            self._wanted.clear()
            try:
                changed = self.view.learn(await self.call_any(METADATA_VERSION, request))
            except Disconnected:
                changed = False
                self._wanted.set()
            failures = 0 if changed else failures + 1
            if changed:
                self._changed()
            if not self._knows_all():
                self._wanted.set()
            await asyncio.sleep(self.retry_backoff.pause_s(max(failures, 1)))
