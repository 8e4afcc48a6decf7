"""The foreign clients, as commands: each is built once into a cache folder, and skipped where its toolchain is absent.

The folder is $TAILRACE_TEST_CACHE, or `tailrace-tests` under the user's cache folder. Apache Kafka's jars come from
Maven Central by the pom beside this file. `python -m tests.interop.clients` builds all of them, as `make test` does
before it starts tests side by side.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
DRIVERS = HERE / "drivers"
CACHE = Path(
    os.environ.get("TAILRACE_TEST_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tailrace-tests"
)
Settings = Sequence[str]  # NAME=VALUE, see drivers/README.md
ALL_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def need(tool: str) -> str:
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not on this machine")
    return path


def build(command: Sequence[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def fresh_copy(name: str) -> Path:
    """The driver's sources in the cache folder, where its tool may leave what it builds."""
    return Path(shutil.copytree(DRIVERS / name, CACHE / name, dirs_exist_ok=True))


def is_stale(built: Path, source: Path) -> bool:
    return not built.exists() or built.stat().st_mtime < source.stat().st_mtime


@cache
def kafka_classpath() -> str:
    """Apache Kafka's own jars: clients, console tools, perf tools, Connect."""
    need("java")
    libs = Path(os.environ["KAFKA_HOME"]) / "libs" if os.environ.get("KAFKA_HOME") else CACHE / "kafka-4.3.1"
    if not (libs / ".complete").exists() and not os.environ.get("KAFKA_HOME"):
        pom = HERE / "kafka-pom.xml"
        build(
            [need("mvn"), "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={libs}"], HERE
        )
        (libs / ".complete").touch()
    return f"{libs}/*"


@cache
def java_classes() -> Path:
    """The compiled programs of drivers/java."""
    need("javac")
    classes, sources = CACHE / "java", sorted((DRIVERS / "java").glob("*.java"))
    if any(is_stale(classes / f"{source.stem}.class", source) for source in sources):
        classes.mkdir(parents=True, exist_ok=True)
        build(["javac", "-cp", kafka_classpath(), "-d", str(classes), *map(str, sources)], CACHE)
    return classes


def java_program(main: str, log_level: str = "warn") -> list[str]:
    """The command that runs one of drivers/java, or any class of Kafka's jars."""
    return [
        need("java"),
        "-Xmx256m",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        f"-Dorg.slf4j.simpleLogger.defaultLogLevel={log_level}",
        "-cp",
        f"{java_classes()}{os.pathsep}{kafka_classpath()}",
        main,
    ]


@cache
def java_driver() -> list[str]:
    return java_program("Driver")


@cache
def kafkajs_driver() -> list[str]:
    node = need("node")
    folder = fresh_copy("kafkajs")
    if not (folder / "node_modules" / "kafkajs").exists():
        build([need("npm"), "install", "--no-audit", "--no-fund", "--silent"], folder)
    return [node, str(folder / "driver.js")]


@cache
def franz_driver() -> list[str]:
    go = need("go")
    program = CACHE / "franz" / "driver"
    if any(is_stale(program, source) for source in (DRIVERS / "franz").iterdir()):
        build([go, "build", "-o", "driver", "."], fresh_copy("franz"))
    return [str(program)]


def python_driver(name: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, str(DRIVERS / f"{name}.py")]


@dataclass(frozen=True)
class Client:
    """A client library behind its driver. `codecs` are those that it can write and read."""

    name: str
    driver: Callable[[], list[str]]
    codecs: tuple[str, ...] = ALL_CODECS

    def run(self, *arguments: object, stdin: str = "", timeout: float = 90) -> list[dict[str, Any]]:
        """Run to the end; what it printed, an object a line."""
        done = subprocess.run(
            [*self.driver(), *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, (
            f"{self.name} {arguments}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def produce(
        self,
        bootstrap: str,
        topic: str,
        records: Iterable[dict[str, Any]],
        codec: str = "none",
        settings: Settings = (),
    ) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        told = self.run("produce", bootstrap, topic, codec, *settings, stdin=lines)
        assert told == [{"acked": lines.count("\n")}]

    def consume(
        self, bootstrap: str, topic: str, group: str, count: int, settings: Settings = ()
    ) -> list[dict[str, Any]]:
        with self.consuming(bootstrap, topic, group, count, settings) as running:
            return running.wait()

    @contextmanager
    def consuming(
        self, bootstrap: str, topic: str, group: str, count: int = 0, settings: Settings = ()
    ) -> Iterator[RunningConsumer]:
        """A consumer process, killed at the end if it still runs."""
        running = RunningConsumer(
            self.name, [*self.driver(), "consume", bootstrap, topic, group, str(count), *settings]
        )
        try:
            yield running
        finally:
            running.kill()


class DriverProcess:
    """A program of `drivers`, and what it tells, an object a line, as it comes: `told` is called in another thread."""

    def __init__(self, name: str, command: Sequence[str], told: Callable[[dict[str, Any]], object]) -> None:
        self.name = name
        self.complaints: list[str] = []
        self._told = told
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._readers = [
            threading.Thread(target=target, daemon=True) for target in (self._read_output, self._read_complaints)
        ]
        for reader in self._readers:
            reader.start()

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{") and line.endswith("\n"):
                self._told(json.loads(line))

    def _read_complaints(self) -> None:
        assert self._process.stderr is not None
        self.complaints.extend(self._process.stderr)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def feed(self, lines: str) -> None:
        """Raises AssertionError if it does not take them any more."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(lines)
            self._process.stdin.flush()
        except BrokenPipeError:
            self.wait()
            raise AssertionError(f"{self.name} ended before its input did") from None

    def ask_to_end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, timeout: float = 90) -> None:
        """Until it has ended by itself, and all it told is known. Raises AssertionError if it failed."""
        returned = self._process.wait(timeout)
        for reader in self._readers:
            reader.join()
        assert returned == 0, f"{self.name} exit {returned}: {self.last_words()}"

    def last_words(self) -> str:
        return "".join(self.complaints)[-3000:]

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        if not self.has_ended:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join()


class RunningConsumer:
    """A driver's `consume`, with the records that it has printed so far in `records`."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.records: list[dict[str, Any]] = []
        self._process = DriverProcess(name, command, self.records.append)

    def wait(self) -> list[dict[str, Any]]:
        """All it printed, once it has ended by itself."""
        self._process.wait()
        return self.records

    def leave(self) -> list[dict[str, Any]]:
        """Ask it to commit and leave its group."""
        self._process.ask_to_end()
        return self.wait()

    def kill(self) -> None:
        self._process.kill()


def pack(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def record(
    key: bytes | None,
    value: bytes | None,
    timestamp: int,
    headers: Sequence[tuple[str, bytes | None]] = (),
    partition: int | None = None,
) -> dict[str, Any]:
    return {"k": pack(key), "v": pack(value), "h": [[n, pack(v)] for n, v in headers], "t": timestamp, "p": partition}


CLIENTS = [
    Client("confluent-kafka", python_driver("confluent")),
    Client("aiokafka", python_driver("aiokafka_client")),
    Client("kafka-python", python_driver("kafka_python")),
    Client("java", java_driver),
    Client("kafkajs", kafkajs_driver, ("none", "gzip", "snappy", "lz4")),
    Client("franz-go", franz_driver),
]


def build_all() -> None:
    """Build every driver, and say which toolchain is absent."""
    for client in CLIENTS:
        try:
            client.driver()
        except pytest.skip.Exception as absent:
            print(f"no tests of {client.name}: {absent.msg}")


if __name__ == "__main__":
    build_all()
