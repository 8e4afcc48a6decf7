"""The exactly-once drill: copy jobs under `kill -9`, and the checker's verdict on everybody's history.

A feeder fills the input topic in transactions. Three instances of a client's copy job consume it read_committed, and in
one transaction each write copies and commit their offsets; some transactions are aborted on purpose. Meanwhile, by
chance, an instance is killed, or paused until its session is over, or started a second time under its transactional id,
and the broker is killed. Two readers read along from outside. At last one instance is killed for good, amid a
transaction. In the end everything must have settled: every input was copied exactly once in the eyes of every
read_committed reader, and nothing hangs.

    python -m tests.integration.exactly_once.drill --client java --kills 20 --seed 1
    python -m tests.integration.exactly_once.drill --client franz --minutes 10 --system kafka
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.transaction_checker import check
from bench.transaction_history import Copying, History, Isolation, Outcome, Place, Reading
from tests.integration.kill_drill import SMALL_BLOCKS
from tests.integration.load import committed
from tests.interop.brokers import AGAINST, QUICK, Broker, a_broker

from .clients import CLIENTS
from .job import Worker, read_completely, wait_until
from .settled import is_stable, wait_until_settled
from .watchers import Feeder, LiveReader

INPUT, OUTPUT, GROUP = "input", "output", "copiers"
PARTITIONS = 4
SESSION_TIMEOUT_MS = 3000
TRANSACTION_TIMEOUT_MS = 8000
CONFIGS = {**QUICK, "transaction.max.timeout.ms": "60000"}
PROGRESS_TIMEOUT_S = 90.0
HANG_TIMEOUT_S = TRANSACTION_TIMEOUT_MS / 1000 + 10
"""The time-out, the coordinator's next look, and markers on a busy machine."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`kills` counts faults of all kinds; with `minutes` it goes on for so long instead."""

    seed: int
    client: str = "confluent"
    kills: int = 10
    minutes: float = 0.0
    rate_per_s: int = 300
    abort_percent: int = 15
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further options of the job, such as group.protocol."""
    broker_too: bool = True


class Drill:
    def __init__(self, plan: Plan, broker: Broker, directory: Path) -> None:
        self.plan = plan
        self.broker = broker
        self.chance = random.Random(plan.seed)
        self.command = CLIENTS[plan.client]()
        address = broker.address
        options = self._options(address)
        self.workers = [Worker(f"copy-{number}", self.command, options, directory) for number in range(3)]
        self.feeder = Feeder(address, INPUT, PARTITIONS, plan.rate_per_s, plan.seed)
        self.readers = [LiveReader(address, INPUT, OUTPUT, PARTITIONS, isolation) for isolation in Isolation]
        self.faults: Counter[str] = Counter()
        self._deck: list[str] = []

    def _options(self, address: str) -> dict[str, object]:
        return {
            "bootstrap": address,
            "input": INPUT,
            "output": OUTPUT,
            "partitions": PARTITIONS,
            "input.partitions": PARTITIONS,
            "group": GROUP,
            "abort.percent": self.plan.abort_percent,
            "session.timeout.ms": SESSION_TIMEOUT_MS,
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            **self.plan.settings,
        }

    def run(self) -> str:
        """Returns a line about what was done. Raises AssertionError with the violations."""
        create_topics(self.broker.address)
        for client in (self.feeder, *self.readers):
            client.start()
        for worker in self.workers:
            worker.start()
        try:
            self._break_things()
            self._wait_for_commits(20)
            self._catch(self.workers[-1], "sends", "acks")
            self.workers[-1].abandon()
            self._wait_for_commits(5)
            self.feeder.stop()
            self._wait_until_copied()
            for worker in self.workers:
                worker.stop()
        finally:
            for worker in self.workers:
                worker.kill()
        settled_s = self._wait_until_settled()
        history = self._history()
        violations = check(history)
        assert violations == [], f"{self.plan}: {len(violations)} violations: {violations[:5]}"
        return self._summary(history, settled_s)

    def _break_things(self) -> None:
        ends_at = time.monotonic() + self.plan.minutes * 60
        while time.monotonic() < ends_at if self.plan.minutes else self.faults.total() < self.plan.kills:
            self._wait_for_commits(self.chance.randrange(1, 40))
            worker = self.chance.choice(self.workers)
            kind = self._next_fault()
            if kind == "pause":
                self._catch(worker, "sends")
            elif self.chance.random() < 0.5:
                self._catch(worker, "commit")
            self.faults[kind] += 1
            if kind in ("instance", "both"):
                worker.kill()
            if kind in ("broker", "both"):
                self.broker.kill()
                time.sleep(self.chance.choice([0.0, 0.0, 0.5, 3.0]))
                self.broker.start()
            if kind == "twin":
                worker.start()
            if kind == "pause":
                # others have its inputs then, and its transaction is still open
                resume = worker.pause()
                time.sleep(self.chance.uniform(SESSION_TIMEOUT_MS * 1.2, TRANSACTION_TIMEOUT_MS * 0.8) / 1000)
                resume()

    def _next_fault(self) -> str:
        """Each kind in its turn, the frequent ones first, so that a short drill has them too."""
        if not self._deck:
            rare = ["instance", "both", "twin", "pause", "pause"] if self.plan.broker_too else ["twin", "pause"]
            often = ["instance", "broker", "both"] if self.plan.broker_too else ["instance", "instance"]
            self.chance.shuffle(rare)
            self.chance.shuffle(often)
            self._deck = rare + often
        return self._deck.pop()

    def _wait_for_commits(self, more: int) -> None:
        """As many, by all workers together."""
        target = self._committed() + more
        wait_until(
            lambda: self._committed() >= target,
            lambda: f"no progress ({self._committed()} of {target} transactions); {self._last_words()}",
            PROGRESS_TIMEOUT_S,
            self._tend,
        )

    def _catch(self, worker: Worker, *events: str) -> None:
        """Wait until it stands there, if that happens soon: where an answer may be lost is where drills find most."""
        deadline = time.monotonic() + 1
        while not worker.stands_at(*events) and time.monotonic() < deadline:
            time.sleep(0.0005)

    def _committed(self) -> int:
        return sum(worker.committed() for worker in self.workers)

    def _tend(self) -> None:
        for worker in self.workers:
            worker.tend()
        for client in (self.feeder, *self.readers):
            client.check()

    def _last_words(self) -> str:
        return "; ".join(f"{worker.name}: {worker.incarnations[-1].last_words()}" for worker in self.workers)

    def _wait_until_copied(self) -> None:
        """Until the group's commits are behind the last committed input of every partition."""
        ends: dict[int, int] = dict.fromkeys(range(PARTITIONS), 0)
        wait_until(
            lambda: is_stable(self.broker.address, [Place(INPUT, partition) for partition in ends]),
            lambda: "a transaction of the feeder hangs",
            HANG_TIMEOUT_S,
            self._tend,
        )
        for reading in self._read_completely("confluent", INPUT, Isolation.COMMITTED):
            ends[reading.place.partition] = max((offset + 1 for offset, _ in reading.records()), default=0)
        consumer = Consumer({"bootstrap.servers": self.broker.address, "group.id": GROUP})
        places = [TopicPartition(INPUT, partition) for partition in ends]

        def missing() -> dict[int, tuple[int, int]]:
            at = {found.partition: found.offset for found in committed(consumer, places)}
            return {partition: (at[partition], end) for partition, end in ends.items() if max(at[partition], 0) < end}

        wait_until(lambda: not missing(), lambda: f"not copied: {missing()}; {self._last_words()}", 90, self._tend)
        consumer.close()

    def _history(self) -> History:
        for reader in self.readers:
            reader.stop()
        transactions = list(self.feeder.transactions)
        readings: list[Reading] = []
        for worker in self.workers:
            copied, read = worker.history(INPUT, OUTPUT)
            transactions += copied
            readings += read
        for reader in self.readers:
            readings += reader.readings.values()
        for client in {"confluent", self.plan.client}:
            for topic in (INPUT, OUTPUT):
                for isolation in Isolation:
                    readings += self._read_completely(client, topic, isolation)
        return History(transactions, readings, Copying(INPUT, OUTPUT))

    def _read_completely(self, client: str, topic: str, isolation: Isolation) -> list[Reading]:
        return read_completely(
            CLIENTS[client](),
            f"{client} {isolation.value}",
            self.broker.address,
            topic,
            PARTITIONS,
            isolation,
            copies=topic == OUTPUT,
        )

    def _wait_until_settled(self) -> float:
        places = [Place(topic, partition) for topic in (INPUT, OUTPUT) for partition in range(PARTITIONS)]
        return wait_until_settled(self.broker.address, places, HANG_TIMEOUT_S)

    def _summary(self, history: History, settled_s: float) -> str:
        outcomes = Counter(each.outcome for each in history.transactions)
        uncommitted = {
            record_id
            for reading in history.readings
            if reading.complete and reading.isolation is Isolation.UNCOMMITTED
            for _, record_id in reading.records()
        }
        aborted = sum(
            send.id in uncommitted
            for each in history.transactions
            if each.outcome is Outcome.ABORTED
            for send in each.sends
        )
        assert aborted > 0 or not self.plan.abort_percent, "nothing was aborted that read_uncommitted could see"
        copied = sum(
            send.source is not None
            for each in history.transactions
            if each.outcome is Outcome.COMMITTED
            for send in each.sends
        )
        incarnations = sum(len(worker.incarnations) for worker in self.workers)
        return (
            f"{self.plan.client}, {dict(self.faults)}, {incarnations} incarnations: "
            f"{outcomes[Outcome.COMMITTED]} transactions committed, {outcomes[Outcome.ABORTED]} aborted, "
            f"{outcomes[Outcome.UNKNOWN]} unknown; {copied} records copied for certain, {aborted} aborted ones visible "
            f"to read_uncommitted; settled after {settled_s:.1f} s: sound"
        )


