"""A Kafka Streams application (exactly_once_v2) whose instances and whose broker are killed, and its totals.

Every input "WORD NUMBER" makes one output "COUNT SUM" of its word, through a repartition topic, a store with a
changelog and a transaction. So a `read_committed` reader must see the counts 1, 2, 3, ... of every word, each once and
in order.

By hand, against tailrace or (TAILRACE_INTEROP_AGAINST=kafka) Apache Kafka:

    python -m tests.interop.streams_drill --kills 20 --seed 7 --store rocksdb
"""

from __future__ import annotations

import argparse
import random
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from .admin import create_topic
from .brokers import RECONNECT, Broker, a_broker
from .clients import java_program
from .members import wait_until

INPUT, OUTPUT, APPLICATION = "words", "totals", "word-totals"
PARTITIONS = 4
WORDS = [f"word-{number}" for number in range(12)]


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    kills: int = 4
    instances: int = 2
    rate_per_s: int = 100
    store: str = "memory"


class Instance:
    """One process of the application; a restart keeps its state folder."""

    def __init__(self, address: str, folder: Path, store: str) -> None:
        self._command = [
            *java_program("Totals", "error"),
            *(address, APPLICATION, INPUT, OUTPUT, str(folder), store),
        ]
        self._log = folder.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)


class Words(threading.Thread):
    """Sends numbered words at a rate until told to stop; `sums` and `counts` say what the application must find."""

    def __init__(self, address: str, rate_per_s: int, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.sums: dict[str, int] = defaultdict(int)
        self.counts: dict[str, int] = defaultdict(int)
        self.stopping = threading.Event()
        self.undelivered = 0
        self._rate_per_s = rate_per_s
        self._chance = chance
        settings = {"enable.idempotence": True, **RECONNECT}
        self._producer = Producer({"bootstrap.servers": address, **settings})

    def run(self) -> None:
        began, sent = time.monotonic(), 0
        while not self.stopping.is_set():
            while sent < (time.monotonic() - began) * self._rate_per_s:
                word, number = self._chance.choice(WORDS), self._chance.randrange(1000)
                self._producer.produce(INPUT, f"{word} {number}", partition=sent % PARTITIONS)
                self.sums[word] += number
                self.counts[word] += 1
                sent += 1
            self._producer.poll(0.005)
        self.undelivered = self._producer.flush(60)

    def stop(self) -> None:
        self.stopping.set()
        self.join()
        assert self.undelivered == 0


class CommittedTotals(threading.Thread):
    """Follows the output under read_committed: word -> every (count, sum) in the order read."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.stopping = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": address,
                "group.id": "totals-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                **RECONNECT,
            }
        )

    def run(self) -> None:
        self._consumer.assign([TopicPartition(OUTPUT, partition, 0) for partition in range(PARTITIONS)])
        while not self.stopping.is_set():
            for message in self._consumer.consume(1000, 0.1):
                if message.error() is None:
                    count, total = message.value().split()
                    self.found[message.key().decode()].append((int(count), int(total)))
        self._consumer.close()

    def count(self) -> int:
        return sum(len(each) for each in list(self.found.values()))


def run(plan: Plan, directory: Path) -> str:
    """Returns a line about what was done."""
    with a_broker(directory) as broker:
        create_topic(broker.address, INPUT, PARTITIONS)
        create_topic(broker.address, OUTPUT, PARTITIONS)
        folders = [directory / f"instance-{number}" for number in range(plan.instances)]
        instances = [Instance(broker.address, folder, plan.store) for folder in folders]
        try:
            return _drill(plan, broker, instances)
        finally:
            for instance in instances:
                instance.kill()


def _drill(plan: Plan, broker: Broker, instances: list[Instance]) -> str:
    chance = random.Random(plan.seed)
    words = Words(broker.address, plan.rate_per_s, random.Random(plan.seed))
    reader = CommittedTotals(broker.address)
    for instance in instances:
        instance.start()
    words.start()
    reader.start()

    def wait_for_more(count: int) -> None:
        wanted = reader.count() + count
        wait_until(
            lambda: reader.count() >= wanted,
            lambda: f"{reader.count()} of {wanted} totals: {[each.log()[-4500:] for each in instances]}",
            timeout_s=90,
        )

    wait_for_more(100)
    killed = {"instance": 0, "broker": 0}
    for number in range(plan.kills):
        wait_for_more(chance.randrange(plan.rate_per_s // 2, plan.rate_per_s * 2))
        if number % 2:
            broker.kill()
            broker.start()
            killed["broker"] += 1
        else:
            victim = chance.choice(instances)
            victim.kill()
            victim.start()
            killed["instance"] += 1
    wait_for_more(100)
    words.stop()
    wanted = sum(words.counts.values())
    wait_for_more(sum(words.counts.values()) - reader.count())
    for instance in instances:
        assert not instance.has_ended(), instance.log()[-3000:]
        instance.close()
    reader.stopping.set()
    reader.join()
    for word in sorted(words.counts):
        counts = [count for count, _ in reader.found[word]]
        assert counts == list(range(1, words.counts[word] + 1)), f"{word}: {counts}"
        assert reader.found[word][-1] == (words.counts[word], words.sums[word]), word
    replaced = sum(instance.log().count("replace ") for instance in instances)
    return f"{wanted} inputs, {killed} killed, {replaced} threads replaced: every total is right and there once"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--store", choices=("memory", "rocksdb"), default="memory")
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tailrace-streams-drill-") as folder:
        print(run(Plan(seed, options.kills, options.instances, options.rate, options.store), Path(folder)))


if __name__ == "__main__":
    main()
