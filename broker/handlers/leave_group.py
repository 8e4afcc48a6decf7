"""LeaveGroup (13): members go, which begins a rebalance at once.

v0-v5. v0-v2 one member, whose error is the response's; v3 several, by member id or instance id, each with its own error
(KIP-345); v4 flexible; v5 reason (KIP-800).
"""

from __future__ import annotations

from typing import Any

from broker.coordinator.reply import Gathered, Reply
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberIdentity

API_KEY = ApiKey.LEAVE_GROUP
MIN_VERSION = 0
MAX_VERSION = 5

_SEVERAL_MEMBERS_SINCE = 3


def handle(services: Services, ctx: RequestContext, request: LeaveGroupRequest) -> LeaveGroupResponse | Deferred:
    if not request.group_id:
        return LeaveGroupResponse(error_code=ErrorCode.INVALID_GROUP_ID)
    several = ctx.api_version >= _SEVERAL_MEMBERS_SINCE
    group_id = request.group_id
    identities = request.members if several else [MemberIdentity(member_id=request.member_id)]
    reply = Reply(lambda code: LeaveGroupResponse(error_code=code))
    services.groups.submit(group_id, reply, lambda machine, out: machine.leave(out, reply, group_id, identities))
    return reply if several else Gathered([reply], _single)


def _single(parts: list[Any]) -> LeaveGroupResponse:
    response: LeaveGroupResponse = parts[0]
    code = response.error_code or response.members[0].error_code
    return LeaveGroupResponse(error_code=code)
