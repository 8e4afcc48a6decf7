"""CreateTopics, CreatePartitions and DeleteTopics at the edge: versions, duplicates, error mapping."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from broker.cluster.topics import TopicSpec
from broker.handlers import create_partitions, create_topics, delete_topics
from protocol.errors import ErrorCode
from protocol.messages.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from protocol.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from s3stream.api import StorageFull
from s3stream.catalog.api import CatalogUnreachable
from tests.broker.cluster.cluster import Cluster, cluster


def _create(*topics: CreatableTopic, validate_only: bool = False) -> CreateTopicsRequest:
    return CreateTopicsRequest(topics=list(topics), validate_only=validate_only)


def _topic(name: str, count: int = 1, **fields: Any) -> CreatableTopic:
    return CreatableTopic(name=name, num_partitions=count, replication_factor=1, **fields)


@pytest.mark.parametrize("version", range(create_topics.MIN_VERSION, create_topics.MAX_VERSION + 1))
async def test_a_topic_is_created_in_every_version(node: Cluster, version: int) -> None:
    asked = _topic("t", 3, configs=[CreatableTopicConfig(name="retention.ms", value="5")])
    (result,) = (await node.ask(create_topics, version, _create(asked))).topics
    topic = node.image.topic("t")
    assert topic is not None
    assert (result.name, result.error_code, result.error_message) == ("t", ErrorCode.NONE, None)
    if version >= 5:
        assert (result.num_partitions, result.replication_factor) == (3, 1)
        configs = {each.name: (each.value, each.config_source) for each in result.configs}
        assert len(configs) == 34
        assert configs["retention.ms"] == ("5", 1)
        assert configs["segment.bytes"] == ("1073741824", 5)
    if version >= 7:
        assert result.topic_id == topic.topic_id.bytes


async def test_topics_succeed_and_fail_one_by_one(node: Cluster) -> None:
    request = _create(_topic("good"), _topic("bad name"), _topic("twice"), _topic("twice"), _topic("neg", -5))
    results = (await node.ask(create_topics, 7, request)).topics
    assert {each.name: each.error_code for each in results} == {
        "good": ErrorCode.NONE,
        "bad name": ErrorCode.INVALID_TOPIC_EXCEPTION,
        "twice": ErrorCode.INVALID_REQUEST,
        "neg": ErrorCode.INVALID_PARTITIONS,
    }
    assert [each.name for each in node.image.topics()] == ["good"]


async def test_assignments_and_validate_only(node: Cluster) -> None:
    asked = CreatableTopic(
        name="t",
        num_partitions=-1,
        replication_factor=-1,
        assignments=[CreatableReplicaAssignment(partition_index=index, broker_ids=[1]) for index in range(2)],
    )
    (result,) = (await node.ask(create_topics, 7, _create(asked, validate_only=True))).topics
    assert (result.error_code, result.num_partitions, result.replication_factor) == (ErrorCode.NONE, 2, 1)
    assert node.image.topic("t") is None


async def test_a_catalog_that_does_not_answer_is_a_retriable_error(
    node: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(*_: object) -> None:
        raise CatalogUnreachable("no route")

    monkeypatch.setattr(node.catalog, "create_topic", unreachable)
    (result,) = (await node.ask(create_topics, 7, _create(_topic("t")))).topics
    assert result.error_code == ErrorCode.REQUEST_TIMED_OUT
    assert ErrorCode.REQUEST_TIMED_OUT.retriable


async def test_a_storage_that_cannot_open_is_told(node: Cluster) -> None:
    node.partitions.error = StorageFull("no room")
    (result,) = (await node.ask(create_topics, 7, _create(_topic("t")))).topics
    assert result.error_code == ErrorCode.KAFKA_STORAGE_ERROR


@pytest.mark.parametrize("version", range(delete_topics.MIN_VERSION, delete_topics.MAX_VERSION + 1))
async def test_a_topic_is_deleted_by_name_in_every_version(node: Cluster, version: int) -> None:
    topic = await node.topics.create(TopicSpec("t"))
    request = DeleteTopicsRequest(
        topics=[DeleteTopicState(name="t"), DeleteTopicState(name="nope")], topic_names=["t", "nope"]
    )
    results = (await node.ask(delete_topics, version, request)).responses
    assert [(each.name, each.error_code) for each in results] == [
        ("t", ErrorCode.NONE),
        ("nope", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]
    if version >= 6:
        assert results[0].topic_id == topic.topic_id.bytes
    assert node.image.topic("t") is None


async def test_a_topic_is_deleted_by_id(node: Cluster) -> None:
    topic = await node.topics.create(TopicSpec("t"))
    unknown = uuid4().bytes
    request = DeleteTopicsRequest(
        topics=[
            DeleteTopicState(name=None, topic_id=topic.topic_id.bytes),
            DeleteTopicState(name=None, topic_id=unknown),
            DeleteTopicState(name="t", topic_id=unknown),
            DeleteTopicState(name=None),
        ]
    )
    results = (await node.ask(delete_topics, 6, request)).responses
    assert [(each.name, each.error_code) for each in results] == [
        ("t", ErrorCode.NONE),
        (None, ErrorCode.UNKNOWN_TOPIC_ID),
        ("t", ErrorCode.INVALID_REQUEST),
        (None, ErrorCode.INVALID_REQUEST),
    ]


async def test_a_topic_named_twice_is_not_deleted(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t"))
    request = DeleteTopicsRequest(topics=[DeleteTopicState(name="t"), DeleteTopicState(name="t")])
    (result,) = (await node.ask(delete_topics, 6, request)).responses
    assert result.error_code == ErrorCode.INVALID_REQUEST
    assert node.image.topic("t") is not None


@pytest.mark.parametrize(("version", "code"), [(1, ErrorCode.INVALID_REQUEST), (3, ErrorCode.TOPIC_DELETION_DISABLED)])
async def test_disabled_deletion_has_its_own_code_from_v3_on(version: int, code: ErrorCode) -> None:
    async with cluster({"delete.topic.enable": "false"}) as node:
        await node.topics.create(TopicSpec("t"))
        (result,) = (await node.ask(delete_topics, version, DeleteTopicsRequest(topic_names=["t"]))).responses
        assert result.error_code == code


@pytest.mark.parametrize("version", range(create_partitions.MIN_VERSION, create_partitions.MAX_VERSION + 1))
async def test_topics_grow_one_by_one_in_every_version(node: Cluster, version: int) -> None:
    for name in ("t", "u", "v"):
        await node.topics.create(TopicSpec(name))
    request = CreatePartitionsRequest(
        topics=[
            CreatePartitionsTopic(name="t", count=3, assignments=None),
            CreatePartitionsTopic(name="u", count=2, assignments=[CreatePartitionsAssignment(broker_ids=[7])]),
            CreatePartitionsTopic(name="v", count=5, assignments=None),
            CreatePartitionsTopic(name="v", count=6, assignments=None),
        ]
    )
    results = (await node.ask(create_partitions, version, request)).results
    assert {each.name: each.error_code for each in results} == {
        "t": ErrorCode.NONE,
        "u": ErrorCode.INVALID_REPLICA_ASSIGNMENT,
        "v": ErrorCode.INVALID_REQUEST,
    }
    assert {each.name: len(each.partitions) for each in node.image.topics()} == {"t": 3, "u": 1, "v": 1}


async def test_names_that_collide_within_one_request_are_told_apart(node: Cluster) -> None:
    results = (await node.ask(create_topics, 7, _create(_topic("a.b"), _topic("a_b")))).topics
    assert sorted(each.error_code for each in results) == [ErrorCode.NONE, ErrorCode.INVALID_TOPIC_EXCEPTION]
