"""Paced producers and consumer groups that know how fresh what they read is: librdkafka, each in a thread of its own.

Every record's value begins with the time of its send (`time.monotonic_ns`, one machine), so a consumer's **freshness**
is the age of a record when the application has it. Needs confluent-kafka.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from struct import Struct
from types import TracebackType
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer

_stamp = Struct(">q")
POLL_S = 0.05
BATCH = 500
FLUSH_S = 60.0
TICK_S = 0.005


class _Worker(threading.Thread):
    """Runs `_work` for as long as the context is open; leaving it raises what went wrong meanwhile."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stopping = threading.Event()
        self._error: BaseException | None = None

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._error is not None and kind is None:
            raise self._error

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def _work(self) -> None:
        raise NotImplementedError


class PacedProducer(_Worker):
    """`rate(seconds since the start)` records a second, round-robin over `topics`; `key(number)` gives a record's key.

    Leaving the context flushes. `acked` counts, `latencies_ms` holds every send's time to its acknowledgement.
    """

    def __init__(
        self,
        address: str,
        topics: Sequence[str],
        rate: Callable[[float], float],
        size: int,
        *,
        key: Callable[[int], bytes | None] = lambda number: None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._producer = Producer(
            {"bootstrap.servers": address, "acks": "all", "linger.ms": 5, "queue.buffering.max.messages": 1_000_000}
            | (settings or {})
        )
        self._topics = topics
        self._rate = rate
        self._filler = b"x" * (size - _stamp.size)
        self._key = key
        self.acked = 0
        self.failed = 0
        self.latencies_ms: list[float] = []

    def _work(self) -> None:
        began = last = time.monotonic()
        due, sent = 0.0, 0
        while not self._stopping.is_set():
            now = time.monotonic()
            due += self._rate(now - began) * (now - last)
            last = now
            while sent < due:
                self._send(sent)
                sent += 1
            self._producer.poll(TICK_S)
        left = self._producer.flush(FLUSH_S)
        self.failed += left

    def _send(self, number: int) -> None:
        sent_at = time.monotonic_ns()
        while True:
            try:
                self._producer.produce(
                    self._topics[number % len(self._topics)],
                    _stamp.pack(sent_at) + self._filler,
                    self._key(number),
                    on_delivery=partial(self._delivered, sent_at),
                )
                return
            except BufferError:
                self._producer.poll(TICK_S)

    def _delivered(self, sent_at: int, error: object, message: object) -> None:
        if error is None:
            self.acked += 1
            self.latencies_ms.append((time.monotonic_ns() - sent_at) / 1e6)
        else:
            self.failed += 1


class GroupReader(_Worker):
    """One member of a consumer group. `ages_ms` holds the freshness of every record, `count` how many there were."""

    def __init__(self, address: str, group: str, topics: Sequence[str], *, from_start: bool = False) -> None:
        super().__init__()
        self._consumer = Consumer(
            {
                "bootstrap.servers": address,
                "group.id": group,
                "auto.offset.reset": "earliest" if from_start else "latest",
                "enable.auto.commit": True,
                "topic.metadata.refresh.interval.ms": 1000,
            }
        )
        self._topics = list(topics)
        self._assigned = threading.Event()
        self.count = 0
        self.ages_ms: list[float] = []

    def wait_until_assigned(self, timeout_s: float = 60.0) -> None:
        if not self._assigned.wait(timeout_s):
            raise TimeoutError("a consumer got no partitions") from self._error

    def _work(self) -> None:
        self._consumer.subscribe(self._topics, on_assign=lambda consumer, partitions: self._assigned.set())
        try:
            while not self._stopping.is_set():
                messages = self._consumer.consume(BATCH, POLL_S)
                now = time.monotonic_ns()
                for message in messages:
                    if (error := message.error()) is not None:
                        raise KafkaException(error)
                    self.ages_ms.append((now - _stamp.unpack_from(message.value() or b"")[0]) / 1e6)
                self.count += len(messages)
        finally:
            self._consumer.close()
