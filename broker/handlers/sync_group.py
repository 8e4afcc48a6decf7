"""SyncGroup (14): the leader brings the assignment of a generation, everybody takes theirs.

v0-v5. v3 instance id (KIP-345); v4 flexible; v5 protocol type and name, which are then mandatory (KIP-559).

Followers wait for the leader; all are answered once the assignment is durable.
"""

from __future__ import annotations

from broker.coordinator.reply import Reply
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse

API_KEY = ApiKey.SYNC_GROUP
MIN_VERSION = 0
MAX_VERSION = 5

_PROTOCOL_SINCE = 5


def handle(services: Services, ctx: RequestContext, request: SyncGroupRequest) -> SyncGroupResponse | Deferred:
    if not request.group_id:
        return SyncGroupResponse(error_code=ErrorCode.INVALID_GROUP_ID)
    if ctx.api_version >= _PROTOCOL_SINCE and (request.protocol_type is None or request.protocol_name is None):
        return SyncGroupResponse(error_code=ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
    reply = Reply(lambda code: SyncGroupResponse(error_code=code))
    services.groups.submit(request.group_id, reply, lambda machine, out: machine.sync(out, reply, request))
    settled: SyncGroupResponse | Deferred = reply.settled()
    return settled
