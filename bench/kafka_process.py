"""Apache Kafka as the other side of a comparison: one KRaft node as a real process, and its perf client.

Needs `java` and Kafka's jars: `$KAFKA_HOME/libs`, or the folder that `mvn dependency:copy-dependencies` filled.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.free_ports import free_ports
from bench.process_stats import cpu_seconds

START_TIMEOUT_S = 60.0
_QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"


class KafkaFailed(Exception):
    """Kafka, or one of its tools, did not do what was asked. Carries its last words."""


class KafkaProcess:
    """One node, broker and controller in one, on a free loopback port, with the settings of a fresh installation.

    `settings` are further lines of server.properties. A start after `kill` keeps the port and the data.
    """

    def __init__(
        self, libs: Path, data_dir: Path, settings: Mapping[str, str] | None = None, *, heap: str = "1g"
    ) -> None:
        self._java = ["java", "-cp", f"{libs}/*"]
        self._dir = data_dir
        self._settings = dict(settings or {})
        self._heap = heap
        self._config = data_dir / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> KafkaProcess:
        if not self._config.exists():
            self._format()
        with (self._dir / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._java[0], f"-Xms{self._heap}", f"-Xmx{self._heap}", *self._java[1:]),
                    *("kafka.Kafka", str(self._config)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise KafkaFailed((self._dir / "server.log").read_text(errors="replace")[-2000:])
            time.sleep(0.05)
        return self

    def _format(self) -> None:
        self._dir.mkdir(parents=True, exist_ok=True)
        self.port, controller = free_ports(2)
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self._dir / "data"),
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "num.partitions": "4",
            **self._settings,
        }
        self._config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        storage = [*self._java, "kafka.tools.StorageTool"]
        cluster = subprocess.run([*storage, "random-uuid"], capture_output=True, text=True, check=True).stdout.strip()
        subprocess.run([*storage, "format", "-t", cluster, "-c", str(self._config)], capture_output=True, check=True)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise KafkaFailed("Kafka was not started")
        return self._process.pid

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> KafkaProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass(frozen=True, slots=True)
class ProduceResult:
    """What ProducerPerformance said: records per second and the 99th percentile of latency in ms."""

    records_per_second: float
    latency_p99_ms: float


def perf_produce(
    libs: Path, address: str, topic: str, count: int, size: int, properties: dict[str, str]
) -> ProduceResult:
    """Run Kafka's ProducerPerformance to its end, unthrottled, acks=all."""
    command = [
        *("java", "-Xmx512m", _QUIET, "-cp", f"{libs}/*", "org.apache.kafka.tools.ProducerPerformance"),
        *("--topic", topic, "--num-records", str(count), "--record-size", str(size), "--throughput", "-1"),
        "--producer-props",
        *(f"{name}={value}" for name, value in {"bootstrap.servers": address, "acks": "all", **properties}.items()),
    ]
    told = subprocess.run(command, capture_output=True, text=True)
    last = told.stdout.strip().splitlines()[-1:] or [""]
    rate = re.search(r"([\d.]+) records/sec", last[0])
    p99 = re.search(r"(\d+) ms 99th", last[0])
    if told.returncode or rate is None or p99 is None:
        raise KafkaFailed(f"ProducerPerformance: {told.stdout[-1000:]}{told.stderr[-1000:]}")
    return ProduceResult(float(rate[1]), float(p99[1]))


def find_libs(given: str | None) -> Path:
    """The folder of Kafka's jars: as given, or of $KAFKA_HOME. Raises KafkaFailed with what to do."""
    if shutil.which("java") is None:
        raise KafkaFailed("java is not on the PATH: install a JRE of version 17 or newer")
    home = os.environ.get("KAFKA_HOME")
    folder = Path(given) if given else Path(home) / "libs" if home else None
    if folder is None or not any(folder.glob("kafka-clients-*.jar")):
        raise KafkaFailed("no Kafka jars: set KAFKA_HOME, or give --kafka-libs DIR (Apache Kafka 4.3.1)")
    return folder


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
