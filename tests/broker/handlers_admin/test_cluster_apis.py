"""DescribeLoad, DescribeBalance, DescribeQuorum, UpdateFeatures, UnregisterBroker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.balance.balancer import Balancer
from broker.balance.load import LoadMeter
from broker.cluster.topics import TopicSpec
from broker.handlers import describe_balance, describe_load, describe_quorum, unregister_broker, update_features
from broker.partition.load import PartitionLoad
from protocol.errors import ErrorCode
from protocol.messages.describe_balance import DescribeBalanceRequest
from protocol.messages.describe_load import DescribeLoadRequest, DescribeLoadResponse
from protocol.messages.describe_quorum import DescribeQuorumRequest, PartitionData, TopicData
from protocol.messages.unregister_broker import UnregisterBrokerRequest
from protocol.messages.update_features import FeatureUpdateKey, UpdateFeaturesRequest
from s3stream.catalog.api import DRAINING
from tests.broker.cluster.cluster import Cluster

QUORUM = DescribeQuorumRequest(
    topics=[TopicData(topic_name="__cluster_metadata", partitions=[PartitionData(partition_index=0)])]
)


class Peers:
    """Every broker but the silent ones answers."""

    def __init__(self, seqs: dict[int, int]) -> None:
        self.seqs = seqs

    def call(self, node_id: int, api_version: int, request: DescribeLoadRequest) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if node_id in self.seqs:
            answer.set_result(DescribeLoadResponse(node_id=node_id, metadata_seq=self.seqs[node_id], cpu=0.25))
        else:
            answer.set_exception(ConnectionError())
        return answer


def with_balancer(node: Cluster, seqs: dict[int, int]) -> None:
    services = cast("SimpleNamespace", node.services)
    services.balancer = Balancer(node.image, node.catalog, cast("Any", Peers(seqs)), node.config)


async def test_a_broker_says_what_it_has_to_do(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t", num_partitions=3))
    topic = node.image.topic("t")
    assert topic is not None
    now = 0.0
    partitions = [SimpleNamespace(topic_id=topic.topic_id.bytes, index=i, load=PartitionLoad()) for i in range(3)]
    meter = LoadMeter(lambda: cast("Any", partitions), lambda: now, lambda: now / 2)
    cast("SimpleNamespace", node.services).load_meter = meter
    partitions[1].load.bytes_in, partitions[1].load.requests = 500, 5
    now = 1.0
    await meter.sample()
    response = await node.ask(describe_load, 0, DescribeLoadRequest())
    assert (response.node_id, response.metadata_seq, response.cpu) == (1, node.image.seq, 0.5)
    assert (response.bytes_in, response.requests) == (500, 5)
    [listed] = response.topics
    assert listed.topic_id == topic.topic_id.bytes
    assert [(each.partition_index, each.bytes_in) for each in listed.partitions] == [(1, 500)]
    assert (await node.ask(describe_load, 0, DescribeLoadRequest(include_partitions=False))).topics == []


async def test_brokers_are_shown_with_their_state_and_what_would_move(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t", num_partitions=4))
    await node.join(2, rack="r")
    third = await node.join(3)
    await node.join(4)
    await node.catalog.close_broker(3, third.epoch)
    await node.catalog.alter_configs("broker", "2", {DRAINING: "true"})
    await node.catalog.alter_configs("broker", "1", {DRAINING: "true"})
    await node.image.refresh()
    with_balancer(node, {1: 0, 4: 0})
    response = await node.ask(describe_balance, 0, DescribeBalanceRequest())
    assert (response.balancer_id, response.enabled) == (1, True)
    assert [(each.node_id, each.state, each.partition_count, each.rack, each.cpu) for each in response.brokers] == [
        (1, "draining", 4, None, 0.25),
        (2, "drained", 0, "r", -1),
        (3, "stopped", 0, None, -1),
        (4, "active", 0, None, 0.25),
    ]
    assert [(each.topic_name, each.partition_index, each.source_id, each.target_id) for each in response.planned] == [
        ("t", index, 1, 4) for index in range(4)
    ]
    assert {each.reason for each in response.planned} == {"broker 1 is draining"}
    assert response.moving == []


async def test_what_moves_is_shown_with_the_reason_if_it_was_asked_for_here(node: Cluster) -> None:
    await node.topics.create(TopicSpec("t", num_partitions=4))
    await node.join(2)
    with_balancer(node, {1: 0, 2: 0})
    await node.services.balancer.act()
    response = await node.ask(describe_balance, 0, DescribeBalanceRequest())
    assert [(each.target_id, each.reason) for each in response.moving] == [
        (2, "broker 1 leads 4 partitions, broker 2 0"),
        (2, "broker 1 leads 3 partitions, broker 2 1"),
    ]
    assert response.planned == []
    services = cast("SimpleNamespace", node.services)
    services.balancer = Balancer(node.image, node.catalog, cast("Any", Peers({1: 0, 2: 0})), node.config)
    response = await node.ask(describe_balance, 0, DescribeBalanceRequest())
    assert [each.reason for each in response.moving] == ["", ""]


@pytest.mark.parametrize("version", range(3))
async def test_the_quorum_is_the_brokers_that_follow_the_metadata(node: Cluster, version: int) -> None:
    await node.join(2)
    await node.join(3)
    with_balancer(node, {1: node.image.seq, 2: node.image.seq - 1})
    response = await node.ask(describe_quorum, version, QUORUM)
    [partition] = response.topics[0].partitions
    epoch = node.image.broker(1).epoch  # type: ignore[union-attr]
    assert (partition.error_code, partition.leader_id, partition.leader_epoch) == (0, 1, epoch)
    assert partition.high_watermark == node.image.seq
    assert [(each.replica_id, each.log_end_offset) for each in partition.current_voters] == [(1, node.image.seq)]
    observers = [(each.replica_id, each.log_end_offset) for each in partition.observers]
    assert observers == [(2, node.image.seq - 1), (3, -1)]
    nodes = [(each.node_id, each.listeners[0].host, each.listeners[0].port) for each in response.nodes]
    assert nodes == ([(1, "host1", 9092), (2, "host2", 9092), (3, "host3", 9092)] if version >= 2 else [])


async def test_there_is_no_other_quorum(node: Cluster) -> None:
    request = DescribeQuorumRequest(topics=[TopicData(topic_name="t", partitions=[PartitionData(partition_index=3)])])
    response = await node.ask(describe_quorum, 2, request)
    [partition] = response.topics[0].partitions
    assert (partition.partition_index, partition.error_code) == (3, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)


@pytest.mark.parametrize("version", range(3))
async def test_a_feature_level_that_is_set_already_can_be_set(node: Cluster, version: int) -> None:
    request = UpdateFeaturesRequest(feature_updates=[FeatureUpdateKey(feature="group.version", max_version_level=1)])
    response = await node.ask(update_features, version, request)
    assert response.error_code == ErrorCode.NONE
    assert [(each.feature, each.error_code) for each in response.results] == (
        [("group.version", 0)] if version <= 1 else []
    )


@pytest.mark.parametrize(
    ("feature", "level", "upgrade_type", "reason"),
    [
        ("metadata.version", 20, 1, "Broker 1 does not support this feature."),
        ("transaction.version", 3, 1, "Broker 1 only supports versions 0-2"),
        ("transaction.version", -1, 2, "A feature version cannot be less than 0."),
        ("transaction.version", 1, 1, "Can't downgrade the version of this feature without setting the upgrade type"),
        ("transaction.version", 1, 2, "This version of tailrace always works with 2."),
        ("group.version", 1, 9, "The controller does not support the given upgrade type."),
    ],
)
async def test_other_feature_levels_are_refused_with_the_reason(
    node: Cluster, feature: str, level: int, upgrade_type: int, reason: str
) -> None:
    update = FeatureUpdateKey(feature=feature, max_version_level=level, upgrade_type=upgrade_type)
    response = await node.ask(update_features, 2, UpdateFeaturesRequest(feature_updates=[update]))
    assert response.error_code == ErrorCode.INVALID_UPDATE_VERSION
    assert f"Invalid update version {level} for feature {feature}. {reason}" in response.error_message


async def test_a_stopped_broker_is_forgotten_with_its_configs(node: Cluster) -> None:
    second = await node.join(2)
    await node.catalog.alter_configs("broker", "2", {DRAINING: "true"})
    refused = await node.ask(unregister_broker, 0, UnregisterBrokerRequest(broker_id=2))
    assert refused.error_code == ErrorCode.INVALID_REQUEST
    assert "stop it first" in refused.error_message
    await node.catalog.close_broker(2, second.epoch)
    response = await node.ask(unregister_broker, 0, UnregisterBrokerRequest(broker_id=2))
    assert (response.error_code, response.error_message) == (0, None)
    assert node.image.broker(2) is None
    assert node.image.draining() == frozenset()
    again = await node.ask(unregister_broker, 0, UnregisterBrokerRequest(broker_id=2))
    assert again.error_code == ErrorCode.BROKER_ID_NOT_REGISTERED
