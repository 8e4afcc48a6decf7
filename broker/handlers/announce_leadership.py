"""AnnounceLeadership (20002, of tailrace): another broker hands partitions over to this one.

v0. This broker looks into the catalog at once, rather than when it would anyway. While the other one still serves
(`handed_over` false) it also reads ahead what it needs to open the partitions, for a bounded time. It believes the
catalog only: whoever else sends this causes a look, no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from broker.leadership import find_partition
from broker.request import RequestContext
from broker.services import Services
from protocol.errors import ErrorCode
from protocol.messages.announce_leadership import (
    AnnouncedTopic,
    AnnounceLeadershipRequest,
    AnnounceLeadershipResponse,
)
from protocol.private_keys import PrivateApiKey
from s3stream.catalog.api import CatalogError

log = structlog.get_logger()

API_KEY = PrivateApiKey.ANNOUNCE_LEADERSHIP
MIN_VERSION = 0
MAX_VERSION = 0

PRELOAD_MAX_S = 4.0
"""What is not read ahead by then is read when the partitions are opened."""


async def handle(
    services: Services, ctx: RequestContext, request: AnnounceLeadershipRequest
) -> AnnounceLeadershipResponse:
    code = ErrorCode.NONE
    try:
        await services.image.refresh()
        if not request.handed_over:
            expected = _expected_streams(services, request.topics)
            async with asyncio.timeout(PRELOAD_MAX_S):
                await services.storage.preload_streams(expected)
    except (CatalogError, TimeoutError) as error:
        log.info("not ready for partitions that are handed over", node=request.node_id, error=repr(error))
        code = ErrorCode.COORDINATOR_NOT_AVAILABLE
    return AnnounceLeadershipResponse(throttle_time_ms=ctx.throttle_time_ms, error_code=code)


def _expected_streams(services: Services, topics: Iterable[AnnouncedTopic]) -> list[int]:
    """Of those partitions that the catalog says are to be led here."""
    found: list[int] = []
    for announced in topics:
        topic = services.image.topic_by_id(announced.topic_id)
        for index in announced.partition_indexes:
            partition = find_partition(topic, index)
            if partition is not None and partition.target == services.node_id:
                found += (partition.log_stream_id, partition.state_stream_id)
    return found
