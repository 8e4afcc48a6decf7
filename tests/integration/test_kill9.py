"""`kill -9` under load: nothing acknowledged is lost, doubled or moved, and consumers go on from their commits."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from bench.broker_process import BrokerProcess
from bench.history import Outcome, check

from .load import WatchedConsumer, WatchedProducer, history_of, read_log

pytestmark = pytest.mark.integration
PARTITIONS = 6
KILLS = 10


def wait_until_acknowledged(producers: list[WatchedProducer], more: int, timeout_s: float = 30) -> None:
    """Wait for `more` further acknowledgements at every producer."""
    targets = [(producer, producer.acknowledged + more) for producer in producers]
    deadline = time.monotonic() + timeout_s
    while any(producer.acknowledged < target for producer, target in targets):
        assert time.monotonic() < deadline, "producers do not get on"
        time.sleep(0.01)


@pytest.mark.timeout(300)
def test_ten_kills_under_load_keep_every_promise(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with BrokerProcess(tmp_path / "data") as broker:
        AdminClient({"bootstrap.servers": broker.address}).create_topics([NewTopic("t", PARTITIONS, 1)])["t"].result(30)
        producers = [WatchedProducer(broker.address, "t", PARTITIONS, f"p{i}", 1500) for i in range(3)]
        consumers = [WatchedConsumer(broker.address, "t", "g", f"c{i}") for i in range(2)]
        for client in (*producers, *consumers):
            client.start()
        for _ in range(KILLS):
            wait_until_acknowledged(producers, more=chance.randrange(200, 3000))
            broker.kill()
            broker.start()
        wait_until_acknowledged(producers, more=500)
        for producer in producers:
            producer.stop()
        for consumer in consumers:
            consumer.stop()
        history = history_of(producers, consumers, read_log(broker.address, "t", PARTITIONS))
    assert check(history) == []
    assert sum(send.outcome is Outcome.ACKNOWLEDGED for send in history.sends) > KILLS * 200
    assert sum(len(assignment.seen) for assignment in history.assignments) > KILLS * 200
