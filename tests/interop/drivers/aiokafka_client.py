"""Driver for aiokafka."""

from __future__ import annotations

import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from lines import read_records, stop_when_stdin_closes, write, write_record


async def produce(bootstrap: str, topic: str, codec: str) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        enable_idempotence=True,
        compression_type=None if codec == "none" else codec,
        max_request_size=1_040_000,
        linger_ms=5,
    ) as producer:
        waiting = [
            await producer.send(
                topic,
                key=record["k"],
                value=record["v"],
                headers=record["h"],
                timestamp_ms=record["t"],
                partition=record.get("p"),
            )
            for record in read_records()
        ]
        await asyncio.gather(*waiting)
    write(acked=len(waiting))


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
                    write_record(
                        record.partition, record.offset, record.timestamp, record.key, record.value, record.headers
                    )
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


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    match command:
        case "produce":
            asyncio.run(produce(*arguments))
        case "consume":
            asyncio.run(consume(*arguments[:3], int(arguments[3])))
        case "times":
            asyncio.run(times(*arguments[:2], int(arguments[2])))
