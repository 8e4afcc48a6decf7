"""DescribeCluster, DescribeTopicPartitions, DescribeLogDirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.cluster.topics import TopicSpec
from broker.handlers import describe_cluster, describe_log_dirs, describe_topic_partitions
from protocol.errors import ErrorCode
from protocol.messages.describe_cluster import DescribeClusterRequest
from protocol.messages.describe_log_dirs import DescribableLogDirTopic, DescribeLogDirsRequest
from protocol.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse,
    TopicRequest,
)
from tests.broker.cluster.cluster import Cluster, cluster


@pytest.mark.parametrize("version", range(describe_cluster.MIN_VERSION, describe_cluster.MAX_VERSION + 1))
async def test_the_cluster_is_described_in_every_version(node: Cluster, version: int) -> None:
    await node.join(2, rack="r")
    request = DescribeClusterRequest(include_cluster_authorized_operations=True)
    response = await node.ask(describe_cluster, version, request)
    assert (response.error_code, response.cluster_id, response.controller_id) == (0, node.catalog.cluster_id, 1)
    assert [(each.broker_id, each.host, each.port, each.rack) for each in response.brokers] == [
        (1, "host1", 9092, None),
        (2, "host2", 9092, "r"),
    ]
    assert response.cluster_authorized_operations == 8096


async def test_brokers_that_are_not_alive_are_shown_only_when_asked_for(node: Cluster) -> None:
    second = await node.join(2)
    await node.catalog.close_broker(2, second.epoch)
    await node.image.refresh()
    assert len((await node.ask(describe_cluster, 2, DescribeClusterRequest())).brokers) == 1
    response = await node.ask(describe_cluster, 2, DescribeClusterRequest(include_fenced_brokers=True))
    assert [(each.broker_id, each.is_fenced) for each in response.brokers] == [(1, False), (2, True)]


@pytest.mark.parametrize(
    ("endpoint_type", "code"), [(2, ErrorCode.MISMATCHED_ENDPOINT_TYPE), (3, ErrorCode.UNSUPPORTED_ENDPOINT_TYPE)]
)
async def test_only_broker_endpoints_are_served(node: Cluster, endpoint_type: int, code: ErrorCode) -> None:
    response = await node.ask(describe_cluster, 1, DescribeClusterRequest(endpoint_type=endpoint_type))
    assert (response.error_code, response.brokers) == (code, [])


# -- DescribeTopicPartitions, as observed on Apache Kafka 4.3.1 -------------------------------------------------------
Page = tuple[list[tuple[str | None, int, list[int]]], tuple[str, int] | None]


async def _page(node: Cluster, names: list[str], limit: int, cursor: tuple[str, int] | None = None) -> Page:
    request = DescribeTopicPartitionsRequest(
        topics=[TopicRequest(name=name) for name in names],
        response_partition_limit=limit,
        cursor=None if cursor is None else Cursor(topic_name=cursor[0], partition_index=cursor[1]),
    )
    response: DescribeTopicPartitionsResponse = await node.ask(describe_topic_partitions, 0, request)
    topics = [(each.name, each.error_code, [p.partition_index for p in each.partitions]) for each in response.topics]
    following = response.next_cursor
    return topics, None if following is None else (following.topic_name, following.partition_index)


UNKNOWN, INVALID = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.INVALID_REQUEST


PAGES: list[tuple[list[str], int, tuple[str, int] | None, Page]] = [
    (["big"], 2, None, ([("big", 0, [0, 1])], ("big", 2))),
    (["big"], 2, ("big", 2), ([("big", 0, [2, 3])], ("big", 4))),
    (["big"], 10, ("big", 9), ([("big", 0, [])], None)),
    (["big"], 0, None, ([("big", 0, [0])], ("big", 1))),
    (
        ["zz", "big", "nope", "a b", "ok"],
        3,
        None,
        ([("a b", ErrorCode.INVALID_TOPIC_EXCEPTION, []), ("big", 0, [0, 1, 2])], ("big", 3)),
    ),
    (["big", "ok"], 5, None, ([("big", 0, [0, 1, 2, 3, 4])], ("ok", 0))),
    (["big", "ok"], 6, None, ([("big", 0, [0, 1, 2, 3, 4]), ("ok", 0, [0])], ("ok", 1))),
    (["big", "nope"], 5, None, ([("big", 0, [0, 1, 2, 3, 4])], ("nope", 0))),
    (["big", "nope"], 9, None, ([("big", 0, [0, 1, 2, 3, 4]), ("nope", UNKNOWN, [])], None)),
    (["big", "ok"], 5, ("big", 5), ([("big", 0, []), ("ok", 0, [0, 1])], None)),
    ([], 6, None, ([("big", 0, [0, 1, 2, 3, 4]), ("ok", 0, [0])], ("ok", 1))),
    ([], 6, ("c", 3), ([("ok", 0, [0, 1])], None)),
    (["big", "big"], 9, None, ([("big", 0, [0, 1, 2, 3, 4])], None)),
    (["big"], 3, ("gone", 2), ([("big", INVALID, [])], None)),
    (["big"], 3, ("big", -1), ([("big", INVALID, [])], None)),
]


async def test_partitions_come_in_pages(node: Cluster) -> None:
    await node.topics.create(TopicSpec("big", 5))
    await node.topics.create(TopicSpec("ok", 2))
    for names, limit, cursor, page in PAGES:
        assert await _page(node, names, limit, cursor) == page, (names, limit, cursor)


async def test_a_page_is_never_larger_than_the_broker_allows() -> None:
    async with cluster({"max.request.partition.size.limit": "3"}) as node:
        await node.topics.create(TopicSpec("t", 5))
        assert await _page(node, [], 2000) == ([("t", 0, [0, 1, 2])], ("t", 3))


async def test_following_the_cursor_tells_every_partition_once(node: Cluster) -> None:
    for name, count in (("a", 3), ("b", 1), ("c", 7)):
        await node.topics.create(TopicSpec(name, count))
    told: list[tuple[str | None, int]] = []
    cursor: tuple[str, int] | None = ("", 0)
    while cursor is not None:
        topics, cursor = await _page(node, [], 2, cursor)
        told += [(name, index) for name, _, indexes in topics for index in indexes]
    assert told == [(name, index) for name, count in (("a", 3), ("b", 1), ("c", 7)) for index in range(count)]


# -- DescribeLogDirs --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", range(describe_log_dirs.MIN_VERSION, describe_log_dirs.MAX_VERSION + 1))
async def test_sizes_of_the_partitions_led_here_are_told(node: Cluster, version: int) -> None:
    await node.topics.create(TopicSpec("t", 2))
    await node.topics.create(TopicSpec("u", 1))
    (everything,) = (await node.ask(describe_log_dirs, version, DescribeLogDirsRequest(topics=None))).results
    sizes = {each.name: [(p.partition_index, p.partition_size) for p in each.partitions] for each in everything.topics}
    assert sizes == {
        "t": [(0, 100), (1, 100)],
        "u": [(0, 100)],
    }
    asked = [DescribableLogDirTopic(topic="t", partitions=[1, 7]), DescribableLogDirTopic(topic="nope", partitions=[0])]
    (some,) = (await node.ask(describe_log_dirs, version, DescribeLogDirsRequest(topics=asked))).results
    assert [(each.name, [p.partition_index for p in each.partitions]) for each in some.topics] == [("t", [1])]
    (none,) = (await node.ask(describe_log_dirs, version, DescribeLogDirsRequest(topics=[]))).results
    assert none.topics == []


async def test_a_local_wal_tells_the_room_of_its_volume(tmp_path: Path) -> None:
    async with cluster(wal_url=f"file://{tmp_path}") as node:
        (result,) = (await node.ask(describe_log_dirs, 4, DescribeLogDirsRequest(topics=None))).results
        assert result.log_dir == str(tmp_path)
        assert result.total_bytes > result.usable_bytes > 0


async def test_a_wal_in_an_object_store_has_no_volume_and_shows_no_credentials() -> None:
    async with cluster(wal_url="s3://key:secret@bucket/prefix?endpoint=http://h&token=secret") as node:
        (result,) = (await node.ask(describe_log_dirs, 4, DescribeLogDirsRequest(topics=None))).results
        assert (result.log_dir, result.total_bytes, result.usable_bytes) == ("s3://bucket/prefix", -1, -1)
