"""P11: ten thousand partitions on one broker: their creation, memory, and latency on one of them."""

from __future__ import annotations

import time

from bench import perf_tools
from bench.figures import Figure, Target
from bench.scenarios.api import START_S, TOOL_S, Scenario
from bench.scenarios.produce import RECORD_SIZE, SETTINGS
from bench.systems import Run, System
from bench.topics import create_topics, wait_until_led
from broker.cli.client import Client

TOPICS, EACH = 10, 1000
PER_SECOND = 2000
CREATE_S = 30.0
"""What a plan counts with for each system."""

FIGURES = (
    Figure("P11.create", "create 10,000 partitions", "s", Target(at_most=10.0, against=None)),
    Figure("P11.memory", "resident memory then", "MB", Target(at_most=400.0, against=None)),
    Figure("P11.empty", "p99 of produce at 2 MB/s, empty broker", "ms"),
    Figure(
        "P11.full", "p99 of produce at 2 MB/s, with the 10,000", "ms", Target(at_most=2.0, against="tailrace/P11.empty")
    ),
)


def run(run: Run) -> None:
    with run.single_brokers() as systems:
        for system in systems:
            run.results.add("P11.empty", system.name, _p99(run, system, "before"))
            _create(run, system)
            run.results.add("P11.full", system.name, _p99(run, system, "after"))


def _create(run: Run, system: System) -> None:
    client = Client(system.address)
    began = time.monotonic()
    topics = max(int(TOPICS * run.scale), 1)
    for number in range(topics):
        create_topics(client, [f"many-{number}"], EACH)
    wait_until_led(client, None)
    took = time.monotonic() - began
    size = system.resident_size()
    run.say(f"  {topics * EACH} partitions: {system.name} {took:.1f} s")
    run.results.add("P11.create", system.name, took)
    run.results.add("P11.memory", system.name, None if size is None else size / 1e6)


def _p99(run: Run, system: System, topic: str) -> float:
    count = PER_SECOND * _length_s(run)
    return perf_tools.produce(
        run.tools(), system.address, topic, count, RECORD_SIZE, SETTINGS[0].properties, per_second=PER_SECOND
    ).p99_ms


def _length_s(run: Run) -> int:
    return max(int(10 * run.scale), 3)


def seconds(run: Run) -> float:
    return START_S + run.system_count * (2 * (TOOL_S + _length_s(run)) + CREATE_S * run.scale)


SCENARIO = Scenario("partitions", "10,000 partitions on one broker", FIGURES, run, seconds, rounds=1, quick=False)
