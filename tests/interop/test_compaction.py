"""Compaction by key beside Apache Kafka: what consumers see of a compacted topic is the same."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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


def test_what_stays_of_a_compacted_topic_is_what_stays_in_kafka(both: tuple[str, str], topic: str) -> None:
    """All cases at once: most of their time is waiting for cleaners."""
    ours, kafkas = both
    with ThreadPoolExecutor(len(CASES)) as pool:
        comparing = {
            case: pool.submit(lambda case, topic: list(compare(case, ours, kafkas, topic)), case, f"{topic}-{number}")
            for number, case in enumerate(CASES)
        }
    for case, compared in comparing.items():
        print(f"{case}:")
        for line in compared.result():
            print(f"  {line}")
