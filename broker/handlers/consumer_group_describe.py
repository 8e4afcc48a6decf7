"""ConsumerGroupDescribe (69): epochs, members, current and target assignments of groups of the new protocol (KIP-848).

v0-v1. v1: whether a member speaks the classic or the new protocol.

GROUP_ID_NOT_FOUND for a group that is not there or is a classic one; GROUP_ID_NOT_FOUND's message says which.
"""

from __future__ import annotations

from typing import Any

from broker.coordinator.reply import Gathered, Reply
from broker.handlers.describe_groups import ALL_OPERATIONS
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.consumer_group_describe import (
    ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse,
    DescribedGroup,
)

API_KEY = ApiKey.CONSUMER_GROUP_DESCRIBE
MIN_VERSION = 0
MAX_VERSION = 1


def handle(services: Services, ctx: RequestContext, request: ConsumerGroupDescribeRequest) -> Deferred:
    with_operations = request.include_authorized_operations

    def combine(groups: list[Any]) -> ConsumerGroupDescribeResponse:
        for group in groups:
            if with_operations and group.error_code == ErrorCode.NONE:
                group.authorized_operations = ALL_OPERATIONS
        return ConsumerGroupDescribeResponse(groups=groups)

    return Gathered([_describe(services, group_id) for group_id in request.group_ids], combine)


def _describe(services: Services, group_id: str) -> Reply:
    reply = Reply(lambda code: DescribedGroup(group_id=group_id, error_code=code))
    if group_id:
        services.groups.submit(group_id, reply, lambda machine, out: machine.describe_consumer(out, reply, group_id))
    else:
        reply.refuse(ErrorCode.INVALID_GROUP_ID)
    return reply
