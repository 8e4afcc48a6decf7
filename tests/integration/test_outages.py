"""The object store or the database is gone for a while: producers wait, nothing is lost, and it goes on by itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess
from bench.history import Outcome, check
from bench.postgres_process import PostgresServer
from bench.seaweedfs_process import ACCESS_KEY, SECRET_KEY, SeaweedFs

from .load import (
    WatchedConsumer,
    WatchedProducer,
    history_of,
    read_log,
    wait_until_acknowledged,
    wait_until_drained,
)

pytestmark = pytest.mark.integration
TOPICS = {"t": 4}


class Load:
    """Watched clients on one broker; `prove` stops them and checks what they saw."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.broker = broker
        admin = AdminClient({"bootstrap.servers": broker.address})
        admin.create_topics([NewTopic("t", TOPICS["t"], 1)])["t"].result(30)
        self.producers = [WatchedProducer(broker.address, TOPICS, f"p{number}", 500) for number in range(2)]
        self.consumer = WatchedConsumer(broker.address, TOPICS, "g", "c0")
        for producer in self.producers:
            producer.start()
        self.get_on(100)
        self.consumer.start()

    def get_on(self, more: int) -> None:
        wait_until_acknowledged(self.producers, more)

    def acknowledged(self) -> int:
        return sum(producer.acknowledged for producer in self.producers)

    def prove(self) -> None:
        for producer in self.producers:
            producer.stop()
        wait_until_drained(self.broker.address, TOPICS, "g")
        self.consumer.stop()
        log = read_log(self.broker.address, "t", TOPICS["t"])
        history = history_of("t", self.producers, [self.consumer], log, drained=True)
        assert check(history) == []
        assert all(send.outcome is Outcome.ACKNOWLEDGED for send in history.sends)


@pytest.mark.timeout(180)
def test_a_store_that_is_gone_delays_uploads_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    store = SeaweedFs(tmp_path / "seaweedfs")
    store.start()
    # A small bound, which the load reaches while the store is away.
    limits = {"PRESSURE_LOW_SIZE": 100_000, "PRESSURE_HIGH_SIZE": 150_000, "UNUPLOADED_SIZE_MAX": 200_000}
    env = {f"TAILRACE_STORAGE_{name}": str(size) for name, size in limits.items()}
    try:
        with BrokerProcess(tmp_path / "data", args=["--objects", store.fresh_url()], env=env) as broker:
            load = Load(broker)
            store.stop()
            before = wait_until_nothing_is_acknowledged(load)
            store.start()
            load.get_on(500)
            assert load.acknowledged() > before
            load.prove()
            assert broker.terminate() == 0
            assert "Traceback" not in broker.log()
    finally:
        store.stop()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("outage_s", [1.0, 6.0], ids=["shorter than the lease", "longer than the lease"])
def test_a_database_that_is_gone_stops_acknowledging_no_sooner_than_the_lease_ends(
    tmp_path: Path, postgres_server: PostgresServer, outage_s: float
) -> None:
    env = {"TAILRACE_LEASE_MS": "4000"}
    with BrokerProcess(tmp_path / "data", args=["--metadata", postgres_server.new_database()], env=env) as broker:
        load = Load(broker)
        postgres_server.stop()
        try:
            load.get_on(100)
            if outage_s > 4:
                wait_until_nothing_is_acknowledged(load)
                assert broker.returncode is None
            else:
                time.sleep(outage_s)
                load.get_on(100)
        finally:
            postgres_server.start()
        load.get_on(500)
        load.prove()
        assert broker.terminate() == 0
        assert "Traceback" not in broker.log()


def wait_until_nothing_is_acknowledged(load: Load) -> int:
    """No acknowledgement for a second, though producers go on; returns how many there were."""
    deadline = time.monotonic() + 60
    before = -1
    while (now := load.acknowledged()) != before:
        assert time.monotonic() < deadline, "producers are not held back"
        before = now
        time.sleep(1)
    return now


@pytest.mark.timeout(120)
def test_sigterm_under_load_loses_nothing(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data") as broker:
        load = Load(broker)
        for _ in range(3):
            load.get_on(200)
            assert broker.terminate() == 0
            broker.start()
        load.get_on(200)
        load.prove()
        assert "Traceback" not in broker.log()
