"""Topics and records for tests about something else, made in this process through librdkafka."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)


def create_topic(bootstrap: str, name: str, partitions: int) -> None:
    """Kept for ever: the tests' records have timestamps of years ago, which retention would remove at its next look."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    wanted = NewTopic(name, partitions, 1, config={"retention.ms": "-1"})
    admin.create_topics([wanted])[name].result(30)


def configure_group(bootstrap: str, group: str, configs: Mapping[str, str]) -> None:
    """It takes part in what its members' next heartbeats set."""
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in configs.items()]
    resource = ConfigResource(ResourceType.GROUP, group, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(30)


def produce(bootstrap: str, topic: str, records: Iterable[dict[str, Any]], records_per_batch: int = 10_000) -> None:
    """Records without headers, as `clients.record` makes them, all acknowledged on return."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "enable.idempotence": True, "batch.num.messages": records_per_batch}
    )
    for each in records:
        key, value = base64.b64decode(each["k"]), base64.b64decode(each["v"])
        producer.produce(topic, value, key, each["p"], timestamp=each["t"])
    assert producer.flush(60) == 0
