"""ListPartitionReassignments (46): the reassignments that go on (KIP-455).

v0. Null asks for all partitions; those that are unknown, or not being reassigned, are left out.
"""

from __future__ import annotations

from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.messages.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse,
    OngoingPartitionReassignment,
    OngoingTopicReassignment,
)

API_KEY = ApiKey.LIST_PARTITION_REASSIGNMENTS
MIN_VERSION = 0
MAX_VERSION = 0


def handle(
    services: Services, ctx: RequestContext, request: ListPartitionReassignmentsRequest
) -> ListPartitionReassignmentsResponse:
    asked = request.topics
    wishes = None if asked is None else [(topic.name, index) for topic in asked for index in topic.partition_indexes]
    topics: dict[str, OngoingTopicReassignment] = {}
    for each in services.topics.reassignments.ongoing(wishes):
        topic = topics.setdefault(each.topic, OngoingTopicReassignment(name=each.topic))
        topic.partitions.append(
            OngoingPartitionReassignment(
                partition_index=each.index,
                replicas=list(each.replicas),
                adding_replicas=list(each.adding),
                removing_replicas=list(each.removing),
            )
        )
    return ListPartitionReassignmentsResponse(
        throttle_time_ms=ctx.throttle_time_ms, error_message=None, topics=list(topics.values())
    )
