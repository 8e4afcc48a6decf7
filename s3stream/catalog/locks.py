"""Counters, the change lock, and the order in which rows are locked.

Every transaction takes its locks in this order, so that none waits in a circle (on SQLite there is but one writer):

1. the change lock, if it writes change rows: these transactions run one after the other, so sequence numbers become
   visible in order and a follower that has seen n never misses one below it
2. registrations of brokers, by (node id, epoch): a writer holds its own shared, so fencing waits for it or it fails
3. the objects that are committed, by id
4. streams, by id
5. other objects: skipping locked ones, or (of those that are replaced) by id
6. the other counters
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from s3stream.catalog.api import BrokerFenced
from s3stream.catalog.schema import ACTIVE, CHANGE_SEQ, brokers, changes, counters, streams

T = TypeVar("T")

IN_COUNT_MAX = 1000
"""Values in one IN (...); both databases take some 32,000 parameters in all."""

_TAKE = (
    update(counters)
    .where(counters.c.name == bindparam("counter"))
    .values(value=counters.c.value + bindparam("count"))
    .returning(counters.c.value)
)
_STATE_OF_WRITER = (
    select(brokers.c.state)
    .where(brokers.c.node_id == bindparam("node"), brokers.c.epoch == bindparam("epoch"))
    .with_for_update(read=True)
)
_FORGET_CHANGE = delete(changes).where(changes.c.kind == bindparam("k"), changes.c.entity == bindparam("e"))


def take(tx: Connection, counter: str, count: int = 1) -> int:
    """Reserve `count` values; returns the first."""
    last: int = tx.execute(_TAKE, {"counter": counter, "count": count}).scalar_one()
    return last - count + 1


def last_taken(tx: Connection, counter: str) -> int:
    last: int = tx.execute(select(counters.c.value).where(counters.c.name == counter)).scalar_one()
    return last


def begin_change(tx: Connection) -> int:
    """Take the change lock: the transaction's sequence number, to be used with `record_changes`."""
    return take(tx, CHANGE_SEQ)


def record_changes(tx: Connection, seq: int, kind: int, entities: Iterable[str]) -> None:
    """Tell followers that these entities changed."""
    names = list(entities)
    if names:
        tx.execute(_FORGET_CHANGE, [{"k": kind, "e": name} for name in names])
        tx.execute(insert(changes), [{"kind": kind, "entity": name, "seq": seq} for name in names])


def require_broker(tx: Connection, node_id: int, broker_epoch: int) -> None:
    """Refuse the write of a registration that is at an end, and keep it from being ended until this commits."""
    if tx.execute(_STATE_OF_WRITER, {"node": node_id, "epoch": broker_epoch}).scalar() != ACTIVE:
        raise BrokerFenced(f"broker {node_id} with epoch {broker_epoch} is not registered any more")


def lock_streams(tx: Connection, stream_ids: Iterable[int]) -> dict[int, Row[Any]]:
    """The rows of those that exist, locked in the order of their ids."""
    rows: dict[int, Row[Any]] = {}
    for ids in chunks(sorted(set(stream_ids))):
        locked = select(streams).where(streams.c.stream_id.in_(ids)).order_by(streams.c.stream_id).with_for_update()
        rows.update((row.stream_id, row) for row in tx.execute(locked))
    return rows


def chunks(values: Sequence[T], size: int = IN_COUNT_MAX) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
