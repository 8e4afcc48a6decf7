"""OffsetFetch (9): what groups have committed.

v1-v10. v2 null topics: all that have an offset, and an error code for the group; v5 leader epochs; v6 flexible; v7
`require_stable` (KIP-447); v8 several groups (KIP-709); v9 member id and epoch (new group protocol); v10 topic ids.

* Only what is durable is answered.
* A member of a consumer group is checked: UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH. Who gives neither id nor epoch is not.
* A group or partition that has no commit is answered with offset -1 and no error.
* By id, a topic that does not exist is UNKNOWN_TOPIC_ID; by name it is answered like one without a commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from broker.coordinator.group.offsets import TopicOffsets
from broker.coordinator.reply import Gathered, Reply
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)
from protocol.types import ZERO_UUID

API_KEY = ApiKey.OFFSET_FETCH
MIN_VERSION = 1
MAX_VERSION = 10

_GROUP_ERROR_SINCE = 2
_SEVERAL_GROUPS_SINCE = 8
_TOPIC_IDS_SINCE = 10


def handle(services: Services, ctx: RequestContext, request: OffsetFetchRequest) -> Deferred:
    version = ctx.api_version
    stable = request.require_stable
    if version < _SEVERAL_GROUPS_SINCE:
        topics = request.topics
        asked = None if topics is None else [_by_name(services, each.name, each.partition_indexes) for each in topics]
        part = _fetch(services, OffsetFetchRequestGroup(group_id=request.group_id), asked, stable, [])
        return Gathered([part], partial(_single, version, asked or []))
    return Gathered(
        [_fetch_group(services, group, stable, version >= _TOPIC_IDS_SINCE) for group in request.groups],
        lambda groups: OffsetFetchResponse(groups=groups),
    )


def _fetch_group(services: Services, group: OffsetFetchRequestGroup, require_stable: bool, by_id: bool) -> Deferred:
    unknown: list[OffsetFetchResponseTopics] = []
    topics = group.topics
    if topics is None:
        part = _fetch(services, group, None, require_stable, unknown)
        return Gathered([part], partial(_with_ids, services)) if by_id else part
    asked = []
    for topic in topics:
        if not by_id:
            asked.append(_by_name(services, topic.name, topic.partition_indexes))
        elif (info := services.image.topic_by_id(topic.topic_id)) is not None:
            asked.append(TopicOffsets(info.name, topic.topic_id, topic.partition_indexes))
        else:
            unknown.append(_unknown(topic))
    return _fetch(services, group, asked, require_stable, unknown)


def _fetch(
    services: Services,
    group: OffsetFetchRequestGroup,
    topics: Sequence[TopicOffsets] | None,
    require_stable: bool,
    unknown: list[OffsetFetchResponseTopics],
) -> Deferred:
    group_id = group.group_id
    reply = Reply(lambda code: OffsetFetchResponseGroup(group_id=group_id, error_code=code))
    services.groups.submit(
        group_id,
        reply,
        lambda machine, out: machine.offsets.fetch(
            out, reply, group_id, topics, require_stable, group.member_id, group.member_epoch
        ),
    )
    return Gathered([reply], partial(_with_unknown, unknown)) if unknown else reply


def _by_name(services: Services, name: str, partitions: Sequence[int]) -> TopicOffsets:
    info = services.image.topic(name)
    return TopicOffsets(name, ZERO_UUID if info is None else info.topic_id.bytes, partitions)


def _unknown(topic: OffsetFetchRequestTopics) -> OffsetFetchResponseTopics:
    return OffsetFetchResponseTopics(
        topic_id=topic.topic_id,
        partitions=[
            OffsetFetchResponsePartitions(
                partition_index=index, committed_offset=-1, error_code=ErrorCode.UNKNOWN_TOPIC_ID
            )
            for index in topic.partition_indexes
        ],
    )


def _with_unknown(unknown: list[OffsetFetchResponseTopics], parts: list[Any]) -> OffsetFetchResponseGroup:
    group: OffsetFetchResponseGroup = parts[0]
    if group.error_code == ErrorCode.NONE:
        group.topics += unknown
    return group


def _with_ids(services: Services, parts: list[Any]) -> OffsetFetchResponseGroup:
    """All topics were asked for: those that still exist, by id."""
    group: OffsetFetchResponseGroup = parts[0]
    existing = []
    for topic in group.topics:
        info = services.image.topic(topic.name)
        if info is not None:
            topic.topic_id = info.topic_id.bytes
            existing.append(topic)
    group.topics = existing
    return group


def _single(version: int, asked: Sequence[TopicOffsets], parts: list[Any]) -> OffsetFetchResponse:
    """The older form, of one group. Version 1 tells a group's error for each partition."""
    group: OffsetFetchResponseGroup = parts[0]
    code = group.error_code
    if code != ErrorCode.NONE and version < _GROUP_ERROR_SINCE:
        topics = [
            OffsetFetchResponseTopic(
                name=topic.name,
                partitions=[
                    OffsetFetchResponsePartition(partition_index=index, committed_offset=-1, error_code=code)
                    for index in topic.partitions
                ],
            )
            for topic in asked
        ]
        return OffsetFetchResponse(topics=topics)
    topics = [
        OffsetFetchResponseTopic(
            name=topic.name,
            partitions=[
                OffsetFetchResponsePartition(
                    partition_index=each.partition_index,
                    committed_offset=each.committed_offset,
                    committed_leader_epoch=each.committed_leader_epoch,
                    metadata=each.metadata,
                    error_code=each.error_code,
                )
                for each in topic.partitions
            ],
        )
        for topic in group.topics
    ]
    return OffsetFetchResponse(topics=topics, error_code=code)
