"""Heartbeat (12): a member is alive; learns whether a rebalance has begun.

v0-v4. v3 instance id (KIP-345); v4 flexible. REBALANCE_IN_PROGRESS asks the member to join again. While the coordinator
is loading, heartbeats wait for it, and are answered without error, as by Kafka, if that takes long: sessions begin anew
once it has loaded.
"""

from __future__ import annotations

from broker.coordinator.reply import Reply
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse

API_KEY = ApiKey.HEARTBEAT
MIN_VERSION = 0
MAX_VERSION = 4


def handle(services: Services, ctx: RequestContext, request: HeartbeatRequest) -> HeartbeatResponse | Deferred:
    if not request.group_id:
        return HeartbeatResponse(error_code=ErrorCode.INVALID_GROUP_ID)
    reply = Reply(_refusal)
    services.groups.submit(request.group_id, reply, lambda machine, out: machine.heartbeat(out, reply, request))
    settled: HeartbeatResponse | Deferred = reply.settled()
    return settled


def _refusal(code: ErrorCode) -> HeartbeatResponse:
    return HeartbeatResponse(error_code=ErrorCode.NONE if code is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS else code)
