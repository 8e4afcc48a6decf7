"""Partitions are moved back and forth, then every broker is stopped in turn: no client notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.history import check
from s3stream.catalog import open_catalog
from s3stream.catalog.api import Catalog, PartitionInfo

from .load import WatchedConsumer, WatchedProducer, history_of, read_log, wait_until_acknowledged, wait_until_drained
from .test_failover import FILE_WAL, NODES, TOPICS, Cluster

pytestmark = pytest.mark.integration
MOVES = 3
MOVED_MAX_S = 15.0
"""Far above what it takes, for machines that are busy."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, FILE_WAL)
    with ExitStack() as stack:
        for broker in cluster.brokers.values():
            stack.enter_context(broker)
        yield cluster


async def move_everything(metadata_url: str) -> None:
    """The partitions of all topics, those of the coordinators too, to the broker after theirs, `MOVES` times."""
    catalog = await open_catalog(metadata_url)
    try:
        for _ in range(MOVES):
            topics = (await catalog.load_changes(0)).topics.values()
            await catalog.set_targets(
                {
                    topic.topic_id: {each.index: each.leader % 3 + 1 for each in topic.partitions}
                    for topic in topics
                    if topic
                }
            )
            deadline = time.monotonic() + MOVED_MAX_S
            while any(each.target is not None for each in await partitions_of(catalog)):
                assert time.monotonic() < deadline, "the leaders do not hand over"
                await asyncio.sleep(0.05)
    finally:
        await catalog.close()


async def partitions_of(catalog: Catalog) -> list[PartitionInfo]:
    topics = (await catalog.load_changes(0)).topics.values()
    return [each for topic in topics if topic for each in topic.partitions]


@pytest.mark.timeout(120)
def test_no_client_sees_an_error_while_partitions_move_and_brokers_stop(cluster: Cluster, tmp_path: Path) -> None:
    cluster.wait_until_all_are_known()
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    admin.create_topics([NewTopic("events", TOPICS["events"], 1)])["events"].result(20)
    producers = [WatchedProducer(cluster.bootstrap, TOPICS, f"producer{n}", 400) for n in range(2)]
    consumers = [WatchedConsumer(cluster.bootstrap, TOPICS, "readers", f"consumer{n}") for n in range(2)]
    for client in (*producers, *consumers):
        client.start()
    wait_until_acknowledged(producers, 200)

    asyncio.run(move_everything(f"sqlite:///{tmp_path}/catalog.db"))
    wait_until_acknowledged(producers, 200)
    for node_id in NODES:
        assert cluster.brokers[node_id].terminate() == 0
        assert "partitions handed over" in cluster.brokers[node_id].log()
        wait_until_acknowledged(producers, 100)
        cluster.brokers[node_id].start()

    for producer in producers:
        producer.stop()
        assert producer.errors == []
    wait_until_drained(cluster.bootstrap, TOPICS, "readers")
    for consumer in consumers:
        consumer.stop()
    for topic in TOPICS:
        log = read_log(cluster.bootstrap, topic, TOPICS[topic])
        assert check(history_of(topic, producers, consumers, log, drained=True)) == []
