"""A broker dies and its write-ahead log is gone: topics of durability `object` lose nothing that was acknowledged."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import wal
from bench.broker_process import BrokerProcess
from bench.history import check

from .load import (
    WatchedConsumer,
    WatchedProducer,
    history_of,
    read_log,
    wait_until_acknowledged,
    wait_until_drained,
)

pytestmark = pytest.mark.integration
TOPICS = {"kept": 4}
LOSSES = 1


async def give_up_log(directory: Path, epoch: int) -> None:
    """What docs/operations.md says: an empty log in the place of the lost one, under its epoch."""
    await (await wal.open_wal(directory.as_uri(), epoch=epoch)).close()


def epoch_of(catalog: Path) -> int:
    with closing(sqlite3.connect(catalog)) as database:
        (epoch,) = database.execute("SELECT max(epoch) FROM brokers").fetchone()
    return int(epoch)


@pytest.mark.timeout(120)
def test_no_acknowledged_record_is_lost_with_the_disk(tmp_path: Path) -> None:
    env = {
        "TAILRACE_STORAGE_UPLOAD_INTERVAL_MS": "600000",  # nothing else is uploaded that soon
        "TAILRACE_LEASE_MS": "1000",
        "TAILRACE_BROKER_TAILRACE_INTERNAL_TOPICS_DURABILITY": "object",
        "TAILRACE_BROKER_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    }
    with BrokerProcess(tmp_path / "data", env=env) as broker:
        admin = AdminClient({"bootstrap.servers": broker.address})
        kept = NewTopic("kept", TOPICS["kept"], 1, config={"tailrace.durability": "object"})
        for made in admin.create_topics([kept, NewTopic("lost", 1, 1)]).values():
            made.result(20)
        producers = [WatchedProducer(broker.address, TOPICS, f"p{n}", 300) for n in range(2)]
        consumers = [WatchedConsumer(broker.address, TOPICS, "g", "c")]
        for client in (*producers, *consumers):
            client.start()
        for _ in range(LOSSES):
            wait_until_acknowledged(producers, 200)
            plain = Producer({"bootstrap.servers": broker.address, "log_level": 0})
            plain.produce("lost", b"in the log only")
            assert plain.flush(20) == 0
            broker.kill()
            shutil.rmtree(tmp_path / "data" / "wal")
            asyncio.run(give_up_log(tmp_path / "data" / "wal", epoch_of(tmp_path / "data" / "catalog.db")))
            broker.start()
        wait_until_acknowledged(producers, 100)
        for producer in producers:
            producer.stop()
            assert producer.errors == []
        wait_until_drained(broker.address, TOPICS, "g")
        for consumer in consumers:
            consumer.stop()
        log = read_log(broker.address, "kept", TOPICS["kept"])
        assert check(history_of("kept", producers, consumers, log, drained=True)) == []
