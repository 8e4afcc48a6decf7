"""The drill of a large compacted topic: what stays is the last value of each key, and getting there is cheap.

A real broker, an idempotent producer, keys at random, one record in a thousand a tombstone. When all is written and the
cleaner has nothing left to do, the topic is read from its start. By hand, as large as one likes:

    python -m tests.integration.compacted_drill --records 10000000 --keys 100000
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess
from broker.cli.client import Client
from protocol.messages.describe_storage import DescribeStorageRequest, DescribeStorageResponse

TOPIC = "compacted"
TOMBSTONE_EVERY = 1000
"""One record of so many is a tombstone, and so is the last one of each key that divides by it."""
REWRITTEN_MAX = 2.5
"""Bytes that compaction writes for each byte of records."""
DONE_MAX_S = 900.0
"""Nothing is promised but an end: a cleaner is slow on a machine that has other things to do."""
PAUSE_S = 0.3
_FLUSH_S = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """`lag_ms` is after how long a record may be compacted (`segment.ms`) and has to be (`max.compaction.lag.ms`)."""

    records: int
    keys: int
    partitions: int = 1
    value_size: int = 100
    lag_ms: int = 10_000
    retention_ms: int = 20_000
    backoff_ms: int = 1_000
    slack_s: float = 20.0
    """What passes, uploads and readers may take, beyond what the configs say."""
    seed: int = 1

    @property
    def topic_configs(self) -> dict[str, str]:
        return {
            "cleanup.policy": "compact",
            "segment.ms": str(self.lag_ms),
            "max.compaction.lag.ms": str(self.lag_ms),
            "delete.retention.ms": str(self.retention_ms),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """`rewritten`: bytes that compaction wrote for each byte of keys and values; `read`: those that it read."""

    records: int
    bytes: int
    produced_per_s: int
    done_s: float
    """From the last acknowledgement until nothing was left to compact but tombstones."""
    tombstones_s: float
    """... and until these were gone, too."""
    left: int
    """Records that stay."""
    stored_bytes: int
    rewritten: float
    read: float
    resident_mb: int
    """The most memory that the broker had."""


class Writer:
    """Produces the plan's records, and knows what has to stay of them."""

    def __init__(self, plan: Plan, bootstrap: str) -> None:
        self.plan = plan
        self.size = 0
        self.last = array("q", [0]) * plan.keys
        """Key -> number of its last record, from 1 on; negative: it is a tombstone; 0: there is none."""
        self._errors: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 20,
                "batch.size": 262_144,
                "queue.buffering.max.messages": 500_000,
                "message.timeout.ms": 300_000,
                "log_level": 0,
                "on_delivery": self._delivered,
            }
        )

    def write(self) -> float:
        """All of it; returns how long that took. Raises AssertionError if a record is refused."""
        plan, rng = self.plan, random.Random(self.plan.seed)
        began = time.monotonic()
        for number in range(1, plan.records + 1):
            self._send(number, int(rng.random() * plan.keys), number % TOMBSTONE_EVERY == 0)
        for key in range(0, plan.keys, TOMBSTONE_EVERY):
            number += 1
            self._send(number, key, is_tombstone=True)
        assert self._producer.flush(_FLUSH_S) == 0, "not all is acknowledged"
        assert not self._errors, self._errors[:3]
        return time.monotonic() - began

    def _send(self, number: int, key: int, is_tombstone: bool) -> None:
        plan = self.plan
        name, value = key_of(key), None if is_tombstone else value_of(number, plan.value_size)
        while True:
            try:
                self._producer.produce(TOPIC, value, name, key % plan.partitions)
                break
            except BufferError:
                self._producer.poll(0.05)
        self.last[key] = -number if is_tombstone else number
        self.size += len(name) + (0 if value is None else len(value))
        if number % 5000 == 0:
            self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._errors.append(str(error))


def key_of(key: int) -> bytes:
    return b"key-%08d" % key


def value_of(number: int, size: int) -> bytes:
    return (b"%d|" % number).ljust(size, b"abcdefgh"[number % 8 : number % 8 + 1])


@dataclass(slots=True)
class Found:
    """What a reader from the start finds."""

    records: int
    tombstones: int
    wrong: list[str]
    """Why it is not what has to stay, the first few."""


def read(plan: Plan, bootstrap: str, last: array[int]) -> Found:
    """Read everything, and compare: each key's last record, or, below it, records that are not compacted yet."""
    found = Found(0, 0, [])
    ends = array("q", [0]) * plan.keys
    for key, value in _records(plan, bootstrap):
        found.records += 1
        number = -1 if value is None else int(value.partition(b"|")[0])
        if value is None:
            found.tombstones += 1
        elif value != value_of(number, plan.value_size):
            found.wrong.append(f"{key!r} has a damaged value {value[:20]!r}")
        ends[int(key[4:])] = number
    for index, number in enumerate(last):
        end = ends[index]
        # a tombstone tells nothing of its number; one that is gone took everything of its key with it
        if (end not in (0, -1)) if number < 0 else end != number:
            found.wrong.append(f"{key_of(index)!r} ends with record {end}, not with {number}")
    return found


