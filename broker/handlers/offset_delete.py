"""OffsetDelete (47): remove committed offsets of single partitions (KIP-496).

v0. A topic that a member is subscribed to is GROUP_SUBSCRIBED_TO_TOPIC. Deleting what was never committed is no error.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from broker.coordinator.reply import Gathered, Reply
from broker.leadership import find_partition
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)

API_KEY = ApiKey.OFFSET_DELETE
MIN_VERSION = 0
MAX_VERSION = 0


def handle(services: Services, ctx: RequestContext, request: OffsetDeleteRequest) -> OffsetDeleteResponse | Deferred:
    group_id = request.group_id
    if not group_id:
        return OffsetDeleteResponse(error_code=ErrorCode.INVALID_GROUP_ID)
    unknown: dict[str, list[OffsetDeleteResponsePartition]] = {}
    known = []
    for topic in request.topics:
        info = services.image.topic(topic.name)
        partitions = []
        for each in topic.partitions:
            if find_partition(info, each.partition_index) is not None:
                partitions.append(each)
            else:
                answer = OffsetDeleteResponsePartition(
                    partition_index=each.partition_index, error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                )
                unknown.setdefault(topic.name, []).append(answer)
        if partitions:
            known.append(OffsetDeleteRequestTopic(name=topic.name, partitions=partitions))
    reply = Reply(lambda code: OffsetDeleteResponse(error_code=code))
    services.groups.submit(group_id, reply, lambda machine, out: machine.offsets.delete(out, reply, group_id, known))
    return Gathered([reply], partial(_merge, unknown)) if unknown else reply


def _merge(unknown: dict[str, list[OffsetDeleteResponsePartition]], parts: list[Any]) -> OffsetDeleteResponse:
    response: OffsetDeleteResponse = parts[0]
    if response.error_code == ErrorCode.NONE:
        for topic in response.topics:
            topic.partitions += unknown.pop(topic.name, [])
        response.topics += [
            OffsetDeleteResponseTopic(name=name, partitions=partitions) for name, partitions in unknown.items()
        ]
    return response
