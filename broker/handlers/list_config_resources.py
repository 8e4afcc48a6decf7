"""ListConfigResources (74): names of the resources that have or may have configs (KIP-1142).

v0 lists client metrics subscriptions only. v1 takes resource types; none means all. All topics and alive brokers are
listed, groups and subscriptions only if something is set on them.
"""

from __future__ import annotations

from broker.cluster.image import MetadataImage
from broker.config.definition import ResourceType
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.list_config_resources import (
    ConfigResource,
    ListConfigResourcesRequest,
    ListConfigResourcesResponse,
)

API_KEY = ApiKey.LIST_CONFIG_RESOURCES
MIN_VERSION = 0
MAX_VERSION = 1


def handle(services: Services, ctx: RequestContext, request: ListConfigResourcesRequest) -> ListConfigResourcesResponse:
    response = ListConfigResourcesResponse(throttle_time_ms=ctx.throttle_time_ms)
    if ctx.api_version == 0:
        asked = {int(ResourceType.CLIENT_METRICS)}
    else:
        asked = set(request.resource_types) or {int(each) for each in ResourceType}
    if not asked <= set(ResourceType):
        response.error_code = ErrorCode.UNSUPPORTED_VERSION
        return response
    response.config_resources = [
        ConfigResource(resource_name=name, resource_type=kind)
        for kind in sorted(asked)
        for name in _names(services.image, kind)
    ]
    return response


def _names(image: MetadataImage, resource_type: int) -> list[str]:
    match resource_type:
        case ResourceType.TOPIC:
            return [topic.name for topic in image.topics()]
        case ResourceType.BROKER | ResourceType.BROKER_LOGGER:
            return [str(broker.node_id) for broker in image.brokers()]
        case ResourceType.GROUP:
            return image.config_resources("group")
        case _:
            return image.config_resources("client-metrics")
