"""One connection to a broker: requests are written as they come, answers arrive in their order.

A connection ends for good; whatever has no answer then fails with `Disconnected`. The oldest request has
`REQUEST_TIMEOUT_S` to be answered, then the connection is given up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from protocol.codec import decode_response, encode_request
from protocol.errors import ProtocolError
from protocol.framing import FrameReader
from protocol.types import Message

REQUEST_TIMEOUT_S = 5.0
"""Kafka's clients wait for 30 s."""
CONNECT_TIMEOUT_S = 2.0
RESPONSE_SIZE_MAX = 128 << 20


class Disconnected(Exception):
    """No answer: the request may have been carried out or not."""


class Call(NamedTuple):
    correlation_id: int
    api_key: int
    version: int
    answer: asyncio.Future[Any]
    deadline: float


class Connection(asyncio.Protocol):
    """`on_lost` is called once, when it has ended."""

    def __init__(self, name: str, client_id: str, on_lost: Callable[[], None]) -> None:
        self._name = name
        self._client_id = client_id
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(RESPONSE_SIZE_MAX)
        self._unanswered: deque[Call] = deque()
        self._next_id = 0
        self._watch: asyncio.TimerHandle | None = None
        self._reason = "connection lost"
        self.lost = False

    @property
    def unanswered_count(self) -> int:
        return len(self._unanswered)

    def call(self, version: int, request: Message) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = self._loop.create_future()
        if self.lost or self._transport is None:
            answer.set_exception(Disconnected(f"{self._name}: {self._reason}"))
            return answer
        self._next_id += 1
        frame = encode_request(request.API_KEY, version, self._next_id, self._client_id, request)
        call = Call(self._next_id, request.API_KEY, version, answer, self._loop.time() + REQUEST_TIMEOUT_S)
        self._unanswered.append(call)
        self._transport.write(frame)
        if self._watch is None:
            self._watch = self._loop.call_at(call.deadline, self._check_deadline)
        return answer

    def close(self, reason: str = "closed") -> None:
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

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
        self._on_lost()
        for call in unanswered:
            if not call.answer.done():
                call.answer.set_exception(Disconnected(f"{self._name}: {self._reason}"))
                call.answer.exception()  # who has been cancelled meanwhile does not look

    def _answered(self, frame: bytes) -> None:
        if not self._unanswered:
            raise ProtocolError("an answer that nobody asked for")
        call = self._unanswered.popleft()
        correlation_id, response = decode_response(call.api_key, call.version, frame)
        if correlation_id != call.correlation_id:
            raise ProtocolError(f"answer {correlation_id} where {call.correlation_id} was expected")
        if not call.answer.done():
            call.answer.set_result(response)

    def _check_deadline(self) -> None:
        self._watch = None
        if not self._unanswered:
            return
        deadline = self._unanswered[0].deadline
        if self._loop.time() >= deadline:
            self.close("no answer in time")
        else:
            self._watch = self._loop.call_at(deadline, self._check_deadline)
