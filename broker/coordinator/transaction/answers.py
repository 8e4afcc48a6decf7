"""Parts of answers that several transaction APIs share."""

from __future__ import annotations

from collections.abc import Mapping

from broker.coordinator.transaction.records import TopicPartition
from protocol.errors import ErrorCode
from protocol.messages.add_partitions_to_txn import AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult


def known_code(code: ErrorCode, knows_fenced: bool) -> ErrorCode:
    """Clients from before KIP-588 know a fenced producer by INVALID_PRODUCER_EPOCH."""
    if code is ErrorCode.PRODUCER_FENCED and not knows_fenced:
        return ErrorCode.INVALID_PRODUCER_EPOCH
    return code


def topic_results(codes: Mapping[TopicPartition, ErrorCode]) -> list[AddPartitionsToTxnTopicResult]:
    topics: dict[str, AddPartitionsToTxnTopicResult] = {}
    for (topic, index), code in codes.items():
        result = topics.get(topic)
        if result is None:
            result = topics[topic] = AddPartitionsToTxnTopicResult(name=topic)
        result.results_by_partition.append(
            AddPartitionsToTxnPartitionResult(partition_index=index, partition_error_code=code)
        )
    return [*topics.values()]
