"""Bounds of the server, and the account of request memory that all connections share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.config.broker_config import BrokerConfig


STALL_SIZE = 65_536
OWN_SHARE_SIZE = 65_536
"""A request up to this size does not wait for request memory while it is the only one of its connection."""
REQUEST_MEMORY_MAX = 100_663_296


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Sizes in bytes, times in ms. `max.connections` and `max.connections.per.ip` may change while the broker runs and
    are read from its BrokerConfig."""

    socket_request_max_bytes: int = 104_857_600
    connections_max_idle_ms: int = 600_000
    in_flight_requests_max: int = 500
    """Requests of one connection that are dispatched and not answered; beyond it the connection is not read."""
    write_buffer_size_max: int = 262_144
    """Response bytes handed to the transport of one connection and not sent, before it is no longer read nor served."""
    request_memory_max: int = REQUEST_MEMORY_MAX
    """Bytes of received requests in memory, over all connections, before reading pauses."""
    stall_ms: int = 5_000
    """While memory is short, a connection that holds some of it and moves less than `STALL_SIZE` bytes in this time is
    closed: half a request that does not go on, or responses that are not taken."""
    stop_grace_ms: int = 3_000
    """How long a graceful stop waits for requests in flight."""

    @classmethod
    def from_config(cls, config: BrokerConfig) -> ServerLimits:
        """With the limits that Kafka has configs for. Memory is bounded even where Kafka's default (-1) does not."""
        memory_max = config.queued_max_request_bytes
        return cls(
            socket_request_max_bytes=config.socket_request_max_bytes,
            connections_max_idle_ms=config.connections_max_idle_ms,
            in_flight_requests_max=config.queued_max_requests,
            request_memory_max=memory_max if memory_max > 0 else REQUEST_MEMORY_MAX,
        )


class RequestMemory:
    """Counts the bytes of requests that are being received or handled, and holds readers back above `size_max`.

    One connection at a time is exempt, the first that was held back: it may finish the frame it is in, so that many
    half-received large requests cannot block each other for ever. The overshoot is one request of the largest size.
    """

    __slots__ = ("_exempt", "_waiters", "size", "size_max")

    def __init__(self, size_max: int) -> None:
        self.size = 0
        self.size_max = size_max
        self._waiters: deque[Callable[[], None]] = deque()
        self._exempt: object = None

    def charge(self, size: int) -> None:
        self.size += size

    def release(self, size: int) -> None:
        self.size -= size
        while self._waiters and self.size < self.size_max:
            self._waiters.popleft()()

    def must_wait(self, reader: object, in_frame: bool) -> bool:
        """Whether `reader` has to stop reading; a reader that is inside a frame may become the exempt one."""
        if self.size < self.size_max or self._exempt is reader:
            return False
        if in_frame and self._exempt is None:
            self._exempt = reader
            return False
        return True

    @property
    def is_full(self) -> bool:
        return self.size >= self.size_max

    def wait(self, resume: Callable[[], None]) -> None:
        """Call `resume` once when there is room."""
        self._waiters.append(resume)

    def frame_done(self, reader: object) -> None:
        """`reader` has received its frame, or is gone: the next one that is held back inside a frame may be exempt."""
        if self._exempt is reader:
            self._exempt = None
            for _ in range(len(self._waiters)):
                self._waiters.popleft()()
