"""The soak: brokers, traffic, a store that fails by rule, and the verdict. See `tests.integration.soak`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.broker_process import BrokerProcess
from drills.backends import LocalStore, PostgresDatabase, S3Store, SqliteDatabase
from s3stream.settings import StorageSettings

from ..load import RECONNECT, WatchedClient
from .clients import Deleter, LastReader, Replayer, SoakProducer, SoakReader, SoakTransactions, TailReader
from .model import Partition, Topic
from .watch import Watch

USUAL = """
* error p=0.02
* delay=0.3 p=0.03
put lost p=0.02
delete lost p=0.05
get torn p=0.005
get flipped p=0.0005
"""
TROUBLE = ("* error p=0.3; * delay=1 p=0.3", "* down", "put,delete error p=0.6", "get error p=0.5; get delay=2 p=0.2")
MIB = 1 << 20
COUNTED_IN_LOGS = (
    "retention moved the log start",
    "removed unneeded objects",
    "compaction failed",
    "log compacted",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """`scale` shortens all intervals of the storage and of the faults."""

    seconds: float
    partitions: int = 500
    rate: float = 400.0
    brokers: int = 2
    objects: str = "s3"
    metadata: str = "postgresql"
    seed: int = 1
    scale: float = 1.0

    def topics(self) -> list[Topic]:
        def topic(
            name: str, share: float, rate: float, config: dict[str, object], keys: int = 0, tx: bool = False
        ) -> Topic:
            texts = {key: str(value) for key, value in config.items()}
            return Topic(name, max(1, round(share * self.partitions)), rate * self.rate, texts, keys, tx)

        def ms(value: float) -> int:
            return int(value * 1000 * self.scale)

        deleted: dict[str, object] = {"cleanup.policy": "delete"}
        compacted: dict[str, object] = {
            "cleanup.policy": "compact",
            "segment.ms": ms(15),
            "min.cleanable.dirty.ratio": 0.3,
            "delete.retention.ms": ms(30),
            "max.compaction.lag.ms": ms(120),
        }
        both = {**compacted, "cleanup.policy": "compact,delete", "retention.ms": ms(180)}
        return [
            topic("aged", 0.30, 0.30, deleted | {"retention.ms": ms(120)}),
            topic("sized", 0.18, 0.20, deleted | {"retention.bytes": 40_000, "retention.ms": -1}),
            topic("kept", 0.10, 0.05, deleted | {"retention.ms": -1}),
            topic("last", 0.16, 0.20, compacted, keys=40),
            topic("both", 0.10, 0.10, both, keys=200),
            topic("paid", 0.12, 0.10, deleted | {"retention.ms": ms(180)}, keys=1, tx=True),
            topic("state", 0.04, 0.05, compacted, keys=30, tx=True),
        ]

    def storage(self) -> StorageSettings:
        def ms(value: float) -> int:
            return max(200, int(value * 1000 * self.scale))

        return StorageSettings(
            cache_size_max=12 * MIB,
            block_cache_size_max=8 * MIB,
            block_size=2 * MIB,
            upload_interval_ms=1000,
            pressure_low_size=4 * MIB,
            pressure_high_size=6 * MIB,
            unuploaded_size_max=10 * MIB,
            object_id_age_max_ms=ms(30),
            clean_interval_ms=ms(5),
            abandoned_age_ms=ms(90),
            retired_age_ms=ms(30),
            compaction_interval_ms=ms(2),
            set_object_age_ms_max=ms(300),
        )

    def environment(self) -> dict[str, str]:
        storage = self.storage()
        env = {f"TAILRACE_STORAGE_{name.upper()}": str(getattr(storage, name)) for name in StorageSettings.__slots__}
        broker = {
            "log.retention.check.interval.ms": max(500, int(5000 * self.scale)),
            "log.cleaner.backoff.ms": max(500, int(3000 * self.scale)),
            "offsets.topic.num.partitions": 5,
            "transaction.state.log.num.partitions": 5,
            "offsets.topic.segment.bytes": MIB,
            "transaction.state.log.segment.bytes": MIB,
        }
        env |= {f"TAILRACE_BROKER_{name.upper().replace('.', '_')}": str(value) for name, value in broker.items()}
        return env


@dataclass(slots=True)
class Soak:
    plan: Plan
    report: Callable[[str], None] = print
    directory: Path = field(init=False)
    counts: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> list[str]:
        """Returns what was not kept."""
        # PostgreSQL runs as another user when this is root, and has to get into its directory below this one.
        self.directory = Path(tempfile.mkdtemp(prefix="tailrace-soak-"))
        self.directory.chmod(0o755)
        plan = self.plan
        store = S3Store(self.directory) if plan.objects == "s3" else LocalStore(self.directory)
        database = PostgresDatabase(self.directory) if plan.metadata == "postgresql" else SqliteDatabase(self.directory)
        brokers: list[BrokerProcess] = []
        try:
            store.start()
            database.start()
            rules = self.directory / "rules"
            mark = "&" if "?" in store.url else "?"
            faulty = f"faulty+{store.url}{mark}faults=@{quote(str(rules))}&seed={plan.seed}"
            env = {**store.env, **plan.environment()}
            args = ["--objects", faulty, "--metadata", database.url]
            for node in range(1, plan.brokers + 1):
                brokers.append(BrokerProcess(self.directory / f"node-{node}", node_id=node, args=args, env=env))
                brokers[-1].start()
            watch = Watch(brokers, database.url, plan.storage(), max(1.0, 5 * plan.scale))
            self._traffic(brokers, watch, rules)
            self._stop(brokers)
            self.breaches += watch.judge()
            self._check_store(store.url, database.url, store.env)
            self._tell(watch)
        finally:
            for broker in brokers:
                broker.kill()
            database.close()
            store.close()
            if not self.breaches:
                shutil.rmtree(self.directory, ignore_errors=True)
            else:
                self.report(f"kept for a look: {self.directory}")
        return self.breaches

    # -- traffic -----------------------------------------------------------------------------------------------------

    def _traffic(self, brokers: Sequence[BrokerProcess], watch: Watch, rules: Path) -> None:
        plan = self.plan
        bootstrap = ",".join(broker.address for broker in brokers)
        admin = AdminClient({"bootstrap.servers": bootstrap, **RECONNECT})
        topics = plan.topics()
        new = [NewTopic(each.name, each.partitions, 1, config=each.config) for each in topics]
        for created in admin.create_topics(new, request_timeout=60).values():
            created.result(60)
        partitions = {each.name: [Partition(each, index) for index in range(each.partitions)] for each in topics}
        everything = [partition for found in partitions.values() for partition in found]
        self.report(
            f"{len(everything)} partitions in {len(topics)} topics, {len(brokers)} brokers, {plan.seconds:.0f} s"
        )
        idempotent = [partitions[name] for name in ("aged", "sized", "kept")]
        keyed = [partitions[name] for name in ("last", "both")]
        transactional = [partitions[name] for name in ("paid", "state")]
        producers: list[SoakProducer] = [
            SoakProducer(bootstrap, "idempotent", idempotent, {}),
            SoakProducer(bootstrap, "keyed", keyed, {"linger.ms": 5, "compression.type": "lz4"}),
            SoakTransactions(bootstrap, "transactional-0", [each[::2] for each in transactional]),
            SoakTransactions(bootstrap, "transactional-1", [each[1::2] for each in transactional if len(each) > 1]),
        ]
        readers: list[SoakReader] = [TailReader(bootstrap, "tail", everything, {})]
        readers += [Replayer(bootstrap, f"replay-{n}", everything, {}) for n in range(2)]
        deleter = Deleter(bootstrap, partitions["kept"], max(2.0, 30 * plan.scale))
        clients: list[WatchedClient] = [*producers, *readers, deleter]
        for client in clients:
            client.start()
        watch.start()
        faults = threading.Thread(target=self._fail, args=(watch, rules), daemon=True)
        faults.start()
        self._wait(clients, brokers, watch)
        self._is_over.set()
        faults.join()
        for client in (*producers, deleter, *readers):
            self._end(client)
        self._settle(bootstrap, everything)
        watch.stop()
        watch.sample()
        for producer in producers:
            self.breaches += producer.errors[:10]
        for counts in [each.counts for each in producers] + [each.counts for each in readers] + [deleter.counts]:
            self.counts.update(counts)

    def _wait(self, clients: Sequence[WatchedClient], brokers: Sequence[BrokerProcess], watch: Watch) -> None:
        began = told = time.monotonic()
        dead: set[str] = set()
        while (passed := time.monotonic() - began) < self.plan.seconds:
            time.sleep(0.5)
            for client in clients:
                if client._error is not None and client.name not in dead:
                    dead.add(client.name)
                    self.report(f"{passed / 60:5.1f} min  {client.name} has ended: {client._error!r}")
            if len(dead) == len(clients):
                return
            for broker in brokers:
                if broker.returncode is not None:
                    self.breaches.append(f"broker {broker.node_id} ended with {broker.returncode}")
                    return
            if time.monotonic() - told > 60 and watch.samples:
                told = time.monotonic()
                self.report(f"{passed / 60:5.1f} min  {watch.line()}")

    def _end(self, client: WatchedClient) -> None:
        try:
            client.stop()
        except Exception as error:
            self.breaches.append(f"{client.name}: {error!r}")

    def _settle(self, bootstrap: str, everything: Sequence[Partition]) -> None:
        """The faults are gone: all is read from its start to its end, and what is not needed has its time to go."""
        reader = LastReader(bootstrap, "last-reader", everything, {})
        storage = self.plan.storage()
        gone_at = time.monotonic() + (storage.abandoned_age_ms + 4 * storage.clean_interval_ms) / 1000
        try:
            reader.read_all()
        except Exception as error:
            self.breaches.append(f"at the end: {error!r}")
        self.counts["records read at the end"] = reader.counts["records read"]
        time.sleep(max(0.0, gone_at - time.monotonic()))

    def _fail(self, watch: Watch, rules: Path) -> None:
        """Usual faults, and more of them for a fifth of the time. They end a tenth of the time before the end."""
        began = time.monotonic()
        stops_at = began + 0.9 * self.plan.seconds
        cycle_s = min(120 * self.plan.scale, self.plan.seconds / 3)
        number = 0
        while time.monotonic() < stops_at and not self._is_over.is_set():
            rules.write_text(USUAL)
            self._sleep_until(min(stops_at, began + (number + 0.8) * cycle_s))
            if time.monotonic() < stops_at - cycle_s:
                watch.trouble_until = float("inf")
                rules.write_text(TROUBLE[number % len(TROUBLE)])
                self.counts["times of trouble"] += 1
                self._sleep_until(began + (number + 1) * cycle_s)
                watch.trouble_until = time.monotonic() + cycle_s / 2
            number += 1
        rules.unlink()

    def _sleep_until(self, at: float) -> None:
        self._is_over.wait(max(0.0, at - time.monotonic()))

    # -- the end -----------------------------------------------------------------------------------------------------

    def _stop(self, brokers: Sequence[BrokerProcess]) -> None:
        for broker in brokers:
            if broker.returncode is None:
                self.counts["broker CPU seconds"] += int(broker.cpu_seconds())
        for broker in brokers:
            if broker.returncode is None and (code := broker.terminate(60)):
                self.breaches.append(f"broker {broker.node_id} ended with {code}")
            log = broker.log()
            self.breaches += [
                f"broker {broker.node_id}: {line[:300]}"
                for line in log.splitlines()
                if "Traceback" in line or "has a defect" in line
            ][:5]
            for words in (
                "retention moved the log start",
                "removed unneeded objects",
                "compaction failed",
                "log compacted",
            ):
                self.counts[f"logged: {words}"] += log.count(words)

    def _check_store(self, objects: str, metadata: str, env: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "broker.cli", "fsck", "--blocks", "--objects", objects, "--metadata", metadata]
        done = subprocess.run(
            [*command, "--data-dir", str(self.directory / "node-1")],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, **env},
        )
        self.report(done.stdout.strip())
        if done.returncode:
            self.breaches.append(f"fsck: {done.stdout[-2000:]} {done.stderr[-500:]}")

    def _tell(self, watch: Watch) -> None:
        for name, count in sorted(self.counts.items()):
            self.report(f"  {name}: {count}")
        for number, broker in enumerate(watch.brokers):
            rss = watch.quarters(lambda sample, number=number: sample.rss[number])  # type: ignore[misc]
            fds = watch.quarters(lambda sample, number=number: sample.fds[number])  # type: ignore[misc]
            self.report(
                f"  broker {broker.node_id}: RSS {[size >> 20 for size in rss]} MiB, descriptors {fds} "
                "(the most in each quarter of the time)"
            )
        self.report(f"  at any time: {watch.most}")
        self.report(f"  outside of trouble: {watch.calm}")
