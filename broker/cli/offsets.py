"""Offsets of partitions, asked of their leaders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from broker.settings import Address
from protocol.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic

if TYPE_CHECKING:
    from broker.cli.client import Client
    from protocol.messages.metadata import MetadataResponse

LATEST = -1
EARLIEST = -2


def list_offsets(
    client: Client, metadata: MetadataResponse, wanted: Mapping[str, Sequence[int]], timestamp: int
) -> dict[tuple[str, int], int]:
    """(topic, partition) -> offset at `timestamp`; what has no leader or answers with an error is left out."""
    addresses = {broker.node_id: Address(broker.host, broker.port) for broker in metadata.brokers}
    leaders = {
        (topic.name, partition.partition_index): partition.leader_id
        for topic in metadata.topics
        for partition in topic.partitions
    }
    by_leader: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for name, indexes in wanted.items():
        for index in indexes:
            leader = leaders.get((name, index), -1)
            if leader in addresses:
                by_leader[leader][name].append(index)
    found = {}
    for leader, topics in by_leader.items():
        request = ListOffsetsRequest(
            replica_id=-1,
            topics=[
                ListOffsetsTopic(
                    name=name,
                    partitions=[ListOffsetsPartition(partition_index=index, timestamp=timestamp) for index in indexes],
                )
                for name, indexes in topics.items()
            ],
        )
        for topic in client.send(request, addresses[leader]).topics:
            for partition in topic.partitions:
                if not partition.error_code:
                    found[topic.name, partition.partition_index] = partition.offset
    return found
