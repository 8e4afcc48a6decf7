"""Driver for kafka-python."""

from __future__ import annotations

import sys

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from lines import read_records, stop_when_stdin_closes, write, write_record


def produce(bootstrap: str, topic: str, codec: str) -> None:
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        compression_type=None if codec == "none" else codec,
        max_request_size=1_040_000,
        linger_ms=5,
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


def consume(bootstrap: str, topic: str, group: str, count: int) -> None:
    stop = stop_when_stdin_closes()
    reader = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=6000,
        heartbeat_interval_ms=1000,
    )
    seen = 0
    while not stop.is_set() and (not count or seen < count):
        batches = reader.poll(timeout_ms=200, max_records=min(500, count - seen) if count else None)
        for records in batches.values():
            for record in records:
                write_record(
                    record.partition, record.offset, record.timestamp, record.key, record.value, record.headers
                )
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


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    match command:
        case "produce":
            produce(*arguments)
        case "consume":
            consume(*arguments[:3], int(arguments[3]))
        case "times":
            times(*arguments[:2], int(arguments[2]))
