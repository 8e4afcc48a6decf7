"""WriteTxnMarkers (27): a transaction coordinator ends transactions in partitions that are led here.

v1-v2. v1 flexible; v2 transaction version: from 2 on the marker's epoch is above that of the transaction (KIP-890).

* A partition is answered when its marker is durable. The coordinator repeats what was not answered, so a marker may be
  written twice; the second ends nothing.
* INVALID_PRODUCER_EPOCH and TRANSACTION_COORDINATOR_FENCED: somebody newer is at work, and the coordinator gives up.
  Everything else it tries again: NOT_LEADER_OR_FOLLOWER, UNKNOWN_TOPIC_OR_PARTITION, KAFKA_STORAGE_ERROR.
* In `__consumer_offsets` the group coordinator writes the marker: the offsets of the transaction become visible by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from broker.cluster.names import CONSUMER_OFFSETS
from broker.coordinator.reply import Gathered
from broker.leadership import absence_code
from broker.partition.errors import PartitionError, code_of
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerPartitionResult,
    WritableTxnMarkerResult,
    WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from s3stream.api import StorageError

API_KEY = ApiKey.WRITE_TXN_MARKERS
MIN_VERSION = 1
MAX_VERSION = 2


class _Written(Deferred):
    """One marker in one partition: completes with an error code."""

    __slots__ = ()

    def durable(self, error: StorageError | None) -> None:
        self.complete(ErrorCode.NONE if error is None else code_of(error))


def handle(services: Services, ctx: RequestContext, request: WriteTxnMarkersRequest) -> Deferred:
    parts = [
        _write(services, marker, topic.name, index)
        for marker in request.markers
        for topic in marker.topics
        for index in topic.partition_indexes
    ]
    return Gathered(parts, partial(_answer, request))


def _write(services: Services, marker: WritableTxnMarker, topic: str, index: int) -> Deferred:
    partition = services.partitions.get(topic, index)
    written = _Written()
    if partition is None:
        written.complete(absence_code(services.image.topic(topic), index))
        return written
    if topic == CONSUMER_OFFSETS:
        return services.groups.complete_transaction(
            index,
            marker.producer_id,
            marker.producer_epoch,
            marker.coordinator_epoch,
            marker.transaction_result,
            marker.transaction_version,
        )
    try:
        end_offset = partition.append_marker(
            marker.producer_id,
            marker.producer_epoch,
            marker.coordinator_epoch,
            marker.transaction_result,
            services.now_ms(),
            marker.transaction_version,
        )
    except (PartitionError, StorageError) as error:
        written.complete(code_of(error))
    else:
        partition.when_high_watermark(end_offset, written.durable)
    return written


def _answer(request: WriteTxnMarkersRequest, codes: Sequence[Any]) -> WriteTxnMarkersResponse:
    outcomes = iter(codes)
    return WriteTxnMarkersResponse(
        markers=[
            WritableTxnMarkerResult(
                producer_id=marker.producer_id,
                topics=[
                    WritableTxnMarkerTopicResult(
                        name=topic.name,
                        partitions=[
                            WritableTxnMarkerPartitionResult(partition_index=index, error_code=next(outcomes))
                            for index in topic.partition_indexes
                        ],
                    )
                    for topic in marker.topics
                ],
            )
            for marker in request.markers
        ]
    )
