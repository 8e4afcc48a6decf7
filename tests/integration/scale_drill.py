"""The drill of a large broker: thousands of partitions, hundreds of thousands of objects.

An empty broker first, for comparison, on which the partitions are created. Then one on a store as it is after years
(`large_store`): it opens, serves new records and old ones; another broker joins and takes its share; the first one is
killed. By hand:

    python -m tests.integration.scale_drill --partitions 10000 --objects 200000
    python -m tests.integration.scale_drill --partitions 10000 --objects 200000 --postgres
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess
from bench.postgres_process import PostgresServer
from broker.cli.client import Client

from .large_store import LargeStore, fill_now, topic_names

OPENS_MAX_S = 10.0
CREATES_MAX_S = 10.0
RESIDENT_MAX_MB = 400
P99_RATIO_MAX = 2.0
P99_FLOOR_MS = 5.0
"""Below this a ratio of two p99 tells of the machine only."""
FAILS_OVER_MAX_S = 1.0
SHARES_MAX_S = 120.0
"""Then the drill goes on with what the second broker has by then."""
RATE_PER_S = 2000
RECORD_SIZE = 1024
WATCHED = 60
"""Partitions that records go to while a broker is killed, some of each topic."""
READ_LOGS = 20
OLD_RECORDS = 2000
"""... of each of them, if there are so many."""

FAST_CLIENT: dict[str, str | int] = {
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 100,
    "retry.backoff.ms": 20,
    "retry.backoff.max.ms": 100,
    "topic.metadata.refresh.fast.interval.ms": 50,
    "log_level": 0,
}


@dataclass(frozen=True, slots=True)
class Plan:
    partitions: int
    objects: int
    seconds: float = 10.0
    """Of each measuring of p99."""
    seed: int = 1


@dataclass(slots=True)
class Verdict:
    """Sizes in MB, times in seconds but for those in ms."""

    creates_s: float = 0.0
    created_mb: int = 0
    opens_s: float = 0.0
    opened_mb: int = 0
    opening_max_mb: int = 0
    empty_p99_ms: float = 0.0
    full_p99_ms: float = 0.0
    reads_s: float = 0.0
    """The oldest records of some logs, one after the other, and all of the first one."""
    shares_s: float = 0.0
    """From the start of another broker until it leads half."""
    share_gap_ms: float = 0.0
    """The longest time without an acknowledgement for a partition, meanwhile."""
    fails_over_s: float = 0.0
    """From the kill to the first acknowledgement of the partition that waited longest."""
    beside_ms: float = 0.0
    """The longest time without an acknowledgement for the other broker's partitions, meanwhile."""
    survivor_mb: int = 0

    def broken(self) -> list[str]:
        promises = {
            f"creates in {CREATES_MAX_S} s": self.creates_s <= CREATES_MAX_S,
            f"opens in {OPENS_MAX_S} s": self.opens_s <= OPENS_MAX_S,
            f"takes {RESIDENT_MAX_MB} MB": max(self.created_mb, self.opened_mb, self.survivor_mb) <= RESIDENT_MAX_MB,
            f"p99 within {P99_RATIO_MAX}x of an empty broker": self.full_p99_ms
            <= P99_RATIO_MAX * max(self.empty_p99_ms, P99_FLOOR_MS),
            f"fails over in {FAILS_OVER_MAX_S} s": self.fails_over_s <= FAILS_OVER_MAX_S,
        }
        return [promise for promise, is_kept in promises.items() if not is_kept]


class SteadyProducer(threading.Thread):
    """A record to each of its partitions every few ms; remembers when each was acknowledged."""

    def __init__(self, bootstrap: str, places: Sequence[tuple[str, int]], interval_s: float = 0.05) -> None:
        super().__init__(daemon=True)
        self.acks: dict[tuple[str, int], list[float]] = {place: [] for place in places}
        self.errors: list[str] = []
        self.sent = 0
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 1,
                "message.timeout.ms": 60_000,
                "on_delivery": self._delivered,
                "topic.metadata.refresh.interval.ms": 250,  # else, of topics with nothing in flight, a scan each second
                **FAST_CLIENT,
            }
        )

    def run(self) -> None:
        while not self._stopping.is_set():
            due = time.monotonic() + self._interval_s
            for topic, index in self.acks:
                with suppress(BufferError):  # a broker that stands still for long is seen by its gap
                    self._producer.produce(topic, b"v", partition=index)
                    self.sent += 1
            while (left_s := due - time.monotonic()) > 0:
                self._producer.poll(left_s)
        self._producer.flush(60)

    def stop(self) -> None:
        self._stopping.set()
        self.join(90)
        assert not self.is_alive(), "a producer hangs"
        assert not self.errors, self.errors[:3]
        assert sum(map(len, self.acks.values())) == self.sent

    def wait_until_all_are_acknowledged(self, after: float) -> None:
        deadline = time.monotonic() + 60
        while not all(acks and acks[-1] > after for acks in self.acks.values()):
            assert time.monotonic() < deadline, "not all partitions are served"
            time.sleep(0.02)

    def gaps_s(self, began: float, ended: float, places: Sequence[tuple[str, int]]) -> float:
        """The longest time without an acknowledgement, over these partitions."""
        longest = 0.0
        for place in places:
            inside = [began, *(at for at in self.acks[place] if began < at < ended), ended]
            longest = max(longest, *(after - before for before, after in pairwise(inside)))
        return longest

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        topic, partition = message.topic(), message.partition()
        if error is not None:
            self.errors.append(f"{topic} {partition}: {error}")
            return
        assert topic is not None
        assert partition is not None
        self.acks[topic, partition].append(time.monotonic())


