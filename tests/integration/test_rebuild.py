"""The database is deleted after a `kill -9` under load and rebuilt from the bucket: watched clients lose nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerFailed, BrokerProcess
from bench.history import Outcome, check
from s3stream.catalog.schema import topics
from s3stream.catalog.snapshot import decode_snapshot
from s3stream.rebuild.snapshots import SNAPSHOT_PREFIX

from .load import (
    WatchedConsumer,
    WatchedProducer,
    history_of,
    read_log,
    wait_until_acknowledged,
    wait_until_drained,
)

pytestmark = pytest.mark.integration
TOPICS = {"orders": 3, "payments": 1}


def tailrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broker.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.timeout(120)
def test_clients_go_on_with_a_catalog_that_was_rebuilt(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with BrokerProcess(data) as broker:
        admin = AdminClient({"bootstrap.servers": broker.address})
        new = [NewTopic(name, count, 1, config={"retention.ms": "123456789"}) for name, count in TOPICS.items()]
        for created in admin.create_topics(new).values():
            created.result(30)
        producers = [WatchedProducer(broker.address, TOPICS, f"p{number}", 500) for number in range(2)]
        consumer = WatchedConsumer(broker.address, TOPICS, "g", "c0")
        for client in (*producers, consumer):
            client.start()
        wait_until_acknowledged(producers, 200)
        wait_until_backed_up(data / "objects" / SNAPSHOT_PREFIX, {*TOPICS, "__consumer_offsets"})
        wait_until_acknowledged(producers, 200)
        broker.kill()

        lose_database(data)
        with pytest.raises(BrokerFailed, match="belong to cluster"):
            broker.start()
        lose_database(data)
        rebuilt = tailrace("rebuild-catalog", "--data-dir", str(data))
        assert rebuilt.returncode == 0, rebuilt.stderr
        assert tailrace("rebuild-catalog", "--data-dir", str(data)).returncode == 1
        checked = tailrace("fsck", "--data-dir", str(data), "--blocks")
        assert checked.returncode == 0, checked.stdout

        broker.start()
        wait_until_acknowledged(producers, 200)
        assert tailrace("fsck", "--data-dir", str(data)).returncode == 1, "a broker is running"
        for producer in producers:
            producer.stop()
            assert producer.errors == []
        wait_until_drained(broker.address, TOPICS, "g")
        consumer.stop()
        for name, count in TOPICS.items():
            log = read_log(broker.address, name, count)
            history = history_of(name, producers, [consumer], log, drained=True)
            assert check(history) == []
            assert all(send.outcome is Outcome.ACKNOWLEDGED for send in history.sends)
        assert broker.terminate() == 0


def lose_database(data: Path) -> None:
    for file in data.glob("catalog.db*"):
        file.unlink()


def wait_until_backed_up(folder: Path, names: set[str]) -> None:
    """The newest snapshot knows these topics."""
    deadline = time.monotonic() + 30
    while True:
        newest = max(folder.glob("*"), default=None)
        if newest is not None:
            snapshot = decode_snapshot(newest.read_bytes())
            if names <= {row["name"] for row in snapshot.rows(topics)}:
                return
        assert time.monotonic() < deadline, "metadata is not backed up"
        time.sleep(0.05)
