"""OffsetCommit (8): remember how far a group, or a consumer without one, has read.

v2-v10. v2-v4 carry a retention time of the client's own, v5 drops it; v6 leader epoch of the last record read
(KIP-320); v7 instance id (KIP-345); v8 flexible; v9 GROUP_ID_NOT_FOUND for a member of a group that is gone; v10 topic
ids.

* Errors of one topic or partition leave the others to be committed. A group's error is told for each partition.
* The empty group id is allowed, as in Kafka.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from broker.coordinator.group.records import NAME_LENGTH_MAX
from broker.coordinator.reply import Gathered, Reply
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)

API_KEY = ApiKey.OFFSET_COMMIT
MIN_VERSION = 2
MAX_VERSION = 10

_TOPIC_IDS_SINCE = 10


def handle(services: Services, ctx: RequestContext, request: OffsetCommitRequest) -> OffsetCommitResponse | Deferred:
    version = ctx.api_version
    if len(request.group_id) > NAME_LENGTH_MAX:
        return _refusal(request, ErrorCode.INVALID_GROUP_ID)
    refused = _take_out_unknown(services, request, version)
    if not request.topics:
        return OffsetCommitResponse(topics=refused)
    reply = Reply(partial(_refusal, request))
    services.groups.submit(
        request.group_id, reply, lambda machine, out: machine.offsets.commit(out, reply, request, version)
    )
    if refused:
        return Gathered([reply], partial(_merge, refused))
    settled: OffsetCommitResponse | Deferred = reply.settled()
    return settled


def _take_out_unknown(
    services: Services, request: OffsetCommitRequest, version: int
) -> list[OffsetCommitResponseTopic]:
    """Leave what exists in the request, with name and id filled in; answer the rest."""
    image = services.image
    refused: list[OffsetCommitResponseTopic] = []
    known: list[OffsetCommitRequestTopic] = []
    for topic in request.topics:
        if version >= _TOPIC_IDS_SINCE:
            info, error = image.topic_by_id(topic.topic_id), ErrorCode.UNKNOWN_TOPIC_ID
        else:
            info, error = image.topic(topic.name), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        if info is None:
            refused.append(_refused_topic(topic, error))
            continue
        topic.name = info.name
        topic.topic_id = info.topic_id.bytes
        count = len(info.partitions)
        if any(not 0 <= each.partition_index < count for each in topic.partitions):
            partitions = topic.partitions
            topic.partitions = [each for each in partitions if not 0 <= each.partition_index < count]
            refused.append(_refused_topic(topic, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
            topic.partitions = [each for each in partitions if 0 <= each.partition_index < count]
        if topic.partitions:
            known.append(topic)
    request.topics = known
    return refused


def _refused_topic(topic: OffsetCommitRequestTopic, code: ErrorCode) -> OffsetCommitResponseTopic:
    return OffsetCommitResponseTopic(
        name=topic.name,
        topic_id=topic.topic_id,
        partitions=[
            OffsetCommitResponsePartition(partition_index=each.partition_index, error_code=code)
            for each in topic.partitions
        ],
    )


def _refusal(request: OffsetCommitRequest, code: ErrorCode) -> OffsetCommitResponse:
    return OffsetCommitResponse(topics=[_refused_topic(topic, code) for topic in request.topics])


def _merge(refused: list[OffsetCommitResponseTopic], parts: list[Any]) -> OffsetCommitResponse:
    response: OffsetCommitResponse = parts[0]
    by_name = {topic.name: topic for topic in response.topics}
    for topic in refused:
        committed = by_name.get(topic.name)
        if committed is None:
            response.topics.append(topic)
        else:
            committed.partitions += topic.partitions
    return response
