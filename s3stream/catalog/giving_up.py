"""Transactions of an unclean takeover: what only a write-ahead log held that nobody can read is given up.

Who decides that is an operator. Until then the streams stay open under the registration that is gone, and nobody else
can open them. What was given up is kept in `meta` for good, one row for each registration.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, or_, select

from s3stream.catalog.api import CatalogError, LostTail
from s3stream.catalog.brokers import end_recovery, is_claimed
from s3stream.catalog.locks import begin_change, record_changes
from s3stream.catalog.schema import (
    ACTIVE,
    BROKER_CHANGED,
    COMMITTED,
    FENCED,
    TOPIC_CHANGED,
    NowMs,
    brokers,
    meta,
    objects,
    partitions,
    streams,
    topics,
)

_RECORD_PREFIX = "given-up:"
_FIELDS = ("node_id", "epoch", "topic", "partition", "start_offset", "last_upload_ms")


def lost_tails(tx: Connection, node_id: int) -> list[LostTail]:
    """What would be given up now. Raises CatalogError as `give_up`."""
    return [tail for registration in _ended(tx, _select(node_id)) for tail in _tails_of(tx, registration)]


def give_up(tx: Connection, node_id: int) -> list[LostTail]:
    seq = begin_change(tx)
    lost: list[LostTail] = []
    for registration in _ended(tx, _select(node_id).with_for_update(of=brokers)):
        tails = _tails_of(tx, registration)
        end_recovery(tx, node_id, registration.epoch)
        if tails:
            # brokers look for partitions to share when a topic changes
            named = select(topics.c.topic_id).where(topics.c.name.in_({tail.topic for tail in tails}))
            record_changes(tx, seq, TOPIC_CHANGED, sorted(each.hex for each in tx.execute(named).scalars()))
            tx.execute(insert(meta).values(name=f"{_RECORD_PREFIX}{registration.epoch}", value=_encode(tx, tails)))
        lost += tails
    record_changes(tx, seq, BROKER_CHANGED, [str(node_id)])
    return lost


def given_up(tx: Connection, node_id: int) -> list[tuple[int, LostTail]]:
    rows = tx.execute(select(meta.c.value).where(meta.c.name.like(f"{_RECORD_PREFIX}%"))).scalars()
    found = [(record["at_ms"], LostTail(*tail)) for record in map(json.loads, rows) for tail in record["tails"]]
    return sorted((each for each in found if each[1].node_id == node_id), key=lambda each: each[0])


def _encode(tx: Connection, tails: Sequence[LostTail]) -> str:
    rows = [[getattr(tail, name) for name in _FIELDS] for tail in tails]
    return json.dumps({"at_ms": tx.execute(select(NowMs())).scalar_one(), "fields": _FIELDS, "tails": rows})


def _select(node_id: int) -> Select[Any]:
    return (
        select(brokers, (brokers.c.lease_end_ms > NowMs()).label("leased"), is_claimed().label("claimed"))
        .where(brokers.c.node_id == node_id, or_(brokers.c.state == FENCED, brokers.c.state == ACTIVE))
        .order_by(brokers.c.epoch)
    )


def _ended(tx: Connection, registrations: Select[Any]) -> Sequence[Row[Any]]:
    """Those that wait to be recovered. Refused while somebody recovers one."""
    ended = [row for row in tx.execute(registrations) if row.state == FENCED or not row.leased]
    for row in ended:
        if row.claimed:
            raise CatalogError(f"the log of broker {row.node_id} (epoch {row.epoch}) is being recovered at this moment")
    return ended


def _tails_of(tx: Connection, registration: Row[Any]) -> list[LostTail]:
    left_open = select(streams.c.stream_id).where(streams.c.broker_epoch == registration.epoch)
    last_upload_ms = tx.execute(
        select(func.max(objects.c.since_ms)).where(
            objects.c.broker_epoch == registration.epoch, objects.c.state == COMMITTED
        )
    ).scalar()
    rows = tx.execute(
        select(topics.c.name, partitions.c.partition_index, streams.c.end_offset)
        .select_from(partitions)
        .join(topics, topics.c.topic_id == partitions.c.topic_id)
        .join(streams, streams.c.stream_id == partitions.c.log_stream_id)
        .where(or_(partitions.c.log_stream_id.in_(left_open), partitions.c.state_stream_id.in_(left_open)))
        .order_by(topics.c.name, partitions.c.partition_index)
    )
    return [
        LostTail(registration.node_id, registration.epoch, name, index, end_offset, last_upload_ms)
        for name, index, end_offset in rows
    ]
