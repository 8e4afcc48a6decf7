"""What compaction leaves, case by case: the same is done to two brokers, and must come to look the same to consumers.

A case is a list of steps; after each one the topic is compared until both agree and what the step names is gone.
Records have given timestamps, an hour old, so that segments of Kafka roll by them; after each step comes a record
with a key of its own, which rolls the last segment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

SEGMENT_MS = 500
RETENTION_MS = 8_000
"""delete.retention.ms of the topics."""
AGREE_S = 60.0
PAUSE_S = 0.5

BROKER_CONFIGS = {"log.cleaner.backoff.ms": "200"}
TOPIC_CONFIGS = {
    "cleanup.policy": "compact",
    "segment.ms": str(SEGMENT_MS),
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": str(RETENTION_MS),
}

Pairs = Sequence[tuple[str, str | None]]
Seen = list[tuple[int, int, bytes | None, bytes | None, Any]]


class Side:
    """One broker, with the topic of the case that runs. `now_ms` is set alike on both sides."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.bootstrap = bootstrap
        self.topic = topic
        self.now_ms = 0
        self._producers: dict[str, Producer] = {}
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic(topic, 1, 1, config=TOPIC_CONFIGS)])[topic].result(30)

    def producer(self, name: str = "plain", **configs: object) -> Producer:
        if name not in self._producers:
            settings = {"bootstrap.servers": self.bootstrap, "linger.ms": 50, "acks": "all", **configs}
            self._producers[name] = Producer(settings)
        return self._producers[name]

    def produce(self, pairs: Pairs, name: str = "plain", headers: Any = None, **configs: object) -> None:
        """One batch."""
        producer = self.producer(name, **configs)
        failed: list[KafkaError] = []
        for key, value in pairs:
            producer.produce(
                self.topic,
                key=key,
                value=None if value is None else value.encode(),
                timestamp=self.now_ms,
                headers=headers,
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
            self.now_ms += 1
        producer.flush(30)
        assert not failed, failed

    def transactional(self, name: str) -> Producer:
        known = name in self._producers
        producer = self.producer(name, **{"transactional.id": f"{self.topic}-{name}"})
        if not known:
            producer.init_transactions(30)
        return producer

    def transaction(self, pairs: Pairs, commit: bool, name: str = "tx") -> None:
        producer = self.transactional(name)
        producer.begin_transaction()
        self.produce(pairs, name)
        producer.commit_transaction(30) if commit else producer.abort_transaction(30)

    def roll(self, number: int) -> None:
        self.produce([(f"roll-{number}", "x")], "roll")

    def read(self, isolation: str) -> Seen:
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "reader",
                "isolation.level": isolation,
                "enable.partition.eof": True,
                "enable.auto.commit": False,
            }
        )
        seen: Seen = []
        try:
            consumer.assign([TopicPartition(self.topic, 0, 0)])
            while True:
                message = consumer.poll(30)
                assert message is not None, "nothing, and no end"
                if (error := message.error()) is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    return seen
                seen.append(
                    (message.offset(), message.timestamp()[1], message.key(), message.value(), message.headers())
                )
        finally:
            consumer.close()

    def offsets_at(self, timestamps: Iterable[int]) -> list[int]:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "reader"})
        try:
            asked = [TopicPartition(self.topic, 0, timestamp) for timestamp in timestamps]
            return [consumer.offsets_for_times([each], 30)[0].offset for each in asked]
        finally:
            consumer.close()

    def bounds(self) -> tuple[int, int]:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "reader"})
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(self.topic, 0), 30)
            return low, high
        finally:
            consumer.close()


Step = tuple[Callable[[Side], None], Sequence[bytes | None]]
"""What is done, and values that are not there any more when it has had its effect."""


def _values(*pairs: tuple[str, str | None]) -> Callable[[Side], None]:
    return lambda side: side.produce(pairs)


def _wait(seconds: float) -> Callable[[Side], None]:
    return lambda side: time.sleep(seconds)


def _codecs(side: Side) -> None:
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        pairs = [("all", codec), (f"of-{codec}", "kept " * 50), ("twice", codec), ("twice", codec + "2")]
        side.produce(pairs, codec, headers=[("h", b"1"), ("h", None)], **{"compression.type": codec})


