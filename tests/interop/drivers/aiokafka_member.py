"""A member of a consumer group, by aiokafka, that tells what happens to it: see README.md beside this file."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Collection

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from lines import stop_when_stdin_closes, write

COMMIT_INTERVAL_S = 0.2


def tell(event: str, **fields: object) -> None:
    write(at=time.monotonic_ns(), event=event, **fields)


class Member(ConsumerRebalanceListener):
    """Commits what it polled every 200 ms and before it gives partitions up. Made in the loop that it runs in."""

    def __init__(self, bootstrap: str, group: str) -> None:
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
        )
        self.positions: dict[TopicPartition, int] = {}

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        await self.commit()
        tell("revoked", partitions=[tuple(each) for each in revoked])

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        tell("assigned", partitions=[tuple(each) for each in assigned])

    async def commit(self) -> None:
        offsets, self.positions = self.positions, {}
        if not offsets:
            return
        error, began = None, time.monotonic_ns()
        try:
            await self.consumer.commit(offsets)
        except KafkaError as failure:
            error = type(failure).__name__
        tell("commit", began=began, error=error, offsets=[(*place, at) for place, at in offsets.items()])

    async def run(self, topics: list[str]) -> None:
        stop = stop_when_stdin_closes()
        self.consumer.subscribe(topics, listener=self)
        await self.consumer.start()
        tell("subscribed")
        committed_at = time.monotonic()
        while not stop.is_set():
            for place, records in (await self.consumer.getmany(timeout_ms=100)).items():
                seen = [(each.offset, each.value.partition(b"|")[0].decode("latin-1")) for each in records]
                tell("polled", topic=place.topic, partition=place.partition, records=seen)
                self.positions[place] = records[-1].offset + 1
            if time.monotonic() - committed_at > COMMIT_INTERVAL_S:
                committed_at = time.monotonic()
                await self.commit()
        await self.commit()
        await self.consumer.stop()


async def main(bootstrap: str, group: str, topics: str) -> None:
    try:
        await Member(bootstrap, group).run(topics.split(","))
    except KafkaError as failure:
        tell("failed", error=type(failure).__name__, message=str(failure))
    tell("closed")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
