"""DeleteTopics (20): delete topics by name or, from v6 on, by id.

v1-v6. v3 adds TOPIC_DELETION_DISABLED (before: INVALID_REQUEST), v4 is flexible, v5 adds error messages.

A topic goes in one catalog transaction and is closed here before the answer leaves; its objects follow later. Internal
topics may be deleted, as in Kafka.
"""

from __future__ import annotations

from collections import Counter

from broker.cluster.errors import AdminError, as_admin_error
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.delete_topics import (
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
)
from protocol.types import ZERO_UUID
from s3stream.api import StorageError
from s3stream.catalog.api import CatalogError, TopicInfo

API_KEY = ApiKey.DELETE_TOPICS
MIN_VERSION = 1
MAX_VERSION = 6


async def handle(services: Services, ctx: RequestContext, request: DeleteTopicsRequest) -> DeleteTopicsResponse:
    asked = request.topics if ctx.api_version >= 6 else [DeleteTopicState(name=each) for each in request.topic_names]
    times = Counter(_key(each) for each in asked)
    responses = []
    for each in asked:
        if times[_key(each)] > 1:
            times[_key(each)] = 0  # answered once
            responses.append(_result(each, AdminError(ErrorCode.INVALID_REQUEST, _duplicate(each))))
        elif times[_key(each)] == 1:
            responses.append(await _delete(services, ctx.api_version, each))
    return DeleteTopicsResponse(throttle_time_ms=ctx.throttle_time_ms, responses=responses)


def _key(asked: DeleteTopicState) -> tuple[str | None, bytes]:
    return asked.name, asked.topic_id


def _duplicate(asked: DeleteTopicState) -> str:
    return "Duplicate topic id." if asked.name is None else "Duplicate topic name."


async def _delete(services: Services, version: int, asked: DeleteTopicState) -> DeletableTopicResult:
    try:
        topic = _find(services, asked)
        await services.topics.delete(topic)
    except (AdminError, CatalogError, StorageError) as error:
        refusal = as_admin_error(error)
        if refusal.code is ErrorCode.TOPIC_DELETION_DISABLED and version < 3:
            refusal = AdminError(ErrorCode.INVALID_REQUEST, refusal.message)
        return _result(asked, refusal)
    return DeletableTopicResult(name=topic.name, topic_id=topic.topic_id.bytes)


def _find(services: Services, asked: DeleteTopicState) -> TopicInfo:
    if asked.topic_id == ZERO_UUID:
        if asked.name is None:
            raise AdminError(ErrorCode.INVALID_REQUEST, "Neither topic name nor id were specified.")
        topic = services.image.topic(asked.name)
        if topic is None:
            raise AdminError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "This server does not host this topic-partition.")
        return topic
    if asked.name is not None:
        raise AdminError(ErrorCode.INVALID_REQUEST, "You may not specify both topic name and topic id.")
    topic = services.image.topic_by_id(asked.topic_id)
    if topic is None:
        raise AdminError(ErrorCode.UNKNOWN_TOPIC_ID, "This server does not host this topic ID.")
    return topic


def _result(asked: DeleteTopicState, error: AdminError) -> DeletableTopicResult:
    return DeletableTopicResult(
        name=asked.name, topic_id=asked.topic_id, error_code=error.code, error_message=error.message
    )
