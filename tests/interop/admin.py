"""Topic set-up for the interop tests, through librdkafka's admin client."""

from __future__ import annotations

from confluent_kafka.admin import AdminClient, NewTopic


def create_topic(bootstrap: str, name: str, partitions: int) -> None:
    """Kept for ever: the tests' records have timestamps of years ago, which retention would remove at its next look."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    wanted = NewTopic(name, partitions, 1, config={"retention.ms": "-1"})
    admin.create_topics([wanted])[name].result(30)
