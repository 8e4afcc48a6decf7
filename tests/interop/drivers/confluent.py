"""Driver for confluent-kafka (librdkafka)."""

from __future__ import annotations

import sys
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from lines import read_records, settings, stop_when_stdin_closes, write, write_record


def produce(bootstrap: str, topic: str, codec: str, configs: dict[str, str]) -> None:
    tells = configs.pop("tell", "") == "acks"
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": configs.get("acks", "all") == "all",
            "compression.type": codec,
            "linger.ms": 5,
            "message.max.bytes": 1_000_000,
            **configs,
        }
    )
    acked = 0

    def delivered(number: int, error: KafkaError | None, message: Message) -> None:
        nonlocal acked
        if error is not None:
            raise KafkaException(error)
        acked += 1
        if tells:
            write(n=number, o=message.offset())

    for number, record in enumerate(read_records()):
        producer.produce(
            topic,
            key=record["k"],
            value=record["v"],
            headers=record["h"],
            timestamp=record["t"],
            partition=-1 if record.get("p") is None else record["p"],
            on_delivery=partial(delivered, number),
        )
        producer.poll(0)
    if producer.flush(60):
        raise SystemExit("not all records were acknowledged")
    write(acked=acked)


def consumer(bootstrap: str, group: str, configs: dict[str, str] | None = None) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 6000,
            **(configs or {}),
        }
    )


def show(message: Message) -> None:
    write_record(
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        message.headers() or [],
    )


def consume(bootstrap: str, topic: str, group: str, count: int, configs: dict[str, str]) -> None:
    stop = stop_when_stdin_closes()
    reader = consumer(bootstrap, group, configs)
    reader.subscribe([topic])
    seen = 0
    while not stop.is_set() and (not count or seen < count):
        message = reader.poll(0.2)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        show(message)
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


def seek(bootstrap: str, topic: str, offsets: list[int]) -> None:
    reader = consumer(bootstrap, "seek")
    reader.assign([TopicPartition(topic, 0, 0)])
    for offset in offsets:
        if reader.poll(30) is None:  # a partition can be sought only once its fetcher runs
            raise SystemExit("nothing came")
        reader.seek(TopicPartition(topic, 0, offset))
        message = reader.poll(30)
        if message is None or message.error():
            raise SystemExit(f"nothing came after the seek to {offset}: {message and message.error()}")
        show(message)
        reader.seek(TopicPartition(topic, 0, 0))
    reader.close()


def admin(bootstrap: str, topic: str, group: str) -> None:
    client = AdminClient({"bootstrap.servers": bootstrap})
    made = f"{topic}-made"
    named = ConfigResource(ResourceType.TOPIC, made)

    def config(name: str) -> str:
        return client.describe_configs([named])[named].result(30)[name].value

    client.create_topics([NewTopic(made, 3, 1, config={"retention.ms": "3600000"})])[made].result(30)
    partitions = len(client.list_topics(made, timeout=30).topics[made].partitions)
    retention = config("retention.ms")
    change = ConfigEntry("max.message.bytes", "5000", incremental_operation=AlterConfigOpType.SET)
    altering = ConfigResource(ResourceType.TOPIC, made, incremental_configs=[change])
    client.incremental_alter_configs([altering])[altering].result(30)
    up_to = TopicPartition(topic, 0, 10)
    low = client.delete_records([up_to])[up_to].result(30).low_watermark
    state = client.describe_consumer_groups([group])[group].result(30).state.name.capitalize()
    group_listed = group in {each.group_id for each in client.list_consumer_groups().result(30).valid}
    listed = made in client.list_topics(timeout=30).topics
    altered = config("max.message.bytes")
    client.delete_topics([made])[made].result(30)
    write(
        partitions=partitions,
        retention=retention,
        altered=altered,
        group=state,
        group_listed=group_listed,
        low=low,
        listed=listed,
        gone=made not in client.list_topics(timeout=30).topics,
    )


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
