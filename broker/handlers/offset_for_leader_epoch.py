"""OffsetForLeaderEpoch (23): where an epoch ended, so that a consumer notices that its log is not ours any more.

v2-v4. v2 current leader epoch (KIP-320); v3 replica id; v4 flexible. The current epoch ends, so far, at the high
watermark: nothing above it has been shown to anybody.
"""

from __future__ import annotations

from broker.leadership import absence_code
from broker.partition.errors import PartitionError
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.messages.offset_for_leader_epoch import (
    EpochEndOffset,
    OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
)

API_KEY = ApiKey.OFFSET_FOR_LEADER_EPOCH
MIN_VERSION = 2
MAX_VERSION = 4


def handle(
    services: Services, ctx: RequestContext, request: OffsetForLeaderEpochRequest
) -> OffsetForLeaderEpochResponse:
    return OffsetForLeaderEpochResponse(
        throttle_time_ms=ctx.throttle_time_ms,
        topics=[
            OffsetForLeaderTopicResult(
                topic=topic.topic, partitions=[_look_up(services, topic.topic, wanted) for wanted in topic.partitions]
            )
            for topic in request.topics
        ],
    )


def _look_up(services: Services, topic: str, wanted: OffsetForLeaderPartition) -> EpochEndOffset:
    partition = services.partitions.readable(topic, wanted.partition)
    if partition is None:
        code = absence_code(services.image.topic(topic), wanted.partition)
        return EpochEndOffset(error_code=code, partition=wanted.partition)
    try:
        partition.check_leader_epoch(wanted.current_leader_epoch)
    except PartitionError as error:
        return EpochEndOffset(error_code=error.code, partition=wanted.partition)
    epoch, end_offset = partition.end_offset_for_epoch(wanted.leader_epoch)
    return EpochEndOffset(partition=wanted.partition, leader_epoch=epoch, end_offset=end_offset)
