"""P5, P6: latency at a fixed 20 MB/s, alone, and while another group reads 3 GB of old data."""

from __future__ import annotations

import subprocess

from bench import perf_tools
from bench.figures import TAILRACE, Figure, Target
from bench.scenarios.api import START_S, TOOL_S, Scenario, producing_s, reading_s
from bench.scenarios.consume import COLD_RECORDS
from bench.scenarios.produce import RECORD_SIZE, SETTINGS
from bench.systems import Run, System

PER_SECOND = 20_000_000 // RECORD_SIZE
SECONDS = 20
E2E_RECORDS, E2E_PER_S = 5000, 500
"""The rate is what a plan counts with."""

FIGURES = (
    Figure("P5.p50", "p50 of produce at 20 MB/s", "ms"),
    Figure("P5.p99", "p99 of produce at 20 MB/s", "ms", Target(at_most=1.0)),
    Figure("P6.p99", "p99 of produce at 20 MB/s, 3 GB of old data read beside", "ms"),
    Figure(
        "P6.calm",
        "  the same against tailrace without the reader",
        "ms",
        Target(at_most=1.3, against=f"{TAILRACE}/P5.p99"),
    ),
    Figure("P6.read", "  the rate of that reader", "MB/s"),
    Figure("W.e2e.p50", "send to arrival at a consumer, one record at a time, p50", "ms"),
    Figure("W.e2e.p99", "send to arrival at a consumer, one record at a time, p99", "ms"),
)


def run(run: Run) -> None:
    count = run.count(COLD_RECORDS)
    with run.single_brokers() as systems:
        for system in systems:
            run.say(f"  {system.name}: producing {count * RECORD_SIZE / 1e9:.1f} GB of old data")
            perf_tools.produce(run.tools(), system.address, "old", count, RECORD_SIZE, SETTINGS[0].properties)
        for turn in run.turns():
            for system in systems:
                alone = perf_tools.produced(_steady(run, system))
                run.say(f"  20 MB/s: {system.name} p99 {alone.p99_ms:.0f} ms")
                run.results.add("P5.p50", system.name, alone.p50_ms)
                run.results.add("P5.p99", system.name, alone.p99_ms)
            for system in systems:
                _beside_a_reader(run, system, count, turn)
            for system in systems:
                told = perf_tools.end_to_end(run.tools(), system.address, f"e2e-{turn}", run.count(E2E_RECORDS), 100)
                run.results.add("W.e2e.p50", system.name, told.p50_ms)
                run.results.add("W.e2e.p99", system.name, told.p99_ms)


def seconds(run: Run) -> float:
    count, steady = run.count(COLD_RECORDS), TOOL_S + _records(run) / PER_SECOND
    end_to_end = TOOL_S + run.count(E2E_RECORDS) / E2E_PER_S
    a_round = steady + 2.0 + max(steady, reading_s(count)) + end_to_end
    return START_S + run.system_count * (producing_s(count) + run.rounds * a_round)


def _beside_a_reader(run: Run, system: System, count: int, turn: int) -> None:
    system.drop_caches()
    steady = _steady(run, system)
    try:
        rate = perf_tools.consume(run.tools(), system.address, "old", count, group=f"backfill-{turn}")
    finally:
        told = perf_tools.produced(steady)
    run.say(f"  20 MB/s beside a reader of {rate:.0f} MB/s: {system.name} p99 {told.p99_ms:.0f} ms")
    run.results.add("P6.p99", system.name, told.p99_ms)
    run.results.add("P6.read", system.name, rate)
    if system.name == TAILRACE:
        run.results.add("P6.calm", system.name, told.p99_ms)


def _steady(run: Run, system: System) -> subprocess.Popen[str]:
    return perf_tools.producer(
        run.tools(),
        system.address,
        "steady",
        _records(run),
        RECORD_SIZE,
        SETTINGS[0].properties,
        per_second=PER_SECOND,
    )


def _records(run: Run) -> int:
    return PER_SECOND * max(int(SECONDS * run.scale), 5)


SCENARIO = Scenario("steady", "latency at a fixed rate", FIGURES, run, seconds, quick=False)
