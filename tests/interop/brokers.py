"""A broker of a drill's own, that it may kill: tailrace, or Apache Kafka where $TAILRACE_INTEROP_AGAINST says `kafka`.

With Kafka on the other side a drill shows whether it asks for what Kafka itself keeps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from bench.broker_process import BrokerProcess
from bench.kafka_process import KafkaProcess

from .clients import kafka_classpath

AGAINST = "TAILRACE_INTEROP_AGAINST"
QUICK = {
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "5000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "300",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "300",
}
"""Broker configs with which groups settle in a second and the dead are noticed in a few."""

RECONNECT: dict[str, str | int] = {
    "reconnect.backoff.max.ms": 100,
    "metadata.recovery.strategy": "none",
    "log_level": 0,
}
"""For librdkafka, whose default is to forget a broker that it lost, and which then may wait for it for ever."""


class Broker(Protocol):
    """What the two have in common. A start after `kill` is on the same address and data."""

    @property
    def address(self) -> str: ...

    def start(self) -> object: ...

    def kill(self) -> None: ...


@contextmanager
def a_broker(directory: Path, configs: Mapping[str, str] | None = None) -> Iterator[Broker]:
    """`configs` are broker configs by Kafka's names. A tailrace must end well, and must not have complained."""
    wanted = dict(QUICK if configs is None else configs)
    if os.environ.get(AGAINST) == "kafka":
        libs = Path(kafka_classpath()).parent
        with KafkaProcess(libs, directory / "kafka", wanted, heap="512m") as kafka:
            yield kafka
        return
    with BrokerProcess(directory / "tailrace", configs=wanted) as broker:
        yield broker
        assert broker.terminate() == 0
    log = broker.log()
    assert "Traceback" not in log, log[-4000:]
    assert "has a defect" not in log, log[-4000:]
