"""P4, P12: reading what was just produced, from memory, and reading old data from objects with cold caches.

tailrace's cold caches: the broker is restarted before each read, so that all of it comes from objects on disk, which
bypass the page cache. Kafka reads from its warm page cache: the target says so.
"""

from __future__ import annotations

from bench import perf_tools
from bench.figures import TAILRACE, Figure, Target
from bench.scenarios.api import START_S, Scenario, producing_s, reading_s
from bench.scenarios.produce import RECORD_SIZE, SETTINGS
from bench.store_requests import StoreMeter
from bench.systems import Run, System

COLD_RECORDS = 3_000_000
TAIL_RECORDS = 150_000
"""Fits the log cache of a broker with its defaults."""

FIGURES = (
    Figure("P4.tail", "consume what is in memory", "MB/s", Target(at_least=1.0)),
    Figure("P4.cold", "consume 3 GB of old data, caches cold", "MB/s", Target(at_least=0.7)),
    Figure("P12.gets", "object GETs while reading old data", "per GB"),
    Figure("P12.read", "  price of all requests meanwhile", "$/TB"),
)


def run(run: Run) -> None:
    count = run.count(COLD_RECORDS)
    with run.single_brokers() as systems:
        for system in systems:
            run.say(f"  {system.name}: producing {count * RECORD_SIZE / 1e9:.1f} GB of old data")
            _fill(run, system, "old", count)
        for turn in run.turns():
            for system in systems:
                _fill(run, system, f"tail-{turn}", TAIL_RECORDS)
                _read(run, system, f"tail-{turn}", TAIL_RECORDS, "P4.tail", turn)
            for system in systems:
                system.drop_caches()
                meter = StoreMeter(system.address) if system.name == TAILRACE else None
                _read(run, system, "old", count, "P4.cold", turn)
                if meter is not None:
                    _store_requests(run, meter, count * RECORD_SIZE / 1e9)


def seconds(run: Run) -> float:
    count = run.count(COLD_RECORDS)
    tail = producing_s(TAIL_RECORDS) + reading_s(TAIL_RECORDS)
    return START_S + run.system_count * (producing_s(count) + run.rounds * (tail + 2.0 + reading_s(count)))


def _store_requests(run: Run, meter: StoreMeter, gigabytes: float) -> None:
    asked = meter.read()
    run.results.add("P12.gets", TAILRACE, asked.gets / gigabytes)
    run.results.add("P12.read", TAILRACE, asked.price / gigabytes * 1000)


def _fill(run: Run, system: System, topic: str, count: int) -> None:
    perf_tools.produce(run.tools(), system.address, topic, count, RECORD_SIZE, SETTINGS[0].properties)


def _read(run: Run, system: System, topic: str, count: int, key: str, turn: int) -> None:
    rate = perf_tools.consume(run.tools(), system.address, topic, count, group=f"{key}-{turn}")
    run.say(f"  {key}: {system.name} {rate:.0f} MB/s")
    run.results.add(key, system.name, rate)


SCENARIO = Scenario("consume", "consume from one broker", FIGURES, run, seconds, rounds=3)
