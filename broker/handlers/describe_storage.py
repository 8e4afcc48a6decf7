"""DescribeStorage (20003, of tailrace): requests, caches, what is not uploaded yet, and what the partitions led here
hold. Asked by `tailrace storage`.

v0. Without `topics` all partitions led here that hold anything are listed, the largest first, up to `PARTITIONS_MAX`.
"""

from __future__ import annotations

import heapq

from broker.partition import Partition
from broker.request import RequestContext
from broker.services import Services
from protocol.errors import ErrorCode
from protocol.messages.describe_storage import (
    DescribeStorageRequest,
    DescribeStorageResponse,
    StorageOfPartition,
    StorageOfTopic,
)
from protocol.private_keys import PrivateApiKey
from s3stream.catalog.api import CatalogError

API_KEY = PrivateApiKey.DESCRIBE_STORAGE
MIN_VERSION = 0
MAX_VERSION = 0

PARTITIONS_MAX = 10_000


async def handle(services: Services, ctx: RequestContext, request: DescribeStorageRequest) -> DescribeStorageResponse:
    meter, usage, pressure = services.store_meter, services.storage.usage(), services.storage.pressure()
    response = DescribeStorageResponse(
        throttle_time_ms=ctx.throttle_time_ms,
        node_id=services.node_id,
        uptime_ms=meter.age_ms(),
        put_count=meter.put_count,
        get_count=meter.get_count,
        head_count=meter.head_count,
        list_count=meter.list_count,
        delete_count=meter.delete_count,
        failed_count=meter.failed_count,
        put_size=meter.put_size,
        get_size=meter.get_size,
        appended_size=usage.appended_size,
        cache_hit_count=usage.cache_hit_count,
        cache_miss_count=usage.cache_miss_count,
        compaction_read_size=usage.compaction_read_size,
        compaction_written_size=usage.compaction_written_size,
        unuploaded_size=pressure.unuploaded_size,
        unuploaded_age_ms=pressure.unuploaded_age_ms,
        topics=_topics(services, request.topics),
    )
    if request.include_objects:
        try:
            totals = await services.catalog.object_totals()
        except CatalogError:
            return DescribeStorageResponse(error_code=ErrorCode.COORDINATOR_NOT_AVAILABLE, node_id=services.node_id)
        response.object_count, response.object_size = totals.count, totals.size
        response.unneeded_count = totals.unneeded_count
    return response


def _topics(services: Services, names: list[str] | None) -> list[StorageOfTopic]:
    wanted = None if names is None else set(names)
    held = [each for each in services.partitions.all() if wanted is None or each.topic in wanted]
    if wanted is None:
        held = heapq.nlargest(PARTITIONS_MAX, (each for each in held if each.size), key=lambda each: each.size)
    topics: dict[str, StorageOfTopic] = {}
    for partition in held:
        topic = topics.setdefault(partition.topic, StorageOfTopic(name=partition.topic))
        topic.partitions.append(_partition(partition))
    return list(topics.values())


def _partition(partition: Partition) -> StorageOfPartition:
    return StorageOfPartition(
        partition_index=partition.index,
        size=partition.size,
        object_count=len(partition.log.ranges()),
        unuploaded_size=partition.log.unuploaded_size,
    )
