"""What drills ask of a cluster besides producing and consuming: topics, offsets, reassignments, configs."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.transaction_history import Place
from drills.client.client import Client
from drills.client.connection import Disconnected
from protocol.errors import ErrorCode
from protocol.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    ReassignablePartition,
    ReassignableTopic,
)
from protocol.messages.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from protocol.messages.find_coordinator import FindCoordinatorRequest
from protocol.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from protocol.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics

CREATE_TOPICS_VERSION = 7
DELETE_TOPICS_VERSION = 6
FIND_COORDINATOR_VERSION = 4
LIST_OFFSETS_VERSION = 7
OFFSET_COMMIT_VERSION = 9
OFFSET_FETCH_VERSION = 9
METADATA_VERSION = 12
REASSIGN_VERSION = 0
LATEST, EARLIEST = -1, -2
TIMEOUT_S = 60.0
RETRY_PAUSE_S = 0.1


class Refused(Exception):
    """A broker said no, for good."""


class Admin:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def create_topic(self, name: str, partitions: int, configs: Mapping[str, str] | None = None) -> None:
        topic = CreatableTopic(
            name=name,
            num_partitions=partitions,
            replication_factor=-1,
            configs=[CreatableTopicConfig(name=key, value=value) for key, value in (configs or {}).items()],
        )
        request = CreateTopicsRequest(topics=[topic], timeout_ms=30_000)

        async def ask() -> bool:
            result = (await self._client.call_any(CREATE_TOPICS_VERSION, request)).topics[0]
            _check(result.error_code, f"topic {name} is not created", ErrorCode.TOPIC_ALREADY_EXISTS)
            return True

        await _until(ask, f"topic {name} is not created")

    async def delete_topic(self, name: str) -> None:
        request = DeleteTopicsRequest(topics=[DeleteTopicState(name=name)], timeout_ms=30_000)
        await self._client.call_any(DELETE_TOPICS_VERSION, request)

    async def leaders(self, topic: str) -> dict[Place, int]:
        """Node ids, as one of the brokers says; -1 for partitions that nobody leads."""
        request = MetadataRequest(topics=[MetadataRequestTopic(name=topic)], allow_auto_topic_creation=False)
        response = await self._client.call_any(METADATA_VERSION, request)
        return {
            Place(topic, partition.partition_index): partition.leader_id
            for found in response.topics
            for partition in found.partitions
        }

    async def nodes(self) -> list[int]:
        """The brokers of the cluster, as one of them says."""
        response = await self._client.call_any(METADATA_VERSION, MetadataRequest(topics=[]))
        return sorted(broker.node_id for broker in response.brokers)

    async def offsets(self, places: Iterable[Place], timestamp: int = LATEST) -> dict[Place, int]:
        """Of all of them, however long that takes (within a minute)."""
        missing = set(places)
        found: dict[Place, int] = {}

        async def ask() -> bool:
            found.update(await self._some_offsets(missing, timestamp))
            missing.difference_update(found)
            return not missing

        await _until(ask, "offsets are not told")
        return found

    async def _some_offsets(self, places: Iterable[Place], timestamp: int) -> dict[Place, int]:
        by_leader: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for place in places:
            by_leader[self._client.view.leader(place).node_id][place.topic].append(place.partition)
        found = {}
        for node_id, topics in by_leader.items():
            asked = [
                ListOffsetsTopic(
                    name=topic,
                    partitions=[ListOffsetsPartition(partition_index=index, timestamp=timestamp) for index in indexes],
                )
                for topic, indexes in topics.items()
            ]
            try:
                response = await self._client.call(
                    node_id, LIST_OFFSETS_VERSION, ListOffsetsRequest(replica_id=-1, topics=asked)
                )
            except Disconnected:
                self._client.refresh()
                continue
            for told in response.topics:
                for partition in told.partitions:
                    if not partition.error_code:
                        found[Place(told.name, partition.partition_index)] = partition.offset
                    else:
                        self._client.refresh()
        return found

    async def committed(self, group: str, places: Iterable[Place]) -> dict[Place, int]:
        """Of a group without members; 0 where nothing was committed."""
        topics = _by_topic(places)
        asked = [OffsetFetchRequestTopics(name=name, partition_indexes=indexes) for name, indexes in topics.items()]
        request = OffsetFetchRequest(groups=[OffsetFetchRequestGroup(group_id=group, topics=asked)])
        found: dict[Place, int] = {}

        async def ask() -> bool:
            response = await self._client.call(await self._coordinator(group), OFFSET_FETCH_VERSION, request)
            for topic in response.groups[0].topics:
                for partition in topic.partitions:
                    if not partition.error_code:
                        found[Place(topic.name, partition.partition_index)] = max(partition.committed_offset, 0)
            return len(found) == sum(map(len, topics.values()))

        await _until(ask, f"offsets of {group} are not told")
        return found

    async def commit(self, group: str, positions: Mapping[Place, int]) -> None:
        """For a group without members."""
        topics = [
            OffsetCommitRequestTopic(
                name=name,
                partitions=[
                    OffsetCommitRequestPartition(
                        partition_index=index, committed_offset=positions[Place(name, index)], committed_metadata=""
                    )
                    for index in indexes
                ],
            )
            for name, indexes in _by_topic(positions).items()
        ]
        request = OffsetCommitRequest(group_id=group, topics=topics)

        async def ask() -> bool:
            response = await self._client.call(await self._coordinator(group), OFFSET_COMMIT_VERSION, request)
            return not any(partition.error_code for topic in response.topics for partition in topic.partitions)

        await _until(ask, f"offsets of {group} are not taken")

    async def _coordinator(self, group: str) -> int:
        """Raises Disconnected if there is none now."""
        request = FindCoordinatorRequest(key_type=0, coordinator_keys=[group])
        found = (await self._client.call_any(FIND_COORDINATOR_VERSION, request)).coordinators[0]
        if found.error_code:
            raise Disconnected(f"no coordinator: {ErrorCode(found.error_code).name}")
        node_id: int = found.node_id
        return node_id

    async def reassign(self, replicas: Mapping[Place, Sequence[int]]) -> None:
        """Give partitions to other brokers; returns when that is accepted, not when it is done. Raises Refused."""
        topics: dict[str, list[ReassignablePartition]] = defaultdict(list)
        for place, nodes in replicas.items():
            topics[place.topic].append(ReassignablePartition(partition_index=place.partition, replicas=list(nodes)))
        request = AlterPartitionReassignmentsRequest(
            topics=[ReassignableTopic(name=topic, partitions=asked) for topic, asked in topics.items()]
        )
        response = await self._client.call_any(REASSIGN_VERSION, request)
        _check(response.error_code, "reassignment refused")
        for topic in response.responses:
            for partition in topic.partitions:
                _check(partition.error_code, f"reassignment of {topic.name}-{partition.partition_index} refused")


def _by_topic(places: Iterable[Place]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for place in places:
        found[place.topic].append(place.partition)
    return found


def _check(error_code: int, what: str, *fine: int) -> None:
    if error_code and error_code not in fine:
        raise Refused(f"{what}: {ErrorCode(error_code).name}")


async def _until(ask: Callable[[], Awaitable[Any]], what: str) -> None:
    """Ask again until it is true. Raises TimeoutError."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                try:
                    if await ask():
                        return
                except Disconnected:
                    pass
                await asyncio.sleep(RETRY_PAUSE_S)
    except TimeoutError:
        raise TimeoutError(what) from None
