"""AlterPartitionReassignments, ListPartitionReassignments, ElectLeaders; codes and texts are those of Kafka 4.3.1."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from broker.cluster.leadership import leaderships
from broker.cluster.topics import TopicSpec
from broker.handlers import alter_partition_reassignments, elect_leaders, list_partition_reassignments
from protocol.errors import ErrorCode
from protocol.messages.alter_partition_reassignments import (
    AlterPartitionReassignmentsRequest,
    ReassignablePartition,
    ReassignableTopic,
)
from protocol.messages.elect_leaders import ElectLeadersRequest, TopicPartitions
from protocol.messages.list_partition_reassignments import (
    ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsTopics,
)
from s3stream.catalog.api import BrokerInfo, NewTopic, TopicInfo
from tests.broker.cluster.cluster import NODE_ID, Cluster, until

NOT_NEEDED = (84, "Leader election not needed for topic partition.")


@pytest.fixture
async def brokers(node: Cluster) -> dict[int, BrokerInfo]:
    """Three of them, this one included."""
    joined = [await node.join(node_id) for node_id in (2, 3)]
    return {each.node_id: each for each in [*joined, *(b for b in node.image.brokers() if b.node_id == NODE_ID)]}


async def topic(node: Cluster, leaders: Sequence[int], replicas: Sequence[Sequence[int]] = ()) -> TopicInfo:
    made = await node.catalog.create_topic(NewTopic("t", leaders, {}, replication_factor=2, replicas=replicas))
    await node.image.refresh()
    return made


async def alter(node: Cluster, *wishes: tuple[int, list[int] | None], name: str = "t", **fields: Any) -> Any:
    """(Code, message) of each."""
    partitions = [ReassignablePartition(partition_index=index, replicas=replicas) for index, replicas in wishes]
    request = AlterPartitionReassignmentsRequest(topics=[ReassignableTopic(name=name, partitions=partitions)], **fields)
    response = await node.ask(alter_partition_reassignments, 1, request)
    assert (response.error_code, response.error_message) == (0, None)
    return [(each.error_code, each.error_message) for each in response.responses[0].partitions]


async def ongoing(node: Cluster, topics: list[ListPartitionReassignmentsTopics] | None = None) -> Any:
    response = await node.ask(list_partition_reassignments, 0, ListPartitionReassignmentsRequest(topics=topics))
    return {
        (found.name, each.partition_index): (each.replicas, each.adding_replicas, each.removing_replicas)
        for found in response.topics
        for each in found.partitions
    }


async def elect(node: Cluster, kind: int, partitions: list[int] | None, timeout_ms: int = 5000) -> Any:
    asked = None if partitions is None else [TopicPartitions(topic="t", partitions=partitions)]
    request = ElectLeadersRequest(election_type=kind, topic_partitions=asked, timeout_ms=timeout_ms)
    response = await node.ask(elect_leaders, 2, request)
    return response.error_code, {
        each.partition_id: (each.error_code, each.error_message)
        for found in response.replica_election_results
        for each in found.partition_result
    }


async def hand_over(node: Cluster, made: TopicInfo, broker: BrokerInfo) -> None:
    await node.catalog.hand_over(broker.node_id, broker.epoch, {made.topic_id: range(len(made.partitions))})
    await node.image.refresh()


def shown(node: Cluster) -> list[tuple[int, list[int], list[int]]]:
    """Leader, replicas, in-sync replicas."""
    found = node.image.topic("t")
    assert found is not None
    return [(told.leader, told.replicas, told.in_sync) for _, told in leaderships(node.image, found)]


@pytest.mark.usefixtures("brokers")
async def test_what_is_wrong_with_an_assignment_is_said_as_kafka_says_it(node: Cluster) -> None:
    await topic(node, [1])
    bad = "The manual partition assignment includes"
    assert await alter(node, (0, [])) == [(39, f"{bad} an empty replica list.")]
    assert await alter(node, (0, [5])) == [(39, f"{bad} broker 5, but no such broker is registered.")]
    assert await alter(node, (0, [1, 1])) == [(39, f"{bad} the broker 1 more than once.")]
    assert await alter(node, (9, [1])) == [(3, "Unable to find partition t:9.")]
    assert await alter(node, (0, [1]), name="x") == [(3, "Unable to find a topic named x.")]
    assert await alter(node, (0, None)) == [(85, None)]
    changed = await alter(node, (0, [1, 2, 3]), allow_replication_factor_change=False)
    assert changed == [(38, "The replication factor is changed from 2 to 3")]
    assert shown(node) == [(1, [1, 2], [1, 2])]


@pytest.mark.usefixtures("brokers")
async def test_an_assignment_that_keeps_the_leader_is_done_at_once(node: Cluster) -> None:
    await topic(node, [1, 1])
    assert await alter(node, (0, [3, 1]), (1, [1])) == [(0, None), (0, None)]
    assert await ongoing(node) == {}
    assert shown(node) == [(1, [3, 1], [3, 1]), (1, [1], [1])]


async def test_a_reassignment_is_shown_as_going_on_until_the_leader_has_moved(
    node: Cluster, brokers: dict[int, BrokerInfo]
) -> None:
    made = await topic(node, [1])
    assert await alter(node, (0, [3, 2])) == [(0, None)]
    assert await ongoing(node) == {("t", 0): ([3, 2, 1], [3], [1])}
    assert shown(node) == [(1, [3, 2, 1], [3, 2, 1])]
    await hand_over(node, made, brokers[1])
    assert await ongoing(node) == {}
    assert shown(node) == [(3, [3, 2], [3, 2])]


@pytest.mark.usefixtures("brokers")
async def test_only_what_is_asked_for_is_listed(node: Cluster) -> None:
    await topic(node, [1, 1])
    await alter(node, (0, [2]), (1, [2]))
    asked = [
        ListPartitionReassignmentsTopics(name="t", partition_indexes=[1, 9]),
        ListPartitionReassignmentsTopics(name="x", partition_indexes=[0]),
    ]
    assert list(await ongoing(node, asked)) == [("t", 1)]
    assert await ongoing(node, []) == {}


@pytest.mark.usefixtures("brokers")
async def test_a_reassignment_that_is_taken_back_leaves_what_was_before(node: Cluster) -> None:
    await topic(node, [1], [[1, 2]])
    await alter(node, (0, [3]))
    assert await alter(node, (0, None)) == [(0, None)]
    assert await ongoing(node) == {}
    assert shown(node) == [(1, [1, 2], [1, 2])]


async def test_assigned_brokers_none_of_which_is_alive_are_refused(
    node: Cluster, brokers: dict[int, BrokerInfo]
) -> None:
    await topic(node, [1])
    await node.catalog.close_broker(3, brokers[3].epoch)
    await node.image.refresh()
    [(code, _)] = await alter(node, (0, [3]))
    assert code == ErrorCode.INVALID_REPLICA_ASSIGNMENT
    assert await alter(node, (0, [3, 2])) == [(0, None)]
    assert shown(node) == [(1, [3, 2, 1], [2, 1])]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.usefixtures("brokers")
async def test_no_election_is_needed_where_the_right_one_leads(node: Cluster, kind: int) -> None:
    await topic(node, [1, 2], [[1, 2], [2, 1]])
    assert await elect(node, kind, [0, 9]) == (0, {0: NOT_NEEDED, 9: (3, "No such partition as t-9")})
    assert await elect(node, kind, None) == (0, {})


@pytest.mark.usefixtures("brokers")
async def test_an_election_of_an_unknown_kind_is_refused(node: Cluster) -> None:
    await topic(node, [1])
    assert await elect(node, 2, [0]) == (42, {0: (42, "Unknown election type 2")})


async def test_the_preferred_leader_takes_over_before_the_answer(node: Cluster, brokers: dict[int, BrokerInfo]) -> None:
    made = await topic(node, [1, 1], [[2, 1], [1, 2]])
    electing = asyncio.create_task(elect(node, 0, None))
    await until(lambda: made.partitions[0] != node.image.topic("t").partitions[0])  # type: ignore[union-attr]
    assert not electing.done()
    await hand_over(node, made, brokers[1])
    assert await electing == (0, {0: (0, None)})
    assert [leader for leader, _, _ in shown(node)] == [2, 1]


async def test_an_election_that_takes_too_long_says_so(node: Cluster, brokers: dict[int, BrokerInfo]) -> None:
    await topic(node, [1], [[2, 1]])
    assert (await elect(node, 0, [0], timeout_ms=20))[1][0][0] == ErrorCode.REQUEST_TIMED_OUT
    assert brokers


async def test_a_preferred_leader_that_is_drained_or_gone_is_not_elected(
    node: Cluster, brokers: dict[int, BrokerInfo]
) -> None:
    await topic(node, [1, 1], [[2, 1], [3, 1]])
    await node.catalog.alter_configs("broker", "2", {"tailrace.draining": "true"})
    await node.catalog.close_broker(3, brokers[3].epoch)
    await node.image.refresh()
    refused = (80, "The preferred leader was not available.")
    assert await elect(node, 0, [0, 1]) == (0, {0: refused, 1: refused})


async def test_nobody_is_elected_who_has_not_got_everything(node: Cluster, brokers: dict[int, BrokerInfo]) -> None:
    made = await topic(node, [3])
    await node.catalog.open_streams(3, brokers[3].epoch, [made.partitions[0].log_stream_id])
    await node.catalog.fence_broker(3, brokers[3].epoch)
    await node.image.refresh()
    assert await elect(node, 1, [0]) == (0, {0: (83, "Eligible topic partition leaders are not available.")})


async def test_created_partitions_keep_their_assignment(node: Cluster, brokers: dict[int, BrokerInfo]) -> None:
    await node.topics.create(TopicSpec("t", assignments=[(0, [3, 1]), (1, [2, 3])]))
    await node.topics.create_partitions("t", 3, [[1, 2]])
    assert [replicas for _, replicas, _ in shown(node)] == [[3, 1], [2, 3], [1, 2]]
    await node.catalog.close_broker(2, brokers[2].epoch)
    await node.catalog.claim_partitions(1, brokers[1].epoch)
    await node.image.refresh()
    assert shown(node)[1] == (3, [2, 3], [3])
