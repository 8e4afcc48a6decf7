"""AnnounceLeadership (20002, of tailrace): another broker hands partitions over to this one.

v0. This broker looks into the catalog at once, rather than when it would anyway. It believes the catalog only: whoever
else sends this causes a look, no more.
"""

from __future__ import annotations

from broker.request import RequestContext
from broker.services import Services
from protocol.errors import ErrorCode
from protocol.messages.announce_leadership import AnnounceLeadershipRequest, AnnounceLeadershipResponse
from protocol.private_keys import PrivateApiKey
from s3stream.catalog.api import CatalogError

API_KEY = PrivateApiKey.ANNOUNCE_LEADERSHIP
MIN_VERSION = 0
MAX_VERSION = 0


async def handle(
    services: Services, ctx: RequestContext, request: AnnounceLeadershipRequest
) -> AnnounceLeadershipResponse:
    code = ErrorCode.NONE
    try:
        await services.image.refresh()
    except CatalogError:
        code = ErrorCode.COORDINATOR_NOT_AVAILABLE
    return AnnounceLeadershipResponse(throttle_time_ms=ctx.throttle_time_ms, error_code=code)
