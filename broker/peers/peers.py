"""`Peers`: every broker of the cluster by node id, this one included.

Another broker is asked at the address that it advertises, over one connection. This broker runs its own handler in
place, so that callers need not know where something is led.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from broker.peers.errors import PeerUnavailable
from broker.peers.local import LocalBroker
from broker.peers.remote import RemoteBroker
from broker.server.dispatch import Api
from protocol.types import Message

if TYPE_CHECKING:
    from broker.cluster.image import MetadataImage
    from broker.services import Services

REQUEST_TIMEOUT_S = 30.0
"""For another broker to answer; as Kafka's `request.timeout.ms`."""


class Peers:
    """Made before the services that handlers need, so that those may hold it; `serve_locally` completes it."""

    def __init__(self, image: MetadataImage, *, request_timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._image = image
        self._client_id = f"broker-{image.node_id}"
        self._request_timeout_s = request_timeout_s
        self._local: LocalBroker | None = None
        self._remote: dict[int, RemoteBroker] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def serve_locally(self, services: Services, apis: Mapping[int, Api]) -> None:
        """From now on this broker answers itself."""
        self._local = LocalBroker(services, apis, self._client_id)

    def call(self, node_id: int, api_version: int, request: Message) -> asyncio.Future[Any]:
        """Send a request; the future is the response or PeerUnavailable.

        The caller knows that the other side serves this version. Requests to one broker arrive in the order of their
        calls. The request must not be changed or used again afterwards.
        """
        if node_id == self._image.node_id:
            if self._local is not None:
                return self._local.call(api_version, request)
        elif (remote := self._broker(node_id)) is not None:
            return remote.call(api_version, request)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.set_exception(PeerUnavailable(f"broker {node_id} is not known"))
        return answer

    async def close(self) -> None:
        """Whatever waits for another broker fails; what this one does for itself is finished."""
        brokers: list[RemoteBroker | LocalBroker] = [*self._remote.values()]
        self._remote.clear()
        if self._local is not None:
            brokers.append(self._local)
        await asyncio.gather(*(broker.close() for broker in brokers), *self._closing)

    def _broker(self, node_id: int) -> RemoteBroker | None:
        info = self._image.broker(node_id)
        if info is None:
            return None
        known = self._remote.get(node_id)
        if known is not None and (known.host, known.port) == (info.host, info.port):
            return known
        if known is not None:  # it moved
            closing = asyncio.create_task(known.close(), name=f"close-{known}")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        remote = self._remote[node_id] = RemoteBroker(info.host, info.port, self._client_id, self._request_timeout_s)
        return remote
