"""The clients of a soak, all librdkafka's: producers that feed the model, readers that hold the log against it."""

from __future__ import annotations

import random
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ..load import RECONNECT, WatchedClient
from .model import Partition, Place, Violation

T = TypeVar("T")

GIVEN_UP_MS = 300_000
PATIENCE_S = 240.0
"""How long an answer may take in the worst of the faults."""
TOMBSTONES = 0.05
ABORTS = 0.2
STEPS_MAX = 3_000
"""Records of one partition that a reader reads before it goes elsewhere."""


def now_ms() -> int:
    return int(time.time() * 1000)


def until_answered(ask: Callable[[], T]) -> T:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            if time.monotonic() > deadline or error.args[0].fatal():
                raise
        time.sleep(0.2)


class SoakProducer(WatchedClient):
    """Sends to partitions of its own, a few of them much more often than the others."""

    def __init__(
        self, bootstrap: str, name: str, topics: Sequence[Sequence[Partition]], config: dict[str, str | int]
    ) -> None:
        super().__init__(name)
        self.errors: list[str] = []
        self.counts: Counter[str] = Counter()
        self._topics = topics
        self._rng = random.Random(name)
        self._by_place = {(each.topic.name, each.index): each for partitions in topics for each in partitions}
        settings: dict[str, str | int] = {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 50,
            "message.timeout.ms": GIVEN_UP_MS,
            **RECONNECT,
        }
        self._producer = Producer({**settings, **config})

    def _work(self) -> None:
        began = time.monotonic()
        sent = [0] * len(self._topics)
        while not self.stopping.is_set():
            self._producer.poll(0.05)
            passed = time.monotonic() - began
            for number, partitions in enumerate(self._topics):
                # after a long pause it goes on at its pace
                due = int(passed * partitions[0].topic.rate)
                if len(self._producer) > 20_000:
                    sent[number] = due
                for _ in range(min(due - sent[number], 1_000)):
                    self._send(self._choose(partitions))
                    sent[number] += 1
        assert self._producer.flush(PATIENCE_S) == 0, f"{self.name} cannot send"
        behind = [each.name for each in self._by_place.values() if each.acknowledged != each.sent]
        assert not behind, f"not acknowledged: {behind}"

    def _choose(self, partitions: Sequence[Partition]) -> Partition:
        return partitions[int(len(partitions) * self._rng.random() ** 3)]

    def _send(self, partition: Partition) -> None:
        topic = partition.topic
        at = now_ms()
        key = self._rng.randrange(topic.keys) if topic.keys else 0
        is_tombstone = topic.compacts and not topic.transactional and self._rng.random() < TOMBSTONES
        record = partition.next_record(at, key, is_tombstone=is_tombstone)
        while True:
            try:
                self._producer.produce(
                    topic.name, record[1], record[0], partition.index, on_delivery=self._delivered, timestamp=at
                )
                return
            except BufferError:
                self._producer.poll(0.1)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        partition = self._by_place[str(message.topic()), int(message.partition() or 0)]
        if error is not None:
            self.errors.append(f"{partition.name}: {error}")
            return
        offset = message.offset()
        expected = partition.acknowledged
        partition.acknowledged += 1
        self.counts["records acknowledged"] += 1
        # Kafka tells no offset to a producer that repeats a batch which is older than its last five.
        if offset is not None and offset >= 0 and offset != expected and not partition.topic.transactional:
            self.errors.append(f"{partition.name}: record {expected} is at offset {offset}")


class SoakTransactions(SoakProducer):
    """Transactions over some partitions each, some of them aborted."""

    def __init__(self, bootstrap: str, name: str, topics: Sequence[Sequence[Partition]]) -> None:
        super().__init__(bootstrap, name, topics, {"transactional.id": name, "transaction.timeout.ms": GIVEN_UP_MS})

    def _work(self) -> None:
        until_answered(lambda: self._producer.init_transactions(30))
        rate = sum(partitions[0].topic.rate for partitions in self._topics)
        size = 20
        while not self.stopping.is_set():
            began = time.monotonic()
            self._transact(size)
            self.stopping.wait(max(0.0, size / rate - (time.monotonic() - began)))

    def _transact(self, size: int) -> None:
        self._producer.begin_transaction()
        partitions = [self._choose(self._rng.choice(self._topics)) for _ in range(4)]
        firsts = {id(each): (each, each.sent) for each in partitions}
        for _ in range(size):
            self._send(self._rng.choice(partitions))
            self._producer.poll(0)
        commit = self._rng.random() >= ABORTS
        # librdkafka ends a transaction whose partitions were not taken yet, and takes the refusal for fatal
        self._producer.flush(PATIENCE_S)
        committed = self._end(commit)
        for partition, first in firsts.values():
            partition.ended(range(first, partition.sent), committed=committed)
            partition.acknowledged = partition.sent
        self.counts["transactions committed" if committed else "transactions aborted"] += 1

    def _end(self, commit: bool) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                (self._producer.commit_transaction if commit else self._producer.abort_transaction)(30)
                return commit
            except KafkaException as error:
                found = error.args[0]
                if found.fatal() or time.monotonic() > deadline:
                    raise
                if found.txn_requires_abort():
                    commit = False
                    self.counts["transactions that had to be aborted"] += 1

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.counts["records acknowledged"] += 1


