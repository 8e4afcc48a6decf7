"""Hosts, links between them, and TCP over the links as far as asyncio's protocols see it.

A link is one direction between two hosts; it may be slow or blocked. What is sent on a connection arrives in order, and
waits while the link is blocked. A process that dies resets its connections; a paused one still accepts them, as a
kernel does.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from tests.cluster_sim.kernel import Kernel, Process

Link = tuple[str, str]
_SPIKE_SHARE = 0.02
_PARKED_SHARE = 0.5


class Network:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.rng = random.Random(kernel.rng.getrandbits(64))
        self.blocked: set[Link] = set()
        self.slow_s: defaultdict[Link, float] = defaultdict(float)
        self.connections: set[Connection] = set()
        self._bindings: dict[tuple[str, int], Binding] = {}
        self._parked: defaultdict[Link, list[Callable[[], None]]] = defaultdict(list)
        self.parked_count = self.lost_count = self.reset_count = 0

    def delay(self, link: Link) -> float:
        if link[0] == link[1]:
            return self.rng.uniform(0.00002, 0.0001)
        delay = self.rng.uniform(0.0001, 0.001)
        if self.rng.random() < _SPIKE_SHARE:
            delay += self.rng.uniform(0, 0.05)
        if self.slow_s:
            delay += self.slow_s[link] * self.rng.random()
        return delay

    # -- links ------------------------------------------------------------------------------------------------------
    def block(self, *links: Link) -> None:
        self.blocked.update(links)

    def unblock(self, *links: Link) -> None:
        for link in links:
            self.blocked.discard(link)
            for deliver in self._parked.pop(link, ()):
                self.kernel.after(self.rng.uniform(0, 0.2), deliver)

    def message(self, link: Link, deliver: Callable[[], None]) -> None:
        """One message on its own. A blocked link loses it, or lets it through once it is not blocked any more."""
        self.kernel.after(self.delay(link), self._arrive, link, deliver)

    def _arrive(self, link: Link, deliver: Callable[[], None]) -> None:
        if link not in self.blocked:
            deliver()
        elif self.rng.random() < _PARKED_SHARE:
            self.parked_count += 1
            self._parked[link].append(lambda: self._arrive(link, deliver))
        else:
            self.lost_count += 1

    def when_open(self, link: Link, go_on: Callable[[], None]) -> None:
        self._parked[link].append(go_on)

    # -- connections ------------------------------------------------------------------------------------------------
    def bind(self, process: Process, host: str, port: int) -> Socket:
        known = self._bindings.get((host, port))
        if known is not None:
            raise OSError(98, "address already in use")
        binding = self._bindings[host, port] = Binding(self, process, (host, port))
        process.on_death.append(binding.unbind)
        return Socket(binding)

    def unbind(self, binding: Binding) -> None:
        if self._bindings.get(binding.address) is binding:
            del self._bindings[binding.address]

    async def connect(self, process: Process, factory: Callable[[], Any], host: str, port: int) -> tuple[Any, Any]:
        answer: asyncio.Future[Endpoint | None] = process.loop.create_future()
        there, back = (process.host, host), (host, process.host)

        def settle(endpoint: Endpoint | None) -> None:
            if not answer.done():
                answer.set_result(endpoint)
            elif endpoint is not None:
                endpoint.abort()

        def at_the_host() -> None:
            binding = self._bindings.get((host, port))
            if binding is None or not binding.is_listening:
                self.message(back, lambda: process.loop.call_soon(settle, None))
                return
            connection = Connection(self, process, binding.process)
            self.connections.add(connection)
            binding.connected(connection.server)
            self.message(back, lambda: process.loop.call_soon(settle, connection.client))

        self.message(there, at_the_host)
        endpoint = await answer
        if endpoint is None:
            raise ConnectionRefusedError(111, "connection refused")
        protocol = factory()
        endpoint.attach(protocol)
        return endpoint, protocol

    def reset(self, process: Process) -> None:
        """Every connection of the process breaks, as seen by both sides."""
        for connection in self.of(process):
            self.reset_count += 1
            connection.break_off()

    def of(self, process: Process) -> list[Connection]:
        found = [each for each in self.connections if process in (each.client.process, each.server.process)]
        return sorted(found, key=lambda each: each.number)


class Binding:
    """A bound address of a living process."""

    def __init__(self, network: Network, process: Process, address: tuple[str, int]) -> None:
        self.network = network
        self.process = process
        self.address = address
        self.is_listening = False
        self.users = 1
        self._factory: Callable[[], Any] | None = None
        self._backlog: deque[Endpoint] = deque()

    def listen(self, factory: Callable[[], Any]) -> None:
        self.is_listening = True
        self._factory = factory
        while self._backlog:
            self._accept(self._backlog.popleft())

    def ignore(self) -> None:
        """Nobody accepts any more; it is still listened on."""
        self._factory = None

    def connected(self, endpoint: Endpoint) -> None:
        if self._factory is None:
            self._backlog.append(endpoint)
        else:
            self._accept(endpoint)

    def _accept(self, endpoint: Endpoint) -> None:
        self.process.loop.call_soon(self._attach, endpoint)

    def _attach(self, endpoint: Endpoint) -> None:
        if self._factory is None:
            self._backlog.append(endpoint)
        else:
            endpoint.attach(self._factory())

    def unbind(self) -> None:
        self.network.unbind(self)
        for endpoint in self._backlog:
            endpoint.abort()


class Socket:
    """A listening socket; `dup` shares the binding."""

    family = -1

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._closed = False

    def getsockname(self) -> tuple[str, int]:
        return self._binding.address

    def dup(self) -> Socket:
        self._binding.users += 1
        return Socket(self._binding)

    def serve(self, factory: Callable[[], Any]) -> Listener:
        self._binding.listen(factory)
        return Listener(self, self._binding)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._binding.users -= 1
            if not self._binding.users:
                self._binding.unbind()

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Listener:
    """What `create_server` returns."""

    def __init__(self, socket: Socket, binding: Binding) -> None:
        self._socket = socket
        self._binding = binding
        self.sockets = [socket]

    def close(self) -> None:
        self._binding.ignore()
        self._socket.close()

    async def wait_closed(self) -> None:
        return None


class Connection:
    """Two endpoints."""

    _numbers = 0

    def __init__(self, network: Network, client: Process, server: Process) -> None:
        Connection._numbers += 1
        self.number = Connection._numbers
        self.network = network
        self.client = Endpoint(self, client, server)
        self.server = Endpoint(self, server, client)
        self.client.other, self.server.other = self.server, self.client
        self.is_over = False
        for process in (client, server):
            process.on_death.append(self.break_off)

    def break_off(self) -> None:
        """Both learn of it as far as links let them; what was on its way is lost."""
        for endpoint in (self.client, self.server):
            endpoint.lose()
            if endpoint.process.is_dead:
                continue
            link = (endpoint.other.process.host, endpoint.process.host)
            self.network.kernel.after(self.network.delay(link), endpoint.tell_end, link)

    def ended(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.network.connections.discard(self)
            for process in (self.client.process, self.server.process):
                if self.break_off in process.on_death:
                    process.on_death.remove(self.break_off)


class Endpoint(asyncio.Transport):
    """One side of a connection; what `write` is given arrives at the other one."""

    def __init__(self, connection: Connection, process: Process, peer: Process) -> None:
        super().__init__({"peername": (peer.host, 50_000)})
        self.connection = connection
        self.process = process
        self.other: Endpoint
        self.protocol: Any = None
        self._link = (process.host, peer.host)
        self._flow: deque[tuple[float, bytes | None]] = deque()
        """What is on its way from here: (when it arrives, data; None is the end)."""
        self._moving = False
        self._inbox: deque[bytes | None] = deque()
        self._reading = True
        self._closing = False
        self._is_lost = False
        self._reported = False

    # -- towards the other side -------------------------------------------------------------------------------------
    def write(self, data: Any) -> None:
        if self._closing or self._is_lost:
            return
        self._send(bytes(data))

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def _send(self, data: bytes | None) -> None:
        network = self.connection.network
        when = network.kernel.now + network.delay(self._link)
        if self._flow:
            when = max(when, self._flow[-1][0])
        self._flow.append((when, data))
        self._move()

    def _move(self) -> None:
        if not self._moving and self._flow:
            self._moving = True
            self.connection.network.kernel.at(self._flow[0][0], self._deliver)

    def _deliver(self) -> None:
        self._moving = False
        network = self.connection.network
        if self._link in network.blocked:
            self._moving = True
            network.when_open(self._link, self._deliver)
        elif self._flow:
            data = self._flow.popleft()[1]
            self.other.receive(data)
            self._move()

    # -- from the other side ----------------------------------------------------------------------------------------
    def receive(self, data: bytes | None) -> None:
        if self.process.is_dead:
            return
        self._inbox.append(data)
        self.process.loop.call_soon(self._pump)

    def _pump(self) -> None:
        while self._inbox and self._reading and self.protocol is not None and not self._reported:
            data = self._inbox.popleft()
            if data is None:
                self._finish(None)
                return
            protocol = self.protocol
            if isinstance(protocol, asyncio.BufferedProtocol):
                view = memoryview(data)
                while view and not self._reported:
                    buffer = protocol.get_buffer(len(view))
                    taken = min(len(buffer), len(view))
                    buffer[:taken] = view[:taken]
                    protocol.buffer_updated(taken)
                    view = view[taken:]
            else:
                protocol.data_received(data)

    # -- the ends ---------------------------------------------------------------------------------------------------
    def attach(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.connection_made(self)
        if self._is_lost:
            self.process.loop.call_soon(self._finish, ConnectionResetError(104, "connection reset"))
        else:
            self._pump()

    def close(self) -> None:
        """What was written still goes out."""
        if not self._closing:
            self._closing = True
            self._flow.append((self.connection.network.kernel.now, None))
            self._flow[-1] = (max((when for when, _ in self._flow), default=0.0), None)
            self._move()
            self.process.loop.call_soon(self._finish, None)

    def abort(self) -> None:
        self._flow.clear()
        self.close()

    def lose(self) -> None:
        self._flow.clear()
        self._is_lost = True

    def tell_end(self, link: Link) -> None:
        network = self.connection.network
        if link in network.blocked:
            network.when_open(link, lambda: self.tell_end(link))
        elif not self.process.is_dead and self.protocol is not None:
            self.process.loop.call_soon(self._finish, ConnectionResetError(104, "connection reset"))

    def _finish(self, error: Exception | None) -> None:
        if self._reported or self.protocol is None:
            return
        self._reported = self._closing = True
        self.protocol.connection_lost(error)
        if error is None and not self._is_lost and all(data is not None for _, data in self._flow):
            # the other side reads the end of the stream
            self._send(None)
        if self.other._reported or self.other.process.is_dead or self._is_lost:
            self.connection.ended()

    # -- what protocols ask of a transport --------------------------------------------------------------------------
    def is_closing(self) -> bool:
        return self._closing or self._is_lost

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self.process.loop.call_soon(self._pump)

    def is_reading(self) -> bool:
        return self._reading

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol
