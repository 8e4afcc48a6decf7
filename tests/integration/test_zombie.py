"""A broker that was paused beyond its lease, and replaced meanwhile, acknowledges nothing any more."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess

pytestmark = pytest.mark.integration

LEASE_S = 1.0
TOPIC = "paused"


def broker(tmp_path: Path, node_id: int) -> BrokerProcess:
    args = ["--objects", f"file://{tmp_path}/objects", "--metadata", f"sqlite:///{tmp_path}/catalog.db"]
    # Uploads are rare, so that the log's tail is what a successor needs.
    env = {"TAILRACE_LEASE_MS": str(int(LEASE_S * 1000)), "TAILRACE_STORAGE_UPLOAD_INTERVAL_MS": "600000"}
    return BrokerProcess(tmp_path / f"data{node_id}", node_id=node_id, args=args, env=env)


def read_all(address: str) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "enable.auto.commit": False})
    place = TopicPartition(TOPIC, 0)
    try:
        _, end = consumer.get_watermark_offsets(place, timeout=20)
        consumer.assign([TopicPartition(TOPIC, 0, 0)])
        values: list[bytes] = []
        deadline = time.monotonic() + 20
        while len(values) < end and time.monotonic() < deadline:
            values += [message.value() or b"" for message in consumer.consume(500, 0.2) if message.error() is None]
        return values
    finally:
        consumer.close()


def wait_until_led(address: str) -> None:
    """The successor takes over when the log's lock is free, which is when the other process has ended."""
    admin = AdminClient({"bootstrap.servers": address})
    deadline = time.monotonic() + 20
    while admin.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions[0].leader != 2:
        assert time.monotonic() < deadline, "not taken over"
        time.sleep(0.05)


def exit_code(broker: BrokerProcess) -> int | None:
    deadline = time.monotonic() + 20
    while broker.returncode is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return broker.returncode


@pytest.mark.timeout(120)
def test_a_paused_and_replaced_broker_acknowledges_nothing_and_its_successor_has_all(tmp_path: Path) -> None:
    acknowledged: list[bytes] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is None:
            acknowledged.append(message.value() or b"")

    with broker(tmp_path, 1) as zombie:
        admin = AdminClient({"bootstrap.servers": zombie.address})
        admin.create_topics([NewTopic(TOPIC, 1)])[TOPIC].result(20)
        # what it had in flight it may send again to the successor, which may well acknowledge it
        producer = Producer(
            {
                "bootstrap.servers": zombie.address,
                "enable.idempotence": True,
                "linger.ms": 0,
                "message.timeout.ms": 5_000,
            }
        )
        for number in range(500):
            producer.produce(TOPIC, b"before-%d" % number, on_delivery=delivered)
        assert producer.flush(20) == 0
        assert len(acknowledged) == 500

        zombie.pause()
        for number in range(100):  # they wait in its socket
            producer.produce(TOPIC, b"meanwhile-%d" % number, on_delivery=delivered)
        producer.poll(0.2)
        time.sleep(LEASE_S + 0.5)
        with broker(tmp_path, 2) as successor:
            zombie.resume()
            assert exit_code(zombie) == 1
            producer.flush(20)
            wait_until_led(successor.address)
            values = read_all(successor.address)
            assert [value for value in values if value in acknowledged] == acknowledged
            assert len(set(values)) == len(values)
