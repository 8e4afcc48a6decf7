"""Compaction by key beside Apache Kafka: what consumers see of a compacted topic is the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.broker_process import BrokerProcess
from bench.kafka_process import KafkaProcess

from .clients import kafka_classpath
from .compaction_cases import BROKER_CONFIGS, CASES, compare

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    env = {f"TAILRACE_BROKER_{name.upper().replace('.', '_')}": value for name, value in BROKER_CONFIGS.items()}
    on_kafka = {**BROKER_CONFIGS, "log.initial.task.delay.ms": "0", "transaction.state.log.replication.factor": "1"}
    directory = tmp_path_factory.mktemp("compaction")
    libs = Path(kafka_classpath()).parent
    with (
        KafkaProcess(libs, directory / "kafka", on_kafka, heap="512m") as kafka,
        BrokerProcess(directory / "tailrace", env=env) as broker,
    ):
        yield broker.address, kafka.address
        assert broker.terminate() == 0


@pytest.mark.parametrize("case", CASES)
def test_what_stays_of_a_compacted_topic_is_what_stays_in_kafka(case: str, both: tuple[str, str], topic: str) -> None:
    ours, kafkas = both
    for line in compare(case, ours, kafkas, topic):
        print(line)
