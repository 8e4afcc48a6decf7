"""ListOffsets (2): offsets of partitions by time, and the ends of their logs.

v1-v11. v2 isolation level; v4 leader epochs (KIP-320); v6 flexible; v7 max timestamp (KIP-734); v8 earliest local
(KIP-405); v9 latest tiered (KIP-1005); v10 timeout for asynchronous look-ups; v11 earliest pending upload (KIP-1023).

=========  =======================================================================================================
timestamp  answer
=========  =======================================================================================================
>= 0       the first record at or after it, with the record's own timestamp; offset -1 if there is none
-1         the end of what may be read: high watermark, or last stable offset under read_committed
-2         the log start offset
-3         the first record with the largest timestamp
-4         the log start offset: there are no tiers here, the whole log counts as local
-5, -6     offset -1: nothing counts as tiered, or as waiting for it
=========  =======================================================================================================
"""

from __future__ import annotations

from collections.abc import Awaitable

from broker.handoff.arrival import arrived
from broker.leadership import absence_code
from broker.partition.errors import PartitionError, code_of
from broker.partition.log_view import READ_COMMITTED
from broker.partition.partition import Partition
from broker.partition.time_lookup import TimestampOffset
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode, InvalidBatch
from protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from s3stream.api import StorageError

API_KEY = ApiKey.LIST_OFFSETS
MIN_VERSION = 1
MAX_VERSION = 11

LATEST = -1
EARLIEST = -2
MAX_TIMESTAMP = -3
EARLIEST_LOCAL = -4
LATEST_TIERED = -5
EARLIEST_PENDING_UPLOAD = -6
_SINCE = {MAX_TIMESTAMP: 7, EARLIEST_LOCAL: 8, LATEST_TIERED: 9, EARLIEST_PENDING_UPLOAD: 11}
_SYNCHRONOUS = frozenset((LATEST, EARLIEST, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD))

_NO_TIMESTAMP = -1
_NO_RECORD = TimestampOffset(_NO_TIMESTAMP, -1, -1)


def handle(
    services: Services, ctx: RequestContext, request: ListOffsetsRequest
) -> ListOffsetsResponse | Awaitable[ListOffsetsResponse]:
    """Only look-ups by time, and partitions on their way here, have to be waited for."""
    arriving = [
        (topic.name, wanted.partition_index)
        for topic in request.topics
        for wanted in topic.partitions
        if services.partitions.readable(topic.name, wanted.partition_index) is None
        and services.partitions.in_transit(topic.name, wanted.partition_index)
    ]
    if arriving:
        return _answer_after(services, ctx, request, arriving)
    return _answer(services, ctx, request)


async def _answer_after(
    services: Services, ctx: RequestContext, request: ListOffsetsRequest, arriving: list[tuple[str, int]]
) -> ListOffsetsResponse:
    await arrived(services.partitions, arriving)
    response = _answer(services, ctx, request)
    return response if isinstance(response, ListOffsetsResponse) else await response


def _answer(
    services: Services, ctx: RequestContext, request: ListOffsetsRequest
) -> ListOffsetsResponse | Awaitable[ListOffsetsResponse]:
    response = ListOffsetsResponse(throttle_time_ms=ctx.throttle_time_ms)
    by_time: list[tuple[str, ListOffsetsPartition, ListOffsetsPartitionResponse]] = []
    duplicates = _duplicates(request)
    for topic in request.topics:
        answered = ListOffsetsTopicResponse(name=topic.name)
        response.topics.append(answered)
        for wanted in topic.partitions:
            answer = ListOffsetsPartitionResponse(partition_index=wanted.partition_index)
            answered.partitions.append(answer)
            if (topic.name, wanted.partition_index) in duplicates:
                answer.error_code = ErrorCode.INVALID_REQUEST
            elif ctx.api_version < _SINCE.get(wanted.timestamp, 0) or wanted.timestamp < EARLIEST_PENDING_UPLOAD:
                answer.error_code = ErrorCode.UNSUPPORTED_VERSION
            elif wanted.timestamp in _SYNCHRONOUS:
                _answer_end(services, topic.name, wanted, answer, request.isolation_level)
            else:
                by_time.append((topic.name, wanted, answer))
    if by_time:
        return _answer_by_time(services, response, by_time, request.isolation_level)
    return response


def _answer_end(
    services: Services,
    topic: str,
    wanted: ListOffsetsPartition,
    answer: ListOffsetsPartitionResponse,
    isolation_level: int,
) -> None:
    try:
        partition = _find(services, topic, wanted)
    except PartitionError as error:
        answer.error_code = error.code
        return
    if wanted.timestamp == LATEST:
        committed_only = isolation_level == READ_COMMITTED
        answer.offset = partition.last_stable_offset if committed_only else partition.high_watermark
        answer.leader_epoch = partition.leader_epoch
    elif wanted.timestamp in (EARLIEST, EARLIEST_LOCAL):
        answer.offset = partition.log_start_offset
        answer.leader_epoch = partition.leader_epochs.epoch_at(answer.offset)


async def _answer_by_time(
    services: Services,
    response: ListOffsetsResponse,
    by_time: list[tuple[str, ListOffsetsPartition, ListOffsetsPartitionResponse]],
    isolation_level: int,
) -> ListOffsetsResponse:
    for topic, wanted, answer in by_time:
        try:
            partition = _find(services, topic, wanted)
            if wanted.timestamp == MAX_TIMESTAMP:
                found = await partition.max_timestamp_offset(isolation_level)
            else:
                found = await partition.offset_for_timestamp(wanted.timestamp, isolation_level)
        except (PartitionError, StorageError, InvalidBatch) as error:
            # records are opaque to Produce: that a batch cannot be decoded may show only here
            answer.error_code = code_of(error)
        else:
            answer.timestamp, answer.offset, answer.leader_epoch = found or _NO_RECORD
    return response


def _find(services: Services, topic: str, wanted: ListOffsetsPartition) -> Partition:
    partition = services.partitions.readable(topic, wanted.partition_index)
    if partition is None:
        raise PartitionError(absence_code(services.image.topic(topic), wanted.partition_index))
    partition.check_leader_epoch(wanted.current_leader_epoch)
    return partition


def _duplicates(request: ListOffsetsRequest) -> set[tuple[str, int]]:
    seen: set[tuple[str, int]] = set()
    duplicates: set[tuple[str, int]] = set()
    for topic in request.topics:
        for wanted in topic.partitions:
            key = (topic.name, wanted.partition_index)
            (duplicates if key in seen else seen).add(key)
    return duplicates
