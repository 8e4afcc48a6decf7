"""One broker's data plane over fake streams: image, partitions, sessions and the handlers' services."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

from broker.balance.load import LoadMeter
from broker.cluster.image import MetadataImage
from broker.config.broker_config import BrokerConfig
from broker.fetch_sessions import FetchSessions
from broker.handlers import fetch, produce
from broker.partitions import Partitions
from broker.peers import Peers
from broker.producer_ids import ProducerIds
from broker.request import Deferred, RequestContext
from broker.services import Services
from broker.verification import Verification
from protocol.messages.fetch import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from protocol.messages.produce import (
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
)
from s3stream.catalog.api import BrokerInfo, Changes, PartitionInfo, TopicInfo
from tests.broker.partition.batches import batch
from tests.broker.partition.fake_stream import FakeStorage, FakeStream

NODE_ID = 1
NOW_MS = 1_700_000_000_000


class StubCatalog:
    """Gives the image what a test wants it to learn."""

    cluster_id = "test"

    def __init__(self) -> None:
        self.changes = Changes(0, {}, {}, {})
        self.next_producer_id = 1000
        self.allocations = 0

    async def load_changes(self, after: int) -> Changes:
        changes, self.changes = self.changes, Changes(after, {}, {}, {})
        return changes

    async def allocate(self, count: int) -> int:
        await asyncio.sleep(0)
        self.allocations += 1
        first, self.next_producer_id = self.next_producer_id, self.next_producer_id + count
        return first


class Node:
    def __init__(self) -> None:
        self.catalog = StubCatalog()
        self.config = BrokerConfig()
        self.storage = FakeStorage()
        self.now_ms = NOW_MS
        self.image = MetadataImage(self.catalog, self.config, NODE_ID)  # type: ignore[arg-type]
        self.partitions = Partitions(NODE_ID, self.storage, self.image, lambda: self.now_ms)  # type: ignore[arg-type]
        self.sessions = FetchSessions(slots_max=10)
        self.producer_ids = ProducerIds(self.catalog.allocate)
        self.services = Services(
            node_id=NODE_ID,
            config=self.config,
            catalog=self.catalog,  # type: ignore[arg-type]
            image=self.image,
            storage=self.storage,  # type: ignore[arg-type]
            partitions=self.partitions,
            topics=SimpleNamespace(),  # type: ignore[arg-type]
            groups=SimpleNamespace(),  # type: ignore[arg-type]
            transactions=SimpleNamespace(),  # type: ignore[arg-type]
            fetch_sessions=self.sessions,
            producer_ids=self.producer_ids,
            peers=Peers(self.image),
            load_meter=LoadMeter(self.partitions.all),
            balancer=SimpleNamespace(),  # type: ignore[arg-type]
            verification=Verification(
                Peers(self.image), lambda transactional_id: None, retry_backoff_ms=20, retry_max_ms=100
            ),
            now_ms=lambda: self.now_ms,
        )
        self._stream_ids = 0

    # -- metadata ---------------------------------------------------------------------------------------------------
    async def learn(
        self,
        topics: Mapping[UUID, TopicInfo | None] | None = None,
        brokers: Mapping[int, BrokerInfo | None] | None = None,
    ) -> None:
        self.catalog.changes = Changes(self.image.seq + 1, topics or {}, brokers or {}, {})
        await self.image.refresh()

    def topic_info(
        self, name: str, partitions: int = 1, leader: int = NODE_ID, internal: bool = False, **configs: str
    ) -> TopicInfo:
        infos = []
        for index in range(partitions):
            infos.append(PartitionInfo(index, leader, 5, self._stream_ids + 1, self._stream_ids + 2))
            self._stream_ids += 2
        settings = {key.replace("_", "."): value for key, value in configs.items()}
        return TopicInfo(uuid4(), name, internal, 1, tuple(infos), settings)

    async def topic(self, name: str, partitions: int = 1, **options: Any) -> TopicInfo:
        """Created, known to the image, opened."""
        info = self.topic_info(name, partitions, **options)
        await self.learn({info.topic_id: info})
        await self.partitions.open_topic(info)
        return info

    def log(self, topic: TopicInfo, index: int = 0) -> FakeStream:
        return self.storage.streams[topic.partitions[index].log_stream_id]

    # -- requests ---------------------------------------------------------------------------------------------------
    def produce(self, topic: str, data: Any = None, index: int = 0, acks: int = -1, version: int = 9) -> Any:
        records = memoryview(data if data is not None else batch())
        request = ProduceRequest(
            acks=acks,
            topic_data=[
                TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=index, records=records)])
            ],
        )
        return produce.handle(self.services, context(0, version), request)

    def appended(self, topic: str, data: Any = None, index: int = 0, **options: Any) -> PartitionProduceResponse:
        """Produced and, if it was accepted, durable."""
        result = self.produce(topic, data, index, **options)
        self.storage.flush()
        response = outcome(result)
        assert isinstance(response, ProduceResponse)
        return response.responses[0].partition_responses[0]

    def fetch(
        self, offsets: Mapping[tuple[str, int], int], version: int = 11, partition_max: int = 1 << 20, **fields: Any
    ) -> Any:
        topics: dict[str, FetchTopic] = {}
        for (name, index), offset in offsets.items():
            topic = topics.setdefault(name, FetchTopic(topic=name))
            topic.partitions.append(
                FetchPartition(partition=index, fetch_offset=offset, partition_max_bytes=partition_max)
            )
        fields = {"max_wait_ms": 0, "min_bytes": 1, "max_bytes": 1 << 25} | fields
        return fetch.handle(self.services, context(1, version), FetchRequest(topics=list(topics.values()), **fields))


def context(api_key: int, version: int) -> RequestContext:
    return RequestContext(api_key, version, 1, "test", 1, "127.0.0.1")


def outcome(result: Any) -> Any:
    """The response of a handler that has answered."""
    if isinstance(result, Deferred):
        assert result.done
        return result.response
    return result


async def answer(result: Any) -> Any:
    """The response, however it comes."""
    if isinstance(result, Deferred):
        done = asyncio.get_running_loop().create_future()
        if result.done:
            return result.response
        result.on_complete = lambda deferred: done.set_result(deferred.response)
        return await done
    if asyncio.iscoroutine(result):
        return await result
    return result


def fetched(response: FetchResponse) -> dict[tuple[str, int], bytes]:
    return {
        (topic.topic, data.partition_index): b"".join(data.records or [])  # type: ignore[arg-type]
        for topic in response.responses
        for data in topic.partitions
    }