def _records(plan: Plan, bootstrap: str) -> Iterator[tuple[bytes, bytes | None]]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 65_536,
        }
    )
    try:
        consumer.assign([TopicPartition(TOPIC, index, 0) for index in range(plan.partitions)])
        ends, idle_s = 0, 0.0
        while ends < plan.partitions:
            messages = consumer.consume(10_000, 0.2)  # it waits for that many, or for that long
            idle_s = 0.0 if messages else idle_s + 0.2
            assert idle_s < 30, "nothing, and no end"
            for message in messages:
                if (error := message.error()) is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    ends += 1
                    continue
                key = message.key()
                assert key is not None
                yield key, message.value()
    finally:
        consumer.close()


def run(directory: Path, plan: Plan) -> Verdict:
    """Raises AssertionError with what was not kept."""
    env = {"TAILRACE_BROKER_LOG_CLEANER_BACKOFF_MS": str(plan.backoff_ms)}
    with BrokerProcess(directory / "data", env=env) as broker:
        admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
        admin.create_topics([NewTopic(TOPIC, plan.partitions, 1, config=plan.topic_configs)])[TOPIC].result(30)
        writer = Writer(plan, broker.address)
        took_s = writer.write()
        written_at = time.monotonic()
        _say(f"{plan.records} records, {writer.size / 1e6:.0f} MB, acknowledged after {took_s:.1f} s")
        living = sum(1 for number in writer.last if number > 0)

        done_s = _compacted(plan, broker, writer, living, written_at)
        _say(f"compacted {done_s:.1f} s later")
        tombstones_s = _tombstones_gone(plan, broker, writer, living, written_at, done_s)
        _say(f"tombstones gone {tombstones_s:.1f} s after the end")
        stored = _ask(broker)
        resident_mb = broker.resident_size_max() // 1_000_000
        assert broker.terminate() == 0
        assert "Traceback" not in broker.log()
    verdict = Verdict(
        records=plan.records,
        bytes=writer.size,
        produced_per_s=int(plan.records / took_s),
        done_s=round(done_s, 1),
        tombstones_s=round(tombstones_s, 1),
        left=living,
        stored_bytes=sum(each.size for topic in stored.topics for each in topic.partitions),
        rewritten=round(stored.compaction_written_size / writer.size, 3),
        read=round(stored.compaction_read_size / writer.size, 3),
        resident_mb=resident_mb,
    )
    assert verdict.rewritten < REWRITTEN_MAX, f"compaction wrote more than {REWRITTEN_MAX} bytes for one: {verdict}"
    return verdict


def _compacted(plan: Plan, broker: BrokerProcess, writer: Writer, living: int, written_at: float) -> float:
    """Wait until all that is left are the last records; tombstones may be among them, and have to be for a while."""
    while True:
        found = read(plan, broker.address, writer.last)
        now_s = time.monotonic() - written_at
        assert not found.wrong, found.wrong[:5]
        if now_s < plan.retention_ms / 1000:
            assert found.tombstones >= _last_tombstones(writer), f"tombstones are gone after {now_s:.1f} s"
        if found.records - found.tombstones == living:
            return now_s
        assert now_s < DONE_MAX_S, f"{found.records} records after {now_s:.0f} s, should be {living}"
        time.sleep(PAUSE_S)


def _last_tombstones(writer: Writer) -> int:
    """Those that the last batches brought: nobody may have compacted them for longer."""
    return len(range(0, writer.plan.keys, TOMBSTONE_EVERY))


def _tombstones_gone(
    plan: Plan, broker: BrokerProcess, writer: Writer, living: int, written_at: float, done_s: float
) -> float:
    """Wait for it; raises if that takes longer than the configs say. Their time begins with the pass that met them,
    which had ended after `done_s`."""
    due_s = done_s + (plan.retention_ms + 2 * plan.backoff_ms) / 1000 + plan.slack_s
    while True:
        found = read(plan, broker.address, writer.last)
        now_s = time.monotonic() - written_at
        assert not found.wrong, found.wrong[:5]
        if not found.tombstones:
            assert now_s >= plan.retention_ms / 1000, f"tombstones are gone after {now_s:.1f} s"
            assert found.records == living, f"{found.records} records, should be {living}"
            return now_s
        assert now_s < due_s, f"{found.tombstones} tombstones are there after {now_s:.1f} s, were due after {due_s} s"
        time.sleep(PAUSE_S)


def _ask(broker: BrokerProcess) -> DescribeStorageResponse:
    with Client(broker.address) as client:
        answer = client.send(DescribeStorageRequest(topics=[TOPIC]))
    assert isinstance(answer, DescribeStorageResponse)
    return answer


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--value-size", type=int, default=100)
    parser.add_argument("--lag-ms", type=int, default=10_000, help="segment.ms and max.compaction.lag.ms")
    parser.add_argument("--retention-ms", type=int, default=20_000, help="delete.retention.ms")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    plan = Plan(
        given.records,
        given.keys,
        given.partitions,
        given.value_size,
        given.lag_ms,
        given.retention_ms,
        seed=given.seed,
    )
    with tempfile.TemporaryDirectory() as directory:
        try:
            verdict = run(Path(directory), plan)
        except AssertionError as error:
            _say(f"BROKEN: {error}")
            return 1
    for name, value in asdict(verdict).items():
        _say(f"{name}\t{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