def p99_ms(bootstrap: str, topic: str, partition: int, seconds: float) -> float:
    """Of produce at a fixed rate to one partition; what was sent in the first third does not count."""
    latencies: list[float] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        latencies.append(message.latency() or 0.0)

    settings = {"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 5, "batch.size": 65_536}
    producer = Producer({**settings, "on_delivery": delivered, **FAST_CLIENT})
    value = b"v" * RECORD_SIZE
    began = time.monotonic()
    sent = 0
    while (now := time.monotonic() - began) < seconds:
        while sent < now * RATE_PER_S:
            producer.produce(topic, value, partition=partition)
            sent += 1
        producer.poll(0.002)
    assert producer.flush(30) == 0
    counted = sorted(latencies[len(latencies) // 3 :])
    return counted[int(len(counted) * 0.99)] * 1000


def create(broker: BrokerProcess, partitions: int) -> float:
    began = time.monotonic()
    admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
    for name, count in topic_names(partitions).items():
        admin.create_topics([NewTopic(f"new-{name}", count, 1)])[f"new-{name}"].result(60)
    with Client(broker.address) as client:
        while any(part.leader_id < 0 for topic in client.metadata(None).topics for part in topic.partitions):
            time.sleep(0.05)
    return time.monotonic() - began


def leaders(bootstrap: str) -> dict[tuple[str, int], int]:
    with Client(bootstrap) as client:
        topics = client.metadata(None).topics
    return {
        (topic.name or "", part.partition_index): part.leader_id
        for topic in topics
        if (topic.name or "").startswith("many-")
        for part in topic.partitions
    }


def read_old(bootstrap: str, store: LargeStore, rng: random.Random) -> float:
    """Some logs from their beginnings, and the first one, which has the most objects. Raises AssertionError."""
    names = list(store.topics)
    places = [("many-0", 0)]
    for _ in range(READ_LOGS):
        name = rng.choice(names)
        places.append((name, rng.randrange(store.topics[name])))
    places = sorted(set(places))
    began = time.monotonic()
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "old", "enable.auto.commit": False, "log_level": 0}
    )
    try:
        consumer.assign([TopicPartition(topic, index, 0) for topic, index in places])
        expected = dict.fromkeys(places, 0)
        ends = {place: min(store.end_offset(*place), OLD_RECORDS) for place in places}
        while any(expected[place] < end for place, end in ends.items()):
            message = consumer.poll(30.0)
            assert message is not None, f"nothing more after {expected}"
            assert message.error() is None, message.error()
            place = message.topic() or "", message.partition() or 0
            assert message.offset() == expected[place], f"{place}: {message.offset()} is not {expected[place]}"
            expected[place] += 1
    finally:
        consumer.close()
    return time.monotonic() - began


def run(directory: Path, plan: Plan, metadata_url: str | None = None, empty_metadata_url: str | None = None) -> Verdict:
    """`directory` is empty. The URLs are those of empty databases; without them it is SQLite."""
    verdict, rng = Verdict(), random.Random(plan.seed)
    with BrokerProcess(directory / "empty", args=_metadata(empty_metadata_url)) as empty:
        admin = AdminClient({"bootstrap.servers": empty.address, "log_level": 0})
        admin.create_topics([NewTopic("one", 1, 1)])["one"].result(30)
        verdict.empty_p99_ms = p99_ms(empty.address, "one", 0, plan.seconds)
        _say(f"an empty broker: p99 {verdict.empty_p99_ms:.1f} ms")
        verdict.creates_s = create(empty, plan.partitions)
        verdict.created_mb = empty.resident_size() // 1_000_000
        _say(f"{plan.partitions} partitions created in {verdict.creates_s:.2f} s: {verdict.created_mb} MB")
    shutil.rmtree(directory / "empty")

    began = time.monotonic()
    metadata = metadata_url or f"sqlite:///{directory}/catalog.db"
    store = fill_now(metadata, directory / "objects", plan.partitions, plan.objects)
    _say(f"store of {store.object_count} objects made in {time.monotonic() - began:.1f} s")
    args = ["--objects", f"file://{directory}/objects", "--metadata", metadata]
    first, second = (BrokerProcess(directory / f"data{n}", node_id=n, args=args) for n in (1, 2))
    with ExitStack() as stack:
        first.start(timeout_s=120)
        stack.enter_context(first)
        verdict.opens_s = first.start_seconds
        verdict.opened_mb, verdict.opening_max_mb = (
            first.resident_size() // 1_000_000,
            first.resident_size_max() // 1_000_000,
        )
        _say(f"open after {verdict.opens_s:.2f} s: {verdict.opened_mb} MB, {verdict.opening_max_mb} MB at most")
        verdict.full_p99_ms = p99_ms(first.address, "many-0", min(7, plan.partitions - 1), plan.seconds)
        _say(f"p99 {verdict.full_p99_ms:.1f} ms")
        verdict.reads_s = read_old(first.address, store, rng)
        _say(f"old records of {READ_LOGS} logs read in {verdict.reads_s:.2f} s")

        places = [(name, index) for name, count in store.topics.items() for index in range(count)]
        producer = SteadyProducer(first.address, rng.sample(places, min(WATCHED, len(places))))
        producer.start()
        producer.wait_until_all_are_acknowledged(0.0)
        _share(plan, stack, first, second, producer, verdict)
        _fail_over(first, second, producer, verdict)
        producer.stop()
        verdict.survivor_mb = second.resident_size() // 1_000_000
        for broker in (first, second):
            assert "Traceback" not in broker.log(), broker.log()[-3000:]
    return verdict


def _metadata(url: str | None) -> list[str]:
    return [] if url is None else ["--metadata", url]


def _share(
    plan: Plan,
    stack: ExitStack,
    first: BrokerProcess,
    second: BrokerProcess,
    producer: SteadyProducer,
    verdict: Verdict,
) -> None:
    began = time.monotonic()
    second.start(timeout_s=60)
    stack.enter_context(second)
    started_s = second.start_seconds
    half = plan.partitions // 2
    while (led := sum(1 for leader in leaders(first.address).values() if leader == 2)) < half * 0.95:
        if time.monotonic() - began > SHARES_MAX_S:
            break
        time.sleep(0.5)
    ended = time.monotonic()
    producer.wait_until_all_are_acknowledged(ended)
    verdict.shares_s = ended - began
    verdict.share_gap_ms = 1000 * producer.gaps_s(began, time.monotonic(), list(producer.acks))
    _say(
        f"broker 2 started in {started_s:.2f} s, leads {led} after {verdict.shares_s:.1f} s, "
        f"longest gap {verdict.share_gap_ms:.0f} ms"
    )
    time.sleep(min(3.0, plan.seconds))


def _fail_over(first: BrokerProcess, second: BrokerProcess, producer: SteadyProducer, verdict: Verdict) -> None:
    led_by = leaders(second.address)
    lost = [place for place in producer.acks if led_by[place] == 1]
    kept = [place for place in producer.acks if led_by[place] == 2]
    assert lost, "broker 1 leads nothing that is watched"
    count = sum(1 for leader in led_by.values() if leader == 1)
    producer.wait_until_all_are_acknowledged(time.monotonic())
    killed = time.monotonic()
    first.kill()
    producer.wait_until_all_are_acknowledged(time.monotonic() + 0.05)
    ended = time.monotonic()
    verdict.fails_over_s = producer.gaps_s(killed, ended, lost)
    verdict.beside_ms = 1000 * producer.gaps_s(killed, ended, kept) if kept else 0.0
    _say(
        f"killed a broker with {count} partitions: the last of {len(lost)} had its next ack after "
        f"{verdict.fails_over_s:.2f} s, beside it {verdict.beside_ms:.0f} ms"
    )


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--objects", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measuring of p99")
    parser.add_argument("--postgres", action="store_true", help="metadata in PostgreSQL instead of SQLite")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    plan = Plan(given.partitions, given.objects, given.seconds, given.seed)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls: tuple[str | None, str | None] = (None, None)
        if given.postgres:
            server = PostgresServer(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            stack.callback(server.stop)
            server.start()
            urls = server.new_database(), server.new_database()
        verdict = run(directory, plan, *urls)
    for name, value in asdict(verdict).items():
        _say(f"{name}\t{round(value, 2)}")
    for promise in verdict.broken():
        _say(f"BROKEN: {promise}")
    return 1 if verdict.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
