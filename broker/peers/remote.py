"""Another broker at one address: connected when it is asked something, and again after a connection ended.

After a failure nothing is tried for a while, which grows with every further one: calls fail at once meanwhile, so that
nobody waits behind a broker that is gone and nothing piles up. Who calls decides whether and when to try again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any

from broker.peers.errors import PeerUnavailable
from broker.peers.link import Call, Link
from protocol.types import Message

CONNECT_TIMEOUT_S = 5.0
BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 1.0
UNANSWERED_MAX = 1_000
"""Requests to one broker at a time, those that wait for the connection included."""


class RemoteBroker:
    def __init__(self, host: str, port: int, client_id: str, timeout_s: float) -> None:
        self.host = host
        self.port = port
        self._client_id = client_id
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._unsent: deque[Call] = deque()
        self._backoff_s = 0.0
        self._not_before = 0.0
        self._closed = False

    def call(self, version: int, request: Message) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = self._loop.create_future()
        call = Call(version, request, answer, self._loop.time() + self._timeout_s)
        link = self._link
        refusal = self._refusal(link)
        if refusal is not None:
            answer.set_exception(PeerUnavailable(f"{self}: {refusal}"))
            answer.exception()  # who asked may be gone
        elif link is not None:
            link.send(call)
        else:
            self._unsent.append(call)
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect(), name=f"connect-{self}")
        return answer

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def _refusal(self, link: Link | None) -> str | None:
        if self._closed:
            return "closed"
        if len(self._unsent) + (link.unanswered_count if link is not None else 0) >= UNANSWERED_MAX:
            return "too many requests without answer"
        if link is None and self._connecting is None and self._loop.time() < self._not_before:
            return "not reachable a moment ago"
        return None

    async def close(self) -> None:
        """Whatever waits fails."""
        self._closed = True
        connecting = self._connecting
        if connecting is not None:
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await connecting
        self._fail_unsent("closed")
        if self._link is not None:
            self._link.close("closed")

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, link = await self._loop.create_connection(self._new_link, self.host, self.port)
        except (OSError, TimeoutError) as error:
            self._back_off()
            self._fail_unsent(str(error) or "no connection in time")
        else:
            if link.lost:
                self._fail_unsent("connection lost")
                return
            self._link = link
            while self._unsent:
                link.send(self._unsent.popleft())
        finally:
            self._connecting = None

    def _new_link(self) -> Link:
        return Link(str(self), self._client_id, self._lost)

    def _lost(self, link: Link, has_answered: bool) -> None:
        if self._link is link:
            self._link = None
        if has_answered:
            self._backoff_s = 0.0
        else:
            self._back_off()

    def _back_off(self) -> None:
        self._backoff_s = min(max(self._backoff_s * 2, BACKOFF_MIN_S), BACKOFF_MAX_S)
        self._not_before = self._loop.time() + self._backoff_s

    def _fail_unsent(self, reason: str) -> None:
        unsent, self._unsent = self._unsent, deque()
        for call in unsent:
            if not call.answer.done():
                call.answer.set_exception(PeerUnavailable(f"{self}: {reason}"))
                call.answer.exception()  # who asked may be gone
