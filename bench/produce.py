"""Produce throughput and broker CPU of tailrace beside Apache Kafka, alternating within one run.

    python -m bench.produce --kafka-libs DIR [--rounds 3] [--records 1000000]

Both brokers run the whole time; each is loaded in turn by Kafka's ProducerPerformance (acks=all, 4 partitions), after
a warm-up with half the records at every setting. Broker CPU is user plus system time from /proc, uploads and background work included: after a
run the broker is given time to finish what it still uploads. A ratio is tailrace / Kafka of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from bench.broker_process import BrokerProcess
from bench.kafka_process import KafkaFailed, KafkaProcess, find_libs, perf_produce

SETTLE_S = 3.0
RECORD_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Setting:
    """One way of batching. `share` scales the number of records, as small requests are slow."""

    name: str
    record_size: int
    share: float
    properties: dict[str, str]


SETTINGS = [
    Setting("64 KiB, linger 5", RECORD_SIZE, 1.0, {"batch.size": "65536", "linger.ms": "5"}),
    Setting("16 KiB, linger 0", RECORD_SIZE, 1.0, {"batch.size": "16384", "linger.ms": "0"}),
    Setting(
        "1 MiB, linger 20",
        RECORD_SIZE,
        1.0,
        {"batch.size": "1048576", "linger.ms": "20", "max.request.size": "2000000"},
    ),
    Setting("single records of 100 B", 100, 0.2, {"batch.size": "0", "linger.ms": "0"}),
]


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. `cpu_per_gb` is broker CPU seconds per 1e9 bytes of record values; `cpu_us_per_record` per record."""

    records_per_second: float
    latency_p99_ms: float
    cpu_per_gb: float
    cpu_us_per_record: float


class System(Protocol):
    @property
    def address(self) -> str: ...

    def cpu_seconds(self) -> float: ...


def measure(system: System, libs: Path, setting: Setting, records: int, topic: str) -> Measured:
    count = max(int(records * setting.share), 1000)
    before = system.cpu_seconds()
    told = perf_produce(libs, system.address, topic, count, setting.record_size, setting.properties)
    time.sleep(SETTLE_S)
    spent = system.cpu_seconds() - before
    size = count * setting.record_size
    return Measured(told.records_per_second, told.latency_p99_ms, spent / size * 1e9, spent / count * 1e6)


def median(runs: list[Measured], field: str) -> float:
    return statistics.median(float(getattr(run, field)) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description="produce throughput and broker CPU, tailrace beside Apache Kafka")
    parser.add_argument("--kafka-libs", help="folder of Apache Kafka's jars (default: $KAFKA_HOME/libs)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=int, default=1_000_000, help="records of 1 KiB in a run")
    parser.add_argument("--settings", type=int, nargs="*", help="numbers of the settings to run, from 0")
    parser.add_argument("--json", type=Path, help="write all runs to this file")
    options = parser.parse_args()
    try:
        libs = find_libs(options.kafka_libs)
    except KafkaFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    chosen = [SETTINGS[i] for i in options.settings] if options.settings else SETTINGS
    results: dict[str, dict[str, list[Measured]]] = {setting.name: {"tailrace": [], "kafka": []} for setting in chosen}
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as folder:
        broker = BrokerProcess(Path(folder) / "tailrace", env={"TAILRACE_BROKER_NUM_PARTITIONS": "4"})
        with broker, KafkaProcess(libs, Path(folder) / "kafka") as kafka:
            systems: dict[str, System] = {"tailrace": broker, "kafka": kafka}
            for name, system in systems.items():
                print(f"warming up {name}", file=sys.stderr)
                for setting in chosen:
                    measure(system, libs, setting, options.records // 2, "warm-up")
            for turn in range(options.rounds):
                for number, setting in enumerate(chosen):
                    for name, system in systems.items():
                        run = measure(system, libs, setting, options.records, f"bench-{number}-{turn}")
                        results[setting.name][name].append(run)
                        print(f"round {turn + 1}: {setting.name}: {name} {run}", file=sys.stderr)
    print("setting                        rec/s     Kafka  ratio   CPU s/GB   Kafka  ratio   p99 ms (Kafka)")
    for name, runs in results.items():
        ours, theirs = runs["tailrace"], runs["kafka"]
        rate, their_rate = median(ours, "records_per_second"), median(theirs, "records_per_second")
        cpu, their_cpu = median(ours, "cpu_per_gb"), median(theirs, "cpu_per_gb")
        p99, their_p99 = median(ours, "latency_p99_ms"), median(theirs, "latency_p99_ms")
        print(
            f"{name:26} {rate:9.0f} {their_rate:9.0f} {rate / their_rate:6.2f}   "
            f"{cpu:8.2f} {their_cpu:7.2f} {cpu / their_cpu:6.2f}   {p99:.0f} ({their_p99:.0f})"
        )
    if options.json:
        told = {
            name: {who: [asdict(run) for run in list_] for who, list_ in runs.items()} for name, runs in results.items()
        }
        options.json.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
