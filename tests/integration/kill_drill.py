"""The kill drill: one broker, watched clients, `kill -9` again and again, and the checker's verdict.

Also by hand, with another seed each time:

    python -m tests.integration.kill_drill --kills 10 --runs 5 --when startup --small-blocks
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess
from bench.history import Outcome, check

from .load import (
    WatchedConsumer,
    WatchedProducer,
    history_of,
    read_log,
    wait_until_acknowledged,
    wait_until_drained,
)

TOPICS = {"plain": 6, "log-append-time": 3, "one-partition": 1}
CONFIGS = {"log-append-time": {"message.timestamp.type": "LogAppendTime"}}
COMPRESSIONS = ("none", "lz4", "zstd", "gzip", "snappy")
SMALL_BLOCKS = {"TAILRACE_STORAGE_BLOCK_SIZE": "65536", "TAILRACE_STORAGE_UPLOAD_INTERVAL_MS": "20"}
"""Uploads all the time, so that crashes meet PUT, commit and trim."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`when`: "load" (after some acknowledgements), "startup" (also while it starts and recovers) or "upload" (as soon
    as a new object is there)."""

    seed: int
    kills: int = 10
    when: str = "load"
    producers: int = 3
    rate_per_s: int = 1000
    env: Mapping[str, str] = field(default_factory=dict)
    churn: bool = True
    """Consumers come and go."""


def create_topics(address: str) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    made = admin.create_topics(
        [NewTopic(name, count, 1, config=CONFIGS.get(name, {})) for name, count in TOPICS.items()]
    )
    for result in made.values():
        result.result(30)


def run(plan: Plan, directory: Path) -> str:
    """Returns a line about what was done. Raises AssertionError with the violations."""
    chance = random.Random(plan.seed)
    with BrokerProcess(directory / "data", env=plan.env) as broker:
        create_topics(broker.address)
        producers = [
            WatchedProducer(
                broker.address,
                TOPICS,
                f"p{number}",
                plan.rate_per_s,
                {"compression.type": COMPRESSIONS[number % len(COMPRESSIONS)]},
            )
            for number in range(plan.producers)
        ]
        consumers = [WatchedConsumer(broker.address, TOPICS, "g", f"c{number}") for number in range(2)]
        for client in (*producers, *consumers):
            client.start()
        for number in range(plan.kills):
            wait_until_acknowledged(producers, more=chance.randrange(100, plan.rate_per_s))
            if plan.when == "upload":
                _wait_for_new_object(broker.data_dir)
            broker.kill()
            if plan.when == "startup":
                _kill_while_it_starts(broker, chance)
            broker.start()
            if plan.churn and number % 3 == 2:
                consumers[-1].stop()
                consumers.append(WatchedConsumer(broker.address, TOPICS, "g", f"c{len(consumers)}"))
                consumers[-1].start()
        wait_until_acknowledged(producers, more=500)
        for producer in producers:
            producer.stop()
        wait_until_drained(broker.address, TOPICS, "g")
        for consumer in {consumers[0], consumers[-1]}:
            consumer.stop()
        logs = {topic: read_log(broker.address, topic, count) for topic, count in TOPICS.items()}
        assert broker.terminate() == 0
    assert "has a defect" not in broker.log()
    assert "Traceback" not in broker.log()
    for topic, log in logs.items():
        history = history_of(topic, producers, consumers, log, drained=True)
        violations = check(history)
        assert violations == [], f"seed {plan.seed}, {topic}: {len(violations)} violations: {violations[:5]}"
        assert all(send.outcome is Outcome.ACKNOWLEDGED for send in history.sends), f"seed {plan.seed}"
    sent = sum(len(producer.sends) for producer in producers)
    without_offset = sum(send.offset is None for producer in producers for _, send in producer.sends)
    assigned = sum(len(consumer.assignments) for consumer in consumers)
    assert sent > plan.kills * 100 * plan.producers
    return (
        f"{plan.kills} kills ({plan.when}), {sent} records acknowledged, of them {without_offset} without offset, "
        f"{assigned} assignments: sound"
    )


def _kill_while_it_starts(broker: BrokerProcess, chance: random.Random) -> None:
    for _ in range(chance.randrange(1, 4)):
        broker.spawn()
        time.sleep(chance.uniform(0.1, 0.9))
        broker.kill()


def _wait_for_new_object(data_dir: Path) -> None:
    _wait_for_change(lambda: sum(1 for path in (data_dir / "objects").rglob("*") if path.is_file()))


def _wait_for_change(look: Callable[[], int]) -> None:
    before = look()
    deadline = time.monotonic() + 20
    while look() == before:
        assert time.monotonic() < deadline, "nothing is uploaded"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--when", choices=("load", "startup", "upload"), default="load")
    parser.add_argument("--small-blocks", action="store_true")
    options = parser.parse_args()
    for number in range(options.runs):
        seed = options.seed + number if options.seed is not None else random.randrange(1 << 32)
        env = SMALL_BLOCKS if options.small_blocks else {}
        plan = Plan(seed, options.kills, options.when, rate_per_s=options.rate, env=env)
        directory = Path(tempfile.mkdtemp(prefix="tailrace-kill-drill-"))
        print(f"seed {seed} in {directory}", flush=True)
        print(run(plan, directory), flush=True)


if __name__ == "__main__":
    main()
