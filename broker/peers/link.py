"""One connection to another broker: requests are written as they come, answers arrive in their order.

A link ends for good when the connection does: whatever has no answer yet fails with PeerUnavailable. The oldest request
has `timeout_s` to be answered; after that the connection is given up, because nothing behind it can be answered either.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from broker.peers.errors import PeerUnavailable
from protocol.codec import decode_response, encode_request
from protocol.errors import ProtocolError
from protocol.framing import FrameReader
from protocol.types import Message

RESPONSE_SIZE_MAX = 16 << 20
"""Far above what brokers answer each other."""
_CORRELATION_IDS = 1 << 31


class Call(NamedTuple):
    """One request and who waits for its answer; `deadline` is on the loop's clock."""

    version: int
    request: Message
    answer: asyncio.Future[Any]
    deadline: float


class Link(asyncio.Protocol):
    """`on_lost` is called once, with whether this connection ever answered anything."""

    def __init__(self, name: str, client_id: str, on_lost: Callable[[Link, bool], None]) -> None:
        self._name = name
        self._client_id = client_id
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(RESPONSE_SIZE_MAX)
        self._unanswered: deque[tuple[int, Call]] = deque()
        self._next_id = 0
        self._watch: asyncio.TimerHandle | None = None
        self._reason = "connection lost"
        self._has_answered = False
        self.lost = False
        """The connection has ended; it may have before whoever made it goes on."""

    @property
    def unanswered_count(self) -> int:
        return len(self._unanswered)

    def send(self, call: Call) -> None:
        assert self._transport is not None
        correlation_id = self._next_id
        self._next_id = (correlation_id + 1) % _CORRELATION_IDS
        frame = encode_request(call.request.API_KEY, call.version, correlation_id, self._client_id, call.request)
        self._unanswered.append((correlation_id, call))
        self._transport.write(frame)
        if self._watch is None:
            self._watch = self._loop.call_at(call.deadline, self._check_deadline)

    def close(self, reason: str) -> None:
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    # -- the transport's callbacks ----------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.receive(data):
                self._answered(frame)
        except ProtocolError as error:
            self.close(f"answer not understood: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._watch is not None:
            self._watch.cancel()
        unanswered, self._unanswered = self._unanswered, deque()
        self._on_lost(self, self._has_answered)
        for _, call in unanswered:
            if not call.answer.done():
                call.answer.set_exception(PeerUnavailable(f"{self._name}: {self._reason}"))
                call.answer.exception()  # who asked may be gone

    # -- answers ----------------------------------------------------------------------------------------------------
    def _answered(self, frame: bytes) -> None:
        if not self._unanswered:
            raise ProtocolError("an answer that nobody asked for")
        expected_id, call = self._unanswered[0]
        correlation_id, response = decode_response(call.request.API_KEY, call.version, frame)
        if correlation_id != expected_id:
            raise ProtocolError(f"answer {correlation_id} where {expected_id} was expected")
        self._unanswered.popleft()
        self._has_answered = True
        if not call.answer.done():
            call.answer.set_result(response)

    def _check_deadline(self) -> None:
        self._watch = None
        if not self._unanswered:
            return
        deadline = self._unanswered[0][1].deadline
        if self._loop.time() >= deadline:
            self.close("no answer in time")
        else:
            self._watch = self._loop.call_at(deadline, self._check_deadline)
