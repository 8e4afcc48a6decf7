"""A client library through the loss of brokers, as an application sees it: three brokers, its producer, its group.

The library has its own defaults for time-outs, back-offs and repeats; its producer is idempotent with acks=all, its
consumers commit all the time. A round of `leader-kill` kills a broker (in turn: one that leads, and the coordinator of
the group) and starts it again; one of `rolling` stops and starts every broker in turn. No error may reach the
application, and nothing may be lost, reordered, doubled or left unread.

    python -m tests.interop.failover_drill --client franz --fault rolling --rounds 5
    TAILRACE_INTEROP_AGAINST=kafka python -m tests.interop.failover_drill --client all --fault leader-kill
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.clusters import SIZE, Cluster, KafkaCluster, TailraceCluster
from bench.history import check
from bench.transaction_history import Place
from drills.timeline import Timeline
from tests.integration.foreign_producers import ForeignProducer
from tests.integration.load import history_of, read_log

from .brokers import AGAINST
from .clients import kafka_classpath
from .members import PROGRAMS, Member, wait_until
from .ownership import positions, watched

CLIENTS = {
    "java": ("java", "java"),
    "confluent": ("confluent-kafka", "librdkafka"),
    "aiokafka": ("aiokafka", "aiokafka"),
    "franz": ("franz-go", "franz-go"),
}
"""Name -> its driver, its member program."""
FAULTS = ("leader-kill", "rolling")
TOPIC, PARTITIONS, GROUP = "events", 6, "readers"
MEMBERS = 2
CALM_S = 2.0
BACK_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    client: str
    faults: Sequence[str]
    """In every round, one after the other."""
    rounds: int = 1
    rate_per_s: int = 300
    calm_s: float = CALM_S
    """Under load, after every start of a broker."""
    rolled: int = SIZE
    """As many brokers as a rolling restart takes in."""


class Drill:
    def __init__(self, plan: Plan, cluster: Cluster) -> None:
        self.plan = plan
        self.cluster = cluster
        self.restarts = 0
        self._make_topic()
        driver, program = CLIENTS[plan.client]
        topics, addresses = {TOPIC: PARTITIONS}, cluster.bootstrap
        self.producer = ForeignProducer(addresses, topics, driver, plan.rate_per_s)
        self.members = [
            Member(f"{plan.client}-{number}", PROGRAMS[program].command(), addresses, GROUP, TOPIC)
            for number in range(MEMBERS)
        ]

    def run(self) -> str:
        """Returns a line about what was done. Raises AssertionError with what was wrong."""
        self.producer.start()
        self._wait_for_flow()
        time.sleep(self.plan.calm_s)
        began = time.monotonic()
        for number in range(self.plan.rounds):
            if "leader-kill" in self.plan.faults:
                self._lose(self._coordinator() if number % 2 else self._leaders()[0], signal.SIGKILL)
            if "rolling" in self.plan.faults:
                for node in [*self.cluster.brokers][: self.plan.rolled]:
                    self._lose(node, signal.SIGTERM)
        ended = time.monotonic()
        self._read_to_the_end()
        self._judge()
        acks = _longest_gap(self.producer.acks, began, ended)
        reads = _longest_gap(sorted(self._reads()), began, ended)
        return (
            f"{self.plan.client}, {' and '.join(self.plan.faults)}: {self.restarts} restarts, "
            f"{len(self.producer.sends)} records, longest stall {acks:.2f} s in acknowledgements, "
            f"{reads:.2f} s in reads: sound"
        )

    def close(self) -> None:
        self.producer.abandon()
        for member in self.members:
            member.kill()

    def _lose(self, node: int, how: signal.Signals) -> None:
        """Until everybody gets on without it, and with it again."""
        broker = self.cluster.brokers[node]
        broker.end(how)
        self._wait_for_flow()
        broker.start()
        self._wait_for_flow()
        time.sleep(self.plan.calm_s)
        self.restarts += 1

    def _wait_for_flow(self) -> None:
        """Until every partition has an acknowledgement and a read from now on."""
        since = time.monotonic()
        everything = set(range(PARTITIONS))

        def flows() -> bool:
            self._check()
            acked = {partition for at, partition in reversed(self.producer.acks[-2000:]) if at > since}
            return acked == everything and {index for at, index in self._reads(500) if at > since} == everything

        wait_until(flows, lambda: f"nothing flows: {[each.events[-3:] for each in self.members]}", BACK_S)

    def _check(self) -> None:
        self.producer.check()
        for member in self.members:
            errors = [each for each in list(member.events) if each.get("error")]
            assert not errors, f"{member.name}: the application was told {errors[:3]}"
            assert not member.ended, f"{member.name} ended: {member.last_words()}"

    def _read_to_the_end(self) -> None:
        self.producer.stop()
        wanted = {
            (TOPIC, index): sum(send.partition == index for _, send in self.producer.sends)
            for index in range(PARTITIONS)
        }
        wait_until(lambda: positions(self.members) == wanted, lambda: f"{positions(self.members)} of {wanted}", BACK_S)
        self._check()
        for member in self.members:
            member.ask_to_leave()
        for member in self.members:
            member.wait()

    def _judge(self) -> None:
        errors = {member.name: [each for each in member.events if each.get("error")] for member in self.members}
        assert not any(errors.values()), f"the application was told {errors}"
        log = read_log(self.cluster.bootstrap, TOPIC, PARTITIONS)
        consumers = [watched(member) for member in self.members]
        violations = check(history_of(TOPIC, [self.producer], consumers, log, drained=True))
        assert violations == [], f"{len(violations)} violations: {violations[:5]}"

    def _reads(self, last: int = 0) -> Iterator[tuple[float, int]]:
        """(When, partition) of all polls, or of the last ones of each member."""
        for member in self.members:
            for event in member.events[-last:]:
                if event["event"] == "polled":
                    yield event["at"] / 1e9, event["partition"]

    # -- the cluster, as an admin client sees it ---------------------------------------------------------------------
    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.cluster.bootstrap, "log_level": 0})

    def _make_topic(self) -> None:
        admin = self._admin()
        wait_until(lambda: len(admin.list_topics(timeout=10).brokers) == SIZE, lambda: "they do not know each other")
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, -1)])[TOPIC].result(30)

    def _leaders(self) -> dict[int, int]:
        partitions = self._admin().list_topics(TOPIC, timeout=10).topics[TOPIC].partitions
        return {index: partition.leader for index, partition in partitions.items()}

    def _coordinator(self) -> int:
        admin = self._admin()  # its answers never come once it is collected
        described = admin.describe_consumer_groups([GROUP])[GROUP].result(30)
        return int(described.coordinator.id)


def _longest_gap(times: list[tuple[float, int]], began: float, ended: float) -> float:
    timeline = Timeline()
    for at, partition in times:
        timeline.acknowledged(at, Place(TOPIC, partition), 1)
    return timeline.longest_gap(began, ended).length_s


@contextmanager
def a_cluster(directory: Path) -> Iterator[Cluster]:
    """Three brokers. Those of tailrace must not have complained of a defect."""
    if os.environ.get(AGAINST) == "kafka":
        with KafkaCluster(Path(kafka_classpath()).parent, directory, heap="384m") as kafka:
            yield kafka
        return
    with TailraceCluster(directory) as ours:
        yield ours
    for broker in ours.brokers.values():
        assert "Traceback" not in broker.log(), broker.log()[-4000:]
        assert "has a defect" not in broker.log(), broker.log()[-4000:]


def run(plan: Plan, directory: Path) -> str:
    with ExitStack() as stack:
        drill = Drill(plan, stack.enter_context(a_cluster(directory)))
        stack.callback(drill.close)
        return drill.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", choices=[*CLIENTS, "all"], default="all")
    parser.add_argument("--fault", choices=[*FAULTS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=300, help="records a second")
    options = parser.parse_args()
    failed = False
    for client in CLIENTS if options.client == "all" else [options.client]:
        for fault in FAULTS if options.fault == "all" else [options.fault]:
            with tempfile.TemporaryDirectory(prefix="tailrace-failover-drill-") as folder:
                try:
                    print(run(Plan(client, [fault], options.rounds, options.rate), Path(folder)), flush=True)
                except AssertionError as wrong:
                    failed = True
                    print(f"{client}, {fault}: FAILED: {wrong}", flush=True)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
