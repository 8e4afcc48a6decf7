"""DeleteRecords (21): move the log start offset of partitions forward.

v0-v2. v2 flexible. Offset -1 stands for the high watermark. Reads below the new start end at once; the answer leaves
when the new start is durable. An offset below the log start changes nothing and is answered with the log start; one
above the high watermark is OFFSET_OUT_OF_RANGE. Topics that are only compacted refuse with POLICY_VIOLATION, internal
ones with INVALID_TOPIC_EXCEPTION.
"""

from __future__ import annotations

import asyncio

from broker.leadership import absence_code
from broker.partition.errors import PartitionError, code_of
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)
from s3stream.api import StorageError
from s3stream.catalog.api import CatalogError

API_KEY = ApiKey.DELETE_RECORDS
MIN_VERSION = 0
MAX_VERSION = 2

_UNKNOWN_LOW_WATERMARK = -1


async def handle(services: Services, ctx: RequestContext, request: DeleteRecordsRequest) -> DeleteRecordsResponse:
    topics = []
    for topic in request.topics:
        work = (_delete(services, topic.name, wanted) for wanted in topic.partitions)
        topics.append(DeleteRecordsTopicResult(name=topic.name, partitions=list(await asyncio.gather(*work))))
    return DeleteRecordsResponse(throttle_time_ms=ctx.throttle_time_ms, topics=topics)


async def _delete(services: Services, topic: str, wanted: DeleteRecordsPartition) -> DeleteRecordsPartitionResult:
    result = DeleteRecordsPartitionResult(partition_index=wanted.partition_index, low_watermark=_UNKNOWN_LOW_WATERMARK)
    try:
        result.low_watermark = await _delete_before(services, topic, wanted)
    except (PartitionError, StorageError) as error:
        result.error_code = code_of(error)
    except CatalogError:
        result.error_code = ErrorCode.KAFKA_STORAGE_ERROR
    return result


async def _delete_before(services: Services, topic: str, wanted: DeleteRecordsPartition) -> int:
    info = services.image.topic(topic)
    if info is not None and info.internal:
        raise PartitionError(ErrorCode.INVALID_TOPIC_EXCEPTION)
    partition = services.partitions.get(topic, wanted.partition_index)
    if partition is None:
        raise PartitionError(absence_code(info, wanted.partition_index))
    if partition.config.compacts and not partition.config.deletes:
        raise PartitionError(ErrorCode.POLICY_VIOLATION)
    return await partition.delete_records(wanted.offset)
