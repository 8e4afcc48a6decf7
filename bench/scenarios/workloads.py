"""W: what an event backbone of agents sees beyond raw throughput, each with the age of events at their consumers.

librdkafka is the client (a second opinion beside Java's tools). Rates are fixed, so that what differs is latency,
freshness and what it costs the broker; each workload runs on every system in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench.figures import Figure, quantile
from bench.report import number
from bench.scenarios.api import START_S, Scenario
from bench.systems import Run, System
from bench.topics import create_topics
from bench.traffic import GroupReader, PacedProducer
from broker.cli.client import Client

SECONDS = 15.0
WARM_UP_S = 2.0
"""Not counted: clients look for leaders of topics that they see for the first time."""
SETTLE_S, SETTLE_MAX_S = 1.0, 20.0


@dataclass(frozen=True, slots=True)
class Workload:
    """`rate` is records a second at a time since the start; `groups` each read everything, with `members` members."""

    key: str
    title: str
    topics: Sequence[str]
    partitions: int
    rate: Callable[[float, float], float]
    """(Seconds since the start, length of the run) -> records a second."""
    size: int
    groups: int = 1
    members: int = 1
    replays: bool = False
    """Another group begins at the log's start amid the run."""
    keys: int = 0
    configs: dict[str, str] | None = None


def _burst(rate: float, factor: float) -> Callable[[float, float], float]:
    """The middle third of the run is a burst."""
    return lambda t, length: rate * factor if length / 3 <= t < 2 * length / 3 else rate


WORKLOADS = (
    Workload("fan", "fan-out: 2 MB/s to ten groups", ["fan"], 4, lambda t, length: 2000, 1024, groups=10),
    Workload(
        "small", "200 small topics, 2,000 records/s", [f"small-{n}" for n in range(200)], 1, lambda t, n: 2000, 256
    ),
    Workload("burst", "bursts: 2 MB/s, tenfold for a third of the time", ["burst"], 4, _burst(2000, 10), 1024),
    Workload(
        "agents",
        "agents' state: 3,000 keyed events/s, compacted, a replay amid",
        ["agents"],
        8,
        lambda t, length: 3000,
        400,
        groups=2,
        members=2,
        replays=True,
        keys=5000,
        configs={"cleanup.policy": "compact"},
    ),
)

FIGURES = tuple(
    figure
    for each in WORKLOADS
    for figure in (
        Figure(f"W.{each.key}.ack", f"{each.title}: p99 of send to ack", "ms"),
        Figure(f"W.{each.key}.age", "  age of an event at its consumer, p99", "ms"),
        Figure(f"W.{each.key}.cpu", "  broker CPU per second of it", "s"),
    )
)


def run(run: Run) -> None:
    try:
        import confluent_kafka  # noqa: F401
    except ImportError:
        run.results.notes.append("workloads: not run, they need confluent-kafka (pip install confluent-kafka)")
        return
    with run.single_brokers() as systems:
        for turn in run.turns():
            for workload in WORKLOADS:
                for system in systems:
                    _measure(run, system, workload, turn)


def _measure(run: Run, system: System, workload: Workload, turn: int) -> None:
    length = _length_s(run)
    topics = [f"{topic}-{turn}" for topic in workload.topics]
    with Client(system.address) as client:
        create_topics(client, topics, workload.partitions, configs=workload.configs)
    before = system.cpu_seconds()
    with ExitStack() as stack:
        readers = [
            stack.enter_context(GroupReader(system.address, f"{workload.key}-{turn}-{group}", topics))
            for group in range(workload.groups)
            for _ in range(workload.members)
        ]
        for reader in readers:
            reader.wait_until_assigned()
        time.sleep(SETTLE_S)
        producer = PacedProducer(
            system.address,
            topics,
            lambda t: workload.rate(t, length),
            workload.size,
            key=lambda number: f"thread-{number % workload.keys}".encode() if workload.keys else None,
        )
        with producer:
            time.sleep(WARM_UP_S)
            for timed in (producer.latencies_ms, *(reader.ages_ms for reader in readers)):
                timed.clear()
            time.sleep(length / 2)
            if workload.replays:
                replay = GroupReader(system.address, f"{workload.key}-{turn}-replay", topics, from_start=True)
                stack.enter_context(replay)
            time.sleep(length / 2)
        deadline = time.monotonic() + SETTLE_MAX_S
        while (lost := producer.acked * workload.groups - sum(reader.count for reader in readers)) > 0:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
    after = system.cpu_seconds()
    ages = [age for reader in readers for age in reader.ages_ms]
    if producer.failed or lost > 0:
        run.results.notes.append(
            f"{workload.title}: {system.name}: {producer.failed} sends failed, {max(lost, 0)} records did not arrive"
        )
    ack, age = _p99(producer.latencies_ms), _p99(ages)
    run.say(f"  {workload.title}: {system.name} ack p99 {number(ack)} ms, age p99 {number(age)} ms")
    run.results.add(f"W.{workload.key}.ack", system.name, ack)
    run.results.add(f"W.{workload.key}.age", system.name, age)
    if before is not None and after is not None:
        run.results.add(f"W.{workload.key}.cpu", system.name, (after - before) / (length + WARM_UP_S))


def _length_s(run: Run) -> float:
    return max(SECONDS * run.scale, 6.0)


def _p99(values: list[float]) -> float | None:
    return quantile(sorted(values), 0.99) if values else None


def seconds(run: Run) -> float:
    """Members of a new group wait for others for three seconds."""
    one = _length_s(run) + WARM_UP_S + SETTLE_S + 6.0
    return START_S + run.rounds * len(WORKLOADS) * run.system_count * one


SCENARIO = Scenario(
    "workloads", "workloads of an event backbone", FIGURES, run, seconds, rounds=2, needs_tools=False, quick=False
)
