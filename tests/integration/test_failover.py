"""Three brokers on one store and one catalog: one of them goes, the others have its partitions, clients go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess
from bench.history import check

from .load import WatchedConsumer, WatchedProducer, history_of, read_log, wait_until_acknowledged, wait_until_drained

pytestmark = pytest.mark.integration
TOPICS = {"events": 6}
FILE_WAL, OBJECT_WAL = "file WAL", "object WAL"
NODES = (1, 2, 3)
OFFLINE_MAX_S = 15.0
"""Far above what it takes, for machines that are busy."""


class Cluster:
    def __init__(self, directory: Path, kind: str) -> None:
        self.brokers = {node_id: self._broker(directory, kind, node_id) for node_id in NODES}

    def _broker(self, directory: Path, kind: str, node_id: int) -> BrokerProcess:
        args = ["--objects", f"file://{directory}/objects", "--metadata", f"sqlite:///{directory}/catalog.db"]
        if kind == OBJECT_WAL:
            args += ["--wal", f"object+file://{directory}/wal{node_id}"]
        return BrokerProcess(directory / f"data{node_id}", node_id=node_id, args=args)

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.address for broker in self.brokers.values())

    def leaders(self) -> dict[int, int]:
        """Partition -> node id, as the brokers that are there say."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        partitions = admin.list_topics("events", timeout=10).topics["events"].partitions
        return {index: partition.leader for index, partition in partitions.items()}

    def wait_until_all_are_known(self) -> None:
        """A broker that was alone a moment ago learns of others within a second."""
        deadline = time.monotonic() + OFFLINE_MAX_S
        for broker in self.brokers.values():
            admin = AdminClient({"bootstrap.servers": broker.address})
            while set(admin.list_topics(timeout=10).brokers) != set(NODES):
                assert time.monotonic() < deadline, f"{broker.address} does not know all brokers"
                time.sleep(0.05)

    def wait_until_led_by(self, nodes: set[int]) -> None:
        deadline = time.monotonic() + OFFLINE_MAX_S
        reason = ""
        while True:
            try:
                if (leaders := set(self.leaders().values())) <= nodes:
                    return
            except KafkaException as error:
                leaders = set()
                reason = str(error)
            assert time.monotonic() < deadline, f"led by {leaders} {reason}"
            time.sleep(0.05)


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, request.param)
    with ExitStack() as stack:
        for broker in cluster.brokers.values():
            stack.enter_context(broker)
        yield cluster


@pytest.mark.timeout(180)
@pytest.mark.parametrize("cluster", [FILE_WAL, OBJECT_WAL], indirect=True)
def test_nothing_is_lost_or_doubled_while_brokers_die_stop_and_come_back(cluster: Cluster) -> None:
    cluster.wait_until_all_are_known()
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    admin.create_topics([NewTopic("events", TOPICS["events"], 1)])["events"].result(20)
    assert set(cluster.leaders().values()) == set(NODES)
    producers = [WatchedProducer(cluster.bootstrap, TOPICS, f"producer{n}", 400) for n in range(2)]
    consumers = [WatchedConsumer(cluster.bootstrap, TOPICS, "readers", f"consumer{n}") for n in range(2)]
    clients = [*producers, *consumers]
    for client in clients:
        client.start()
    wait_until_acknowledged(producers, 200)

    cluster.brokers[1].kill()
    cluster.wait_until_led_by({2, 3})
    wait_until_acknowledged(producers, 200)

    assert cluster.brokers[2].terminate() == 0
    cluster.wait_until_led_by({3})
    wait_until_acknowledged(producers, 200)

    cluster.brokers[1].start()
    cluster.brokers[2].start()
    cluster.brokers[3].kill()
    cluster.wait_until_led_by({1, 2})
    wait_until_acknowledged(producers, 200)

    for producer in producers:
        producer.stop()
        assert producer.errors == []
    wait_until_drained(cluster.bootstrap, TOPICS, "readers")
    for consumer in consumers:
        consumer.stop()
    for topic in TOPICS:
        log = read_log(cluster.bootstrap, topic, TOPICS[topic])
        assert check(history_of(topic, producers, consumers, log, drained=True)) == []
