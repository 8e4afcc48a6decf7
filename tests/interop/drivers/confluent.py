"""Driver for confluent-kafka (librdkafka)."""

from __future__ import annotations

import sys

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from lines import read_records, stop_when_stdin_closes, write, write_record


def produce(bootstrap: str, topic: str, codec: str) -> None:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "compression.type": codec,
            "linger.ms": 5,
            "message.max.bytes": 1_000_000,
        }
    )
    acked = 0

    def delivered(error: KafkaError | None, _message: Message) -> None:
        nonlocal acked
        if error is not None:
            raise KafkaException(error)
        acked += 1

    for record in read_records():
        producer.produce(
            topic,
            key=record["k"],
            value=record["v"],
            headers=record["h"],
            timestamp=record["t"],
            partition=-1 if record.get("p") is None else record["p"],
            on_delivery=delivered,
        )
        producer.poll(0)
    if producer.flush(60):
        raise SystemExit("not all records were acknowledged")
    write(acked=acked)


def consumer(bootstrap: str, group: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 6000,
        }
    )


def consume(bootstrap: str, topic: str, group: str, count: int) -> None:
    stop = stop_when_stdin_closes()
    reader = consumer(bootstrap, group)
    reader.subscribe([topic])
    seen = 0
    while not stop.is_set() and (not count or seen < count):
        message = reader.poll(0.2)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        write_record(
            message.partition(),
            message.offset(),
            message.timestamp()[1],
            message.key(),
            message.value(),
            message.headers() or [],
        )
        seen += 1
    if seen:
        reader.commit(asynchronous=False)
    reader.close()


def times(bootstrap: str, topic: str, timestamp: int) -> None:
    reader = consumer(bootstrap, "times")
    partitions = reader.list_topics(topic, timeout=30).topics[topic].partitions
    asked = [TopicPartition(topic, index, timestamp) for index in sorted(partitions)]
    for found in reader.offsets_for_times(asked, timeout=30):
        write(p=found.partition, o=found.offset if found.offset >= 0 else -1)
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
