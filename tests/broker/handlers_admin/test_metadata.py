"""Metadata in every version: what is asked for is told, from the image."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import pytest

from broker.cluster.topics import TopicSpec
from broker.handlers import metadata
from broker.request import RequestContext
from protocol.errors import ErrorCode
from protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from protocol.types import ZERO_UUID
from s3stream.catalog.api import NewTopic
from tests.broker.cluster.cluster import NODE_ID, Cluster, cluster

VERSIONS = range(metadata.MIN_VERSION, metadata.MAX_VERSION + 1)
LATEST = metadata.MAX_VERSION


async def _ask(node: Cluster, version: int = LATEST, *names: str, **fields: Any) -> MetadataResponse:
    fields.setdefault("topics", [MetadataRequestTopic(name=name) for name in names])
    fields.setdefault("allow_auto_topic_creation", version < 4)
    response: MetadataResponse = await node.ask(metadata, version, MetadataRequest(**fields))
    return response


@pytest.mark.parametrize("version", VERSIONS)
async def test_brokers_and_leaders_are_told_in_every_version(node: Cluster, version: int) -> None:
    await node.join(2, rack="r2")
    topic = await node.topics.create(TopicSpec("t", 2, 3))
    response = await _ask(node, version, "t")
    assert [(each.node_id, each.host, each.port) for each in response.brokers] == [
        (1, "host1", 9092),
        (2, "host2", 9092),
    ]
    (told,) = response.topics
    assert (told.error_code, told.name) == (ErrorCode.NONE, "t")
    leaders = [each.leader for each in topic.partitions]
    assert [(each.partition_index, each.leader_id) for each in told.partitions] == list(enumerate(leaders))
    for each in told.partitions:
        assert each.replica_nodes == each.isr_nodes == [each.leader_id, 3 - each.leader_id]
    if version >= 1:
        assert response.controller_id == 1
        assert response.brokers[1].rack == "r2"
    if version >= 2:
        assert response.cluster_id == node.catalog.cluster_id
    if version >= 10:
        assert told.topic_id == topic.topic_id.bytes


async def test_an_empty_list_asks_for_all_topics_in_v0_and_for_none_later(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t"))
    assert len((await _ask(node, 0)).topics) == 1
    assert len((await _ask(node, 1)).topics) == 0
    assert len((await _ask(node, 1, topics=None)).topics) == 1
    assert len((await _ask(node, LATEST, topics=None)).topics) == 1


async def test_a_missing_topic_is_created_only_if_the_request_allows_it(node: Cluster) -> None:
    (absent,) = (await _ask(node, LATEST, "t", allow_auto_topic_creation=False)).topics
    assert absent.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert node.image.topic("t") is None
    (present,) = (await _ask(node, LATEST, "t", allow_auto_topic_creation=True)).topics
    assert present.error_code == ErrorCode.NONE
    assert len(present.partitions) == 1
    assert node.partitions.get("t", 0) is not None


async def test_before_v4_a_missing_topic_is_created(node: Cluster) -> None:
    (present,) = (await _ask(node, 0, "t")).topics
    assert present.error_code == ErrorCode.NONE


async def test_a_missing_topic_is_created_only_if_the_broker_allows_it() -> None:
    async with cluster({"auto.create.topics.enable": "false"}) as node:
        (absent,) = (await _ask(node, LATEST, "t", allow_auto_topic_creation=True)).topics
        assert absent.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


async def test_many_missing_topics_are_created_by_one_request(node: Cluster) -> None:
    names = [f"t{number}" for number in range(40)]
    response = await _ask(node, LATEST, *names, "a b", allow_auto_topic_creation=True)
    codes = {each.name: each.error_code for each in response.topics}
    assert codes.pop("a b") == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert codes == dict.fromkeys(names, ErrorCode.NONE)


async def test_a_name_that_collides_is_refused(node: Cluster) -> None:
    await node.topics.create(TopicSpec("a.b"))
    (refused,) = (await _ask(node, LATEST, "a_b", allow_auto_topic_creation=True)).topics
    assert refused.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION


async def test_internal_topics_are_flagged_and_created_on_demand(node: Cluster) -> None:
    (absent,) = (await _ask(node, LATEST, "__consumer_offsets")).topics
    assert absent.is_internal
    (present,) = (await _ask(node, LATEST, "__consumer_offsets", allow_auto_topic_creation=True)).topics
    assert present.is_internal
    assert len(present.partitions) == 50


async def test_topics_are_found_by_id_from_v12_on(node: Cluster) -> None:
    topic = await node.topics.create(TopicSpec("t"))
    by_id = [MetadataRequestTopic(name=None, topic_id=topic.topic_id.bytes)]
    (found,) = (await _ask(node, 12, topics=by_id)).topics
    assert (found.error_code, found.name) == (ErrorCode.NONE, "t")
    unknown = uuid4().bytes
    (absent,) = (await _ask(node, 12, topics=[MetadataRequestTopic(name=None, topic_id=unknown)])).topics
    assert (absent.error_code, absent.name, absent.topic_id) == (ErrorCode.UNKNOWN_TOPIC_ID, None, unknown)
    (early,) = (await _ask(node, 10, topics=by_id)).topics
    assert early.error_code == ErrorCode.INVALID_REQUEST


async def test_a_topic_without_name_and_id_is_an_invalid_request(node: Cluster) -> None:
    (refused,) = (await _ask(node, 12, topics=[MetadataRequestTopic(name=None, topic_id=ZERO_UUID)])).topics
    assert refused.error_code == ErrorCode.INVALID_REQUEST


async def test_a_topic_asked_for_twice_is_told_once(node: Cluster) -> None:
    topic = await node.topics.create(TopicSpec("t"))
    asked = [MetadataRequestTopic(name="t"), MetadataRequestTopic(name=None, topic_id=topic.topic_id.bytes)]
    assert len((await _ask(node, 12, topics=asked)).topics) == 1
    assert len((await _ask(node, 12, "u", "u")).topics) == 1


async def test_authorized_operations_are_told_only_when_asked_for(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t"))
    asked = await _ask(
        node, 10, "t", include_topic_authorized_operations=True, include_cluster_authorized_operations=True
    )
    assert (asked.topics[0].topic_authorized_operations, asked.cluster_authorized_operations) == (3576, 8096)
    silent = await _ask(node, 10, "t")
    assert (silent.topics[0].topic_authorized_operations, silent.cluster_authorized_operations) == (-(2**31),) * 2


async def test_a_partition_whose_leader_is_gone_is_offline(node: Cluster) -> None:
    second = await node.join(2)
    await node.topics.create(TopicSpec("t", assignments=[(0, [2]), (1, [1])]))
    assert [each.leader_id for each in (await _ask(node, LATEST, "t")).topics[0].partitions] == [2, 1]
    await node.catalog.close_broker(2, second.epoch)
    await node.image.refresh()
    offline, online = (await _ask(node, LATEST, "t")).topics[0].partitions
    assert (offline.error_code, offline.leader_id) == (ErrorCode.LEADER_NOT_AVAILABLE, -1)
    assert (offline.replica_nodes, offline.isr_nodes, offline.offline_replicas) == ([2], [], [2])
    assert (online.error_code, online.leader_id) == (ErrorCode.NONE, 1)


async def test_an_existing_topic_is_answered_without_waiting(node: Cluster) -> None:
    await node.catalog.create_topic(NewTopic("t", [NODE_ID], {}))
    await node.image.refresh()
    request = MetadataRequest(topics=[MetadataRequestTopic(name="t")])
    ctx = RequestContext(metadata.API_KEY, LATEST, 1, "test", 1, "127.0.0.1")
    assert isinstance(metadata.handle(node.services, ctx, request), MetadataResponse)


async def test_many_unknown_names_do_not_hold_up_the_broker(node: Cluster) -> None:
    names = [f"unknown-{number}" for number in range(30_000)]
    began = time.process_time()
    response = await _ask(node, LATEST, *names)
    assert time.process_time() - began < 5  # what is quadratic takes a multiple of that
    assert [each.error_code for each in response.topics] == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION] * len(names)
