"""A third broker joins under load and has its share within seconds; drained it leads nothing, also after a restart.
Clients notice nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess
from bench.history import check

from .load import WatchedConsumer, WatchedProducer, history_of, read_log, wait_until_acknowledged, wait_until_drained

pytestmark = pytest.mark.integration
TOPICS = {"events": 9}
SHARE_MAX_S = 10.0


def tailrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broker.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def leaders(bootstrap: str) -> Counter[int]:
    topic = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics("events", timeout=10)
    return Counter(partition.leader for partition in topic.topics["events"].partitions.values())


def wait_until_led(bootstrap: str, expected: dict[int, int]) -> None:
    deadline = time.monotonic() + SHARE_MAX_S
    while (found := leaders(bootstrap)) != expected:
        assert time.monotonic() < deadline, f"led by {found}"
        time.sleep(0.1)


@pytest.mark.timeout(120)
def test_brokers_come_and_are_drained_under_load(tmp_path: Path) -> None:
    args = ["--objects", f"file://{tmp_path}/objects", "--metadata", f"sqlite:///{tmp_path}/catalog.db"]
    first, second, third = (BrokerProcess(tmp_path / f"data{n}", node_id=n, args=args) for n in (1, 2, 3))
    with ExitStack() as stack:
        stack.enter_context(first)
        stack.enter_context(second)
        bootstrap = f"{first.address},{second.address}"
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic("events", TOPICS["events"], 1)])["events"].result(20)
        producers = [WatchedProducer(bootstrap, TOPICS, f"producer{n}", 300) for n in range(2)]
        consumers = [WatchedConsumer(bootstrap, TOPICS, "readers", f"consumer{n}") for n in range(2)]
        for client in (*producers, *consumers):
            client.start()
        wait_until_acknowledged(producers, 100)

        stack.enter_context(third)
        wait_until_led(bootstrap, {1: 3, 2: 3, 3: 3})
        wait_until_acknowledged(producers, 100)

        drained = tailrace("brokers", "drain", "3", "--bootstrap", second.address)
        assert (drained.returncode, drained.stderr) == (0, "")
        assert drained.stdout.splitlines()[-1] == "broker 3 leads nothing: it can be stopped"
        assert not leaders(bootstrap)[3]
        assert third.terminate() == 0
        third.start()
        listed = tailrace("brokers", "list", "--bootstrap", first.address).stdout.splitlines()
        assert [line.split("\t")[3] for line in listed] == ["active", "active", "drained"]
        assert not leaders(bootstrap)[3]
        for producer in producers:
            producer.stop()
            assert producer.errors == []
        wait_until_drained(bootstrap, TOPICS, "readers")
        for consumer in consumers:
            consumer.stop()
        log = read_log(bootstrap, "events", TOPICS["events"])
        assert check(history_of("events", producers, consumers, log, drained=True)) == []
