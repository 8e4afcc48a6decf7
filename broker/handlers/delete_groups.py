"""DeleteGroups (42): remove groups without members, and their offsets.

v0-v2. v2 flexible. A group with members is NON_EMPTY_GROUP, one that does not exist GROUP_ID_NOT_FOUND.
"""

from __future__ import annotations

from broker.coordinator.reply import Gathered, Reply
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.messages.delete_groups import DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse

API_KEY = ApiKey.DELETE_GROUPS
MIN_VERSION = 0
MAX_VERSION = 2


def handle(services: Services, ctx: RequestContext, request: DeleteGroupsRequest) -> Deferred:
    names = dict.fromkeys(request.groups_names)
    return Gathered(
        [_delete(services, group_id) for group_id in names], lambda results: DeleteGroupsResponse(results=results)
    )


def _delete(services: Services, group_id: str) -> Reply:
    reply = Reply(lambda code: DeletableGroupResult(group_id=group_id, error_code=code))
    services.groups.submit(group_id, reply, lambda machine, out: machine.delete_group(out, reply, group_id))
    return reply
