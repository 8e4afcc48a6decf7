"""A member of a consumer group, by librdkafka, that tells what happens to it: see README.md beside this file."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from lines import settings, stop_when_stdin_closes, write

COMMIT_INTERVAL_S = 0.2


def tell(event: str, **fields: object) -> None:
    write(at=time.monotonic_ns(), event=event, **fields)


def places(partitions: Sequence[TopicPartition]) -> list[tuple[str, int]]:
    return [(each.topic, each.partition) for each in partitions]


class Member:
    """Commits what it polled every 200 ms and before it gives partitions up."""

    def __init__(self, bootstrap: str, group: str, configs: dict[str, str]) -> None:
        defaults = {"auto.offset.reset": "earliest", "enable.auto.commit": False}
        self.consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **defaults, **configs})
        self.positions: dict[tuple[str, int], int] = {}

    def assigned(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        tell("assigned", partitions=places(partitions))

    def revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.commit()
        self.forget("revoked", partitions)

    def lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.forget("lost", partitions)

    def forget(self, event: str, partitions: list[TopicPartition]) -> None:
        for place in places(partitions):
            self.positions.pop(place, None)
        tell(event, partitions=places(partitions))

    def commit(self) -> None:
        if not self.positions:
            return
        offsets = [TopicPartition(*place, at) for place, at in self.positions.items()]
        error, began = None, time.monotonic_ns()
        try:
            answers = self.consumer.commit(offsets=offsets, asynchronous=False)
            error = next((each.error.name() for each in answers if each.error is not None), None)
        except KafkaException as failure:
            error = failure.args[0].name()
        tell("commit", began=began, error=error, offsets=[(*place, at) for place, at in self.positions.items()])
        self.positions.clear()

    def poll(self) -> None:
        records: dict[tuple[str, int], list[tuple[int, str]]] = {}
        for message in self.consumer.consume(500, 0.1):
            error = message.error()
            if error is not None:
                tell("error", error=error.name())
                if error.fatal() or error.code() == KafkaError.UNRELEASED_INSTANCE_ID:
                    raise KafkaException(error)
                continue
            record_id = message.value().partition(b"|")[0].decode("latin-1")
            records.setdefault((message.topic(), message.partition()), []).append((message.offset(), record_id))
        for (topic, partition), seen in records.items():
            tell("polled", topic=topic, partition=partition, records=seen)
            self.positions[topic, partition] = seen[-1][0] + 1

    def run(self, topics: list[str]) -> None:
        stop = stop_when_stdin_closes()
        self.consumer.subscribe(topics, on_assign=self.assigned, on_revoke=self.revoked, on_lost=self.lost)
        tell("subscribed")
        committed_at = time.monotonic()
        while not stop.is_set():
            self.poll()
            if time.monotonic() - committed_at > COMMIT_INTERVAL_S:
                committed_at = time.monotonic()
                self.commit()
        self.commit()
        self.consumer.close()


if __name__ == "__main__":
    bootstrap, group, subscription, *rest = sys.argv[1:]
    try:
        Member(bootstrap, group, settings(rest)).run(subscription.split(","))
    except KafkaException as failure:
        tell("failed", error=failure.args[0].name(), message=str(failure))
    tell("closed")
