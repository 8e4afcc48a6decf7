"""P1, P2, P3, P10 (under load), P12, P13: as many records as ProducerPerformance can send, acks=all, one broker.

All brokers run the whole time; each is loaded in turn, after a warm-up at every setting. Broker CPU is user plus system
time from /proc, uploads and background work included: after a run a broker is given time to finish what it still
uploads. tailrace uploads to a local object directory.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench import perf_tools
from bench.figures import STUB, TAILRACE, Figure, Target
from bench.scenarios.api import PRODUCED_PER_S, SINGLES_PER_S, START_S, Scenario, producing_s
from bench.store_requests import StoreMeter
from bench.systems import Run, System

SETTLE_S = 3.0
RECORDS = 600_000
RECORD_SIZE = 1024
SMALL_SIZE = 100


@dataclass(frozen=True, slots=True)
class Setting:
    """One way of batching. `share` scales the number of records, as small requests are slow."""

    key: str
    title: str
    properties: dict[str, str]
    size: int = RECORD_SIZE
    share: float = 1.0


SETTINGS = (
    Setting("64k", "64 KiB batches, linger 5", {"batch.size": "65536", "linger.ms": "5"}),
    Setting("16k", "16 KiB batches, linger 0", {"batch.size": "16384", "linger.ms": "0"}),
    Setting(
        "1m",
        "1 MiB batches, linger 20",
        {"batch.size": "1048576", "linger.ms": "20", "max.request.size": "2000000"},
    ),
)
SINGLE = Setting("single", "single records of 100 B", {"batch.size": "0", "linger.ms": "0"}, SMALL_SIZE, 0.2)
_AIMS = {"64k": (1.25, 0.45), "16k": (1.1, 0.7), "1m": (1.0, 0.9)}

FIGURES = (
    *(
        Figure(f"P1.{each.key}", f"produce, {each.title}", "rec/s", Target(at_least=_AIMS[each.key][0]))
        for each in SETTINGS
    ),
    *(Figure(f"P1.{each.key}.p99", f"  its p99 latency, {each.title}", "ms") for each in SETTINGS),
    *(
        Figure(f"P2.{each.key}", f"broker CPU, {each.title}", "s/GB", Target(at_most=_AIMS[each.key][1]))
        for each in SETTINGS
    ),
    Figure("P3.rate", f"produce, {SINGLE.title}", "rec/s", Target(at_least=1.0)),
    Figure("P3.cpu", f"broker CPU, {SINGLE.title}", "us/record", Target(at_most=1.0)),
    Figure("P10.load", "resident memory, the most under this load", "MB", Target(at_most=700, against=None)),
    Figure("P12.puts", "object PUTs while producing", "per GB"),
    Figure("P12.requests", "  object requests of all kinds, compaction's too", "per GB"),
    Figure("P12.price", "  their price, by the table of `tailrace storage`", "$/TB"),
    *(
        Figure(
            f"P13.{each.key}", f"produce, {each.title}, against the stub", "rec/s", Target(at_least=0.8, against=STUB)
        )
        for each in SETTINGS
    ),
)


@dataclass(frozen=True, slots=True)
class _Load:
    """What one run of the tool did to one system. `cpu_s` is None where it is not known."""

    produced: perf_tools.Produced
    cpu_s: float | None


def run(run: Run) -> None:
    with run.single_brokers(stub=True) as systems:
        settings = (*SETTINGS, SINGLE)
        for system in systems:
            run.say(f"  warming up {system.name}")
            for setting in settings:
                _load(run, system, setting, "warm-up", 0.5)
        for turn in run.turns():
            meter = StoreMeter(systems[0].address)
            for setting in settings:
                for system in systems:
                    _measure(run, system, setting, f"produce-{setting.key}-{turn}")
            _store_requests(run, meter, sum(_gigabytes(run, setting) for setting in settings))
        for system in systems:
            size = system.resident_size_max()
            if size is not None and system.name != STUB:
                run.results.add("P10.load", system.name, size / 1e6)


def seconds(run: Run) -> float:
    counts = [(_count(run, setting), PRODUCED_PER_S) for setting in SETTINGS] + [(_count(run, SINGLE), SINGLES_PER_S)]
    a_round = sum(producing_s(*each) + _settle_s(run) for each in counts) * (run.system_count + 1)
    return START_S + a_round * (run.rounds + 0.6)


def _store_requests(run: Run, meter: StoreMeter, gigabytes: float) -> None:
    asked = meter.read()
    run.results.add("P12.puts", TAILRACE, asked.puts / gigabytes)
    run.results.add("P12.requests", TAILRACE, asked.all / gigabytes)
    run.results.add("P12.price", TAILRACE, asked.price / gigabytes * 1000)


def _measure(run: Run, system: System, setting: Setting, topic: str) -> None:
    load = _load(run, system, setting, topic)
    told, count = load.produced, _count(run, setting)
    run.say(f"  {setting.title}: {system.name} {told.records_per_second:,.0f} rec/s")
    add, name = run.results.add, system.name
    gigabytes = _gigabytes(run, setting)
    if setting is SINGLE:
        if name != STUB:
            add("P3.rate", name, told.records_per_second)
            add("P3.cpu", name, None if load.cpu_s is None else load.cpu_s / count * 1e6)
        return
    add(f"P13.{setting.key}", name, told.records_per_second)
    if name == STUB:
        return
    add(f"P1.{setting.key}", name, told.records_per_second)
    add(f"P1.{setting.key}.p99", name, told.p99_ms)
    add(f"P2.{setting.key}", name, None if load.cpu_s is None else load.cpu_s / gigabytes)


def _count(run: Run, setting: Setting) -> int:
    return run.count(int(RECORDS * setting.share))


def _gigabytes(run: Run, setting: Setting) -> float:
    return _count(run, setting) * setting.size / 1e9


def _settle_s(run: Run) -> float:
    return SETTLE_S * min(run.scale * 2, 1.0)


def _load(run: Run, system: System, setting: Setting, topic: str, share: float = 1.0) -> _Load:
    before = system.cpu_seconds()
    count = max(int(_count(run, setting) * share), 1000)
    produced = perf_tools.produce(run.tools(), system.address, topic, count, setting.size, setting.properties)
    time.sleep(_settle_s(run))
    after = system.cpu_seconds()
    return _Load(produced, None if before is None or after is None else after - before)


SCENARIO = Scenario("produce", "produce to one broker, as fast as it goes", FIGURES, run, seconds, rounds=4)
