"""The rack drill: consumers of two racks read old records while brokers die, stop and come back, leaders
move, and the beginning of the log is deleted. What they read must be what was written.

By hand, with another seed each time:

    python -m tests.integration.rack_drill --seconds 120
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess

from .load import RECONNECT, WatchedClient

RACKS = {1: "a", 2: "b", 3: "c"}
TOPIC, PARTITIONS = "watched", 4
AGE_MS = 3_600_000
"""Records are so old when they are written, so that readers are sent away at once."""
FILLER = b"." * 2_000


class Model:
    """Of each partition: offset -> (value, whether it was committed; None: unknown)."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.records: list[dict[int, tuple[bytes, bool | None]]] = [{} for _ in range(PARTITIONS)]
        self.deleted_to = [0] * PARTITIONS


class TransactionalWriter(WatchedClient):
    """Transactions over all partitions, two of three committed."""

    def __init__(self, bootstrap: str, model: Model, name: str, chance: random.Random) -> None:
        super().__init__(name)
        self.committed = 0
        self._model = model
        self._chance = chance
        settings = {"transactional.id": name, "transaction.timeout.ms": 20_000, "linger.ms": 5, **RECONNECT}
        self._settings = {"bootstrap.servers": bootstrap, **settings}

    def _begin(self) -> None:
        self._producer = Producer(self._settings)
        self._producer.init_transactions(60)

    def _work(self) -> None:
        self._begin()
        number = 0
        while not self.stopping.is_set():
            places: list[tuple[int, int, bytes]] = []
            self._producer.begin_transaction()
            for _ in range(self._chance.randrange(1, 80)):
                number += 1
                self._send(f"{self.name}-{number}".encode() + FILLER, places)
            commits = self._end(self._chance.random() < 0.66)
            with self._model.lock:
                for partition, offset, value in places:
                    self._model.records[partition][offset] = (value, commits)

    def _end(self, commits: bool) -> bool | None:
        """Commit or abort the transaction, for as long as it takes; returns which it was, None if nobody knows."""
        while True:
            try:
                if commits:
                    self._producer.commit_transaction(60)
                    self.committed += 1
                else:
                    self._producer.abort_transaction(60)
                return commits
            except KafkaException as error:
                found = error.args[0]
                assert isinstance(found, KafkaError)
                if found.txn_requires_abort():
                    commits = False
                elif not found.retriable():
                    self._begin()
                    return None

    def _send(self, value: bytes, places: list[tuple[int, int, bytes]]) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            offset, partition = message.offset(), message.partition()
            if error is None and offset is not None and offset >= 0 and partition is not None:
                places.append((partition, offset, value))

        partition = self._chance.randrange(PARTITIONS)
        timestamp = int(time.time() * 1000) - AGE_MS
        self._producer.produce(TOPIC, value, partition=partition, timestamp=timestamp, on_delivery=delivered)


class RackReader(WatchedClient):
    """Reads everything from the beginning, committed only, and compares; then again."""

    def __init__(self, bootstrap: str, model: Model, rack: str) -> None:
        super().__init__(f"reader-{rack}")
        self.read = 0
        self.passes = 0
        self._servers = bootstrap
        self._model = model
        self._rack = rack

    def _work(self) -> None:
        while not self.stopping.is_set():
            self._read_once()
            self.passes += 1

    def _read_once(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": self.name,
                "client.rack": self._rack,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.error.backoff.ms": 50,
                **RECONNECT,
            }
        )
        consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(PARTITIONS)])
        seen: list[dict[int, bytes]] = [{} for _ in range(PARTITIONS)]
        ended: set[int] = set()
        deadline = time.monotonic() + 60
        while len(ended) < PARTITIONS and not self.stopping.is_set():
            assert time.monotonic() < deadline, f"{self.name} hangs at {[max(each, default=-1) for each in seen]}"
            for message in consumer.consume(2000, 0.2):
                error, partition, offset = message.error(), message.partition() or 0, message.offset() or 0
                if error is None:
                    last = max(seen[partition], default=-1)
                    assert offset > last, f"{self.name}: offset {offset} after {last}"
                    seen[partition][offset] = message.value() or b""
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(partition)
        consumer.close()
        for partition, found in enumerate(seen):
            self._compare(partition, found)

    def _compare(self, partition: int, found: dict[int, bytes]) -> None:
        if not found:
            return
        self.read += len(found)
        first, last = min(found), max(found)
        with self._model.lock:
            known = self._model.records[partition]
            first = max(first, self._model.deleted_to[partition])
            expected = {offset: each for offset, each in known.items() if first <= offset <= last}
        for offset, (value, committed) in expected.items():
            if committed is None:
                continue
            if committed:
                assert found.get(offset) == value, f"{self.name}: {partition}/{offset} is missing or another record"
            else:
                assert offset not in found, f"{self.name}: {partition}/{offset} was aborted"


def run(seed: int, seconds: float, directory: Path) -> str:
    """Returns a line about what was done. Raises AssertionError with the first violation."""
    chance = random.Random(seed)
    common = ["--objects", f"file://{directory}/objects", "--metadata", f"sqlite:///{directory}/catalog.db"]
    env = {"TAILRACE_LEASE_MS": "2000", "TAILRACE_STORAGE_UPLOAD_INTERVAL_MS": "200"}
    brokers = {
        node_id: BrokerProcess(directory / f"data{node_id}", node_id=node_id, args=[*common, "--rack", rack], env=env)
        for node_id, rack in RACKS.items()
    }
    model, events = Model(), Counter[str]()
    with ExitStack() as stack:
        for broker in brokers.values():
            stack.enter_context(broker)
        bootstrap = ",".join(broker.address for broker in brokers.values())
        admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        while len(admin.list_topics(timeout=10).brokers) < len(RACKS):
            time.sleep(0.1)
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 3)])[TOPIC].result(20)
        writers = [TransactionalWriter(bootstrap, model, f"writer-{n}", random.Random(seed + n)) for n in range(2)]
        readers = [RackReader(bootstrap, model, rack) for rack in ("b", "c")]
        for client in (*writers, *readers):
            client.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(chance.uniform(1, 4))
            event = chance.choice(("kill", "stop", "delete", "delete"))
            events[event] += 1
            if event == "delete":
                _delete_some(admin, model, chance)
            else:
                broker = chance.choice(list(brokers.values()))
                if event == "kill":
                    broker.kill()
                else:
                    broker.terminate()
                time.sleep(chance.uniform(0, 2))
                broker.start()
            for client in (*writers, *readers):
                client.check()
        for client in (*writers, *readers):
            client.stop()
    passes, read = sum(reader.passes for reader in readers), sum(reader.read for reader in readers)
    assert passes > 2
    return (
        f"{dict(events)}, {sum(each.committed for each in writers)} transactions, {passes} passes, {read} reads: sound"
    )


def _delete_some(admin: AdminClient, model: Model, chance: random.Random) -> None:
    partition = chance.randrange(PARTITIONS)
    with model.lock:
        offsets = sorted(offset for offset, (_, committed) in model.records[partition].items() if committed)
        if not offsets:
            return
        offset = offsets[chance.randrange(len(offsets) // 3 + 1)]
        model.deleted_to[partition] = max(model.deleted_to[partition], offset)
    admin.delete_records([TopicPartition(TOPIC, partition, offset)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    for number in range(options.runs):
        seed = options.seed + number if options.seed is not None else random.randrange(1 << 32)
        directory = Path(tempfile.mkdtemp(prefix="tailrace-rack-drill-"))
        print(f"seed {seed} in {directory}", flush=True)
        print(run(seed, options.seconds, directory), flush=True)
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
