"""The group service over real partitions on fake streams, asked through the codec as a client would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from broker.cluster.names import CONSUMER_OFFSETS
from broker.config.broker_config import BrokerConfig
from broker.coordinator.group.service import GroupService
from broker.request import RequestContext
from protocol.codec import decode_request, decode_response, encode_request, encode_response, request_class
from s3stream.catalog.api import BrokerInfo, TopicInfo
from tests.broker.handlers_data.node import NODE_ID, Node, answer

PARTITIONS = 4
CONFIG = {"group.initial.rebalance.delay.ms": "0", "offsets.topic.num.partitions": str(PARTITIONS)}


class GroupNode(Node):
    def __init__(self) -> None:
        super().__init__()
        self.creations = 0
        self.creation_error: Exception | None = None
        topics = SimpleNamespace(ensure=self._ensure)
        self.groups = GroupService(
            BrokerConfig(CONFIG),
            self.image,
            self.partitions,
            topics,  # type: ignore[arg-type]
            lambda: self.now_ms,
        )
        self.services = replace(self.services, groups=self.groups, topics=topics)  # type: ignore[arg-type]

    async def _ensure(self, name: str) -> TopicInfo:
        assert name == CONSUMER_OFFSETS
        self.creations += 1
        if self.creation_error is not None:
            raise self.creation_error
        return self.image.topic(name) or await self.topic(name, PARTITIONS, internal=True)

    async def coordinate(self) -> None:
        """Create the offsets topic and wait for its groups."""
        await self.groups.create_topic()

    async def ask(self, handler: Any, version: int, **fields: Any) -> Any:
        """The response as the client decodes it; whatever is appended meanwhile becomes durable."""
        waiting = asyncio.ensure_future(self.start(handler, version, **fields))
        while not waiting.done():
            await asyncio.sleep(0)
            self.storage.flush()
        return await waiting

    async def start(self, handler: Any, version: int, **fields: Any) -> Any:
        request: Any = request_class(handler.API_KEY)(**fields)
        frame = encode_request(handler.API_KEY, version, 7, "test", request)
        header, message = decode_request(memoryview(frame)[4:])
        ctx = RequestContext(header.api_key, header.api_version, 7, "test", 1, "127.0.0.1")
        response = await answer(handler.handle(self.services, ctx, message))
        body = b"".join(encode_response(handler.API_KEY, version, 7, response))
        return decode_response(handler.API_KEY, version, memoryview(body)[4:])[1]


@asynccontextmanager
async def group_node(*, coordinating: bool = True) -> AsyncIterator[GroupNode]:
    """Node 1, alive, with the topic "t" of two partitions."""
    node = GroupNode()
    await node.learn(brokers={NODE_ID: BrokerInfo(NODE_ID, 1, "host1", 9092, None, "memory://", True, False)})
    await node.topic("t", 2)
    await node.groups.start()
    if coordinating:
        await node.coordinate()
    try:
        yield node
    finally:
        await node.groups.stop()
