"""DescribeGroups (15): state, protocol and members of classic groups.

v0-v6. v3 authorised operations; v4 instance ids; v5 flexible; v6 GROUP_ID_NOT_FOUND where older versions call an
unknown group Dead (KIP-1043).

Metadata is shown of a Stable group only. Assignments are shown always: while a group rebalances, those of the former
generation, until a leader's SyncGroup has failed to come.
"""

from __future__ import annotations

from typing import Any

from broker.coordinator.reply import Gathered, Reply
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.describe_groups import DescribedGroup, DescribeGroupsRequest, DescribeGroupsResponse

API_KEY = ApiKey.DESCRIBE_GROUPS
MIN_VERSION = 0
MAX_VERSION = 6

ALL_OPERATIONS = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11
"""Read, Delete, Describe, DescribeConfigs, AlterConfigs: what a group knows, by the numbers of AclOperation."""


def handle(services: Services, ctx: RequestContext, request: DescribeGroupsRequest) -> Deferred:
    with_operations = request.include_authorized_operations

    def combine(groups: list[Any]) -> DescribeGroupsResponse:
        for group in groups:
            if with_operations and group.error_code == ErrorCode.NONE:
                group.authorized_operations = ALL_OPERATIONS
        return DescribeGroupsResponse(groups=groups)

    return Gathered([_describe(services, group_id, ctx.api_version) for group_id in request.groups], combine)


def _describe(services: Services, group_id: str, version: int) -> Reply:
    reply = Reply(lambda code: DescribedGroup(group_id=group_id, error_code=code))
    services.groups.submit(group_id, reply, lambda machine, out: machine.describe(out, reply, group_id, version))
    return reply
