"""Driver for kafka-python."""

from __future__ import annotations

import sys
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from lines import read_records, settings, stop_when_stdin_closes, write, write_record


def version(asked: dict[str, str]) -> dict[str, Any]:
    """The setting `version=0.11`: speak as to a broker of that release, without asking for its versions."""
    return {"api_version": tuple(map(int, asked["version"].split(".")))} if "version" in asked else {}


def produce(bootstrap: str, topic: str, codec: str, asked: dict[str, str]) -> None:
    acks = asked.get("acks", "all")
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all" if acks == "all" else int(acks),
        enable_idempotence=acks == "all",
        compression_type=None if codec == "none" else codec,
        max_request_size=1_040_000,
        linger_ms=5,
        **version(asked),
    )
    waiting = [
        producer.send(
            topic,
            key=record["k"],
            value=record["v"],
            headers=record["h"],
            timestamp_ms=record["t"],
            partition=record.get("p"),
        )
        for record in read_records()
    ]
    for answer in waiting:
        answer.get(timeout=60)
    producer.close()
    write(acked=len(waiting))


def show(record: Any) -> None:
    write_record(record.partition, record.offset, record.timestamp, record.key, record.value, record.headers)


def consume(bootstrap: str, topic: str, group: str, count: int, asked: dict[str, str]) -> None:
    stop = stop_when_stdin_closes()
    reader = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=6000,
        heartbeat_interval_ms=1000,
        **version(asked),
    )
    seen = 0
    while not stop.is_set() and (not count or seen < count):
        # kafka-python 3.0 loses its assignment when a poll times out just as the answer to its SyncGroup comes in
        patience_ms = 1000 if reader.assignment() else 15_000
        batches = reader.poll(timeout_ms=patience_ms, max_records=min(500, count - seen) if count else None)
        for records in batches.values():
            for record in records:
                show(record)
                seen += 1
    if seen:
        reader.commit()
    reader.close()


def times(bootstrap: str, topic: str, timestamp: int) -> None:
    reader = KafkaConsumer(bootstrap_servers=bootstrap)
    partitions = sorted(reader.partitions_for_topic(topic) or ())
    found = reader.offsets_for_times({TopicPartition(topic, index): timestamp for index in partitions})
    for index in partitions:
        answer = found[TopicPartition(topic, index)]
        write(p=index, o=-1 if answer is None else answer.offset)
    reader.close()


def seek(bootstrap: str, topic: str, offsets: list[int]) -> None:
    partition = TopicPartition(topic, 0)
    reader = KafkaConsumer(bootstrap_servers=bootstrap, consumer_timeout_ms=30_000)
    reader.assign([partition])
    for offset in offsets:
        reader.seek(partition, offset)
        show(next(reader))
    reader.close()


def admin(bootstrap: str, topic: str, group: str) -> None:
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    made, partition = f"{topic}-made", TopicPartition(topic, 0)

    def config(name: str) -> str:
        (found,) = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, made)]).values()
        value = found[made][name]["value"]
        return str(value)

    options = {"num_partitions": 3, "replication_factor": 1, "configs": {"retention.ms": "3600000"}}
    client.create_topics({made: options})
    (described,) = client.describe_topics([made])
    retention = config("retention.ms")
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, made, {"max.message.bytes": "5000"})])
    low = client.delete_records({partition: 10})[partition]["low_watermark"]
    altered, listed = config("max.message.bytes"), made in client.list_topics()
    client.delete_topics([made])
    write(
        partitions=len(described["partitions"]),
        retention=retention,
        altered=altered,
        group=client.describe_groups([group])[group]["group_state"],
        group_listed=group in {each["group_id"] for each in client.list_groups()},
        low=low,
        listed=listed,
        gone=made not in client.list_topics(),
    )
    client.close()


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    match command:
        case "produce":
            produce(*arguments[:3], settings(arguments[3:]))
        case "consume":
            consume(*arguments[:3], int(arguments[3]), settings(arguments[4:]))
        case "times":
            times(*arguments[:2], int(arguments[2]))
        case "seek":
            seek(*arguments[:2], [int(each) for each in arguments[2:]])
        case "admin":
            admin(*arguments)
