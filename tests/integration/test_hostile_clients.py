"""Hostile clients at a real broker: each is answered or closed with one line in the log, and others notice nothing."""

from __future__ import annotations

import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.broker_process import BrokerProcess
from protocol.api_keys import BROKER_APIS, ApiKey
from protocol.codec import decode_response, encode_request
from protocol.messages.api_versions import ApiVersionsRequest
from protocol.messages.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from protocol.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from protocol.records import Codec
from protocol.records.compression import compress
from tests.broker.hostile.mutation import batch
from tests.broker.hostile.test_batches import with_body

pytestmark = pytest.mark.integration

STALL_S = 0.5
"""What a request beside them may take. The loop should be held for 0.1 s at most; the machine is shared."""
RESIDENT_SIZE_MAX = 700_000_000


class Beside:
    """Produces and asks on connections of its own, and remembers the slowest answer."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.slowest_s = 0.0
        self.answers = 0
        self._address = (broker.host, broker.port)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        ping = encode_request(ApiKey.API_VERSIONS, 0, 1, "ping", ApiVersionsRequest())
        produce = produce_frame("quiet", batch())
        with socket.create_connection(self._address, timeout=30) as connection:
            while not self._ended.wait(0.01):
                for frame in (ping, produce):
                    started = time.monotonic()
                    connection.sendall(frame)
                    read_frame(connection)
                    self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                    self.answers += 1


def produce_frame(topic: str, records: bytes | memoryview) -> bytes:
    data = TopicProduceData(name=topic, partition_data=[PartitionProduceData(index=0, records=records)])
    return encode_request(ApiKey.PRODUCE, 9, 1, "test", ProduceRequest(acks=-1, timeout_ms=5000, topic_data=[data]))


def read_frame(connection: socket.socket) -> bytes:
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack(">i", data[:4])[0]:
        piece = connection.recv(65_536)
        if not piece:
            raise ConnectionError
        data += piece
    return data[4:]


def ask(broker: BrokerProcess, frame: bytes) -> bytes | None:
    """The answer's frame; None if the broker closes instead."""
    with socket.create_connection((broker.host, broker.port), timeout=15) as connection:
        try:
            connection.sendall(frame)
            return read_frame(connection)
        except ConnectionError:
            return None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path / "data", env={"TAILRACE_BROKER_MAX_CONNECTIONS": "300"}) as running:
        compacted = CreatableTopicConfig(name="cleanup.policy", value="compact")
        topics = [
            CreatableTopic(name="quiet", num_partitions=1, replication_factor=1),
            CreatableTopic(name="plain", num_partitions=1, replication_factor=1),
            CreatableTopic(name="compacted", num_partitions=1, replication_factor=1, configs=[compacted]),
        ]
        request = CreateTopicsRequest(topics=topics, timeout_ms=10_000)
        assert ask(running, encode_request(ApiKey.CREATE_TOPICS, 7, 1, "test", request)) is not None
        yield running


def refused_frames() -> list[bytes]:
    """What nothing answers."""
    unsupported = [
        struct.pack(">ihhih", 10, key, 99, 1, -1) for key in sorted(BROKER_APIS) if key != ApiKey.API_VERSIONS
    ]
    return [
        *(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        *(struct.pack(">i", size) + bytes(16) for size in (-1, -(2**31), 2**31 - 1, 0, 3)),
        struct.pack(">ihhih", 10, 999, 0, 1, -1),
        bytes(range(255, -1, -1)) * 4,
        *unsupported,
    ]


def test_hostile_clients_are_answered_or_closed_and_others_notice_nothing(broker: BrokerProcess) -> None:
    with Beside(broker) as beside:
        for frame in refused_frames():
            assert ask(broker, frame) is None

        for codec in (Codec.GZIP, Codec.LZ4, Codec.ZSTD):
            zeros = bytes(200 << 20)
            body = zlib.compress(zeros, 1, wbits=31) if codec == Codec.GZIP else compress(codec, zeros)
            for topic, count in (("compacted", 10), ("compacted", 2_000_000), ("plain", 2_000_000), ("plain", 10)):
                assert ask(broker, produce_frame(topic, with_body(body, codec, count))) is not None
        wanted = ListOffsetsTopic(name="plain", partitions=[ListOffsetsPartition(partition_index=0, timestamp=1)])
        look_up = encode_request(ApiKey.LIST_OFFSETS, 6, 1, "test", ListOffsetsRequest(topics=[wanted]))
        assert ask(broker, look_up) is not None

        names = ["../up", ".", "nul\0", "x" * 300, *(f"missing-{n}" for n in range(5000))]
        request = MetadataRequest(
            topics=[MetadataRequestTopic(name=name) for name in names], allow_auto_topic_creation=False
        )
        answer = ask(broker, encode_request(ApiKey.METADATA, 9, 1, "test", request))
        assert answer is not None
        _, metadata = decode_response(ApiKey.METADATA, 9, answer)
        assert all(topic.error_code for topic in metadata.topics)

        storm = [socket.create_connection((broker.host, broker.port), timeout=15) for _ in range(400)]
        for connection in storm:
            connection.close()
        slow = [socket.create_connection((broker.host, broker.port), timeout=15) for _ in range(50)]
        for connection in slow:
            connection.sendall(struct.pack(">ihhi", 50_000_000, ApiKey.PRODUCE, 9, 1) + b"slow")
        ended_at = time.monotonic() + 1
        answers = beside.answers
        while time.monotonic() < ended_at or beside.answers == answers:
            time.sleep(0.05)
        for connection in slow:
            connection.close()

    assert beside.slowest_s < STALL_S
    assert broker.resident_size_max() < RESIDENT_SIZE_MAX
    log = broker.log()
    assert "Traceback" not in log
    assert "level=error" not in log
    assert log.count("connection closed") + log.count("more connections closed") >= 10
    assert broker.terminate() == 0
