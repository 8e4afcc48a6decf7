"""Writing rows of objects outside of the brokers' transactions: for a store that is stopped.

One transaction makes a whole repair, and makes sure first that no broker is alive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection, Null, bindparam, delete, insert, select, update

from s3stream.catalog.api import CatalogError, StreamRange
from s3stream.catalog.locks import chunks, take
from s3stream.catalog.objects import committed_values, object_key
from s3stream.catalog.schema import (
    ACTIVE,
    COMMITTED,
    OBJECT_ID,
    PREPARED,
    STREAM_CLOSED,
    STREAM_OPEN,
    NowMs,
    brokers,
    counters,
    objects,
    streams,
)

NO_NODE, NO_EPOCH = -1, 0
"""Who prepared what a repair writes: nobody, so that a broker removes it if the repair does not finish."""

_CLOSE = (
    update(streams)
    .where(streams.c.stream_id == bindparam("id"))
    .values(state=STREAM_CLOSED, node_id=None, broker_epoch=None)
)
_SET_END = update(streams).where(streams.c.stream_id == bindparam("id")).values(end_offset=bindparam("end"))
_SET_COUNTER = update(counters).where(counters.c.name == bindparam("id")).values(value=bindparam("last"))


class BrokerAlive(CatalogError):
    """A broker holds its lease: nothing was changed."""


@dataclass(frozen=True, slots=True)
class NewObject:
    """A row to be: `ranges` is all that counts of the object."""

    object_id: int
    size: int
    ranges: tuple[StreamRange, ...]


class NewStream(NamedTuple):
    """`owner`: node id and epoch of the broker whose log holds its tail, None if there is none."""

    stream_id: int
    epoch: int
    owner: tuple[int, int] | None
    start_offset: int
    end_offset: int


@dataclass(slots=True)
class Changes:
    """What one transaction does; rows of dropped objects go first."""

    dropped: set[int] = field(default_factory=set)
    objects: list[NewObject] = field(default_factory=list)
    new_streams: list[NewStream] = field(default_factory=list)
    deleted_streams: list[int] = field(default_factory=list)
    closed_streams: list[int] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)


def prepare(tx: Connection, count: int) -> list[int]:
    """Object ids that are registered, so that what a crash leaves of them is found."""
    _require_stopped(tx)
    first = take(tx, OBJECT_ID, count)
    ids = list(range(first, first + count))
    now_ms = _now_ms(tx)
    tx.execute(insert(objects), [_row(object_id, PREPARED, now_ms) for object_id in ids])
    return ids


def apply(tx: Connection, changes: Changes) -> None:
    """Raises BrokerAlive."""
    _require_stopped(tx)
    for ids in chunks(sorted({each.object_id for each in changes.objects} | changes.dropped)):
        tx.execute(delete(objects).where(objects.c.object_id.in_(ids)))
    for stream in changes.new_streams:
        tx.execute(
            insert(streams).values(
                stream_id=stream.stream_id,
                epoch=stream.epoch,
                state=STREAM_CLOSED if stream.owner is None else STREAM_OPEN,
                node_id=None if stream.owner is None else stream.owner[0],
                broker_epoch=None if stream.owner is None else stream.owner[1],
                start_offset=stream.start_offset,
                end_offset=stream.end_offset,
            )
        )
    for ids in chunks(sorted(changes.deleted_streams)):
        tx.execute(delete(streams).where(streams.c.stream_id.in_(ids)))
    if changes.closed_streams:
        tx.execute(_CLOSE, [{"id": stream_id} for stream_id in changes.closed_streams])
    if changes.ends:
        tx.execute(_SET_END, [{"id": stream_id, "end": end} for stream_id, end in changes.ends.items()])
    if changes.counters:
        tx.execute(_SET_COUNTER, [{"id": name, "last": last} for name, last in changes.counters.items()])
    insert_committed(tx, changes.objects)


def insert_committed(tx: Connection, found: Sequence[NewObject]) -> None:
    """Rows of committed objects, each with its witness; the streams' rows are there already."""
    starts: dict[int, int] = {}
    for ids in chunks(sorted({each.stream_id for new in found for each in new.ranges})):
        rows = tx.execute(select(streams.c.stream_id, streams.c.start_offset).where(streams.c.stream_id.in_(ids)))
        starts.update((row.stream_id, row.start_offset) for row in rows)
    now_ms = _now_ms(tx)
    for some in chunks(found):
        tx.execute(insert(objects), [_committed(each, starts, now_ms) for each in some])


def _committed(new: NewObject, starts: Mapping[int, int], now_ms: int) -> dict[str, object]:
    # many rows in one statement: they take values, not expressions
    values = {
        name: None if isinstance(value, Null) else value for name, value in committed_values(new.ranges, starts).items()
    }
    return {**_row(new.object_id, COMMITTED, now_ms), "size": new.size, "generation": 0, **values}


def _row(object_id: int, state: int, now_ms: int) -> dict[str, object]:
    return {
        "object_id": object_id,
        "object_key": object_key(object_id),
        "state": state,
        "node_id": NO_NODE,
        "broker_epoch": NO_EPOCH,
        "was_committed": state == COMMITTED,
        "since_ms": now_ms,
    }


def _now_ms(tx: Connection) -> int:
    now_ms: int = tx.execute(select(NowMs())).scalar_one()
    return now_ms


def _require_stopped(tx: Connection) -> None:
    leased = select(brokers.c.node_id, brokers.c.host, brokers.c.port).where(
        brokers.c.state == ACTIVE, brokers.c.lease_end_ms > NowMs()
    )
    row = tx.execute(leased.limit(1)).one_or_none()
    if row is not None:
        raise BrokerAlive(f"node {row.node_id} at {row.host}:{row.port} holds its lease: stop it first")
