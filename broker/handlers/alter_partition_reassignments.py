"""AlterPartitionReassignments (45): assign replicas to partitions, or take back a reassignment that goes on (KIP-455).

v0-v1. v1 may refuse a change of the replication factor (KIP-860). No data is copied: a reassignment that moves the
leader goes on until that one has handed over, within a second as a rule; any other one is done at once. Replicas null
take it back, NO_REASSIGNMENT_IN_PROGRESS if none goes on. All valid ones take effect together.
"""

from __future__ import annotations

from broker.cluster.errors import AdminError
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    AlterPartitionReassignmentsResponse,
    ReassignablePartitionResponse,
    ReassignableTopicResponse,
)

API_KEY = ApiKey.ALTER_PARTITION_REASSIGNMENTS
MIN_VERSION = 0
MAX_VERSION = 1


async def handle(
    services: Services, ctx: RequestContext, request: AlterPartitionReassignmentsRequest
) -> AlterPartitionReassignmentsResponse:
    wishes = {
        (topic.name, each.partition_index): each.replicas for topic in request.topics for each in topic.partitions
    }
    results = await services.topics.reassignments.assign(
        wishes, may_change_factor=request.allow_replication_factor_change
    )
    return AlterPartitionReassignmentsResponse(
        throttle_time_ms=ctx.throttle_time_ms,
        allow_replication_factor_change=request.allow_replication_factor_change,
        error_message=None,
        responses=[
            ReassignableTopicResponse(
                name=topic.name,
                partitions=[
                    _answer(each.partition_index, results[topic.name, each.partition_index])
                    for each in topic.partitions
                ],
            )
            for topic in request.topics
        ],
    )


def _answer(index: int, error: AdminError | None) -> ReassignablePartitionResponse:
    if error is None:
        return ReassignablePartitionResponse(partition_index=index, error_code=ErrorCode.NONE, error_message=None)
    return ReassignablePartitionResponse(partition_index=index, error_code=error.code, error_message=error.message)
