"""Metadata (3): brokers, and topics with their partitions' leaders.

v0-v13. In v0 an empty topic list asks for all topics; from v1 on that is a null list, and an empty one asks for none.
v1 adds controller, rack and is_internal; v2 the cluster id; v4 lets a client forbid auto-creation (before, it is
allowed); v5 offline replicas; v7 leader epochs; v8 authorized operations, of topics and (up to v10) of the cluster; v10
topic ids in the answer; v12 look-ups by topic id; v13 a top-level error code.

Answered from the image. The structures of a topic are built once, encoded once for each version, and kept until it or
the set of brokers changes. Only a topic that is missing and may be created makes the answer wait. An existing topic's
partition without a living leader has LEADER_NOT_AVAILABLE.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable

from broker.cluster import names
from broker.cluster.authorized import CLUSTER_OPERATIONS, NOT_ASKED, TOPIC_OPERATIONS
from broker.cluster.errors import AdminError, as_admin_error
from broker.cluster.image import MetadataImage
from broker.cluster.leadership import leaderships
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from protocol.types import ZERO_UUID, KeptList
from s3stream.api import StorageError
from s3stream.catalog.api import CatalogError, TopicInfo

API_KEY = ApiKey.METADATA
MIN_VERSION = 0
MAX_VERSION = 13

_IDS_ASKED_SINCE = 12
_AUTO_CREATIONS_MAX = 32
"""Topics that one request creates at the same time."""


def handle(
    services: Services, ctx: RequestContext, request: MetadataRequest
) -> MetadataResponse | Awaitable[MetadataResponse]:
    image = services.image
    if request.topics is None or (ctx.api_version == 0 and not request.topics):
        return _response(services, ctx, request, [_present(image, topic) for topic in image.topics()])
    answers: dict[bytes | str, MetadataResponseTopic] = {}
    missing: dict[str, None] = {}
    for asked in request.topics:
        _answer(services, ctx.api_version, asked, answers, missing)
    if missing and request.allow_auto_topic_creation and services.config.auto_create_topics_enable:
        return _create_missing(services, ctx, request, answers, missing)
    for name in missing:
        answers[name] = _absent(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, name=name)
    return _response(services, ctx, request, answers.values())


def _answer(
    services: Services,
    version: int,
    asked: MetadataRequestTopic,
    answers: dict[bytes | str, MetadataResponseTopic],
    missing: dict[str, None],
) -> None:
    image, name, topic_id = services.image, asked.name, asked.topic_id
    if topic_id != ZERO_UUID:
        if version < _IDS_ASKED_SINCE:
            answers[topic_id] = _absent(ErrorCode.INVALID_REQUEST, name=name or "", topic_id=topic_id)
            return
        topic = image.topic_by_id(topic_id)
        if topic is None:
            answers[topic_id] = _absent(ErrorCode.UNKNOWN_TOPIC_ID, topic_id=topic_id)
        else:
            answers[topic.name] = _present(image, topic)
    elif name is None:
        answers[topic_id] = _absent(ErrorCode.INVALID_REQUEST, name="")
    elif (topic := image.topic(name)) is not None:
        answers[name] = _present(image, topic)
    elif names.name_problem(name) is not None:
        answers[name] = _absent(ErrorCode.INVALID_TOPIC_EXCEPTION, name=name)
    else:
        missing[name] = None


async def _create_missing(
    services: Services,
    ctx: RequestContext,
    request: MetadataRequest,
    answers: dict[bytes | str, MetadataResponseTopic],
    missing: dict[str, None],
) -> MetadataResponse:
    slots = asyncio.Semaphore(_AUTO_CREATIONS_MAX)

    async def create(name: str) -> MetadataResponseTopic:
        async with slots:
            try:
                return _present(services.image, await services.topics.ensure(name))
            except (AdminError, CatalogError, StorageError) as error:
                return _absent(as_admin_error(error).code, name=name)

    created = await asyncio.gather(*map(create, missing))
    answers.update(zip(missing, created, strict=True))
    return _response(services, ctx, request, answers.values())


def _response(
    services: Services, ctx: RequestContext, request: MetadataRequest, topics: Iterable[MetadataResponseTopic]
) -> MetadataResponse:
    image = services.image
    cluster_operations = CLUSTER_OPERATIONS if request.include_cluster_authorized_operations else NOT_ASKED
    if request.include_topic_authorized_operations:
        topics = map(_with_operations, topics)
    return MetadataResponse(
        throttle_time_ms=ctx.throttle_time_ms,
        brokers=[
            MetadataResponseBroker(node_id=each.node_id, host=each.host, port=each.port, rack=each.rack)
            for each in image.brokers()
        ],
        cluster_id=image.cluster_id,
        controller_id=image.controller_id,
        topics=list(topics),
        cluster_authorized_operations=cluster_operations,
    )


def _present(image: MetadataImage, topic: TopicInfo) -> MetadataResponseTopic:
    return image.derived(topic, _build)


def _build(image: MetadataImage, topic: TopicInfo) -> MetadataResponseTopic:
    partitions = KeptList(
        MetadataResponsePartition(
            error_code=told.error,
            partition_index=partition.index,
            leader_id=told.leader,
            leader_epoch=partition.leader_epoch,
            replica_nodes=told.replicas,
            isr_nodes=told.in_sync,
            offline_replicas=told.offline,
        )
        for partition, told in leaderships(image, topic)
    )
    return MetadataResponseTopic(
        error_code=ErrorCode.NONE,
        name=topic.name,
        topic_id=topic.topic_id.bytes,
        is_internal=topic.internal,
        partitions=partitions,
    )


def _with_operations(topic: MetadataResponseTopic) -> MetadataResponseTopic:
    """A copy: the original is shared by all answers."""
    return MetadataResponseTopic(
        error_code=topic.error_code,
        name=topic.name,
        topic_id=topic.topic_id,
        is_internal=topic.is_internal,
        partitions=topic.partitions,
        topic_authorized_operations=NOT_ASKED if topic.error_code else TOPIC_OPERATIONS,
    )


def _absent(code: ErrorCode, *, name: str | None = None, topic_id: bytes = ZERO_UUID) -> MetadataResponseTopic:
    return MetadataResponseTopic(
        error_code=code, name=name, topic_id=topic_id, is_internal=name in names.INTERNAL_TOPICS
    )
