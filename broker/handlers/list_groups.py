"""ListGroups (16): the groups that this broker coordinates.

v0-v5. v3 flexible; v4 filter by state (KIP-518); v5 filter by type (KIP-848). Filters ignore case.

While one of the partitions of `__consumer_offsets` led here is loading, the answer is COORDINATOR_LOAD_IN_PROGRESS: a
list that lacks groups would be taken for complete.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from broker.coordinator.group.machine import GroupMachine
from broker.coordinator.reply import Gathered, Reply
from broker.coordinator.shard import Shard
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.list_groups import ListGroupsRequest, ListGroupsResponse

API_KEY = ApiKey.LIST_GROUPS
MIN_VERSION = 0
MAX_VERSION = 5


def handle(services: Services, ctx: RequestContext, request: ListGroupsRequest) -> Deferred:
    states = frozenset(state.lower() for state in request.states_filter)
    types = frozenset(group_type.lower() for group_type in request.types_filter)
    return Gathered([_list(shard, states, types) for shard in [*services.groups.shards()]], _combine)


def _list(shard: Shard[GroupMachine], states: Collection[str], types: Collection[str]) -> Reply:
    reply = Reply(lambda code: code)
    shard.submit(None, reply, lambda machine, out: machine.list_groups(out, reply, states, types))
    return reply


def _combine(parts: list[Any]) -> ListGroupsResponse:
    """A shard that is gone has no groups here any more."""
    if any(part is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS for part in parts):
        return ListGroupsResponse(error_code=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
    return ListGroupsResponse(groups=[group for part in parts if isinstance(part, list) for group in part])
