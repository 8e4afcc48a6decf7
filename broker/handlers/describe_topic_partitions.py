"""DescribeTopicPartitions (75): topics with their partitions, in pages (KIP-966).

v0. Topics come sorted by name, from the cursor on; an empty list asks for all. A page holds at most
`response_partition_limit` partitions (at least one, and never more than max.request.partition.size.limit); the cursor
of the answer says where the next one begins. A cursor may only name a topic that is asked for, or any when all are.
"""

from __future__ import annotations

from broker.cluster import names
from broker.cluster.authorized import NOT_ASKED, TOPIC_OPERATIONS
from broker.cluster.image import MetadataImage
from broker.cluster.leadership import leaderships
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
)
from s3stream.catalog.api import TopicInfo

API_KEY = ApiKey.DESCRIBE_TOPIC_PARTITIONS
MIN_VERSION = 0
MAX_VERSION = 0


def handle(
    services: Services, ctx: RequestContext, request: DescribeTopicPartitionsRequest
) -> DescribeTopicPartitionsResponse:
    image, cursor = services.image, request.cursor
    response = DescribeTopicPartitionsResponse(throttle_time_ms=ctx.throttle_time_ms)
    asked = {each.name for each in request.topics}
    if cursor is not None and (cursor.partition_index < 0 or (asked and cursor.topic_name not in asked)):
        response.topics = [_refused(name, ErrorCode.INVALID_REQUEST, NOT_ASKED) for name in sorted(asked)]
        return response
    room = max(1, min(request.response_partition_limit, services.config.max_request_partition_size_limit))
    wanted = sorted(asked or (topic.name for topic in image.topics()))
    for name in wanted:
        if cursor is not None and name < cursor.topic_name:
            continue
        begin = cursor.partition_index if cursor is not None and name == cursor.topic_name else 0
        if room == 0:
            response.next_cursor = Cursor(topic_name=name, partition_index=begin)
            break
        topic = image.topic(name)
        if topic is None:
            legal = names.name_problem(name) is None
            code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if legal else ErrorCode.INVALID_TOPIC_EXCEPTION
            response.topics.append(_refused(name, code, TOPIC_OPERATIONS))
            continue
        page = image.derived(topic, _build)[begin : begin + room]
        response.topics.append(_described(topic, page))
        room -= len(page)
        if begin + len(page) < len(topic.partitions):
            response.next_cursor = Cursor(topic_name=name, partition_index=begin + len(page))
            break
    return response


def _build(image: MetadataImage, topic: TopicInfo) -> list[DescribeTopicPartitionsResponsePartition]:
    return [
        DescribeTopicPartitionsResponsePartition(
            error_code=told.error,
            partition_index=partition.index,
            leader_id=told.leader,
            leader_epoch=partition.leader_epoch,
            replica_nodes=told.replicas,
            isr_nodes=told.in_sync,
            eligible_leader_replicas=[],
            last_known_elr=[],
            offline_replicas=told.offline,
        )
        for partition, told in leaderships(image, topic)
    ]


def _described(
    topic: TopicInfo, partitions: list[DescribeTopicPartitionsResponsePartition]
) -> DescribeTopicPartitionsResponseTopic:
    return DescribeTopicPartitionsResponseTopic(
        error_code=ErrorCode.NONE,
        name=topic.name,
        topic_id=topic.topic_id.bytes,
        is_internal=topic.internal,
        partitions=partitions,
        topic_authorized_operations=TOPIC_OPERATIONS,
    )


def _refused(name: str, code: ErrorCode, operations: int) -> DescribeTopicPartitionsResponseTopic:
    return DescribeTopicPartitionsResponseTopic(
        error_code=code,
        name=name,
        is_internal=name in names.INTERNAL_TOPICS,
        topic_authorized_operations=operations,
    )
