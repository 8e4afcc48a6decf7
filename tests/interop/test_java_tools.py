"""Apache Kafka's own command-line tools, perf tools and Connect, against this broker."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from broker.coordinator.partitioning import partition_for

from .admin import create_topic, produce
from .clients import CLIENTS, kafka_classpath, need, record

pytestmark = pytest.mark.interop
BASE_TIME = 1_700_000_000_000
JAVA_FLAGS = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]


def command(tool: str, *arguments: object, classpath: str = "") -> list[str]:
    jars = f"{classpath}:{kafka_classpath()}" if classpath else kafka_classpath()
    return [need("java"), *JAVA_FLAGS, "-cp", jars, tool, *map(str, arguments)]


def run(tool: str, *arguments: object, stdin: str = "", timeout: float = 90) -> str:
    done = subprocess.run(command(tool, *arguments), input=stdin, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, (
        f"{tool} {arguments}: exit {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    )
    return done.stdout


def test_console_producer_and_consumer(bootstrap: str, topic: str) -> None:
    create_topic(bootstrap, topic, partitions=2)
    lines = [f"key{i % 3}\tvalue {i}" for i in range(50)]
    run(
        "org.apache.kafka.tools.ConsoleProducer",
        *("--bootstrap-server", bootstrap, "--topic", topic),
        *("--reader-property", "parse.key=true"),
        stdin="\n".join(lines) + "\n",
    )
    out = run(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--bootstrap-server", bootstrap, "--topic", topic, "--from-beginning", "--max-messages", 50),
        *("--formatter-property", "print.key=true"),
    )
    assert sorted(out.splitlines()) == sorted(lines)


def test_topics_tool_describes_and_grows_a_topic(bootstrap: str, topic: str) -> None:
    tool = "org.apache.kafka.tools.TopicCommand"
    at = ("--bootstrap-server", bootstrap, "--topic", topic)
    run(tool, *at, "--create", "--partitions", 3, "--config", "retention.ms=3600000")
    run(tool, *at, "--alter", "--partitions", 5)
    described = run(tool, *at, "--describe")
    assert "PartitionCount: 5" in described
    assert "retention.ms=3600000" in described
    assert "Leader: none" not in described
    assert run(tool, "--bootstrap-server", bootstrap, "--describe", "--under-replicated-partitions") == ""
    assert topic in run(tool, "--bootstrap-server", bootstrap, "--list").splitlines()
    run(tool, *at, "--delete")
    assert topic not in run(tool, "--bootstrap-server", bootstrap, "--list").splitlines()


def test_configs_tool_alters_topic_and_broker(bootstrap: str, topic: str) -> None:
    create_topic(bootstrap, topic, partitions=1)
    tool = "kafka.admin.ConfigCommand"
    at = ("--bootstrap-server", bootstrap, "--entity-type", "topics", "--entity-name", topic)
    run(tool, *at, "--alter", "--add-config", "max.message.bytes=5000,cleanup.policy=[compact,delete]")
    described = run(tool, *at, "--describe")
    assert "max.message.bytes=5000" in described
    assert "cleanup.policy=compact,delete" in described
    run(tool, *at, "--alter", "--delete-config", "max.message.bytes")
    assert "max.message.bytes" not in run(tool, *at, "--describe")
    brokers = ("--bootstrap-server", bootstrap, "--entity-type", "brokers", "--entity-default")
    run(tool, *brokers, "--alter", "--add-config", "log.retention.ms=86400000")
    assert "log.retention.ms=86400000" in run(tool, *brokers, "--describe")
    run(tool, *brokers, "--alter", "--delete-config", "log.retention.ms")


def test_consumer_groups_tool_shows_lag_and_resets_by_time(bootstrap: str, topic: str) -> None:
    create_topic(bootstrap, topic, partitions=2)
    group = f"{topic}-g"
    client = CLIENTS[0]
    produce(bootstrap, topic, [record(b"k", b"v", BASE_TIME + i, partition=i % 2) for i in range(100)])
    client.consume(bootstrap, topic, group, 100)
    produce(bootstrap, topic, [record(b"k", b"v", BASE_TIME + i, partition=0) for i in range(100, 107)])
    tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    at = ("--bootstrap-server", bootstrap, "--group", group)

    def offsets() -> dict[str, list[str]]:
        """Partition -> current offset, log end offset, lag."""
        found = {}
        for line in run(tool, *at, "--describe").splitlines():
            columns = line.split()
            if columns[:2] == [group, topic]:
                found[columns[2]] = columns[3:6]
        return found

    assert offsets() == {"0": ["50", "57", "7"], "1": ["50", "50", "0"]}
    assert "Empty" in run(tool, *at, "--describe", "--state")
    reset = ("--reset-offsets", "--topic", topic, "--execute")
    run(tool, *at, *reset, "--to-datetime", "2023-11-14T22:13:20.040")
    assert offsets() == {"0": ["20", "57", "37"], "1": ["20", "50", "30"]}
    run(tool, *at, *reset, "--to-earliest")
    assert offsets() == {"0": ["0", "57", "57"], "1": ["0", "50", "50"]}
    assert group in run(tool, "--bootstrap-server", bootstrap, "--list").splitlines()
    run(tool, *at, "--delete")
    assert group not in run(tool, "--bootstrap-server", bootstrap, "--list").splitlines()


def test_console_consumer_formats_the_offsets_topic(bootstrap: str, topic: str) -> None:
    create_topic(bootstrap, topic, partitions=1)
    group = f"{topic}-g"
    produce(bootstrap, topic, [record(b"k", b"v", BASE_TIME + i, partition=0) for i in range(25)])
    CLIENTS[0].consume(bootstrap, topic, group, 25)

    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused"})
    place = TopicPartition("__consumer_offsets", partition_for(group, 50))
    first, end = reader.get_watermark_offsets(place, timeout=30)
    reader.close()

    def formatted(kind: str) -> list[dict[str, Any]]:
        """What the formatter made of the group's records: objects with nothing between them."""
        out = run(
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            *("--bootstrap-server", bootstrap, "--topic", place.topic, "--partition", place.partition),
            *("--offset", "earliest", "--max-messages", end - first),
            *("--formatter", f"org.apache.kafka.tools.consumer.{kind}"),
        )
        found = [json.loads(text) for text in out.replace('}{"key"', '}\n{"key"').splitlines()]
        return [each for each in found if each["key"]["data"]["group"] == group]

    committed = formatted("OffsetsMessageFormatter")[-1]
    assert committed["key"]["data"] == {"group": group, "topic": topic, "partition": 0}
    assert committed["value"]["data"]["offset"] == 25
    metadata = formatted("GroupMetadataMessageFormatter")
    assert metadata[-1]["value"]["data"]["protocolType"] == "consumer"
    assert metadata[-1]["value"]["data"]["members"] == []


