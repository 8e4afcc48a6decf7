"""A distributed Connect worker with exactly-once source support, killed like its broker, and what its source wrote.

The source reads lines from a file that grows meanwhile; a `read_committed` reader of the topic must find the very lines
of the file, in order. By hand, against tailrace or (TAILRACE_INTEROP_AGAINST=kafka) Apache Kafka:

    python -m tests.interop.connect_drill --kills 10 --seed 7
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from bench.free_ports import free_ports

from .admin import create_topic
from .brokers import RECONNECT, Broker, a_broker
from .clients import java_program
from .members import wait_until

TOPIC = "lines"
STRINGS = "org.apache.kafka.connect.storage.StringConverter"


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    kills: int = 3
    rate_per_s: int = 100


class Worker:
    """One worker process with its REST interface; a restart is a new process with the same settings."""

    def __init__(self, address: str, directory: Path) -> None:
        self.url = f"http://127.0.0.1:{free_ports(1)[0]}"
        self._log = directory / "worker.log"
        self._config = directory / "worker.properties"
        self._process: subprocess.Popen[bytes] | None = None
        topics = {f"{kind}.storage.topic": f"connect-{kind}" for kind in ("offset", "config", "status")}
        factors = {f"{kind}.storage.replication.factor": "1" for kind in ("offset", "config", "status")}
        settings = {
            "bootstrap.servers": address,
            "group.id": "connect-workers",
            "exactly.once.source.support": "enabled",
            "key.converter": STRINGS,
            "value.converter": STRINGS,
            **topics,
            **factors,
            "offset.storage.partitions": "2",
            "status.storage.partitions": "1",
            "listeners": self.url,
            "plugin.discovery": "service_load",
            "session.timeout.ms": "3000",
            "heartbeat.interval.ms": "500",
            "scheduled.rebalance.max.delay.ms": "0",
            "offset.flush.interval.ms": "500",
            "reconnect.backoff.max.ms": "200",
            "metadata.recovery.strategy": "none",
        }
        self._config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def start(self) -> None:
        command = [*java_program("org.apache.kafka.connect.cli.ConnectDistributed"), str(self._config)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def add_connector(self, name: str, config: dict[str, str]) -> None:
        """Asked for until it is taken: a worker serves once it has joined its group."""

        def taken() -> bool:
            body = json.dumps({"name": name, "config": config}).encode()
            request = urllib.request.Request(
                f"{self.url}/connectors", body, {"Content-Type": "application/json"}, method="POST"
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return bool(answer.status == 201)
            except urllib.error.HTTPError as error:
                told = error.read().decode()
                if error.code == 400:
                    raise AssertionError(told) from error
                return error.code == 409 and "already exists" in told
            except OSError:
                return False

        wait_until(taken, lambda: self.log()[-3000:], timeout_s=60)


class GrowingFile(threading.Thread):
    """Appends numbered lines at a rate until told to stop."""

    def __init__(self, path: Path, rate_per_s: int, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.lines: list[str] = []
        self.stopping = threading.Event()
        self._path = path
        self._rate_per_s = rate_per_s
        self._chance = chance
        path.touch()

    def run(self) -> None:
        began = time.monotonic()
        with self._path.open("ab", buffering=0) as out:
            while not self.stopping.wait(0.02):
                due = int((time.monotonic() - began) * self._rate_per_s) - len(self.lines)
                new = [f"{len(self.lines) + i} {'x' * self._chance.randrange(50)}" for i in range(due)]
                out.write("".join(f"{line}\n" for line in new).encode())
                self.lines += new


class CommittedLines(threading.Thread):
    """Follows the topic under read_committed."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.lines: list[str] = []
        self.stopping = threading.Event()
        settings = {"group.id": "lines-reader", "isolation.level": "read_committed", "enable.auto.commit": False}
        self._consumer = Consumer({"bootstrap.servers": address, **settings, **RECONNECT})

    def run(self) -> None:
        self._consumer.assign([TopicPartition(TOPIC, 0, 0)])
        while not self.stopping.is_set():
            for message in self._consumer.consume(1000, 0.1):
                if message.error() is None:
                    self.lines.append(message.value().decode())
        self._consumer.close()


def run(plan: Plan, directory: Path) -> str:
    """Returns a line about what was done."""
    with a_broker(directory) as broker:
        create_topic(broker.address, TOPIC, 1)
        worker = Worker(broker.address, directory)
        try:
            return _drill(plan, broker, worker, directory / "source.txt")
        finally:
            worker.kill()


def _drill(plan: Plan, broker: Broker, worker: Worker, source: Path) -> str:
    chance = random.Random(plan.seed)
    file = GrowingFile(source, plan.rate_per_s, chance)
    reader = CommittedLines(broker.address)
    worker.start()
    file.start()
    reader.start()
    worker.add_connector(
        "lines-source",
        {
            "connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector",
            "tasks.max": "1",
            "file": str(source),
            "topic": TOPIC,
            "batch.size": "1000000",  # a poll that stops at this count keeps lines back until the file grows again
            "exactly.once.support": "required",
            "transaction.boundary": "poll",
            "producer.override.transaction.timeout.ms": "5000",
        },
    )

    def wait_for(count: int) -> None:
        wait_until(
            lambda: len(reader.lines) >= count,
            lambda: f"{_difference(reader.lines, file.lines)}: {worker.log()[-3000:]}",
            timeout_s=90,
        )

    wait_for(100)
    killed = {"worker": 0, "broker": 0}
    for number in range(plan.kills):
        wait_for(len(reader.lines) + chance.randrange(plan.rate_per_s // 4, plan.rate_per_s))
        if number % 2:
            broker.kill()
            broker.start()
            killed["broker"] += 1
        else:
            worker.kill()
            worker.start()
            killed["worker"] += 1
    wait_for(len(reader.lines) + 100)
    file.stopping.set()
    file.join()
    wait_for(len(file.lines))
    worker.close()
    reader.stopping.set()
    reader.join()
    assert reader.lines == file.lines, _difference(reader.lines, file.lines)
    return f"{len(file.lines)} lines, {killed} killed: each is there once and in order"


def _difference(found: list[str], wanted: list[str]) -> str:
    at = next((i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), len(wanted))
    return (
        f"{len(found)} lines, {len(wanted)} wanted; from {at} on: {found[at - 1 : at + 5]}, {wanted[at - 1 : at + 5]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tailrace-connect-drill-") as folder:
        print(run(Plan(seed, options.kills, options.rate), Path(folder)))


if __name__ == "__main__":
    main()
