"""CreatePartitions (37): let topics grow.

v0-v3. v2 is flexible, v3 adds THROTTLING_QUOTA_EXCEEDED. `count` is the new total; INVALID_PARTITIONS unless it grows.
Assignments, if given, are those of the added partitions; the first replica leads.
"""

from __future__ import annotations

from collections import Counter

from broker.cluster.errors import AdminError, as_admin_error
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreatePartitionsTopicResult,
)
from s3stream.api import StorageError
from s3stream.catalog.api import CatalogError

API_KEY = ApiKey.CREATE_PARTITIONS
MIN_VERSION = 0
MAX_VERSION = 3


async def handle(services: Services, ctx: RequestContext, request: CreatePartitionsRequest) -> CreatePartitionsResponse:
    counts = Counter(topic.name for topic in request.topics)
    results = [
        _refused(name, AdminError(ErrorCode.INVALID_REQUEST, "Duplicate topic name."))
        for name, count in counts.items()
        if count > 1
    ]
    once = [topic for topic in request.topics if counts[topic.name] == 1]
    results += [await _extend(services, topic, request.validate_only) for topic in once]
    return CreatePartitionsResponse(throttle_time_ms=ctx.throttle_time_ms, results=results)


async def _extend(services: Services, asked: CreatePartitionsTopic, validate_only: bool) -> CreatePartitionsTopicResult:
    assignments = None if asked.assignments is None else [each.broker_ids for each in asked.assignments]
    try:
        await services.topics.create_partitions(asked.name, asked.count, assignments, validate_only=validate_only)
    except (AdminError, CatalogError, StorageError) as error:
        return _refused(asked.name, as_admin_error(error))
    return CreatePartitionsTopicResult(name=asked.name)


def _refused(name: str, error: AdminError) -> CreatePartitionsTopicResult:
    return CreatePartitionsTopicResult(name=name, error_code=error.code, error_message=error.message)
