"""DescribeProducers (61): the producers that partitions know, with their open transactions (KIP-664).

v0, flexible. Answered by the leader of each partition. Tools find hanging transactions by it: open here since long, and
unknown to their coordinator.
"""

from __future__ import annotations

from broker.leadership import absence_code
from broker.partition import Partition
from broker.request import RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.messages.describe_producers import (
    DescribeProducersRequest,
    DescribeProducersResponse,
    PartitionResponse,
    ProducerState,
    TopicResponse,
)

API_KEY = ApiKey.DESCRIBE_PRODUCERS
MIN_VERSION = 0
MAX_VERSION = 0


def handle(services: Services, ctx: RequestContext, request: DescribeProducersRequest) -> DescribeProducersResponse:
    return DescribeProducersResponse(
        throttle_time_ms=ctx.throttle_time_ms,
        topics=[
            TopicResponse(
                name=topic.name,
                partitions=[_describe(services, topic.name, index) for index in topic.partition_indexes],
            )
            for topic in request.topics
        ],
    )


def _describe(services: Services, topic: str, index: int) -> PartitionResponse:
    partition = services.partitions.get(topic, index)
    if partition is None:
        code = absence_code(services.image.topic(topic), index)
        return PartitionResponse(partition_index=index, error_code=code)
    return PartitionResponse(partition_index=index, active_producers=_producers(partition))


def _producers(partition: Partition) -> list[ProducerState]:
    return [
        ProducerState(
            producer_id=each.producer_id,
            producer_epoch=each.epoch,
            last_sequence=each.last_sequence,
            last_timestamp=each.last_timestamp,
            coordinator_epoch=each.coordinator_epoch,
            current_txn_start_offset=each.current_txn_first_offset,
        )
        for each in partition.active_producers()
    ]
