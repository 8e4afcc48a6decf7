"""What clients are told of partitions: leader, replicas, in-sync replicas, or that there is no leader.

A partition has one broker at a time; its data is in the object store. The replica list is the leader and as many other
alive brokers as the replication factor allows, all of them in sync (docs/decisions/0003). A partition whose
leader is not alive, or that nobody may lead, is offline: LEADER_NOT_AVAILABLE, leader -1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from broker.cluster.image import MetadataImage
from broker.cluster.placement import replicas
from protocol.errors import ErrorCode
from s3stream.catalog.api import NO_LEADER, PartitionInfo, TopicInfo


@dataclass(frozen=True, slots=True)
class Leadership:
    """The lists are shared: they are not to be changed."""

    error: int
    leader: int
    replicas: list[int]
    in_sync: list[int]
    offline: list[int]


def leaderships(image: MetadataImage, topic: TopicInfo) -> Iterator[tuple[PartitionInfo, Leadership]]:
    """Each partition with its leadership; partitions of one leader share it, so that many cost little."""
    alive = [each.node_id for each in image.brokers()]
    by_leader: dict[int, Leadership] = {}
    for partition in topic.partitions:
        leader = partition.leader
        known = by_leader.get(leader)
        if known is None:
            if leader in alive:
                nodes = replicas(leader, alive, topic.replication_factor)
                known = Leadership(ErrorCode.NONE, leader, nodes, nodes, [])
            else:
                gone = [leader] if leader != NO_LEADER else []
                known = Leadership(ErrorCode.LEADER_NOT_AVAILABLE, NO_LEADER, gone, [], gone)
            by_leader[leader] = known
        yield partition, known
