"""An object is damaged while the broker is away: the partition that needs it is offline, all others are served."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from bench.broker_process import BrokerProcess
from bench.raw_load import read_frame
from protocol.api_keys import ApiKey
from protocol.codec import decode_response, encode_request
from protocol.errors import ErrorCode
from protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest
from protocol.records import Record, build_batch

from .kill_drill import SMALL_BLOCKS
from .raw_client import produce_frame

pytestmark = pytest.mark.integration


def ask(broker: BrokerProcess, key: ApiKey, version: int, frame: bytes) -> Any:
    with socket.create_connection((broker.host, broker.port), timeout=30) as connection:
        connection.sendall(frame)
        return decode_response(key, version, read_frame(connection))[1]


def produce(broker: BrokerProcess, topic: str) -> tuple[int, int]:
    """Error code and base offset."""
    value = f"record of {topic}".encode()
    batch = bytes(build_batch([Record(offset=0, timestamp=1, key=b"k", value=value, headers=[])]))
    answer = ask(broker, ApiKey.PRODUCE, 9, produce_frame(topic, batch)).responses[0].partition_responses[0]
    return answer.error_code, answer.base_offset


def object_with(directory: Path, text: bytes) -> Path:
    deadline = time.monotonic() + 20
    while True:
        for path in directory.rglob("*"):
            if path.is_file() and ".partial" not in path.parts and text in path.read_bytes():
                return path
        assert time.monotonic() < deadline, "it is not uploaded"
        time.sleep(0.05)


def test_a_damaged_object_takes_only_its_partition_offline(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data", env=SMALL_BLOCKS) as broker:
        topics = [CreatableTopic(name=name, num_partitions=1, replication_factor=1) for name in ("damaged", "sound")]
        request = CreateTopicsRequest(topics=topics, timeout_ms=10_000)
        ask(broker, ApiKey.CREATE_TOPICS, 7, encode_request(ApiKey.CREATE_TOPICS, 7, 1, "test", request))
        assert produce(broker, "damaged") == (ErrorCode.NONE, 0)
        path = object_with(tmp_path / "data" / "objects", b"record of damaged")
        assert produce(broker, "sound") == (ErrorCode.NONE, 0)
        object_with(tmp_path / "data" / "objects", b"record of sound")
        broker.kill()
        path.write_bytes(path.read_bytes().replace(b"record of damaged", b"record of Damaged"))
        broker.start()
        assert produce(broker, "sound") == (ErrorCode.NONE, 1)
        assert produce(broker, "damaged")[0] == ErrorCode.NOT_LEADER_OR_FOLLOWER
        (line,) = [line for line in broker.log().splitlines() if "partition is offline" in line]
        assert "topic=damaged partition=0" in line
        assert "the block is damaged" in line
        assert broker.terminate() == 0
