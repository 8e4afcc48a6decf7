"""Three brokers in three racks: who reads old records with a `client.rack` reads all of them from the broker there.

What crosses racks is what the other brokers wrote to their sockets and files meanwhile, as the kernel counts it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess

from .test_java_tools import run

pytestmark = pytest.mark.interop
RACKS = {1: "a", 2: "b", 3: "c"}
TOPIC, PARTITIONS = "old", 3
RECORDS = 6_000
"""Of a partition."""
YESTERDAY_MS = int(time.time() * 1000) - 86_400_000
BESIDE_SIZE_MAX = 300_000
"""Answers to heartbeats and metadata, log lines."""
TIMEOUT_S = 60.0


def value(partition: int, number: int) -> bytes:
    return b"%d/%d/" % (partition, number) * 100


SIZE = sum(len(value(partition, number)) for partition in range(PARTITIONS) for number in range(RECORDS))


class RackCluster:
    def __init__(self, directory: Path) -> None:
        common = ["--objects", f"file://{directory}/objects", "--metadata", f"sqlite:///{directory}/catalog.db"]
        env = {"TAILRACE_BROKER_GROUP_INITIAL_REBALANCE_DELAY_MS": "0"}
        self._catalog = directory / "catalog.db"
        self.brokers = {
            node_id: BrokerProcess(
                directory / f"data{node_id}", node_id=node_id, args=[*common, "--rack", rack], env=env
            )
            for node_id, rack in RACKS.items()
        }

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.address for broker in self.brokers.values())

    def fill(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        deadline = time.monotonic() + TIMEOUT_S
        while len(admin.list_topics(timeout=10).brokers) < len(RACKS):
            assert time.monotonic() < deadline, "they do not know each other"
            time.sleep(0.05)
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 3)])[TOPIC].result(20)
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5})
        for number in range(RECORDS):
            for partition in range(PARTITIONS):
                producer.produce(TOPIC, value(partition, number), partition=partition, timestamp=YESTERDAY_MS)
            producer.poll(0)
        assert producer.flush(TIMEOUT_S) == 0
        while self._committed() < RECORDS * PARTITIONS:
            assert time.monotonic() < deadline, "it is not uploaded"
            time.sleep(0.05)

    def _committed(self) -> int:
        with closing(sqlite3.connect(self._catalog)) as database:
            (count,) = database.execute(
                "SELECT sum(end_offset) FROM streams JOIN partitions ON stream_id = log_stream_id"
            ).fetchone()
        return int(count)

    def written(self) -> dict[int, int]:
        found = {}
        for node_id, broker in self.brokers.items():
            fields = dict(line.split(": ") for line in Path(f"/proc/{broker.pid}/io").read_text().splitlines())
            found[node_id] = int(fields["wchar"])
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RackCluster]:
    cluster = RackCluster(tmp_path_factory.mktemp("racks"))
    with ExitStack() as stack:
        for broker in cluster.brokers.values():
            stack.enter_context(broker)
        cluster.fill()
        yield cluster
        # before they are killed one by one, which the others remark upon
        complaints = {
            broker.node_id: "level=warning" in broker.log() or "level=error" in broker.log()
            for broker in cluster.brokers.values()
        }
    assert not any(complaints.values()), complaints


def read_with_confluent(cluster: RackCluster, isolation: str) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "group.id": "near",
            "client.rack": "b",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(PARTITIONS)])
    positions = dict.fromkeys(range(PARTITIONS), 0)
    deadline = time.monotonic() + TIMEOUT_S
    while min(positions.values()) < RECORDS:
        assert time.monotonic() < deadline, positions
        for message in consumer.consume(1000, 0.2):
            assert message.error() is None
            partition = message.partition() or 0
            assert message.offset() == positions[partition]
            assert message.value() == value(partition, positions[partition])
            positions[partition] += 1
    consumer.close()


def read_with_java(cluster: RackCluster, isolation: str, directory: Path) -> None:
    (directory / "consumer.properties").write_text(f"client.rack=b\nisolation.level={isolation}\n")
    told = run(
        "org.apache.kafka.tools.ConsumerPerformance",
        *("--bootstrap-server", cluster.bootstrap, "--topic", TOPIC, "--num-records", RECORDS * PARTITIONS),
        *("--command-config", directory / "consumer.properties", "--timeout", 30_000),
    )
    assert int(told.splitlines()[-1].split(", ")[4]) == RECORDS * PARTITIONS


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("client", "isolation"),
    [("confluent", "read_uncommitted"), ("confluent", "read_committed"), ("java", "read_committed")],
)
def test_old_records_come_from_the_broker_in_the_readers_rack(
    cluster: RackCluster, client: str, isolation: str, tmp_path: Path
) -> None:
    before = cluster.written()
    if client == "java":
        read_with_java(cluster, isolation, tmp_path)
    else:
        read_with_confluent(cluster, isolation)
    sent = {node_id: now - before[node_id] for node_id, now in cluster.written().items()}
    assert sent[2] > SIZE
    assert max(sent[1], sent[3]) < BESIDE_SIZE_MAX, sent
