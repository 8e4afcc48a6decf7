"""Driver for aiokafka."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import RecordMetadata
from lines import record_of, settings, stop_when_stdin_closes, write, write_record

LINE_SIZE_MAX = 4 << 20


async def lines_of_stdin() -> asyncio.StreamReader:
    """Without blocking: the client works while there is nothing to read."""
    reader = asyncio.StreamReader(LINE_SIZE_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def produce(bootstrap: str, topic: str, codec: str, configs: dict[str, str]) -> None:
    acks, tells = configs.get("acks", "all"), configs.get("tell") == "acks"

    def acknowledged(number: int, sent: asyncio.Future[RecordMetadata]) -> None:
        if tells and sent.exception() is None:
            write(n=number, o=sent.result().offset)

    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all" if acks == "all" else int(acks),
        enable_idempotence=acks == "all",
        compression_type=None if codec == "none" else codec,
        max_request_size=1_040_000,
        linger_ms=5,
    ) as producer:
        waiting: list[asyncio.Future[RecordMetadata]] = []
        async for line in await lines_of_stdin():
            record = record_of(line)
            sending = await producer.send(
                topic,
                key=record["k"],
                value=record["v"],
                headers=record["h"],
                timestamp_ms=record["t"],
                partition=record.get("p"),
            )
            sending.add_done_callback(partial(acknowledged, len(waiting)))
            waiting.append(sending)
        await asyncio.gather(*waiting)
    write(acked=len(waiting))


def show(record: ConsumerRecord) -> None:
    write_record(record.partition, record.offset, record.timestamp, record.key, record.value, record.headers)


async def consume(bootstrap: str, topic: str, group: str, count: int) -> None:
    stop = stop_when_stdin_closes()
    async with AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=6000,
        heartbeat_interval_ms=1000,
    ) as reader:
        seen = 0
        while not stop.is_set() and (not count or seen < count):
            batches = await reader.getmany(timeout_ms=200, max_records=count - seen if count else None)
            for records in batches.values():
                for record in records:
                    show(record)
                    seen += 1
        if seen:
            await reader.commit()


async def times(bootstrap: str, topic: str, timestamp: int) -> None:
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap) as reader:
        partitions = sorted(reader.partitions_for_topic(topic) or ())
        found = await reader.offsets_for_times({TopicPartition(topic, index): timestamp for index in partitions})
        for index in partitions:
            answer = found[TopicPartition(topic, index)]
            write(p=index, o=-1 if answer is None else answer.offset)


async def seek(bootstrap: str, topic: str, offsets: list[int]) -> None:
    partition = TopicPartition(topic, 0)
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as reader:
        reader.assign([partition])
        for offset in offsets:
            reader.seek(partition, offset)
            show(await reader.getone())


async def admin(bootstrap: str, topic: str, group: str) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    made = f"{topic}-made"
    named = ConfigResource(ConfigResourceType.TOPIC, made)

    async def configs() -> dict[str, str]:
        (answer,) = await client.describe_configs([named])
        return {entry[0]: entry[1] for entry in answer.resources[0][4]}

    await client.create_topics([NewTopic(made, 3, 1, topic_configs={"retention.ms": "3600000"})])
    (described,) = await client.describe_topics([made])
    created = await configs()
    altered = ConfigResource(ConfigResourceType.TOPIC, made, configs={"max.message.bytes": "5000"})
    await client.alter_configs([altered])
    (groups,) = await client.describe_consumer_groups([group])
    deleted = await client.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=10)})
    listed = made in await client.list_topics()
    group_listed = (group, "consumer") in [tuple(each[:2]) for each in await client.list_consumer_groups()]
    altered_configs = await configs()
    await client.delete_topics([made])
    write(
        partitions=len(described["partitions"]),
        retention=created["retention.ms"],
        altered=altered_configs["max.message.bytes"],
        group=groups.groups[0][2],
        group_listed=group_listed,
        low=deleted[TopicPartition(topic, 0)],
        listed=listed,
        gone=made not in await client.list_topics(),
    )
    await client.close()


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    match command:
        case "produce":
            asyncio.run(produce(*arguments[:3], settings(arguments[3:])))
        case "consume":
            asyncio.run(consume(*arguments[:3], int(arguments[3])))
        case "times":
            asyncio.run(times(*arguments[:2], int(arguments[2])))
        case "seek":
            asyncio.run(seek(*arguments[:2], [int(each) for each in arguments[2:]]))
        case "admin":
            asyncio.run(admin(*arguments))
