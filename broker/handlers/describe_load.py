"""DescribeLoad (20000, of tailrace): what this broker has to do. Asked by the broker that balances.

v0. Partitions that have nothing to do are left out; of very many the busiest are listed, and all are in the totals.
"""

from __future__ import annotations

from broker.request import RequestContext
from broker.services import Services
from protocol.messages.describe_load import (
    DescribeLoadRequest,
    DescribeLoadResponse,
    LoadOfPartition,
    LoadOfTopic,
)
from protocol.private_keys import PrivateApiKey

API_KEY = PrivateApiKey.DESCRIBE_LOAD
MIN_VERSION = 0
MAX_VERSION = 0

PARTITIONS_MAX = 1000


def handle(services: Services, ctx: RequestContext, request: DescribeLoadRequest) -> DescribeLoadResponse:
    meter = services.load_meter
    response = DescribeLoadResponse(
        throttle_time_ms=ctx.throttle_time_ms,
        node_id=services.node_id,
        metadata_seq=services.image.seq,
        cpu=meter.total.cpu,
        bytes_in=meter.total.bytes_in,
        bytes_out=meter.total.bytes_out,
        requests=meter.total.requests,
    )
    topics: dict[bytes, LoadOfTopic] = {}
    for partition in meter.busiest(PARTITIONS_MAX) if request.include_partitions else ():
        load = partition.load
        topic = topics.get(partition.topic_id)
        if topic is None:
            topic = topics[partition.topic_id] = LoadOfTopic(topic_id=partition.topic_id)
            response.topics.append(topic)
        topic.partitions.append(
            LoadOfPartition(
                partition_index=partition.index,
                bytes_in=load.bytes_in_rate,
                bytes_out=load.bytes_out_rate,
                requests=load.request_rate,
            )
        )
    return response
