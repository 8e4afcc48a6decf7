"""Members of one group, in Java and librdkafka, that come, go, die and are paused, under load; then the proof of it.

By hand, as long as one likes, against tailrace or (TAILRACE_INTEROP_AGAINST=kafka) Apache Kafka:

    python -m tests.interop.groups_drill --steps 40 --seed 7
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.history import check
from tests.integration.load import WatchedProducer, history_of, read_log

from .admin import create_topic
from .brokers import Broker, a_broker
from .clients import Settings
from .members import CLASSIC, CONSUMER, PROGRAMS, Member, wait_until
from .ownership import Place, double_owners, needless_moves, positions, watched, zombie_commits

CLIENTS = ("java", "librdkafka")
"""Those that know both protocols, and say exactly when they have and give up partitions."""


class Drill:
    """A group under load. Each step ends when the living members own every partition between them."""

    def __init__(self, broker: Broker, group: str, topics: Mapping[str, int], rate_per_s: int = 200) -> None:
        self.broker = broker
        self.group = group
        self.topics = dict(topics)
        self.everyone: list[Member] = []
        self.living: list[Member] = []
        for topic, count in topics.items():
            create_topic(broker.address, topic, count)
        self._producer = WatchedProducer(broker.address, topics, f"{group}-p", rate_per_s)
        self._producer.start()

    def places(self) -> set[Place]:
        return {(topic, partition) for topic, count in self.topics.items() for partition in range(count)}

    def join(
        self,
        client: str,
        settings: Settings = CONSUMER,
        topics: str | None = None,
        instance: str | None = None,
        settle: bool = True,
    ) -> Member:
        name = f"{client}-{len(self.everyone)}"
        program = PROGRAMS[client]
        named = [f"client.id={name}", *([f"group.instance.id={instance}"] if instance else [])]
        chosen = [*program.one_broker, *settings, *named]
        subscription = topics or ",".join(self.topics)
        member = Member(name, program.command(), self.broker.address, self.group, subscription, chosen)
        self.everyone.append(member)
        if settle:
            self.living.append(member)
            self.settle()
        return member

    def leave(self, member: Member) -> None:
        self.living.remove(member)
        member.leave()
        self.settle()

    def kill(self, member: Member) -> None:
        self.living.remove(member)
        member.kill()
        self.settle()

    def pause_beyond_session(self, member: Member) -> None:
        """It is fenced meanwhile; when it goes on it learns so, and joins again."""
        self.living.remove(member)
        told = len(member.events)
        member.stop()
        self.settle()
        member.resume()
        wait_until(lambda: member.has_told("lost", told), lambda: f"{member.name} hears that it was fenced")
        self.living.append(member)
        self.settle()

    def kill_broker(self) -> None:
        self.broker.kill()
        self.broker.start()
        self.settle()

    def settle(self) -> None:
        """Wait until every partition has one owner, no member is idle, and all of them get records."""
        if not self.living:
            return
        wait_until(self._is_settled, self._who_owns_what)
        now = time.monotonic_ns()
        wait_until(lambda: all(each.polled_since(now) for each in self.living), lambda: f"polls: {self.living}")

    def _is_settled(self) -> bool:
        self._producer.check()
        owned = [member.owned() for member in self.living]
        together = set().union(*owned)
        return together == self.places() and sum(map(len, owned)) == len(together) and all(owned)

    def _who_owns_what(self) -> object:
        return {member.name: (sorted(member.owned()), member.events[-3:]) for member in self.living}

    @contextmanager
    def incremental(self) -> Iterator[None]:
        """What happens inside takes no partition from a member that is to have it afterwards."""
        began = {member: len(member.events) for member in self.living}
        yield
        moved = {member.name: needless_moves(member, since) for member, since in began.items()}
        assert not any(moved.values()), f"taken away and given back: {moved}"

    def finish(self) -> str:
        """Stop the load, read to the end, leave, and judge everything."""
        self._producer.stop()
        ends = {
            (topic, partition): sum(send.partition == partition for to, send in self._producer.sends if to == topic)
            for topic, count in self.topics.items()
            for partition in range(count)
        }
        wait_until(lambda: self._positions() == ends, lambda: f"read to the end: {self._positions()} of {ends}")
        for member in self.living:
            member.ask_to_leave()
        for member in self.living:
            member.wait()
        self.living.clear()
        return self.verdict()

    def _positions(self) -> dict[Place, int]:
        """How far anybody has read."""
        return dict.fromkeys(self.places(), 0) | positions(self.everyone)

    def verdict(self) -> str:
        owned_twice = double_owners(self.everyone)
        assert owned_twice == [], owned_twice
        fenced = zombie_commits(self.everyone)
        assert fenced == [], fenced
        consumers = [watched(member) for member in self.everyone]
        for topic, count in self.topics.items():
            log = read_log(self.broker.address, topic, count)
            violations = check(history_of(topic, [self._producer], consumers, log, drained=True))
            assert violations == [], f"{topic}: {len(violations)} violations: {violations[:5]}"
        assigned = sum(event["event"] == "assigned" for member in self.everyone for event in member.events)
        return (
            f"{len(self.everyone)} members, {assigned} assignments, {len(self._producer.sends)} records: "
            "one owner at a time, nothing missed"
        )

    def close(self) -> None:
        self._producer.stopping.set()
        for member in self.everyone:
            member.kill()


@contextmanager
def a_drill(broker: Broker, group: str, topics: Mapping[str, int], rate_per_s: int = 200) -> Iterator[Drill]:
    drill = Drill(broker, group, topics, rate_per_s)
    try:
        yield drill
    finally:
        drill.close()


def random_step(drill: Drill, chance: random.Random) -> str:
    """Do something, and say what."""
    protocol = chance.choice((CONSUMER, CONSUMER, CLASSIC))
    client = chance.choice(CLIENTS)
    member = chance.choice(drill.living) if drill.living else None
    steps: dict[str, Callable[[], object]] = {}
    if len(drill.living) < 5:
        steps[f"{client} joins with {protocol[0]}"] = lambda: drill.join(client, protocol)
    if member is not None and len(drill.living) > 1:
        steps[f"{member.name} leaves"] = lambda: drill.leave(member)
        steps[f"{member.name} is killed"] = lambda: drill.kill(member)
        steps[f"{member.name} is paused"] = lambda: drill.pause_beyond_session(member)
    if member is not None:
        steps["the broker is killed"] = drill.kill_broker
    name = chance.choice(sorted(steps))
    steps[name]()
    return name


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-groups-drill-") as folder,
        a_broker(Path(folder)) as broker,
        a_drill(broker, "g", {"one": 7, "two": 5}) as drill,
    ):
        for number in range(options.steps):
            began = time.monotonic()
            print(f"{number}: {random_step(drill, chance)}: {time.monotonic() - began:.1f} s", flush=True)
        print(drill.finish())


if __name__ == "__main__":
    main()
