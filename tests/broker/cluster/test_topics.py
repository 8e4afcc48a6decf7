"""Topics are created, grown and deleted as Kafka does it, and usable when the call returns."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.cluster.errors import AdminError
from broker.cluster.topics import TopicAdmin, TopicSpec
from broker.config.broker_config import BrokerConfig
from protocol.errors import ErrorCode
from s3stream.catalog.api import NewTopic
from tests.broker.cluster.cluster import NODE_ID, Cluster, cluster


async def test_a_created_topic_is_in_the_image_and_open(node: Cluster) -> None:
    topic = await node.topics.create(TopicSpec("t", 3, 1, configs={"retention.ms": "5"}))
    assert node.image.topic("t") is topic
    assert topic.configs == {"retention.ms": "5"}
    assert set(node.partitions.open) == {("t", 0), ("t", 1), ("t", 2)}


async def test_counts_and_factors_default_to_the_brokers() -> None:
    async with cluster({"num.partitions": "4", "default.replication.factor": "3"}) as node:
        topic = await node.topics.create(TopicSpec("t"))
        assert (len(topic.partitions), topic.replication_factor) == (4, 3)


async def test_any_replication_factor_is_accepted_and_recorded(node: Cluster) -> None:
    topic = await node.topics.create(TopicSpec("t", 1, 5))
    assert topic.replication_factor == 5


async def test_validating_changes_nothing(node: Cluster) -> None:
    planned = await node.topics.create(TopicSpec("t", 2), validate_only=True)
    assert len(planned.partitions) == 2
    await node.image.refresh()
    assert node.image.topic("t") is None


async def test_leaders_are_spread_over_alive_brokers(node: Cluster) -> None:
    await node.join(2)
    await node.join(3)
    topic = await node.topics.create(TopicSpec("t", 6))
    assert sorted(each.leader for each in topic.partitions) == [1, 1, 2, 2, 3, 3]
    other = await node.topics.create(TopicSpec("u", 1))
    another = await node.topics.create(TopicSpec("v", 1))
    assert other.partitions[0].leader != another.partitions[0].leader


async def test_a_manual_assignment_makes_its_first_replica_leader(node: Cluster) -> None:
    await node.join(2)
    topic = await node.topics.create(TopicSpec("t", assignments=[(1, [1, 2]), (0, [2, 1])]))
    assert [each.leader for each in topic.partitions] == [2, 1]
    assert topic.replication_factor == 2
    assert set(node.partitions.open) == {("t", 1)}


REFUSED_SPECS: list[tuple[dict[str, Any], ErrorCode, str]] = [
    ({"name": "a b"}, ErrorCode.INVALID_TOPIC_EXCEPTION, "Topic name is invalid: 'a b' contains one or more"),
    ({"name": "there"}, ErrorCode.TOPIC_ALREADY_EXISTS, "Topic 'there' already exists."),
    (
        {"name": "dot_ted"},
        ErrorCode.INVALID_TOPIC_EXCEPTION,
        "Topic 'dot_ted' collides with existing topic: dot.ted",
    ),
    ({"num_partitions": 0}, ErrorCode.INVALID_PARTITIONS, "invalid non-positive value"),
    ({"num_partitions": 10_001}, ErrorCode.POLICY_VIOLATION, "Excessively large number of partitions"),
    ({"replication_factor": 0}, ErrorCode.INVALID_REPLICATION_FACTOR, "must be larger than 0"),
    ({"configs": {"retention.ms": "x"}}, ErrorCode.INVALID_CONFIG, "Not a number of type LONG"),
    ({"configs": {"nope": "x"}}, ErrorCode.INVALID_CONFIG, "Unknown topic config name: nope"),
    ({"configs": {"retention.ms": None}}, ErrorCode.INVALID_CONFIG, "Null value not supported for topic configs"),
    ({"assignments": [(0, [1])], "num_partitions": 1}, ErrorCode.INVALID_REQUEST, "numPartitions was not set"),
    ({"assignments": [(0, [1])], "replication_factor": 1}, ErrorCode.INVALID_REQUEST, "replication factor was not"),
    ({"assignments": [(1, [1])]}, ErrorCode.INVALID_REPLICA_ASSIGNMENT, "consecutive 0-based integer sequence"),
    ({"assignments": [(0, [1]), (0, [1])]}, ErrorCode.INVALID_REPLICA_ASSIGNMENT, "multiple manual partition"),
    ({"assignments": [(0, [9])]}, ErrorCode.INVALID_REPLICA_ASSIGNMENT, "includes broker 9, but no such broker"),
    ({"assignments": [(0, [1, 1])]}, ErrorCode.INVALID_REPLICA_ASSIGNMENT, "includes the broker 1 more than once"),
    ({"assignments": [(0, [])]}, ErrorCode.INVALID_REPLICA_ASSIGNMENT, "includes an empty replica list"),
    ({"assignments": [(0, [1]), (1, [1, 2])]}, ErrorCode.INVALID_REPLICA_ASSIGNMENT, "not consistent with"),
    ({"assignments": [(0, [3])]}, ErrorCode.INVALID_REPLICA_ASSIGNMENT, "none of whose brokers is alive"),
]


async def test_what_kafka_refuses_is_refused_with_its_code_and_words(node: Cluster) -> None:
    await node.join(2)
    gone = await node.join(3)
    await node.catalog.close_broker(3, gone.epoch)
    for name in ("there", "dot.ted"):
        await node.topics.create(TopicSpec(name))
    for spec, code, message in REFUSED_SPECS:
        with pytest.raises(AdminError) as caught:
            await node.topics.create(TopicSpec(**{"name": "new", **spec}))
        assert caught.value.code is code, spec
        assert message in str(caught.value), spec
    await node.image.refresh()
    assert len(list(node.image.topics())) == 2


async def test_a_name_that_another_broker_took_meanwhile_is_told(node: Cluster) -> None:
    await node.catalog.create_topic(NewTopic("t", [NODE_ID], {}))
    with pytest.raises(AdminError, match="already exists"):
        await node.topics.create(TopicSpec("t"))


async def test_all_who_ask_for_a_missing_topic_wait_for_one_creation(node: Cluster) -> None:
    node.partitions.gate = asyncio.Event()
    waiting = [asyncio.create_task(node.topics.ensure("t")) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    node.partitions.gate.set()
    topics = await asyncio.gather(*waiting[1:])
    assert {each.topic_id for each in topics} == {topics[0].topic_id}
    assert node.partitions.get("t", 0) is not None
    assert await node.topics.ensure("t") is topics[0]


async def test_auto_creation_takes_the_topic_that_another_broker_made_first(node: Cluster) -> None:
    there = await node.catalog.create_topic(NewTopic("t", [NODE_ID], {}))
    assert (await node.topics.ensure("t")).topic_id == there.topic_id


async def test_a_failed_auto_creation_is_tried_again_by_the_next_who_asks(node: Cluster) -> None:
    with pytest.raises(AdminError):
        await node.topics.ensure("a b")
    with pytest.raises(AdminError):
        await node.topics.ensure("a b")


async def test_internal_topics_get_kafkas_configs(node: Cluster) -> None:
    offsets = await node.topics.ensure("__consumer_offsets")
    assert offsets.internal
    assert len(offsets.partitions) == 50
    assert offsets.configs == {
        "cleanup.policy": "compact",
        "compression.type": "producer",
        "segment.bytes": "104857600",
    }
    transactions = await node.topics.ensure("__transaction_state")
    assert transactions.internal
    assert len(transactions.partitions) == 50
    assert transactions.configs["cleanup.policy"] == "compact"


async def test_internal_topics_get_the_durability_that_the_broker_has_for_them(node: Cluster) -> None:
    safe = BrokerConfig({"tailrace.internal.topics.durability": "object"})
    topics = TopicAdmin(node.catalog, node.image, node.partitions, safe)
    for name in ("__consumer_offsets", "__transaction_state"):
        assert (await topics.ensure(name)).configs["tailrace.durability"] == "object"
    await topics.close()


async def test_partitions_are_added_and_opened(node: Cluster) -> None:
    await node.join(2)
    await node.topics.create(TopicSpec("t", 2))
    await node.topics.create_partitions("t", 3)
    await node.topics.create_partitions("t", 5, [[2], [1]])
    topic = node.image.topic("t")
    assert topic is not None
    assert [each.leader for each in topic.partitions][3:] == [2, 1]
    assert ("t", 4) in node.partitions.open


REFUSED_GROWTH: list[tuple[str, int, Any, ErrorCode, str]] = [
    ("nope", 3, None, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ""),
    ("t", 2, None, ErrorCode.INVALID_PARTITIONS, "Topic already has 2 partition(s)."),
    ("t", 1, None, ErrorCode.INVALID_PARTITIONS, "currently has 2 partition(s); 1 would not be an increase"),
    ("t", 4, [[1]], ErrorCode.INVALID_REPLICA_ASSIGNMENT, "add 2 additional partition(s), but only 1 assignment"),
    ("t", 3, [[9]], ErrorCode.INVALID_REPLICA_ASSIGNMENT, "no such broker is registered"),
    ("t", 20_000, None, ErrorCode.POLICY_VIOLATION, "Excessively large"),
]


async def test_partitions_cannot_be_added_for_kafkas_reasons(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t", 2))
    for name, count, assignments, code, message in REFUSED_GROWTH:
        with pytest.raises(AdminError) as caught:
            await node.topics.create_partitions(name, count, assignments)
        assert caught.value.code is code, (name, count)
        assert message in str(caught.value), (name, count)


async def test_validating_added_partitions_changes_nothing(node: Cluster) -> None:
    topic = await node.topics.create(TopicSpec("t", 2))
    await node.topics.create_partitions("t", 9, validate_only=True)
    await node.image.refresh()
    assert node.image.topic("t") is topic


async def test_a_deleted_topic_is_gone_and_closed(node: Cluster) -> None:
    topic = await node.topics.create(TopicSpec("t", 2))
    await node.topics.delete(topic)
    assert node.image.topic("t") is None
    assert node.partitions.closed == [topic.topic_id]
    assert not node.partitions.open
    with pytest.raises(AdminError) as caught:
        await node.topics.delete(topic)
    assert caught.value.code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_deletion_can_be_disabled() -> None:
    async with cluster({"delete.topic.enable": "false"}) as node:
        topic = await node.topics.create(TopicSpec("t"))
        with pytest.raises(AdminError) as caught:
            await node.topics.delete(topic)
        assert caught.value.code is ErrorCode.TOPIC_DELETION_DISABLED
        assert node.image.topic("t") is topic