def create_topics(address: str) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    for made in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in (INPUT, OUTPUT)]).values():
        made.result(30)


def run(plan: Plan, directory: Path) -> str:
    with a_broker(directory, CONFIGS) as broker:
        return Drill(plan, broker, directory).run()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--client", choices=[*CLIENTS, "all"], default="all")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--rate", type=int, default=300)
    parser.add_argument("--abort-percent", type=int, default=15)
    parser.add_argument("--group-protocol", choices=("classic", "consumer"), default="classic")
    parser.add_argument("--system", choices=("tailrace", "kafka"), default="tailrace")
    parser.add_argument("--spare-broker", action="store_true", help="kill instances only")
    parser.add_argument("--small-blocks", action="store_true", help="tailrace uploads all the time")
    parser.add_argument("--keep", action="store_true", help="keep the data also of a run that is sound")
    options = parser.parse_args()
    os.environ[AGAINST] = options.system
    if options.small_blocks:
        os.environ.update(SMALL_BLOCKS)
    settings = {"group.protocol": "consumer"} if options.group_protocol == "consumer" else {}
    for number in range(options.runs):
        seed = options.seed + number if options.seed is not None else random.randrange(1 << 32)
        for client in CLIENTS if options.client == "all" else [options.client]:
            plan = Plan(
                seed,
                client,
                options.kills,
                options.minutes,
                options.rate,
                options.abort_percent,
                settings,
                not options.spare_broker,
            )
            directory = Path(tempfile.mkdtemp(prefix="tailrace-exactly-once-"))
            print(f"seed {seed}, {client}, in {directory}", flush=True)
            print(run(plan, directory), flush=True)
            if not options.keep:
                shutil.rmtree(directory)


if __name__ == "__main__":
    main()
