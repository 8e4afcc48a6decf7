"""The kill drill: one broker, watched clients, `kill -9` again and again, and the checker's verdict.

Also by hand, with another seed each time:

    python -m tests.integration.kill_drill --kills 10 --runs 5 --when startup --small-blocks
    python -m tests.integration.kill_drill --store s3 --catalog postgres --clients java,aiokafka
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess
from bench.history import Outcome, check
from bench.postgres_process import PostgresServer
from bench.seaweedfs_process import ACCESS_KEY, SECRET_KEY, SeaweedFs

from .foreign_producers import ForeignProducer
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
    args: Sequence[str] = ()
    """Further flags of `tailrace serve`."""
    clients: Sequence[str] = ()
    """Other libraries that produce beside librdkafka, by the names of their drivers."""
    count_objects: Callable[[], int] | None = None
    """Where they are not files in the data dir."""


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
    with BrokerProcess(directory / "data", args=plan.args, env=plan.env) as broker:
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
        foreign = [ForeignProducer(broker.address, TOPICS, name, plan.rate_per_s) for name in plan.clients]
        consumers = [WatchedConsumer(broker.address, TOPICS, "g", f"c{number}") for number in range(2)]
        for client in (*producers, *foreign, *consumers):
            client.start()
        for number in range(plan.kills):
            wait_until_acknowledged(producers, more=chance.randrange(100, plan.rate_per_s))
            if plan.when == "upload":
                _wait_for_change(plan.count_objects or partial(_count_files, broker.data_dir / "objects"))
            broker.kill()
            if plan.when == "startup":
                _kill_while_it_starts(broker, chance)
            broker.start()
            if plan.churn and number % 3 == 2:
                consumers[-1].stop()
                consumers.append(WatchedConsumer(broker.address, TOPICS, "g", f"c{len(consumers)}"))
                consumers[-1].start()
        wait_until_acknowledged(producers, more=500)
        for producer in (*producers, *foreign):
            producer.stop()
        wait_until_drained(broker.address, TOPICS, "g")
        for consumer in {consumers[0], consumers[-1]}:
            consumer.stop()
        logs = {topic: read_log(broker.address, topic, count) for topic, count in TOPICS.items()}
        assert broker.terminate() == 0
    assert "has a defect" not in broker.log()
    assert "Traceback" not in broker.log()
    for topic, log in logs.items():
        history = history_of(topic, [*producers, *foreign], consumers, log, drained=True)
        violations = check(history)
        assert violations == [], f"seed {plan.seed}, {topic}: {len(violations)} violations: {violations[:5]}"
        assert all(send.outcome is Outcome.ACKNOWLEDGED for send in history.sends), f"seed {plan.seed}"
    sent = sum(len(producer.sends) for producer in (*producers, *foreign))
    without_offset = sum(send.offset is None for producer in producers for _, send in producer.sends)
    assigned = sum(len(consumer.assignments) for consumer in consumers)
    assert sent > plan.kills * 100 * plan.producers
    beside = "".join(f", {len(each.sends)} by {each.name}" for each in foreign)
    return (
        f"{plan.kills} kills ({plan.when}), {sent} records acknowledged, of them {without_offset} without offset"
        f"{beside}, {assigned} assignments: sound"
    )


def _kill_while_it_starts(broker: BrokerProcess, chance: random.Random) -> None:
    for _ in range(chance.randrange(1, 4)):
        broker.spawn()
        time.sleep(chance.uniform(0.1, 0.9))
        broker.kill()


def _count_files(directory: Path) -> int:
    return sum(1 for path in directory.rglob("*") if path.is_file())


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
    parser.add_argument("--store", choices=("file", "s3"), default="file")
    parser.add_argument("--catalog", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--clients", type=lambda names: names.split(","), default=[])
    options = parser.parse_args()
    with ExitStack() as servers:
        new_store = _start_s3(servers) if options.store == "s3" else None
        new_catalog = _start_postgres(servers) if options.catalog == "postgres" else None
        for number in range(options.runs):
            seed = options.seed + number if options.seed is not None else random.randrange(1 << 32)
            env = SMALL_BLOCKS if options.small_blocks else {}
            plan = Plan(seed, options.kills, options.when, rate_per_s=options.rate, env=env, clients=options.clients)
            if new_store is not None:
                objects, count_objects = new_store()
                plan = replace(plan, args=[*plan.args, "--objects", objects], count_objects=count_objects)
            if new_catalog is not None:
                plan = replace(plan, args=[*plan.args, "--metadata", new_catalog()])
            directory = Path(tempfile.mkdtemp(prefix="tailrace-kill-drill-"))
            print(f"seed {seed} in {directory}", flush=True)
            print(run(plan, directory), flush=True)
            shutil.rmtree(directory)


def _start_s3(servers: ExitStack) -> Callable[[], tuple[str, Callable[[], int]]]:
    """Returns what makes a new prefix: its URL, and a count of its objects."""
    store = SeaweedFs(Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="tailrace-kill-drill-s3-"))))
    store.start()
    servers.callback(store.stop)
    os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def new() -> tuple[str, Callable[[], int]]:
        url = store.fresh_url()
        return url, lambda: store.count_objects(url)

    return new


def _start_postgres(servers: ExitStack) -> Callable[[], str]:
    server = PostgresServer(Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="tailrace-kill-drill-pg-"))))
    server.start()
    servers.callback(server.stop)
    return server.new_database


if __name__ == "__main__":
    main()
