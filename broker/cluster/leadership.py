"""What clients are told of partitions: leader, replicas, in-sync replicas, or that there is no leader.

A partition has one broker at a time; its data is in the object store. Its replicas are those that were assigned to it,
or else the leader and as many other alive brokers as the replication factor allows; those that are alive are in sync
(docs/decisions/0003). While a reassignment goes on the former replicas are listed behind the new ones. A partition
whose leader is not alive, or that nobody may lead, is offline: LEADER_NOT_AVAILABLE, leader -1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from broker.cluster.image import MetadataImage
from broker.cluster.placement import replicas_by_ring
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
    """Each partition with its leadership; those of one leader and assignment share it, so that many cost little."""
    alive = {each.node_id: each.rack for each in image.brokers()}
    known: dict[tuple[int, tuple[int, ...], tuple[int, ...] | None], Leadership] = {}
    for partition in topic.partitions:
        key = (partition.leader, partition.replicas, partition.former_replicas)
        told = known.get(key)
        if told is None:
            told = known[key] = _leadership(partition, alive, topic.replication_factor)
        yield partition, told


def _leadership(partition: PartitionInfo, alive: Mapping[int, str | None], replication_factor: int) -> Leadership:
    leader = partition.leader
    nodes = replicas_of(partition, alive, replication_factor)
    if leader not in alive:
        gone = [each for each in nodes if each not in alive]
        return Leadership(ErrorCode.LEADER_NOT_AVAILABLE, NO_LEADER, nodes, [], gone)
    in_sync = [each for each in nodes if each in alive]
    return Leadership(ErrorCode.NONE, leader, nodes, in_sync, [each for each in nodes if each not in alive])


def replicas_of(partition: PartitionInfo, alive: Mapping[int, str | None], replication_factor: int) -> list[int]:
    """The replica list that clients are shown. `alive` is node id -> rack, by node id."""
    leader = partition.leader
    shown = list(partition.replicas)
    if not shown or partition.former_replicas is not None:
        before = replicas_before(partition, alive, replication_factor)
        shown += [each for each in before if each not in shown]
    # it was moved away from its assignment, by a failure or for balance
    if leader != NO_LEADER and leader not in shown:
        shown.append(leader)
    return shown


def replicas_before(
    partition: PartitionInfo, alive: Mapping[int, str | None], replication_factor: int
) -> Sequence[int]:
    """The replica list without the reassignment that goes on, if one does."""
    leader = partition.leader
    assigned = partition.replicas if partition.former_replicas is None else partition.former_replicas
    if assigned or leader == NO_LEADER:
        return assigned
    return replicas_by_ring(leader, alive, replication_factor) if leader in alive else [leader]
