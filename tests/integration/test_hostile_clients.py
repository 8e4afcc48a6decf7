"""Hostile clients at a real broker: each is answered or closed with one line in the log, and others notice nothing."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench.broker_process import BrokerProcess
from bench.raw_load import read_frame
from protocol.api_keys import BROKER_APIS, ApiKey
from protocol.codec import decode_response, encode_request
from protocol.errors import ErrorCode
from protocol.messages.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from protocol.messages.find_coordinator import FindCoordinatorRequest
from protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from protocol.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from protocol.records import Codec
from protocol.records.compression import compress
from tests.broker.hostile.mutation import batch
from tests.broker.hostile.test_batches import with_body

from .beside import Beside
from .raw_client import MIB, RawConnection, fetch_request, half_request, produce_frame

pytestmark = pytest.mark.integration

STALL_S = 0.5
"""What a request beside them may take. The loop should be held for 0.1 s at most; the machine is shared."""
RESIDENT_SIZE_MAX = 700_000_000


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

        for codec in (Codec.GZIP, Codec.SNAPPY, Codec.LZ4, Codec.ZSTD):
            # as much as the size of a batch allows
            zeros = bytes((20 if codec == Codec.SNAPPY else 200) << 20)
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
        time.sleep(1)
        for connection in slow:
            connection.close()

        assert beside.read().slowest < STALL_S
    assert broker.resident_size_max() < RESIDENT_SIZE_MAX
    log = broker.log()
    assert "Traceback" not in log
    assert "level=error" not in log
    assert log.count("connection closed") + log.count("more connections closed") >= 10
    assert broker.terminate() == 0


def connect(broker: BrokerProcess) -> socket.socket:
    return socket.create_connection((broker.host, broker.port), timeout=30)


def test_small_bombs_one_behind_the_other_do_not_hold_the_loop(broker: BrokerProcess) -> None:
    zeros = bytes(20 << 20)
    with Beside(broker) as beside:
        for codec, count in ((Codec.GZIP, 50), (Codec.SNAPPY, 4), (Codec.LZ4, 20), (Codec.ZSTD, 300)):
            body = zlib.compress(zeros, 9, wbits=31) if codec == Codec.GZIP else compress(codec, zeros)
            frames = produce_frame("compacted", with_body(body, codec, 10)) * count
            with connect(broker) as connection:
                sending = threading.Thread(target=connection.sendall, args=(frames,))
                sending.start()
                for _ in range(count):
                    read_frame(connection)
                sending.join()
            time.sleep(0.3)
        seen = beside.read()
        assert seen.p99 < STALL_S
        assert seen.slowest < 2 * STALL_S
    assert ask(broker, produce_frame("compacted", batch())) is not None
    assert broker.resident_size_max() < RESIDENT_SIZE_MAX


def test_requests_byte_by_byte_and_halves_that_hardly_go_on_cost_others_nothing(broker: BrokerProcess) -> None:
    frame = produce_frame("plain", batch())
    with ExitStack() as held, Beside(broker) as beside:
        slow = [held.enter_context(connect(broker)) for _ in range(250)]
        for position in range(len(frame)):
            for connection in slow:
                connection.sendall(frame[position : position + 1])
        for connection in slow:
            read_frame(connection)
        for connection in slow:
            connection.sendall(half_request(90_000_000, 10))
        for _ in range(20):
            time.sleep(0.1)
            for connection in slow:
                connection.sendall(b"x")
        seen = beside.read()
        assert seen.p99 < STALL_S
        assert seen.slowest < 2 * STALL_S
    assert broker.resident_size_max() < 250_000_000


def test_who_never_reads_is_closed_with_a_line_and_others_read_on(broker: BrokerProcess) -> None:
    for _ in range(60):
        assert ask(broker, produce_frame("plain", with_body(os.urandom(900_000), Codec.NONE, 1))) is not None
    with ExitStack() as held, Beside(broker) as beside:
        for _ in range(60):
            deaf = RawConnection(broker.host, broker.port, receive_buffer=4096)
            held.callback(deaf.close)
            for _ in range(10):
                deaf.send(fetch_request("plain", 0, 0, max_wait_ms=100, max_bytes=50 * MIB))
        wait_until_logged(broker, "responses that are not taken")
        assert beside.read().p99 < STALL_S
    assert broker.resident_size_max() < RESIDENT_SIZE_MAX


def test_giant_metadata_of_a_member_is_refused(broker: BrokerProcess) -> None:
    find = encode_request(ApiKey.FIND_COORDINATOR, 2, 1, "test", FindCoordinatorRequest(key="g", key_type=0))
    wait_until(lambda: not answered(broker, ApiKey.FIND_COORDINATOR, 2, find).error_code)
    protocols = [JoinGroupRequestProtocol(name=f"p{number}", metadata=bytes(8 * MIB)) for number in range(2)]
    request = JoinGroupRequest(
        group_id="g",
        session_timeout_ms=30_000,
        rebalance_timeout_ms=1000,
        protocol_type="consumer",
        protocols=protocols,
    )
    join = encode_request(ApiKey.JOIN_GROUP, 3, 1, "test", request)
    with Beside(broker) as beside:
        for _ in range(20):
            assert answered(broker, ApiKey.JOIN_GROUP, 3, join).error_code == ErrorCode.INVALID_REQUEST
        assert beside.read().p99 < STALL_S
    assert broker.resident_size_max() < 250_000_000


def answered(broker: BrokerProcess, key: ApiKey, version: int, frame: bytes) -> Any:
    answer = ask(broker, frame)
    assert answer is not None
    return decode_response(key, version, answer)[1]


def wait_until_logged(broker: BrokerProcess, words: str) -> None:
    wait_until(lambda: words in broker.log())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)
