"""Clients under watch: producers and a consumer group whose every send, poll and commit goes into a `bench.history`.

Every part of a record follows from the id of its send (`value_of`, `headers_of`), so a reader proves bytes and not only
presence: a record with anything else in it gets an id that nobody sent, hence is a phantom to the checker.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from bench.history import Assignment, History, Outcome, Seen, Send

T = TypeVar("T")
TIMEOUT_S = 60.0
Topics = Mapping[str, int]
"""Topic name -> partition count."""
RECONNECT = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100, "log_level": 0}


def value_of(record_id: str) -> bytes:
    """The id and some filler, of a length that differs from record to record."""
    checksum = zlib.crc32(record_id.encode())
    return f"{record_id}|".encode() + checksum.to_bytes(4, "big") * (checksum % 40)


def headers_of(record_id: str) -> list[tuple[str, str | bytes | None]]:
    return [("id", record_id.encode())]


def seen_in(message: Message) -> Seen:
    value, partition, offset = message.value(), message.partition(), message.offset()
    assert value is not None
    assert partition is not None
    assert offset is not None
    record_id = value.partition(b"|")[0].decode(errors="replace")
    is_whole = (
        value == value_of(record_id)
        and message.key() == record_id.encode()
        and message.headers() == headers_of(record_id)
    )
    return Seen(partition, offset, record_id if is_whole else f"damaged record {record_id!r}")


class WatchedClient(threading.Thread):
    """Runs `_work` until `stop`, which raises what went wrong meanwhile."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def stop(self) -> None:
        self.stopping.set()
        self.join(TIMEOUT_S * 2)
        assert not self.is_alive(), f"{self.name} hangs"
        self.check()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        raise NotImplementedError


class Sender(WatchedClient):
    """A client that remembers its sends, each with its topic."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.sends: list[tuple[str, Send]] = []


class WatchedProducer(Sender):
    """An idempotent acks=all producer that sends numbered records to all partitions until it is told to stop."""

    def __init__(
        self, bootstrap: str, topics: Topics, name: str, rate_per_s: int, config: Mapping[str, str | int] | None = None
    ) -> None:
        super().__init__(name)
        self.acknowledged = 0
        self.errors: list[str] = []
        self._places = [(topic, partition) for topic, count in topics.items() for partition in range(count)]
        self._rate_per_s = rate_per_s
        settings = {"enable.idempotence": True, "linger.ms": 2, "message.timeout.ms": 60_000, **RECONNECT}
        self._producer = Producer({"bootstrap.servers": bootstrap, **settings, **(config or {})})

    def _work(self) -> None:
        began = time.monotonic()
        while not self.stopping.is_set():
            due = int((time.monotonic() - began) * self._rate_per_s)
            while len(self.sends) < due:
                self._send()
            self._producer.poll(0.002)
        self._producer.flush(TIMEOUT_S)

    def _send(self) -> None:
        number = len(self.sends)
        topic, partition = self._places[number % len(self._places)]
        send = Send(f"{self.name}-{number}", self.name, number, partition)

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.errors.append(f"{send.id}: {error}")
                return
            offset = message.offset()
            # Kafka tells no offset to a producer that repeats a batch which is older than its last five.
            send.offset = offset if offset is not None and offset >= 0 else None
            send.outcome = Outcome.ACKNOWLEDGED
            self.acknowledged += 1

        self.sends.append((topic, send))
        try:
            self._producer.produce(
                topic,
                value_of(send.id),
                send.id.encode(),
                partition,
                headers=headers_of(send.id),
                on_delivery=delivered,
            )
        except BufferError:
            self.sends.pop()
            self._producer.poll(0.01)


class WatchedConsumer(WatchedClient):
    """A member of a consumer group that commits what it polled, all the time, until it is told to stop."""

    def __init__(self, bootstrap: str, topics: Topics, group: str, name: str) -> None:
        super().__init__(name)
        self.assignments: list[tuple[float, str, Assignment]] = []
        self._topics = list(topics)
        self._current: dict[tuple[str, int], Assignment] = {}
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": 20_000,
                **RECONNECT,
            }
        )

    def _work(self) -> None:
        self._consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        committed_at = time.monotonic()
        while not self.stopping.is_set():
            for message in self._consumer.consume(500, 0.05):
                if message.error() is None:
                    place = (str(message.topic()), int(message.partition() or 0))
                    self._current[place].seen.append(seen_in(message))
            if time.monotonic() - committed_at > 0.2:
                committed_at = time.monotonic()
                self._commit()
        self._commit()
        self._consumer.close()

    def _assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        for found in committed(consumer, partitions):
            assignment = Assignment(self.name, found.partition, found.offset if found.offset >= 0 else None)
            self._current[found.topic, found.partition] = assignment
            self.assignments.append((time.monotonic(), found.topic, assignment))
        consumer.assign([TopicPartition(*place, a.start or 0) for place, a in sorted(self._current.items())])

    def _revoked(self, _consumer: Consumer, _partitions: Sequence[TopicPartition]) -> None:
        self._commit()
        self._current.clear()

    def _lost(self, _consumer: Consumer, _partitions: Sequence[TopicPartition]) -> None:
        self._current.clear()

    def _commit(self) -> None:
        positions = {place: a.seen[-1].offset + 1 for place, a in self._current.items() if a.seen}
        changed = {place: at for place, at in positions.items() if self._current[place].committed != at}
        if not changed:
            return
        try:
            answers = self._consumer.commit(
                offsets=[TopicPartition(*place, at) for place, at in changed.items()], asynchronous=False
            )
            refused = {(answer.topic, answer.partition) for answer in answers or () if answer.error is not None}
        except KafkaException:
            refused = set(changed)
        for place, at in changed.items():
            assignment = self._current.get(place)
            if assignment is None:
                continue
            if place in refused:
                assignment.uncertain.append(at)
            else:
                assignment.committed = at
                assignment.uncertain.clear()


def committed(consumer: Consumer, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
    """The group's commits, asked for until they come."""
    return _until_answered(lambda: _committed(consumer, partitions))


