"""P1b: against what is as durable: three brokers each, Kafka's with three replicas of which two must have a record."""

from __future__ import annotations

import time

from bench import perf_tools
from bench.clusters import Cluster, KafkaCluster, TailraceCluster
from bench.figures import Figure, Target
from bench.scenarios.api import CLUSTER_START_S, Scenario, producing_s
from bench.scenarios.produce import RECORD_SIZE, SETTINGS, SETTLE_S
from bench.systems import Run

RECORDS = 250_000
OURS_PER_S, THEIRS_PER_S = 60_000, 28_000
"""What a plan counts with."""

FIGURES = (
    *(Figure(f"P1b.{each.key}", f"three brokers, {each.title}", "rec/s", Target(at_least=3.0)) for each in SETTINGS),
    *(
        Figure(f"P1b.{each.key}.cpu", f"  CPU of the three, {each.title}", "s/GB", Target(at_most=0.15))
        for each in SETTINGS
    ),
)


def run(run: Run) -> None:
    configs = {"num.partitions": "4"}
    with (
        TailraceCluster(run.directory("tailrace"), configs) as ours,
        KafkaCluster(run.tools(), run.directory("kafka"), configs, heap="512m") as theirs,
    ):
        clusters: tuple[Cluster, ...] = (ours, theirs)
        for cluster in clusters:
            run.say(f"  warming up {cluster.name}")
            for setting in SETTINGS:
                _load(run, cluster, setting.properties, "warm-up", run.count(RECORDS) // 2)
        for turn in run.turns():
            for setting in SETTINGS:
                for cluster in clusters:
                    count = run.count(RECORDS)
                    before = cluster.cpu_seconds()
                    rate = _load(run, cluster, setting.properties, f"replicated-{setting.key}-{turn}", count)
                    time.sleep(SETTLE_S)
                    spent = cluster.cpu_seconds() - before
                    run.say(f"  {setting.title}: three brokers of {cluster.name} {rate:,.0f} rec/s")
                    run.results.add(f"P1b.{setting.key}", cluster.name, rate)
                    run.results.add(f"P1b.{setting.key}.cpu", cluster.name, spent / (count * RECORD_SIZE / 1e9))


def _load(run: Run, cluster: Cluster, properties: dict[str, str], topic: str, count: int) -> float:
    told = perf_tools.produce(run.tools(), cluster.bootstrap, topic, count, RECORD_SIZE, properties)
    return told.records_per_second


def seconds(run: Run) -> float:
    count = run.count(RECORDS)
    both = producing_s(count, OURS_PER_S) + producing_s(count, THEIRS_PER_S) + 2 * SETTLE_S
    return CLUSTER_START_S + len(SETTINGS) * both * (run.rounds + 0.5)


SCENARIO = Scenario("replicated", "three brokers, equal durability", FIGURES, run, seconds, quick=False)
