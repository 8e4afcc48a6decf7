"""IncrementalAlterConfigs (44): set, delete, append to or subtract from single configs of a resource (KIP-339).

v0-v1; v1 is flexible. Each resource succeeds or fails by itself, and as a whole; one that is named twice fails.
"""

from __future__ import annotations

from collections import Counter

from broker.cluster.errors import AdminError, as_admin_error
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.incremental_alter_configs import (
    AlterConfigsResource,
    AlterConfigsResourceResponse,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from s3stream.catalog.api import CatalogError

API_KEY = ApiKey.INCREMENTAL_ALTER_CONFIGS
MIN_VERSION = 0
MAX_VERSION = 1


async def handle(
    services: Services, ctx: RequestContext, request: IncrementalAlterConfigsRequest
) -> IncrementalAlterConfigsResponse:
    times = Counter((each.resource_type, each.resource_name) for each in request.resources)
    responses = []
    for resource in request.resources:
        once = times[resource.resource_type, resource.resource_name] == 1
        responses.append(await _alter(services, resource, once, request.validate_only))
    return IncrementalAlterConfigsResponse(throttle_time_ms=ctx.throttle_time_ms, responses=responses)


async def _alter(
    services: Services, resource: AlterConfigsResource, once: bool, validate_only: bool
) -> AlterConfigsResourceResponse:
    response = AlterConfigsResourceResponse(
        error_message=None, resource_type=resource.resource_type, resource_name=resource.resource_name
    )
    try:
        if not once:
            raise AdminError(ErrorCode.INVALID_REQUEST, "Each resource must appear at most once.")
        await services.topics.configs.alter(
            resource.resource_type,
            resource.resource_name,
            [(each.name, each.config_operation, each.value) for each in resource.configs],
            validate_only=validate_only,
        )
    except (AdminError, CatalogError) as error:
        refusal = as_admin_error(error)
        response.error_code, response.error_message = refusal.code, refusal.message
    return response
