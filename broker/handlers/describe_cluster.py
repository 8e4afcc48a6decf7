"""DescribeCluster (60): cluster id, controller and brokers (KIP-700).

v0-v2. v1 adds the endpoint type (KIP-919): only brokers (1) are served here. v2 can include fenced brokers (KIP-1073).
"""

from __future__ import annotations

from broker.cluster.authorized import CLUSTER_OPERATIONS, NOT_ASKED
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.describe_cluster import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
)

API_KEY = ApiKey.DESCRIBE_CLUSTER
MIN_VERSION = 0
MAX_VERSION = 2

_BROKERS, _CONTROLLERS = 1, 2


def handle(services: Services, ctx: RequestContext, request: DescribeClusterRequest) -> DescribeClusterResponse:
    response = DescribeClusterResponse(throttle_time_ms=ctx.throttle_time_ms)
    if request.endpoint_type == _CONTROLLERS:
        response.error_code = ErrorCode.MISMATCHED_ENDPOINT_TYPE
        response.error_message = (
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER"
        )
        return response
    if request.endpoint_type != _BROKERS:
        response.error_code = ErrorCode.UNSUPPORTED_ENDPOINT_TYPE
        response.error_message = f"Unsupported endpoint type {request.endpoint_type}"
        return response
    image = services.image
    response.cluster_id = image.cluster_id
    response.controller_id = image.controller_id
    brokers = image.registered_brokers() if request.include_fenced_brokers else image.brokers()
    response.brokers = [
        DescribeClusterBroker(
            broker_id=each.node_id, host=each.host, port=each.port, rack=each.rack, is_fenced=not each.alive
        )
        for each in brokers
    ]
    asked = request.include_cluster_authorized_operations
    response.cluster_authorized_operations = CLUSTER_OPERATIONS if asked else NOT_ASKED
    return response
