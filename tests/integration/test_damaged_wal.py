"""What a start makes of a write-ahead log that is torn, damaged, gone or in use."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from bench.broker_process import BrokerFailed, BrokerProcess

from .load import RECONNECT, end_of

pytestmark = pytest.mark.integration
NEVER_UPLOADS = {"TAILRACE_STORAGE_UPLOAD_INTERVAL_MS": "3600000"}
COUNT = 300


def fill_and_kill(broker: BrokerProcess) -> None:
    """Records that are only in the write-ahead log, in many group commits."""
    producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 0, **RECONNECT})
    for number in range(COUNT):
        producer.produce("t", str(number).encode())
        if number % 30 == 0:
            assert producer.flush(20) == 0
    assert producer.flush(20) == 0
    broker.kill()


def used_segment(data_dir: Path) -> tuple[Path, int]:
    """The segment with frames in it, and where its last frame ends."""
    # A record without headers ends in one zero byte.
    sizes = {path: len(path.read_bytes().rstrip(b"\0")) + 1 for path in (data_dir / "wal").glob("*.wal")}
    segment = max(sizes, key=lambda path: sizes[path])
    return segment, sizes[segment]


def change(path: Path, position: int, data: bytes) -> bytes:
    """Returns what was there."""
    with path.open("r+b") as file:
        file.seek(position)
        before = file.read(len(data))
        file.seek(position)
        file.write(data)
    return before


def hashes(directory: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.rglob("*") if path.is_file()}


def record_count(broker: BrokerProcess) -> int:
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "count", **RECONNECT})
    end = end_of(consumer, TopicPartition("t", 0))
    consumer.assign([TopicPartition("t", 0, 0)])
    values: list[bytes | None] = []
    while len(values) < end:
        values.extend(message.value() for message in consumer.consume(1000, 0.1))
    consumer.close()
    assert values == [str(number).encode() for number in range(end)]
    return end


def test_a_torn_tail_is_dropped_and_nothing_acknowledged_with_it(tmp_path: Path) -> None:
    broker = BrokerProcess(tmp_path / "data", env=NEVER_UPLOADS)
    with broker:
        fill_and_kill(broker)
        segment, end = used_segment(broker.data_dir)
        # The beginning of a group commit that did not reach the disk whole: the first one's header, and noise.
        start = segment.read_bytes()[64 : 64 + 40]
        change(segment, end, start + b"\xa5" * 1000)
        broker.start()
        assert record_count(broker) == COUNT


def test_a_last_commit_that_is_cut_costs_that_commit_only(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data", env=NEVER_UPLOADS) as broker:
        fill_and_kill(broker)
        segment, end = used_segment(broker.data_dir)
        change(segment, end - 2, b"\0")
        broker.start()
        assert COUNT - 60 <= record_count(broker) < COUNT


def test_a_flipped_bit_amid_the_log_refuses_the_start_and_changes_nothing(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data", env=NEVER_UPLOADS) as broker:
        fill_and_kill(broker)
        segment, end = used_segment(broker.data_dir)
        byte = segment.read_bytes()[end // 2]
        change(segment, end // 2, bytes([byte ^ 4]))
        before = hashes(broker.data_dir / "wal")
        for _ in range(2):
            with pytest.raises(BrokerFailed):
                broker.start()
            assert broker.returncode == 1
            last = broker.log().splitlines()[-1]
            assert last.startswith("tailrace: ")
            assert str(segment) in last
            assert ", byte " in last
            assert "Traceback" not in broker.log()
            assert hashes(broker.data_dir / "wal") == before
        change(segment, end // 2, bytes([byte]))
        broker.start()
        assert record_count(broker) == COUNT


def test_a_second_broker_started_too_early_is_one_line_and_harms_nobody(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data", env=NEVER_UPLOADS) as broker:
        command = [sys.executable, "-m", "broker.cli", "serve", "--listen", "127.0.0.1:0"]
        second = subprocess.run(
            [*command, "--data-dir", str(broker.data_dir)], capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == 1
        assert second.stderr.count("\n") == 1
        assert "in use" in second.stderr
        fill_and_kill(broker)
        broker.start()
        assert record_count(broker) == COUNT


@pytest.mark.parametrize("successor", [1, 2])
def test_partitions_of_a_lost_log_are_offline_for_all_to_see(tmp_path: Path, successor: int) -> None:
    shared = [
        *("--objects", (tmp_path / "objects").as_uri()),
        *("--metadata", f"sqlite:///{tmp_path / 'catalog.db'}"),
    ]
    env = {**NEVER_UPLOADS, "TAILRACE_LEASE_MS": "2000"}
    with BrokerProcess(tmp_path / "one", node_id=1, args=shared, env=env) as first:
        fill_and_kill(first)
    (tmp_path / "one" / "wal").rename(tmp_path / "wal of one")
    shutil.rmtree(tmp_path / "one")
    name = "one" if successor == 1 else "two"
    with BrokerProcess(tmp_path / name, node_id=successor, args=shared, env=env) as second:
        wait_until_without_leader(second)
        assert "offline" in second.log()
        assert produce_errors(second, "t") == [KafkaError._MSG_TIMED_OUT]
        assert produce_errors(second, "other") == [None]
        # By now there may be another log in the place of the lost one.
        second.kill()
        second.start()
        wait_until_without_leader(second)
        second.terminate()
    # The log turns up again: what was acknowledged is there.
    shutil.rmtree(tmp_path / "one", ignore_errors=True)
    (tmp_path / "one").mkdir()
    (tmp_path / "wal of one").rename(tmp_path / "one" / "wal")
    with BrokerProcess(tmp_path / "three", node_id=3, args=shared, env=env) as third:
        assert record_count(third) == COUNT


def wait_until_without_leader(broker: BrokerProcess) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address, **RECONNECT})
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        topic = admin.list_topics("t", timeout=10).topics["t"]
        (partition,) = topic.partitions.values()
        if partition.leader == -1:
            assert partition.error is not None
            assert partition.error.code() == KafkaError.LEADER_NOT_AVAILABLE
            return
        time.sleep(0.05)
    raise AssertionError(f"partition 0 of t has the leader {partition.leader}")


def produce_errors(broker: BrokerProcess, topic: str) -> list[int | None]:
    """The client retries by itself, until its own time-out."""
    errors: list[int | None] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        errors.append(None if error is None else error.code())

    timeout_ms = 1000 if topic == "t" else 20_000
    producer = Producer({"bootstrap.servers": broker.address, "message.timeout.ms": timeout_ms, **RECONNECT})
    producer.produce(topic, b"x", partition=0, on_delivery=delivered)
    producer.flush(30)
    return errors
