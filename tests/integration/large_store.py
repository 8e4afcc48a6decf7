"""A store as it is after years: many partitions, each with many objects, made within seconds.

The catalog is filled by its own functions, and by rows such as compaction leaves: a log's old data in objects of its
own, the last of all logs and the snapshots of their state together in set objects. All objects are real, and can be
read. Only their sizes are not: one batch is in each, and its row says that there is as much as compaction makes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Connection, bindparam, insert, update

from broker.partition.leader_epochs import LeaderEpochs
from broker.partition.producer_state import ProducerStates
from broker.partition.snapshot import encode_snapshot
from protocol.records import Record, build_batch, stamp
from s3stream.catalog.api import NewTopic, PartitionInfo
from s3stream.catalog.catalog import SqlCatalog
from s3stream.catalog.locks import take
from s3stream.catalog.objects import committed_values, object_key
from s3stream.catalog.opening import open_database
from s3stream.catalog.schema import OBJECT_ID, objects, streams
from s3stream.object.writer import Batch, build_object

PARTITIONS_OF_TOPIC = 1000
RECORDS_OF_BATCH = 10
SETS_OF_STREAM = 3
"""Set objects that the end of each log is in."""
STREAMS_OF_SET = 1000
STATED_SIZE = 16 << 20
"""What the rows say of the size of a range."""
DEEP_SHARE = 10
"""One object of so many is of the first partition."""
_ROWS = 5000
_SET_ENDS = update(streams).where(streams.c.stream_id == bindparam("id")).values(end_offset=bindparam("end"))


@dataclass(frozen=True, slots=True)
class LargeStore:
    """Topic name -> partition count; how many objects of one stream each partition has, and the first one."""

    topics: dict[str, int]
    objects_of_partition: int
    objects_of_first: int
    object_count: int

    def end_offset(self, topic: str, index: int) -> int:
        count = self.objects_of_first if (topic, index) == ("many-0", 0) else self.objects_of_partition
        return (count + SETS_OF_STREAM) * RECORDS_OF_BATCH


def topic_names(partitions: int) -> dict[str, int]:
    counts = [PARTITIONS_OF_TOPIC] * (partitions // PARTITIONS_OF_TOPIC)
    if partitions % PARTITIONS_OF_TOPIC:
        counts.append(partitions % PARTITIONS_OF_TOPIC)
    return {f"many-{number}": count for number, count in enumerate(counts)}


async def fill(metadata_url: str, directory: Path, partitions: int, object_count: int, node_id: int) -> LargeStore:
    """A store of these, led by `node_id`, that was stopped cleanly; objects are files in `directory`."""
    topics = topic_names(partitions)
    deep = object_count // DEEP_SHARE
    store = LargeStore(topics, (object_count - deep) // partitions, deep, object_count)
    for prefix in range(256):
        (directory / f"{prefix:02x}").mkdir(parents=True)
    database, cluster_id = await open_database(metadata_url, create=True)
    catalog = SqlCatalog(database, cluster_id)
    try:
        broker = await catalog.register_broker(node_id, "127.0.0.1", 1, None, "memory://", 3_600_000, uuid4())
        held: list[tuple[PartitionInfo, int]] = []
        for name, count in topics.items():
            info = await catalog.create_topic(NewTopic(name, [node_id] * count, {}))
            held += [(each, store.end_offset(name, each.index)) for each in info.partitions]
        stream_ids = [each for part, _ in held for each in (part.log_stream_id, part.state_stream_id)]
        opened = await catalog.open_streams(node_id, broker.epoch, stream_ids)
        contents = _contents(held)
        while chunk := list(islice(contents, _ROWS)):
            await database.write(partial(_add, directory, chunk, node_id, broker.epoch), idempotent=False)
        ends = [{"id": part.log_stream_id, "end": end} for part, end in held]
        ends += [{"id": part.state_stream_id, "end": 1} for part, _ in held]
        await database.write(lambda tx: tx.execute(_SET_ENDS, ends), idempotent=False)
        await catalog.close_streams(node_id, broker.epoch, {each.stream_id: each.epoch for each in opened})
        await catalog.close_broker(node_id, broker.epoch)
    finally:
        await catalog.close()
    return store


_Content = list[tuple[int, list[Batch]]]
"""What one object holds: stream ids and their batches."""


def _contents(held: Iterable[tuple[PartitionInfo, int]]) -> Iterator[_Content]:
    held = list(held)
    now_ms = int(time.time() * 1000)
    template = bytearray(build_batch([Record(i, now_ms, b"key", b"v" * 100) for i in range(RECORDS_OF_BATCH)]))

    def batch(offset: int) -> Batch:
        data = bytearray(template)
        stamp(data, offset, 0)
        return offset, RECORDS_OF_BATCH, now_ms, bytes(data)

    for part, end in held:
        for offset in range(0, end - SETS_OF_STREAM * RECORDS_OF_BATCH, RECORDS_OF_BATCH):
            yield [(part.log_stream_id, [batch(offset)])]
    for first in range(0, len(held), STREAMS_OF_SET):
        some = held[first : first + STREAMS_OF_SET]
        for back in range(SETS_OF_STREAM, 0, -1):
            yield [(part.log_stream_id, [batch(end - back * RECORDS_OF_BATCH)]) for part, end in some]
        yield [(part.state_stream_id, [(0, 1, now_ms, _snapshot(end))]) for part, end in some]


def _snapshot(end_offset: int) -> bytes:
    return encode_snapshot(end_offset, LeaderEpochs([(0, 0)]), ProducerStates())


def _add(directory: Path, contents: Sequence[_Content], node_id: int, broker_epoch: int, tx: Connection) -> None:
    first = take(tx, OBJECT_ID, len(contents))
    rows = [_write(directory, first + i, each, node_id, broker_epoch) for i, each in enumerate(contents)]
    tx.execute(insert(objects), rows)


def _write(directory: Path, object_id: int, content: _Content, node_id: int, broker_epoch: int) -> dict[str, object]:
    built = build_object(content)
    key = object_key(object_id)
    (directory / key).write_bytes(b"".join(built.pieces))
    ranges, stream_id = list(built.ranges), None
    if len(ranges) == 1:
        ranges, stream_id = [replace(ranges[0], size=STATED_SIZE)], ranges[0].stream_id
    return {
        "object_id": object_id,
        "object_key": key,
        "node_id": node_id,
        "broker_epoch": broker_epoch,
        "was_committed": True,
        "since_ms": int(time.time() * 1000),
        "size": built.size,
        "generation": 1,
        **committed_values(ranges, {each.stream_id: 0 for each in ranges}),
        "stream_id": stream_id,
    }


def fill_now(metadata_url: str, directory: Path, partitions: int, object_count: int, node_id: int = 1) -> LargeStore:
    return asyncio.run(fill(metadata_url, directory, partitions, object_count, node_id))
