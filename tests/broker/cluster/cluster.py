"""A broker's metadata side over a real catalog (SQLite in memory); partitions are only noted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

from broker.cluster.image import MetadataImage
from broker.cluster.topics import TopicAdmin
from broker.config.broker_config import BrokerConfig
from broker.request import RequestContext
from broker.services import Services
from protocol.codec import decode_request, decode_response, encode_request, encode_response
from s3stream.catalog import open_catalog
from s3stream.catalog.api import BrokerInfo, Catalog, TopicInfo

NODE_ID = 1
LEASE_MS = 60_000


class NotedPartitions:
    """Stands for `broker.partitions.Partitions`; every partition of an open topic has `size` bytes."""

    def __init__(self) -> None:
        self.open: dict[tuple[str, int], SimpleNamespace] = {}
        self.closed: list[UUID] = []
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None

    async def open_topic(self, topic: TopicInfo) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        for each in topic.partitions:
            if each.leader == NODE_ID:
                partition = SimpleNamespace(topic=topic.name, topic_id=topic.topic_id, index=each.index, size=100)
                self.open[topic.name, each.index] = partition

    async def close_topic(self, topic_id: UUID) -> None:
        self.closed.append(topic_id)
        self.open = {key: each for key, each in self.open.items() if each.topic_id != topic_id}

    def get(self, topic: str, index: int) -> SimpleNamespace | None:
        return self.open.get((topic, index))

    def all(self) -> Iterable[SimpleNamespace]:
        return self.open.values()


class Cluster:
    """Node 1's image, config, topic administration and handlers' services."""

    def __init__(self, catalog: Catalog, config: BrokerConfig) -> None:
        self.catalog = catalog
        self.config = config
        self.image = MetadataImage(catalog, config, NODE_ID, follow_interval_s=0.01)
        self.partitions = NotedPartitions()
        self.topics = TopicAdmin(catalog, self.image, self.partitions, config)
        nothing = cast("Any", None)
        self.services = cast(
            "Services",
            SimpleNamespace(
                node_id=NODE_ID,
                config=config,
                catalog=catalog,
                image=self.image,
                storage=nothing,
                partitions=self.partitions,
                topics=self.topics,
                now_ms=lambda: 0,
            ),
        )

    async def join(
        self, node_id: int, *, rack: str | None = None, wal_url: str = "memory://", lease_ms: int = LEASE_MS
    ) -> BrokerInfo:
        broker = await self.catalog.register_broker(node_id, f"host{node_id}", 9092, rack, wal_url, lease_ms, uuid4())
        await self.image.refresh()
        return broker

    async def ask(self, handler: Any, version: int, request: Any) -> Any:
        """The way of a request through codec and handler; returns the response as the client decodes it."""
        frame = encode_request(handler.API_KEY, version, 7, "test", request)
        header, message = decode_request(memoryview(frame)[4:])
        ctx = RequestContext(header.api_key, header.api_version, 7, "test", 1, "127.0.0.1")
        response = handler.handle(self.services, ctx, message)
        if asyncio.iscoroutine(response):
            response = await response
        body = b"".join(encode_response(handler.API_KEY, version, 7, response))
        correlation_id, decoded = decode_response(handler.API_KEY, version, memoryview(body)[4:])
        assert correlation_id == 7
        return decoded


@asynccontextmanager
async def cluster(static: Mapping[str, str] | None = None, wal_url: str = "memory://") -> AsyncIterator[Cluster]:
    """One alive broker, node 1."""
    catalog = await open_catalog("sqlite://")
    try:
        made = Cluster(catalog, BrokerConfig(static))
        await made.join(NODE_ID, wal_url=wal_url)
        yield made
        await made.topics.close()
    finally:
        await catalog.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until `condition` holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - conditions of tasks that tell nobody
            await asyncio.sleep(0.001)
