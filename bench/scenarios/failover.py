"""P8, P9: three brokers, and the longest time without an ack when one is killed, stopped, or partitions are moved.

Kafka's topics have three replicas, two of which must have a record (min ISR 2); only the topic that is moved has one,
so that moving it means moving its data, as it does to a new broker.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time

from bench import perf_tools
from bench.ack_gaps import AckGaps
from bench.clusters import Cluster, KafkaCluster, TailraceCluster
from bench.figures import Figure, Target
from bench.kafka_process import KafkaFailed
from bench.scenarios.api import CLUSTER_START_S, Scenario, producing_s
from bench.scenarios.produce import RECORD_SIZE, SETTINGS
from bench.systems import Run
from bench.topics import PATIENCE_S, create_topics, leaders, wait_until_led
from broker.cli.client import Client
from protocol.messages.list_partition_reassignments import ListPartitionReassignmentsRequest

PARTITIONS = 6
BEFORE_S = 3.0
"""Of calm, so that what is measured is not a start."""
MOVED_RECORDS = 2_000_000
MOVED_PARTITIONS = 2

FIGURES = (
    Figure("P8.gap", "leader kill -9: longest time without an ack", "s", Target(at_most=1.0, against=None)),
    Figure("P9.stop", "leader SIGTERM: longest time without an ack", "s", Target(at_most=0.3, against=None)),
    Figure("P9.move", "reassign 2 partitions that hold 2 GB: the same", "s", Target(at_most=0.3, against=None)),
    Figure("P9.moved", "  until that is done", "s"),
)


def run(run: Run) -> None:
    for _ in run.turns():
        for kind in ("P8.gap", "P9.stop"):
            for cluster in _clusters(run):
                with cluster:
                    _lose_leader(run, cluster, kind)
    for cluster in _clusters(run):
        with cluster:
            _move(run, cluster)


def _clusters(run: Run) -> list[Cluster]:
    clusters: list[Cluster] = [TailraceCluster(run.directory("tailrace"))]
    if run.libs is not None:
        clusters.append(KafkaCluster(run.libs, run.directory("kafka"), heap="512m"))
    return clusters


def _lose_leader(run: Run, cluster: Cluster, kind: str) -> None:
    client = Client(cluster.addresses[0])
    create_topics(client, ["gaps"], PARTITIONS, replicas=3)
    wait_until_led(client, ["gaps"])
    victim = leaders(client, "gaps")[0]
    with AckGaps(cluster.addresses, "gaps", PARTITIONS) as gaps:
        time.sleep(BEFORE_S)
        began = time.monotonic()
        if kind == "P8.gap":
            cluster.brokers[victim].kill()
        else:
            cluster.brokers[victim].end(signal.SIGTERM)
        gaps.wait_until_all_flow(began + 1.0, PATIENCE_S)
        longest = gaps.longest(began)
    run.say(f"  {kind}: {cluster.name} {longest:.2f} s, {gaps.failures} sends failed")
    run.results.add(kind, cluster.name, longest)


def _move(run: Run, cluster: Cluster) -> None:
    client = Client(cluster.addresses[0])
    count = run.count(MOVED_RECORDS)
    create_topics(client, ["moved"], MOVED_PARTITIONS)
    wait_until_led(client, ["moved"])
    perf_tools.produce(run.tools(), cluster.bootstrap, "moved", count, RECORD_SIZE, SETTINGS[0].properties)
    to = {
        partition: next(node for node in cluster.brokers if node != leader)
        for partition, leader in leaders(client, "moved").items()
    }
    with AckGaps(cluster.addresses, "moved", MOVED_PARTITIONS) as gaps:
        time.sleep(BEFORE_S)
        began = time.monotonic()
        tool = _reassign(run, cluster, "moved", to)
        while leaders(client, "moved") != to or _is_moving(client):
            if time.monotonic() > began + PATIENCE_S:
                tool.kill()
                raise KafkaFailed(f"{cluster.name}: reassignment not done within {PATIENCE_S:.0f} s")
            time.sleep(0.05)
        took = time.monotonic() - began
        gaps.wait_until_all_flow(time.monotonic() + 0.5, PATIENCE_S)
        longest = gaps.longest(began)
    tool.wait()
    run.say(f"  reassign: {cluster.name} {took:.1f} s, longest time without an ack {longest:.2f} s")
    run.results.add("P9.move", cluster.name, longest)
    run.results.add("P9.moved", cluster.name, took)


def _is_moving(client: Client) -> bool:
    response = client.send(ListPartitionReassignmentsRequest(timeout_ms=10_000, topics=None))
    return bool(response.topics)


def _reassign(run: Run, cluster: Cluster, topic: str, to: dict[int, int]) -> subprocess.Popen[bytes]:
    plan = {
        "version": 1,
        "partitions": [{"topic": topic, "partition": index, "replicas": [node]} for index, node in to.items()],
    }
    file = run.directory("plan") / "plan.json"
    file.write_text(json.dumps(plan))
    return subprocess.Popen(
        [
            *("java", "-cp", f"{run.tools()}/*", "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"),
            *("--bootstrap-server", cluster.addresses[0], "--reassignment-json-file", str(file), "--execute"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def seconds(run: Run) -> float:
    """Kafka needs ten seconds to come up, and as many to get over a death, and copies the 2 GB that are moved."""
    one = 2 * BEFORE_S + 2.0 + (CLUSTER_START_S + 8.0 if run.libs is not None else 0.0)
    move = 2 * producing_s(run.count(MOVED_RECORDS)) + CLUSTER_START_S + 15.0
    return run.rounds * 2 * one + move


SCENARIO = Scenario("failover", "three brokers: kill, stop, reassign", FIGURES, run, seconds, quick=False)