def test_delete_records_and_get_offsets_tools(bootstrap: str, topic: str, tmp_path: Path) -> None:
    create_topic(bootstrap, topic, partitions=1)
    produce(bootstrap, topic, [record(b"k", b"v", BASE_TIME + i, partition=0) for i in range(30)])
    wanted = tmp_path / "delete.json"
    wanted.write_text(f'{{"version": 1, "partitions": [{{"topic": "{topic}", "partition": 0, "offset": 12}}]}}')
    run(
        "org.apache.kafka.tools.DeleteRecordsCommand",
        *("--bootstrap-server", bootstrap, "--offset-json-file", wanted),
    )
    tool = "org.apache.kafka.tools.GetOffsetShell"
    at = ("--bootstrap-server", bootstrap, "--topic", topic)
    assert run(tool, *at, "--time", "earliest").strip() == f"{topic}:0:12"
    assert run(tool, *at, "--time", "latest").strip() == f"{topic}:0:30"
    assert run(tool, *at, "--time", BASE_TIME + 20).strip() == f"{topic}:0:20"
    assert run(tool, *at, "--time", "max-timestamp").strip() == f"{topic}:0:29"


def test_log_dirs_and_cluster_tools(bootstrap: str, topic: str) -> None:
    create_topic(bootstrap, topic, partitions=1)
    produce(bootstrap, topic, [record(b"k", b"v" * 1000, BASE_TIME, partition=0)])
    told = run(
        "org.apache.kafka.tools.LogDirsCommand",
        *("--bootstrap-server", bootstrap, "--describe", "--topic-list", topic),
    )
    size = re.search(r'"size":(\d+)', told)
    assert size is not None
    assert int(size[1]) >= 1000
    told = run("org.apache.kafka.tools.ClusterTool", "cluster-id", "--bootstrap-server", bootstrap)
    assert re.search(r"Cluster ID: [\w-]{22}", told)
    run("org.apache.kafka.tools.BrokerApiVersionsCommand", "--bootstrap-server", bootstrap)