def _committed(consumer: Consumer, partitions: Sequence[TopicPartition]) -> list[TopicPartition] | None:
    found = consumer.committed(list(partitions), timeout=5)
    return list(found) if all(each.error is None for each in found) else None


def _until_answered(ask: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            if (found := ask()) is not None:
                return found
        except KafkaException:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, "no answer"
        time.sleep(0.05)


def wait_until_acknowledged(producers: Sequence[WatchedProducer], more: int, timeout_s: float = 60) -> None:
    """Wait for `more` further acknowledgements at every producer."""
    targets = [(producer, producer.acknowledged + more) for producer in producers]
    deadline = time.monotonic() + timeout_s
    while any(producer.acknowledged < target for producer, target in targets):
        for producer, _ in targets:
            producer.check()
        assert time.monotonic() < deadline, "producers do not get on"
        time.sleep(0.01)


def wait_until_drained(bootstrap: str, topics: Topics, group: str, timeout_s: float = 60) -> None:
    """Wait until the group's commits have reached the end of every partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **RECONNECT})
    places = [TopicPartition(topic, partition) for topic, count in topics.items() for partition in range(count)]
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            at = {(found.topic, found.partition): max(found.offset, 0) for found in committed(consumer, places)}
            ends = {(each.topic, each.partition): end_of(consumer, each) for each in places}
            if at == ends:
                return
            assert time.monotonic() < deadline, f"the group does not get to the end: {at} of {ends}"
            time.sleep(0.1)
    finally:
        consumer.close()


def end_of(consumer: Consumer, place: TopicPartition) -> int:
    def ask() -> int | None:
        watermarks = consumer.get_watermark_offsets(place, timeout=5)
        return None if watermarks is None else watermarks[1]

    return _until_answered(ask)


def read_log(bootstrap: str, topic: str, partitions: int) -> list[Seen]:
    """Every record of the topic from the log's start to its end, partition by partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "complete-read", "enable.partition.eof": True})
    log: list[Seen] = []
    for partition in range(partitions):
        end = end_of(consumer, TopicPartition(topic, partition))
        consumer.assign([TopicPartition(topic, partition, 0)])
        deadline = time.monotonic() + TIMEOUT_S
        position = 0
        while position < end:
            assert time.monotonic() < deadline, f"partition {partition} stands at {position} of {end}"
            for message in consumer.consume(1000, 0.1):
                error = message.error()
                if error is None:
                    log.append(seen_in(message))
                    position = log[-1].offset + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    assert message.offset() == end, f"partition {partition} ends at {message.offset()}, not at {end}"
                    position = end
    consumer.close()
    return log


def history_of(
    topic: str,
    producers: Sequence[Sender],
    consumers: Sequence[WatchedConsumer],
    log: list[Seen],
    *,
    drained: bool,
) -> History:
    """What all clients know of one topic, once all of them have stopped."""
    began = sorted((entry for consumer in consumers for entry in consumer.assignments), key=lambda entry: entry[0])
    return History(
        [send for producer in producers for sent_to, send in producer.sends if sent_to == topic],
        log,
        [assignment for _, assigned, assignment in began if assigned == topic],
        drained=drained,
    )
