"""Who leads a partition, for requests that came to the wrong broker (KIP-951)."""

from __future__ import annotations

from broker.cluster.image import MetadataImage
from protocol.errors import ErrorCode
from s3stream.catalog.api import BrokerInfo, PartitionInfo, TopicInfo


def find_partition(topic: TopicInfo | None, index: int) -> PartitionInfo | None:
    """What the metadata says of a partition; indexes come from clients."""
    if topic is None or not 0 <= index < len(topic.partitions):
        return None
    return topic.partitions[index]


def absence_code(topic: TopicInfo | None, index: int) -> ErrorCode:
    """Why a partition is not served here: it does not exist, or another broker leads it (or this one does not yet)."""
    if find_partition(topic, index) is None:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return ErrorCode.NOT_LEADER_OR_FOLLOWER


def current_leader(image: MetadataImage, topic: TopicInfo | None, index: int) -> tuple[int, BrokerInfo] | None:
    """Leader epoch and broker of the leader; None if it is unknown or not alive."""
    partition = find_partition(topic, index)
    if partition is None:
        return None
    broker = image.broker(partition.leader)
    if broker is None or broker not in image.brokers():
        return None
    return partition.leader_epoch, broker
