"""The catalog's tables as the check sees them: small ones as values, objects in pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, select

from s3stream.catalog.database import Database
from s3stream.catalog.schema import (
    ACTIVE,
    FENCED,
    STREAM_OPEN,
    NowMs,
    brokers,
    counters,
    objects,
    partitions,
    streams,
    topics,
)
from s3stream.fsck.findings import Span

PAGE_COUNT = 1000


class StreamRow(NamedTuple):
    """`owner` is the broker epoch that has it open, None if it is closed."""

    stream_id: int
    epoch: int
    owner: int | None
    start_offset: int
    end_offset: int


class BrokerRow(NamedTuple):
    """`is_waiting`: its log may hold what is in no object. `is_leased`: it may be alive, by the database's clock."""

    node_id: int
    epoch: int
    address: str
    wal_url: str
    is_waiting: bool
    is_leased: bool


class PartitionRow(NamedTuple):
    topic_id: UUID
    topic: str | None
    number: int
    log_stream_id: int
    state_stream_id: int


class ObjectRow(NamedTuple):
    """`ranges` is the stored value, None unless it was committed."""

    object_id: int
    key: str
    state: int
    size: int | None
    ranges: bytes | None
    witness_stream_id: int | None
    witness_end_offset: int | None


@dataclass(frozen=True, slots=True)
class Tables:
    """One snapshot of everything but the objects."""

    streams: dict[int, StreamRow]
    partitions: list[PartitionRow]
    topics: dict[UUID, str]
    brokers: list[BrokerRow]
    counters: dict[str, int]
    names: dict[int, str]
    """Stream id -> what it is."""

    def span(self, stream_id: int, start_offset: int, end_offset: int) -> Span:
        return Span(stream_id, self.names.get(stream_id, f"stream {stream_id}"), start_offset, end_offset)


async def load_tables(database: Database) -> Tables:
    return await database.read(_load)


def _load(tx: Connection) -> Tables:
    topic_names: dict[UUID, str] = {row.topic_id: row.name for row in tx.execute(select(topics))}
    found = [_partition(row, topic_names) for row in tx.execute(select(partitions))]
    names: dict[int, str] = {}
    for each in found:
        name = f"{each.topic or each.topic_id}-{each.number}"
        names[each.log_stream_id] = name
        names[each.state_stream_id] = f"state of {name}"
    leased = (brokers.c.lease_end_ms > NowMs()).label("leased")
    return Tables(
        streams={row.stream_id: _stream(row) for row in tx.execute(select(streams))},
        partitions=found,
        topics=topic_names,
        brokers=[_broker(row) for row in tx.execute(select(brokers, leased).order_by(brokers.c.epoch))],
        counters={row.name: row.value for row in tx.execute(select(counters))},
        names=names,
    )


def _partition(row: Row[Any], topic_names: dict[UUID, str]) -> PartitionRow:
    return PartitionRow(
        row.topic_id, topic_names.get(row.topic_id), row.partition_index, row.log_stream_id, row.state_stream_id
    )


def _stream(row: Row[Any]) -> StreamRow:
    owner = (row.broker_epoch or 0) if row.state == STREAM_OPEN else None
    return StreamRow(row.stream_id, row.epoch, owner, row.start_offset, row.end_offset)


def _broker(row: Row[Any]) -> BrokerRow:
    return BrokerRow(
        row.node_id,
        row.epoch,
        f"{row.host}:{row.port}",
        row.wal_url,
        row.state in (ACTIVE, FENCED),
        row.state == ACTIVE and bool(row.leased),
    )


async def object_pages(database: Database) -> AsyncIterator[list[ObjectRow]]:
    """All rows, by object id, a page at a time."""
    after = 0
    while True:
        page = await database.read(lambda tx, after=after: _page(tx, after))  # type: ignore[misc]
        if not page:
            return
        yield page
        after = page[-1].object_id


def _page(tx: Connection, after: int) -> list[ObjectRow]:
    columns = (
        objects.c.object_id,
        objects.c.object_key,
        objects.c.state,
        objects.c.size,
        objects.c.ranges,
        objects.c.witness_stream_id,
        objects.c.witness_end_offset,
    )
    rows = tx.execute(
        select(*columns).where(objects.c.object_id > after).order_by(objects.c.object_id).limit(PAGE_COUNT)
    )
    return [ObjectRow(*row) for row in rows]
