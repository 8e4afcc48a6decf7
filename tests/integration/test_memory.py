"""Memory has a bound, with a real broker: a store that is too slow, clients that do not move, many that only wait.

The limits are smaller than the defaults, so that the same mechanisms engage with less data (docs/memory.md).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench.broker_process import BrokerProcess
from bench.proxy import Proxy
from bench.seaweedfs_process import SeaweedFs
from tests.integration.raw_client import MIB, RawConnection, fetch_request, half_request
from tests.integration.seaweedfs import s3_url as s3_url
from tests.integration.seaweedfs import seaweedfs as seaweedfs

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc"),
]

PARTITIONS = 4
PRODUCERS = 3
RECORD_SIZE = 10_000
RECORDS_PER_PRODUCER = 9_000
STORE_RATE = 12e6
UNUPLOADED_MAX = 48 * MIB
LIMITS = {
    "TAILRACE_STORAGE_CACHE_SIZE_MAX": str(64 * MIB),
    "TAILRACE_STORAGE_BLOCK_SIZE": str(8 * MIB),
    "TAILRACE_STORAGE_PRESSURE_LOW_SIZE": str(30 * MIB),
    "TAILRACE_STORAGE_PRESSURE_HIGH_SIZE": str(36 * MIB),
    "TAILRACE_STORAGE_UNUPLOADED_SIZE_MAX": str(UNUPLOADED_MAX),
    "TAILRACE_STORAGE_BLOCK_CACHE_SIZE_MAX": str(16 * MIB),
    "TAILRACE_STORAGE_FETCH_MEMORY_MAX": str(16 * MIB),
    "TAILRACE_BROKER_QUEUED_MAX_REQUEST_BYTES": str(32 * MIB),
}
RESIDENT_MAX = 300_000_000
"""90 MB of the process itself, the limits above, and a margin."""
IDLE_RESIDENT_MAX = 110_000_000
TIMEOUT_S = 100.0


class LoadingProducer(threading.Thread):
    """Sends numbered records as fast as the broker lets it; keeps errors and the longest throttle it was told."""

    def __init__(self, bootstrap: str, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.acknowledged = 0
        self.errors: list[KafkaError] = []
        self.throttle_s_max = 0.0
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "batch.size": 65_536,
                "linger.ms": 5,
                "queue.buffering.max.kbytes": 16_384,
                "error_cb": self.errors.append,
                "throttle_cb": self._throttled,
                "log_level": 0,
            }
        )

    def run(self) -> None:
        padding = bytes(RECORD_SIZE)
        for number in range(RECORDS_PER_PRODUCER):
            value = f"{self.name}-{number}-".encode() + padding
            while True:
                try:
                    self._producer.produce("load", value, partition=number % PARTITIONS, on_delivery=self._delivered)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        self._producer.flush(TIMEOUT_S)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self.errors.append(error)

    def _throttled(self, event: object) -> None:
        self.throttle_s_max = max(self.throttle_s_max, event.throttle_time)  # type: ignore[attr-defined]


def make_topics(broker: BrokerProcess, *topics: NewTopic) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    for made in admin.create_topics(list(topics)).values():
        made.result()


def until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.timeout(240)
def test_a_slow_store_slows_producers_down_and_nothing_grows_or_is_lost(
    tmp_path: Path, seaweedfs: SeaweedFs, s3_url: str
) -> None:
    with Proxy(seaweedfs.port, rate=STORE_RATE) as proxy:
        url = s3_url.replace(str(seaweedfs.port), str(proxy.port))
        with BrokerProcess(tmp_path / "data", args=["--objects", url], env=LIMITS) as broker:
            make_topics(broker, NewTopic("load", PARTITIONS, 1))
            producers = [LoadingProducer(broker.address, f"p{number}") for number in range(PRODUCERS)]
            for producer in producers:
                producer.start()

            def acknowledged() -> int:
                return sum(producer.acknowledged for producer in producers)

            until(lambda: acknowledged() * RECORD_SIZE > 30 * MIB)
            stalled = stalled_clients(broker)
            probe = RawConnection(broker.host, broker.port)
            latencies, backlog_max = [], 0
            deadline = time.monotonic() + TIMEOUT_S
            while acknowledged() * RECORD_SIZE < 150 * MIB:
                assert time.monotonic() < deadline
                passed = proxy.passed
                backlog_max = max(backlog_max, acknowledged() * RECORD_SIZE - passed)
                began = time.monotonic()
                probe.send(fetch_request("load", 0, 0, max_wait_ms=0, max_bytes=1))
                probe.receive_fetch()
                latencies.append(time.monotonic() - began)
                time.sleep(0.05)
            assert any(producer.is_alive() for producer in producers), "the store was not too slow"

            proxy.rate = 1e9
            for producer in producers:
                producer.join(TIMEOUT_S)
            assert [error for producer in producers for error in producer.errors] == []
            assert acknowledged() == PRODUCERS * RECORDS_PER_PRODUCER
            assert max(producer.throttle_s_max for producer in producers) > 0
            # What has passed the proxy may still be in flight: un-uploaded by the broker's own reckoning.
            assert 12 * MIB < backlog_max < UNUPLOADED_MAX
            assert sorted(latencies)[len(latencies) // 2] < 0.1
            assert_all_there(broker)
            assert broker.resident_size_max() < RESIDENT_MAX
            for connection in [probe, *stalled]:
                connection.close()


def stalled_clients(broker: BrokerProcess) -> list[RawConnection]:
    """20 that ask for 50 MB and read nothing, 20 that announce 100 MB and send 2 of them."""
    connections = []
    for number in range(20):
        asks = RawConnection(broker.host, broker.port, receive_buffer=8192)
        for _ in range(10):
            asks.send(fetch_request("load", number % PARTITIONS, 0, max_wait_ms=100, max_bytes=50 * MIB))
        sends = RawConnection(broker.host, broker.port)
        sends.socket.setblocking(False)
        sends.socket.send(half_request(100 * MIB, 2 * MIB))
        connections += [asks, sends]
    return connections


def assert_all_there(broker: BrokerProcess) -> None:
    """Every record once, in the order of its producer, without gaps in the offsets."""
    consumer = Consumer(
        {"bootstrap.servers": broker.address, "group.id": "check", "enable.partition.eof": True, "check.crcs": True}
    )
    consumer.assign([TopicPartition("load", partition, 0) for partition in range(PARTITIONS)])
    next_numbers = {
        (partition, f"p{producer}"): partition for partition in range(PARTITIONS) for producer in range(PRODUCERS)
    }
    next_offsets = [0] * PARTITIONS
    at_end: set[int] = set()
    deadline = time.monotonic() + TIMEOUT_S
    while len(at_end) < PARTITIONS:
        assert time.monotonic() < deadline
        for message in consumer.consume(1000, 1.0):
            partition = message.partition()
            error = message.error()
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                at_end.add(partition)
                continue
            assert message.offset() == next_offsets[partition]
            next_offsets[partition] += 1
            producer, number, _ = message.value().split(b"-", 2)
            assert int(number) == next_numbers[partition, producer.decode()]
            next_numbers[partition, producer.decode()] += PARTITIONS
    consumer.close()
    assert sum(next_offsets) == PRODUCERS * RECORDS_PER_PRODUCER


def test_500_idle_connections_and_200_long_polls_cost_little_and_a_record_wakes_them(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data") as broker:
        make_topics(broker, NewTopic("quiet", 1, 1))
        idle = [RawConnection(broker.host, broker.port) for _ in range(500)]
        polls = [RawConnection(broker.host, broker.port) for _ in range(200)]
        for poll in polls:
            poll.send(fetch_request("quiet", 0, 0, max_wait_ms=60_000))
        time.sleep(0.5)  # start-up and the connecting are over
        cpu_before = broker.cpu_seconds()
        time.sleep(3)
        assert broker.cpu_seconds() - cpu_before < 0.3
        assert broker.resident_size_max() < IDLE_RESIDENT_MAX

        producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 0})
        began = time.monotonic()
        producer.produce("quiet", b"wake up")
        assert producer.flush(TIMEOUT_S) == 0
        for poll in polls:
            (topic,) = poll.receive_fetch().responses
            assert topic.partitions[0].high_watermark == 1
            assert b"wake up" in bytes(topic.partitions[0].records or b"")
        assert time.monotonic() - began < 5
        for connection in idle:
            connection.send(fetch_request("quiet", 0, 0, max_wait_ms=0))
        assert all(connection.receive_fetch().responses[0].partitions[0].high_watermark == 1 for connection in idle)
        for connection in [*idle, *polls]:
            connection.close()
