"""ApiVersions (18): which APIs, and which versions of them, this broker serves.

v0-v4. v1 adds throttle_time_ms; v3 is flexible, names the client's software and answers with feature levels (KIP-584);
v4 may list features whose lowest level is 0, which v3 leaves out of those that are supported. An unsupported version is
answered with UNSUPPORTED_VERSION in the v0 layout, together with this API's own range, so that the client can ask again
(KIP-511); the connection does that before the body is decoded, with `unsupported_version_response`.

Produce is listed from version 0 although 3 is the first one served: librdkafka takes a broker that does not list 0 for
one that is too old to produce to (Apache Kafka 4 answers the same way, KAFKA-18659).
"""

from __future__ import annotations

import re

from broker import handlers
from broker.cluster.features import EPOCH, FEATURES
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.api_versions import (
    ApiVersion,
    ApiVersionsRequest,
    ApiVersionsResponse,
    FinalizedFeatureKey,
    SupportedFeatureKey,
)
from protocol.private_keys import is_private

API_KEY = ApiKey.API_VERSIONS
MIN_VERSION = 0
MAX_VERSION = 4

_LOWEST_LEVEL_0_SINCE = 4
_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?").fullmatch
_api_versions: list[ApiVersion] = []


def handle(services: Services, ctx: RequestContext, request: ApiVersionsRequest) -> ApiVersionsResponse:
    if ctx.api_version >= 3 and not (
        _SOFTWARE(request.client_software_name) and _SOFTWARE(request.client_software_version)
    ):
        return ApiVersionsResponse(error_code=ErrorCode.INVALID_REQUEST)
    lowest = 0 if ctx.api_version >= _LOWEST_LEVEL_0_SINCE else 1
    return ApiVersionsResponse(
        api_keys=_served(),
        throttle_time_ms=ctx.throttle_time_ms,
        supported_features=[
            SupportedFeatureKey(name=each.name, min_version=each.min_level, max_version=each.max_level)
            for each in FEATURES
            if each.min_level >= lowest
        ],
        finalized_features_epoch=EPOCH,
        finalized_features=[
            FinalizedFeatureKey(
                name=each.name, max_version_level=each.finalized_level, min_version_level=each.finalized_level
            )
            for each in FEATURES
        ],
    )


def unsupported_version_response() -> ApiVersionsResponse:
    """To be encoded as version 0."""
    own = ApiVersion(api_key=API_KEY, min_version=MIN_VERSION, max_version=MAX_VERSION)
    return ApiVersionsResponse(error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=[own])


def _served() -> list[ApiVersion]:
    if not _api_versions:
        _api_versions.extend(
            ApiVersion(
                api_key=module.API_KEY,
                min_version=0 if module.API_KEY == ApiKey.PRODUCE else module.MIN_VERSION,
                max_version=module.MAX_VERSION,
            )
            for module in handlers.MODULES
            if not is_private(module.API_KEY)
        )
    return _api_versions