class SoakReader(WatchedClient):
    """Common to all readers; `_take` judges one record."""

    def __init__(self, bootstrap: str, name: str, partitions: Sequence[Partition], config: dict[str, str]) -> None:
        super().__init__(name)
        self.counts: Counter[str] = Counter()
        self.partitions = {(each.topic.name, each.index): each for each in partitions}
        self.next: dict[Place, int] = {}
        """The number that is expected of each partition."""
        self._rng = random.Random(name)
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": name,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 500,
                **RECONNECT,
                **config,
            }
        )

    def _take(self, message: Message) -> int:
        place = (str(message.topic()), int(message.partition() or 0))
        partition = self.partitions[place]
        offset = int(message.offset() or 0)
        number = partition.number_in(offset, message.key(), message.value())
        expected = self.next.get(place, number)
        if number < expected:
            raise Violation(f"{self.name}: {partition.name} at {offset}: record {number} after {expected - 1}")
        if number > expected:
            partition.check_skipped(expected, number, now_ms())
            if not partition.topic.compacts and not partition.topic.transactional:
                low, _ = self.watermarks(place)
                if number > low:
                    raise Violation(
                        f"{self.name}: {partition.name}: {expected} to {number} skipped, the log is at {low}"
                    )
        self.next[place] = number + 1
        self.counts["records read"] += 1
        return number

    def watermarks(self, place: Place) -> tuple[int, int]:
        def ask() -> tuple[int, int] | None:
            return self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=10)

        while (found := until_answered(ask)) is None:
            pass
        partition = self.partitions[place]
        if found[0] < partition.low:
            raise Violation(f"{partition.name}: the log start went back from {partition.low} to {found[0]}")
        return found

    def note_low(self, place: Place) -> int:
        low, _ = self.watermarks(place)
        self.partitions[place].low = max(low, self.partitions[place].low)
        return low


class TailReader(SoakReader):
    """Reads everything as it comes, and commits now and then."""

    def _work(self) -> None:
        self._consumer.assign([TopicPartition(*place, OFFSET_END) for place in self.partitions])
        committed_at = time.monotonic()
        while not self.stopping.is_set():
            for message in self._consumer.consume(2_000, 0.5):
                if message.error() is None:
                    self._take(message)
            if time.monotonic() - committed_at > 2 and self.next:
                committed_at = time.monotonic()
                self._consumer.commit(asynchronous=True)
                self.counts["commits"] += 1
        self._consumer.close()


