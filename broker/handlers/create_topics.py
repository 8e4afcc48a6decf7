"""CreateTopics (19): create topics, or only check whether they could be.

v2-v7. v4 lets -1 stand for the broker's default partition count and replication factor; v5 is flexible and answers with
partition count, factor and effective configs; v6 adds THROTTLING_QUOTA_EXCEEDED, v7 topic ids in the answer.

Any replication factor is accepted and recorded. Each topic succeeds or fails by itself. When the answer leaves, the
partitions led here are open. With `validate_only` the topic id in the answer is zero.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from broker.cluster.errors import AdminError, as_admin_error
from broker.cluster.topics import TopicSpec
from broker.config.describe import describe_topic
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from s3stream.api import StorageError
from s3stream.catalog.api import CatalogError, TopicInfo

API_KEY = ApiKey.CREATE_TOPICS
MIN_VERSION = 2
MAX_VERSION = 7

_AT_ONCE = 16
"""Topics of one request that are being created at the same time."""


async def handle(services: Services, ctx: RequestContext, request: CreateTopicsRequest) -> CreateTopicsResponse:
    counts = Counter(topic.name for topic in request.topics)
    results = [
        _refused(name, AdminError(ErrorCode.INVALID_REQUEST, "Duplicate topic name."))
        for name, count in counts.items()
        if count > 1
    ]
    slots = asyncio.Semaphore(_AT_ONCE)

    async def create(topic: CreatableTopic) -> CreatableTopicResult:
        async with slots:
            return await _create(services, topic, request.validate_only)

    results += await asyncio.gather(*(create(topic) for topic in request.topics if counts[topic.name] == 1))
    return CreateTopicsResponse(throttle_time_ms=ctx.throttle_time_ms, topics=results)


async def _create(services: Services, asked: CreatableTopic, validate_only: bool) -> CreatableTopicResult:
    spec = TopicSpec(
        name=asked.name,
        num_partitions=asked.num_partitions,
        replication_factor=asked.replication_factor,
        assignments=[(each.partition_index, each.broker_ids) for each in asked.assignments],
        configs={each.name: each.value for each in asked.configs},
    )
    try:
        topic = await services.topics.create(spec, validate_only=validate_only)
    except (AdminError, CatalogError, StorageError) as error:
        return _refused(asked.name, as_admin_error(error))
    return _created(services, topic)


def _created(services: Services, topic: TopicInfo) -> CreatableTopicResult:
    configs = [
        CreatableTopicConfigs(
            name=each.name,
            value=each.value,
            read_only=each.read_only,
            config_source=each.source,
            is_sensitive=each.sensitive,
        )
        for each in describe_topic(topic.configs, services.config)
    ]
    return CreatableTopicResult(
        name=topic.name,
        topic_id=topic.topic_id.bytes,
        error_message=None,
        num_partitions=len(topic.partitions),
        replication_factor=topic.replication_factor,
        configs=configs,
    )


def _refused(name: str, error: AdminError) -> CreatableTopicResult:
    return CreatableTopicResult(name=name, error_code=error.code, error_message=error.message, configs=[])
