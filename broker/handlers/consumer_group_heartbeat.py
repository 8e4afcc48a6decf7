"""ConsumerGroupHeartbeat (68): join, stay in, and leave a group of the new protocol; learn what to own (KIP-848).

v0-v1. v1: regular expressions, and the member id comes from the client (KIP-1082); with v0 the coordinator makes it.

Member epochs: 0 joins, -1 leaves, -2 leaves for a while (static members). Null fields have not changed. An answer
without an assignment means that it has not changed. See `broker.coordinator.group.consumer` for the rest.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from uuid import uuid4

from broker.coordinator.group.consumer.heartbeat import HeartbeatContext
from broker.coordinator.group.consumer.values import JOIN_EPOCH, STATIC_LEAVE_EPOCH
from broker.coordinator.group.records import NAME_LENGTH_MAX
from broker.coordinator.reply import Reply
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse

API_KEY = ApiKey.CONSUMER_GROUP_HEARTBEAT
MIN_VERSION = 0
MAX_VERSION = 1

_MEMBER_ID_REQUIRED_SINCE = 1


def handle(
    services: Services, ctx: RequestContext, request: ConsumerGroupHeartbeatRequest
) -> ConsumerGroupHeartbeatResponse | Deferred:
    why = _what_is_wrong(ctx, request)
    if why is not None:
        return ConsumerGroupHeartbeatResponse(error_code=ErrorCode.INVALID_REQUEST, error_message=why)
    reply = Reply(lambda code: ConsumerGroupHeartbeatResponse(error_code=code))
    new_id = urlsafe_b64encode(uuid4().bytes).rstrip(b"=").decode()
    context = HeartbeatContext(ctx.client_id or "", f"/{ctx.client_host}", new_id)
    services.groups.submit(
        request.group_id, reply, lambda machine, out: machine.consumers.heartbeat(out, reply, request, context)
    )
    settled: ConsumerGroupHeartbeatResponse | Deferred = reply.settled()
    return settled


def _what_is_wrong(ctx: RequestContext, request: ConsumerGroupHeartbeatRequest) -> str | None:
    joining = request.member_epoch == JOIN_EPOCH
    makes_id = joining and ctx.api_version < _MEMBER_ID_REQUIRED_SINCE
    if not request.group_id.strip():
        return "GroupId can't be empty."
    if not request.member_id.strip() and not (makes_id and not request.member_id):
        return "MemberId can't be empty."
    for name, value in (("InstanceId", request.instance_id), ("RackId", request.rack_id)):
        if value is not None and not value.strip():
            return f"{name} can't be empty."
    if joining:
        if request.rebalance_timeout_ms == -1:
            return "RebalanceTimeoutMs must be provided in first request."
        if request.topic_partitions is None or request.topic_partitions:
            return "TopicPartitions must be empty when (re-)joining."
        if request.subscribed_topic_names is None and request.subscribed_topic_regex is None:
            return "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."
    if request.member_epoch == STATIC_LEAVE_EPOCH and request.instance_id is None:
        return "InstanceId can't be null."
    if request.member_epoch < STATIC_LEAVE_EPOCH:
        return "MemberEpoch is invalid."
    names = (request.group_id, request.member_id, request.instance_id, request.rack_id, request.subscribed_topic_regex)
    if any(len(name) > NAME_LENGTH_MAX for name in names if name is not None):
        return "A name is too long."
    return None