def _idempotent(side: Side) -> None:
    side.produce([("i", "1"), ("i", "2")], "idempotent", **{"enable.idempotence": True})
    side.produce([("i", "3")], "other")


def _idempotent_again(side: Side) -> None:
    side.produce([("j", "4"), ("i", "5")], "idempotent", **{"enable.idempotence": True})


def _open_transaction(side: Side) -> None:
    producer = side.transactional("open")
    producer.begin_transaction()
    side.produce([("o", "open")], "open")
    side.produce([("a", "behind"), ("a", "behind2")])


def _commit_open(side: Side) -> None:
    side.transactional("open").commit_transaction(30)


CASES: dict[str, list[Step]] = {
    "keys": [
        (_values(("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")), [b"1:a"]),
        (_values(("a", "3"), ("d", "1"), ("empty", "")), []),
        (_values(("b", "2"), ("b", "3"), ("e", "1")), [b"2"]),
    ],
    "codecs": [(_codecs, [b"gzip", b"snappy", b"lz4"])],
    "tombstones": [
        (_values(("a", "1"), ("b", "1"), ("c", "1")), []),
        (_values(("a", None), ("b", "2"), ("never", None)), []),
        (_wait(RETENTION_MS / 1000 + 1), [None]),
        (_values(("a", "again"), ("b", None)), [b"2"]),
        (_wait(RETENTION_MS / 1000 + 1), [None]),
    ],
    "transactions": [
        (lambda side: side.transaction([("a", "c1"), ("b", "c1")], commit=True), []),
        (lambda side: side.transaction([("a", "aborted"), ("x", "aborted")], commit=False), [b"aborted"]),
        (lambda side: side.transaction([("a", "c2")], commit=True), []),
        (lambda side: side.transaction([("b", None)], commit=True), [b"c1"]),
        (_wait(RETENTION_MS / 1000 + 1), [None]),
        (_values(("z", "1")), []),
        (_wait(RETENTION_MS / 1000 + 1), []),
        (lambda side: side.transaction([("a", "c3"), ("y", "c3")], commit=True), [b"c2"]),
    ],
    "open transactions": [
        (_open_transaction, []),
        (_values(("a", "3")), []),
        (_commit_open, [b"behind", b"behind2"]),
    ],
    "idempotent producers": [(_idempotent, [b"1", b"2"]), (_idempotent_again, [b"3"])],
}


def compare(case: str, ours: str, kafkas: str, topic: str) -> list[str]:
    """Run one case on both brokers; returns what was seen of its steps. Raises AssertionError where they differ."""
    sides = [Side(ours, topic), Side(kafkas, topic)]
    began_ms = _set_time(sides)
    story = []
    for number, (step, gone) in enumerate(CASES[case], 1):
        _set_time(sides)
        for side in sides:
            step(side)
        time.sleep(1.5 * SEGMENT_MS / 1000)
        _set_time(sides)
        for side in sides:
            side.roll(number)
        before = time.monotonic()
        seen = _agree(sides, gone, f"{case}, step {number}")
        story.append(f"{case} {number}: {len(seen)} records, agreed after {time.monotonic() - before:.1f} s")
    if "transactions" not in case:  # the time of a marker is the broker's
        timestamps = range(began_ms - 1, sides[0].now_ms + 10, 97)
        assert sides[0].offsets_at(timestamps) == sides[1].offsets_at(timestamps), f"{case}: look-ups by time"
    assert sides[0].bounds() == sides[1].bounds(), f"{case}: first and last offset"
    return story


def _set_time(sides: Sequence[Side]) -> int:
    now_ms = int(time.time() * 1000)
    for side in sides:
        side.now_ms = now_ms
    return now_ms


def _agree(sides: Sequence[Side], gone: Sequence[bytes | None], where: str) -> Seen:
    give_up_at = time.monotonic() + AGREE_S
    while True:
        seen = [[side.read(isolation) for isolation in ("read_committed", "read_uncommitted")] for side in sides]
        there = {value for _, _, _, value, _ in seen[1][0]}
        if seen[0] == seen[1] and there.isdisjoint(gone):
            return seen[0][0]
        if time.monotonic() >= give_up_at:
            left = there & set(gone)
            raise AssertionError(f"{where}: tailrace has\n{seen[0]}\nKafka has\n{seen[1]}\nstill there: {left}")
        time.sleep(PAUSE_S)
