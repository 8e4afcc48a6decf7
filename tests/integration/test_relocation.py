"""A broker is thrown away and another node goes on from objects and catalog alone: everything is there.

"Everything": record bytes and timestamps, topics with their configs, committed offsets with their metadata, and the
state of idempotent producers, so that one which was open goes on without a duplicate.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess
from bench.history import check

from .load import (
    RECONNECT,
    WatchedConsumer,
    WatchedProducer,
    end_of,
    history_of,
    read_log,
    wait_until_acknowledged,
    wait_until_drained,
)

pytestmark = pytest.mark.integration
TOPICS = {"orders": 4, "stamped": 2}
CONFIG = {"message.timestamp.type": "LogAppendTime", "retention.ms": "123456789"}
Record = tuple[int, int, tuple[int, int], bytes | None, bytes | None, object]


FILES, SERVERS = "files and SQLite", "S3 and PostgreSQL"
STOPPED, KILLED = "stopped, data dir deleted", "killed, write-ahead log still there"


@pytest.fixture
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Flags of a store and a catalog outside of every data dir."""
    if request.param == FILES:
        objects, metadata = (tmp_path / "objects").as_uri(), f"sqlite:///{tmp_path / 'catalog.db'}"
    else:
        objects, metadata = request.getfixturevalue("s3_url"), request.getfixturevalue("postgres_url")
    return ["--objects", objects, "--metadata", metadata]


def create_topics(address: str) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    topics = [NewTopic("orders", TOPICS["orders"], 1), NewTopic("stamped", TOPICS["stamped"], 1, config=CONFIG)]
    for created in admin.create_topics(topics).values():
        created.result(30)


def topic_config(address: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResource.Type.TOPIC, "stamped")
    admin = AdminClient({"bootstrap.servers": address})
    entries = admin.describe_configs([resource])[resource].result(30)
    return {name: str(entries[name].value) for name in CONFIG}


def all_records(address: str) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for topic, count in TOPICS.items():
        consumer = Consumer({"bootstrap.servers": address, "group.id": "bytes", **RECONNECT})
        records = found[topic] = []
        for partition in range(count):
            place = TopicPartition(topic, partition, 0)
            end = end_of(consumer, place)
            consumer.assign([place])
            while end and (not records or records[-1][:2] != (partition, end - 1)):
                for message in consumer.consume(1000, 0.1):
                    assert message.error() is None
                    offset = message.offset()
                    assert offset is not None
                    records.append(
                        (partition, offset, message.timestamp(), message.key(), message.value(), message.headers())
                    )
        consumer.close()
    return found


def commit_by_hand(address: str) -> None:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "by-hand", **RECONNECT})
    consumer.commit(offsets=[TopicPartition("orders", 1, 17, metadata="where I was")], asynchronous=False)
    consumer.close()


def committed_by_hand(address: str) -> tuple[int, str | None]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "by-hand", **RECONNECT})
    (found,) = consumer.committed([TopicPartition("orders", 1)], timeout=30)
    consumer.close()
    return found.offset, found.metadata


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("shared", "ending"), [(FILES, STOPPED), (SERVERS, STOPPED), (SERVERS, KILLED)], indirect=["shared"]
)
def test_another_node_has_everything_and_open_clients_go_on(tmp_path: Path, shared: list[str], ending: str) -> None:
    first = BrokerProcess(tmp_path / "one", node_id=1, args=shared)
    with first:
        create_topics(first.address)
        producers = [
            WatchedProducer(first.address, TOPICS, f"p{number}", 500, {"compression.type": compression})
            for number, compression in enumerate(["none", "zstd"])
        ]
        consumer = WatchedConsumer(first.address, TOPICS, "g", "c0")
        for client in (*producers, consumer):
            client.start()
        wait_until_acknowledged(producers, more=500)
        commit_by_hand(first.address)
        if ending == STOPPED:
            wait_until_acknowledged(producers, more=100)
            assert first.terminate() == 0
            shutil.rmtree(tmp_path / "one")
        else:
            first.kill()
    # On the same port, so that the clients find it; nothing else is left of the first one.
    with BrokerProcess(tmp_path / "two", node_id=2, port=first.port, args=shared) as second:
        assert topic_config(second.address) == CONFIG
        assert committed_by_hand(second.address) == (17, "where I was")
        wait_until_acknowledged(producers, more=300)
        for producer in producers:
            producer.stop()
            assert producer.errors == []
        wait_until_drained(second.address, TOPICS, "g")
        consumer.stop()
        for topic, count in TOPICS.items():
            log = read_log(second.address, topic, count)
            assert check(history_of(topic, producers, [consumer], log, drained=True)) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("shared", [SERVERS], indirect=True)
def test_records_are_the_same_bytes_on_another_node(tmp_path: Path, shared: list[str]) -> None:
    with BrokerProcess(tmp_path / "one", node_id=1, args=shared) as first:
        create_topics(first.address)
        producer = WatchedProducer(first.address, TOPICS, "p", 1000, {"compression.type": "lz4"})
        producer.start()
        wait_until_acknowledged([producer], more=1000)
        producer.stop()
        before = all_records(first.address)
        assert first.terminate() == 0
    shutil.rmtree(tmp_path / "one")
    with BrokerProcess(tmp_path / "two", node_id=2, args=shared) as second:
        assert all_records(second.address) == before