def test_quorum_features_and_unregister_tools(bootstrap: str) -> None:
    quorum = ("org.apache.kafka.tools.MetadataQuorumCommand", "--bootstrap-server", bootstrap, "describe")
    status = run(*quorum, "--status")
    assert re.search(r"LeaderId: +1\n(.*\n)*MaxFollowerLag: +0\n(.*\n)*CurrentVoters: +\[\{\"id\": 1", status)
    assert "Leader" in run(*quorum, "--replication")
    features = ("org.apache.kafka.tools.FeatureCommand", "--bootstrap-server", bootstrap)
    assert "was upgraded to 2" in run(*features, "upgrade", "--feature", "transaction.version=2")
    unregister = command("org.apache.kafka.tools.ClusterTool", "unregister", "--bootstrap-server", bootstrap, "--id", 1)
    refused = subprocess.run(unregister, capture_output=True, text=True, timeout=90, check=False)
    assert refused.returncode == 1
    assert "stop it first" in refused.stdout + refused.stderr


def test_perf_tools_produce_and_consume(bootstrap: str, topic: str) -> None:
    create_topic(bootstrap, topic, partitions=4)
    told = run(
        "org.apache.kafka.tools.ProducerPerformance",
        *("--topic", topic, "--num-records", 50_000, "--record-size", 1024, "--throughput", -1),
        *("--producer-props", f"bootstrap.servers={bootstrap}", "acks=all", "linger.ms=5", "batch.size=65536"),
    )
    assert "50000 records sent" in told
    told = run(
        "org.apache.kafka.tools.ConsumerPerformance",
        *("--bootstrap-server", bootstrap, "--topic", topic, "--num-records", 50_000, "--timeout", 30_000),
    )
    assert re.search(r", 50\d{3}, ", told), told


def test_connect_copies_a_file_through_a_topic(bootstrap: str, topic: str, tmp_path: Path) -> None:
    source, sink = tmp_path / "in.txt", tmp_path / "out.txt"
    lines = [f"line {i}" for i in range(500)]
    source.write_text("\n".join(lines) + "\n")
    worker, reader, writer = (tmp_path / f"{name}.properties" for name in ("worker", "source", "sink"))
    converter = "org.apache.kafka.connect.storage.StringConverter"
    worker.write_text(
        f"bootstrap.servers={bootstrap}\nkey.converter={converter}\nvalue.converter={converter}\n"
        f"offset.storage.file.filename={tmp_path / 'offsets'}\noffset.flush.interval.ms=1000\n"
        "listeners=http://127.0.0.1:0\nplugin.discovery=service_load\n"
    )
    package = "org.apache.kafka.connect.file"
    reader.write_text(
        f"name=source\nconnector.class={package}.FileStreamSourceConnector\ntasks.max=1\nfile={source}\ntopic={topic}\n"
    )
    writer.write_text(
        f"name=sink\nconnector.class={package}.FileStreamSinkConnector\ntasks.max=1\nfile={sink}\ntopics={topic}\n"
    )
    log = tmp_path / "connect.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command("org.apache.kafka.connect.cli.ConnectStandalone", worker, reader, writer),
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        deadline = time.monotonic() + 90
        while not (sink.exists() and sink.read_text().count("\n") >= len(lines)):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)
    finally:
        process.terminate()
        process.wait(30)
    assert sink.read_text().splitlines() == lines
