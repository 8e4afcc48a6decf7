"""Apache Kafka as the other side of a comparison: a KRaft node as a real process.

Needs `java` and Kafka's jars: `$KAFKA_HOME/libs`, or the folder that `mvn dependency:copy-dependencies` filled.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from bench.free_ports import free_ports
from bench.process_stats import MeasuredProcess

START_TIMEOUT_S = 60.0


class KafkaFailed(Exception):
    """Kafka, or one of its tools, did not do what was asked. Carries its last words."""


class KafkaProcess(MeasuredProcess):
    """One node, broker and controller in one, on a free loopback port, with the settings of a fresh installation.

    `settings` are further lines of server.properties. A start after `kill` keeps the port and the data. Nodes of one
    cluster have a `node_id` and a `controller_port` each, and one `cluster_id`.
    """

    def __init__(
        self,
        libs: Path,
        data_dir: Path,
        settings: Mapping[str, str] | None = None,
        *,
        heap: str = "1g",
        node_id: int = 1,
        controller_port: int = 0,
        cluster_id: str = "",
    ) -> None:
        self._libs = libs
        self._dir = data_dir
        self._settings = dict(settings or {})
        self._heap = heap
        self._node_id = node_id
        self._controller_port = controller_port
        self._cluster_id = cluster_id
        self._config = data_dir / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> KafkaProcess:
        """Start, and wait until it listens. Raises KafkaFailed with its last words."""
        self.format()
        self.spawn()
        self.wait_until_it_listens()
        return self

    def spawn(self) -> None:
        """Start without waiting for anything; `format` came before."""
        with (self._dir / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("java", f"-Xms{self._heap}", f"-Xmx{self._heap}", "-cp", f"{self._libs}/*"),
                    *("kafka.Kafka", str(self._config)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _accepts(self.port):
            if not self.is_running or time.monotonic() > deadline:
                told = (self._dir / "server.log").read_text(errors="replace")[-2000:]
                raise KafkaFailed(f"Kafka ended, or does not listen within {START_TIMEOUT_S:.0f} s\n{told}")
            time.sleep(0.05)

    def format(self) -> None:
        """Write its settings and format its data dir, once."""
        if self._config.exists():
            return
        self._dir.mkdir(parents=True, exist_ok=True)
        self.port, controller = free_ports(2)
        controller = self._controller_port or controller
        settings = {
            "process.roles": "broker,controller",
            "node.id": str(self._node_id),
            "controller.quorum.voters": f"{self._node_id}@127.0.0.1:{controller}",
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
        cluster_id = self._cluster_id or random_cluster_id(self._libs)
        storage = ["java", "-cp", f"{self._libs}/*", "kafka.tools.StorageTool"]
        subprocess.run([*storage, "format", "-t", cluster_id, "-c", str(self._config)], capture_output=True, check=True)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise KafkaFailed("Kafka was not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.end(signal.SIGKILL)

    def stop(self) -> None:
        """A controlled shutdown, or an end after a minute."""
        try:
            self.end(signal.SIGTERM, timeout_s=60)
        except subprocess.TimeoutExpired:
            self.kill()

    def end(self, signal_number: signal.Signals, timeout_s: float = 60.0) -> None:
        """Send a signal and wait. Fine to call when it is gone already. Raises subprocess.TimeoutExpired."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal_number)
            self._process.wait(timeout_s)

    def __enter__(self) -> KafkaProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def random_cluster_id(libs: Path) -> str:
    command = ["java", "-cp", f"{libs}/*", "kafka.tools.StorageTool", "random-uuid"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


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
