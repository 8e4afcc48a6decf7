"""Clients under watch: producers and a consumer group whose every send, poll and commit goes into a `bench.history`."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from bench.history import Assignment, History, Outcome, Seen, Send

TIMEOUT_S = 60.0


class WatchedProducer(threading.Thread):
    """An idempotent acks=all producer that sends numbered records to all partitions until it is told to stop."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, name: str, rate_per_s: int) -> None:
        super().__init__(name=name, daemon=True)
        self.sends: list[Send] = []
        self.acknowledged = 0
        self._topic, self._partitions, self._rate_per_s = topic, partitions, rate_per_s
        self._stopping = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 2,
                "message.timeout.ms": 60_000,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 100,
                "log_level": 0,
            }
        )

    def run(self) -> None:
        began = time.monotonic()
        while not self._stopping.is_set():
            due = int((time.monotonic() - began) * self._rate_per_s)
            while len(self.sends) < due:
                self._send()
            self._producer.poll(0.002)
        self._producer.flush(TIMEOUT_S)

    def stop(self) -> list[Send]:
        self._stopping.set()
        self.join(TIMEOUT_S * 2)
        assert not self.is_alive()
        return self.sends

    def _send(self) -> None:
        number = len(self.sends)
        send = Send(f"{self.name}-{number}", self.name, number, number % self._partitions)

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                send.outcome, send.offset = Outcome.ACKNOWLEDGED, message.offset()
                self.acknowledged += 1

        self.sends.append(send)
        value = send.id.encode()
        self._producer.produce(self._topic, value, partition=send.partition, on_delivery=delivered)


class WatchedConsumer(threading.Thread):
    """A member of a consumer group that commits what it polled, all the time, until it is told to stop."""

    def __init__(self, bootstrap: str, topic: str, group: str, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.assignments: list[tuple[float, Assignment]] = []
        self._topic = topic
        self._current: dict[int, Assignment] = {}
        self._stopping = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": 20_000,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 100,
                "log_level": 0,
            }
        )

    def run(self) -> None:
        self._consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        polled_at = time.monotonic()
        while not self._stopping.is_set():
            for message in self._consumer.consume(500, 0.05):
                if message.error() is None:
                    seen = Seen(message.partition(), message.offset(), message.value().decode())
                    self._current[seen.partition].seen.append(seen)
            if time.monotonic() - polled_at > 0.2:
                polled_at = time.monotonic()
                self._commit()
        self._commit()
        self._consumer.close()

    def stop(self) -> None:
        self._stopping.set()
        self.join(TIMEOUT_S)
        assert not self.is_alive()

    def _assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        for found in committed(consumer, partitions):
            start = found.offset if found.offset >= 0 else None
            assignment = Assignment(self.name, found.partition, start)
            self._current[found.partition] = assignment
            self.assignments.append((time.monotonic(), assignment))
        consumer.assign([TopicPartition(self._topic, part, a.start or 0) for part, a in sorted(self._current.items())])

    def _revoked(self, _consumer: Consumer, _partitions: Sequence[TopicPartition]) -> None:
        self._commit()
        self._current.clear()

    def _lost(self, _consumer: Consumer, _partitions: Sequence[TopicPartition]) -> None:
        self._current.clear()

    def _commit(self) -> None:
        positions = {part: a.seen[-1].offset + 1 for part, a in self._current.items() if a.seen}
        changed = {part: at for part, at in positions.items() if self._current[part].committed != at}
        if not changed:
            return
        try:
            answers = self._consumer.commit(
                offsets=[TopicPartition(self._topic, part, at) for part, at in changed.items()], asynchronous=False
            )
            refused = {answer.partition for answer in answers or () if answer.error is not None}
        except KafkaException:
            refused = set(changed)
        for part, at in changed.items():
            assignment = self._current.get(part)
            if assignment is None:
                continue
            if part in refused:
                assignment.uncertain.append(at)
            else:
                assignment.committed = at
                assignment.uncertain.clear()


def committed(consumer: Consumer, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
    """The group's commits, asked for until they come."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            found = consumer.committed(list(partitions), timeout=5)
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            continue
        if all(each.error is None for each in found):
            return list(found)


def read_log(bootstrap: str, topic: str, partitions: int) -> list[Seen]:
    """Every record of the topic from the log's start to its end, partition by partition."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "complete-read", "enable.partition.eof": True, "log_level": 0}
    )
    log: list[Seen] = []
    for partition in range(partitions):
        consumer.assign([TopicPartition(topic, partition, 0)])
        deadline = time.monotonic() + TIMEOUT_S
        at_end = False
        while not at_end:
            assert time.monotonic() < deadline, f"partition {partition} has no end"
            for message in consumer.consume(1000, 1.0):
                error = message.error()
                if error is None:
                    log.append(Seen(partition, message.offset(), message.value().decode()))
                elif error.code() == KafkaError._PARTITION_EOF:
                    at_end = True
    consumer.close()
    return log


def history_of(producers: Sequence[WatchedProducer], consumers: Sequence[WatchedConsumer], log: list[Seen]) -> History:
    """What all clients know, once all of them have stopped."""
    began = sorted((entry for consumer in consumers for entry in consumer.assignments), key=lambda entry: entry[0])
    return History([send for p in producers for send in p.sends], log, [assignment for _, assignment in began])