class Replayer(SoakReader):
    """Reads some partitions from their start, or from a time, up to where they were when it began."""

    def _work(self) -> None:
        while not self.stopping.is_set():
            place = self._rng.choice(list(self.partitions))
            self.replay(place, by_time=self._rng.random() < 0.5)
            self.stopping.wait(0.3)
        self._consumer.close()

    def replay(self, place: Place, *, by_time: bool) -> None:
        partition = self.partitions[place]
        self.next.pop(place, None)
        low = self.note_low(place)
        _, end = self.watermarks(place)
        start = low
        if by_time:
            found = self._seek(place, partition, low)
            if found is None:
                return
            start = found
        elif not partition.topic.transactional:
            self.next[place] = low
        else:
            start = OFFSET_BEGINNING
        self.counts["seeks by time" if by_time else "reads from the start"] += 1
        if low == end:
            return
        self._consumer.assign([TopicPartition(*place, start)])
        self._read_up_to(place, end)
        self._consumer.unassign()

    def _read_up_to(self, place: Place, end: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        steps = 0
        while steps < STEPS_MAX and not self.stopping.is_set():
            for message in self._consumer.consume(500, 0.2):
                error = message.error()
                if (message.topic(), message.partition()) != place:
                    continue
                if error is None:
                    self._take(message)
                    steps += 1
                    if int(message.offset() or 0) >= end - 1:
                        return
                elif error.code() == KafkaError._PARTITION_EOF and int(message.offset() or 0) >= end:
                    return
            if time.monotonic() > deadline:
                raise Violation(f"{self.name}: {place} does not get to {end}, but to {self.next.get(place)}")

    def _seek(self, place: Place, partition: Partition, low: int) -> int | None:
        sent = partition.acknowledged
        if not sent:
            return None
        timestamp = partition.times[self._rng.randrange(sent)] + self._rng.choice((0, 0, -1, 1))
        wanted = TopicPartition(*place, timestamp)
        [found] = until_answered(lambda: self._consumer.offsets_for_times([wanted], timeout=10))
        if found.error is not None:
            raise Violation(f"{partition.name}: {found.error}")
        if partition.topic.transactional or partition.topic.compacts:
            return found.offset
        expected = max(bisect_left(partition.times, timestamp), low)
        if expected >= sent:
            return None
        if found.offset != expected and found.offset != self.note_low(place):
            raise Violation(f"{partition.name}: {timestamp} is at {expected}, but {found.offset} was answered")
        self.next[place] = found.offset
        return found.offset


class LastReader(SoakReader):
    """Reads everything there is, once, when nothing is written any more."""

    def read_all(self) -> None:
        ends: dict[Place, int] = {}
        starts: list[TopicPartition] = []
        for place, partition in self.partitions.items():
            low, end = self.watermarks(place)
            transactional = partition.topic.transactional
            if not transactional and end != partition.sent:
                raise Violation(f"{partition.name} ends at {end}, {partition.sent} records were sent")
            if low < end:
                ends[place] = end
                self.next[place] = 0 if transactional else low
                starts.append(TopicPartition(*place, low))
        left = set(ends)
        self._consumer.assign(starts)
        deadline = time.monotonic() + PATIENCE_S
        while left:
            if time.monotonic() > deadline:
                raise Violation(f"{len(left)} partitions are not read to their ends: {sorted(left)[:5]}")
            for message in self._consumer.consume(2_000, 0.2):
                place = (str(message.topic()), int(message.partition() or 0))
                error = message.error()
                if error is None:
                    self._take(message)
                elif error.code() == KafkaError._PARTITION_EOF and int(message.offset() or 0) >= ends[place]:
                    left.discard(place)
        for place, number in self.next.items():
            self.partitions[place].check_skipped(number, self.partitions[place].sent, now_ms())
        self._consumer.close()


class Deleter(WatchedClient):
    """DeleteRecords at exact offsets, and topics that come, are written, and go."""

    def __init__(self, bootstrap: str, partitions: Sequence[Partition], pause_s: float) -> None:
        super().__init__("deleter")
        self.counts: Counter[str] = Counter()
        self._admin = AdminClient({"bootstrap.servers": bootstrap, **RECONNECT})
        self._address = bootstrap
        self._partitions = partitions
        self._pause_s = pause_s
        self._rng = random.Random("deleter")

    def _work(self) -> None:
        while not self.stopping.wait(self._pause_s):
            self._delete_records()
            self._delete_topic()

    def _delete_records(self) -> None:
        partition = self._rng.choice(self._partitions)
        if partition.acknowledged <= max(partition.low, partition.asked_low):
            return
        offset = self._rng.randrange(max(partition.low, partition.asked_low), partition.acknowledged)
        partition.asked_low = offset
        where = TopicPartition(partition.topic.name, partition.index, offset)

        def ask() -> int:
            return int(self._admin.delete_records([where], request_timeout=30)[where].result(60).low_watermark)

        low = until_answered(ask)
        if low != offset:
            raise Violation(f"{partition.name}: the log begins at {low} after DeleteRecords to {offset}")
        partition.low = max(partition.low, offset)
        self.counts["records deleted (DeleteRecords)"] += 1

    def _delete_topic(self) -> None:
        name = f"passing-{self.counts['topics deleted']}"
        new = NewTopic(name, 4, 1)

        def create() -> None:
            try:
                self._admin.create_topics([new])[name].result(60)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

        until_answered(create)
        producer = Producer({"bootstrap.servers": self._address, "message.timeout.ms": GIVEN_UP_MS, **RECONNECT})
        for number in range(400):
            producer.produce(name, b"x" * 500, partition=number % 4)
        assert producer.flush(PATIENCE_S) == 0

        def delete() -> None:
            try:
                self._admin.delete_topics([name], operation_timeout=30)[name].result(60)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise

        until_answered(delete)
        self.counts["topics deleted"] += 1
