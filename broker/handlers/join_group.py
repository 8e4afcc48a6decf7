"""JoinGroup (11): become, or stay, a member of a group; answered when the group's next generation begins.

v0-v9. v1 rebalance timeout; v4 MEMBER_ID_REQUIRED (KIP-394); v5 instance id (KIP-345); v6 flexible; v7 protocol type in
the answer (KIP-559); v8 reason (KIP-800); v9 skip_assignment for a static leader that comes back (KIP-814).

The leader's answer carries everybody's metadata. See `broker.coordinator.group.membership` for the rest.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from broker.coordinator.group.answers import JoinContext, join_error
from broker.coordinator.group.records import NAME_LENGTH_MAX
from broker.coordinator.reply import Gathered, Reply
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.join_group import JoinGroupRequest, JoinGroupResponse

API_KEY = ApiKey.JOIN_GROUP
MIN_VERSION = 0
MAX_VERSION = 9

METADATA_SIZE_MAX = 1 << 20
"""Of all protocols of a member. A generation with more could hardly be recorded, and groups stay in memory."""
_NULL_PROTOCOL_SINCE = 7


def handle(services: Services, ctx: RequestContext, request: JoinGroupRequest) -> JoinGroupResponse | Deferred:
    member_id = request.member_id
    reply = Reply(lambda code: join_error(code, member_id))
    context = JoinContext(ctx.api_version, ctx.client_id or "", f"/{ctx.client_host}", str(uuid4()))
    if not 0 < len(request.group_id) <= NAME_LENGTH_MAX:
        reply.refuse(ErrorCode.INVALID_GROUP_ID)
    elif (
        _longest_name(ctx, request) > NAME_LENGTH_MAX
        or sum(len(each.metadata) for each in request.protocols) > METADATA_SIZE_MAX
    ):
        reply.refuse(ErrorCode.INVALID_REQUEST)
    else:
        services.groups.submit(request.group_id, reply, lambda machine, out: machine.join(out, reply, request, context))
    if ctx.api_version < _NULL_PROTOCOL_SINCE:
        return Gathered([reply], _without_null)
    settled: JoinGroupResponse | Deferred = reply.settled()
    return settled


def _longest_name(ctx: RequestContext, request: JoinGroupRequest) -> int:
    """In characters, of what goes into the group's record."""
    names = (
        ctx.client_id,
        request.group_instance_id,
        request.protocol_type,
        *(each.name for each in request.protocols),
    )
    return max(len(name) for name in names if name is not None)


def _without_null(parts: list[Any]) -> JoinGroupResponse:
    response: JoinGroupResponse = parts[0]
    response.protocol_name = response.protocol_name or ""
    return response
