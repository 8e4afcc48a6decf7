"""Apache Kafka's own load tools, run to their end: the same client for every system.

Needs `java` and Kafka's jars (`bench.kafka_process.find_libs`).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.kafka_process import KafkaFailed

_QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
_LATENCIES = re.compile(r"([\d.]+) ms avg latency.*?(\d+) ms 50th, (\d+) ms 95th, (\d+) ms 99th, ([\d.]+) ms 99\.9th")
_RATE = re.compile(r"([\d.]+) records/sec")
TOOL_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Produced:
    """What ProducerPerformance said: records per second, and latencies from send to acknowledgement in ms."""

    records_per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


def producer(
    libs: Path,
    address: str,
    topic: str,
    count: int,
    size: int,
    properties: Mapping[str, str],
    *,
    per_second: int = -1,
) -> subprocess.Popen[str]:
    """ProducerPerformance, acks=all, started; `per_second` records at most (-1: as many as possible)."""
    settings = {"bootstrap.servers": address, "acks": "all", **properties}
    return _start(
        libs,
        "org.apache.kafka.tools.ProducerPerformance",
        [
            *("--topic", topic, "--num-records", str(count), "--record-size", str(size)),
            *("--throughput", str(per_second)),
            *("--producer-props", *(f"{name}={value}" for name, value in settings.items())),
        ],
    )


def produced(process: subprocess.Popen[str]) -> Produced:
    """Wait for it. Raises KafkaFailed."""
    said = _finish(process, "ProducerPerformance")
    last = said.strip().splitlines()[-1:] or [""]
    rate, latencies = _RATE.search(last[0]), _LATENCIES.search(last[0])
    if rate is None or latencies is None:
        raise KafkaFailed(f"ProducerPerformance: {said[-1000:]}")
    return Produced(float(rate[1]), float(latencies[2]), float(latencies[4]), float(latencies[5]))


def produce(
    libs: Path,
    address: str,
    topic: str,
    count: int,
    size: int,
    properties: Mapping[str, str],
    *,
    per_second: int = -1,
) -> Produced:
    return produced(producer(libs, address, topic, count, size, properties, per_second=per_second))


def consumer(libs: Path, address: str, topic: str, count: int, *, group: str) -> subprocess.Popen[str]:
    """ConsumerPerformance from the log's start, started."""
    return _start(
        libs,
        "org.apache.kafka.tools.ConsumerPerformance",
        [
            *("--bootstrap-server", address, "--topic", topic, "--num-records", str(count), "--group", group),
            *("--hide-header", "--timeout", "60000"),
        ],
    )


def consumed(process: subprocess.Popen[str]) -> float:
    """Wait for it; MB (2**20 bytes) a second while it fetched, joining the group not counted. Raises KafkaFailed."""
    said = _finish(process, "ConsumerPerformance")
    for line in reversed(said.splitlines()):
        fields = [each.strip() for each in line.split(",")]
        if len(fields) == 10:
            return float(fields[8])
    raise KafkaFailed(f"ConsumerPerformance: {said[-1000:]}")


def consume(libs: Path, address: str, topic: str, count: int, *, group: str) -> float:
    return consumed(consumer(libs, address, topic, count, group=group))


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """Percentiles of the time from a send to the record's arrival at a consumer, one record at a time, in ms."""

    p50_ms: float
    p99_ms: float


def end_to_end(libs: Path, address: str, topic: str, count: int, size: int) -> EndToEnd:
    process = _start(libs, "org.apache.kafka.tools.EndToEndLatency", [address, topic, str(count), "all", str(size)])
    said = _finish(process, "EndToEndLatency")
    found = re.search(r"50th = (\d+), 99th = (\d+)", said)
    if found is None:
        raise KafkaFailed(f"EndToEndLatency: {said[-1000:]}")
    return EndToEnd(float(found[1]), float(found[2]))


def _start(libs: Path, tool: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["java", "-Xmx512m", _QUIET, "-cp", f"{libs}/*", tool, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(process: subprocess.Popen[str], tool: str) -> str:
    try:
        said, _ = process.communicate(timeout=TOOL_TIMEOUT_S)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise KafkaFailed(f"{tool}: {said[-1000:]}")
    return said
