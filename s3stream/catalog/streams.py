"""Transactions on streams: who has one open, from where to where it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, case, select, update

from s3stream.catalog.api import StreamEpochFenced, StreamInfo, UnknownStream
from s3stream.catalog.locks import chunks, lock_streams, require_broker
from s3stream.catalog.objects import retire_dead
from s3stream.catalog.schema import STREAM_CLOSED, STREAM_OPEN, streams

_TRIM = update(streams).where(streams.c.stream_id == bindparam("id")).values(start_offset=bindparam("start"))


def open_streams(tx: Connection, node_id: int, broker_epoch: int, stream_ids: Sequence[int]) -> list[StreamInfo]:
    require_broker(tx, node_id, broker_epoch)
    rows = lock_streams(tx, stream_ids)
    for stream_id in stream_ids:
        row = rows.get(stream_id)
        if row is None:
            raise UnknownStream(f"no stream {stream_id}")
        if row.state == STREAM_OPEN and row.broker_epoch != broker_epoch:
            raise StreamEpochFenced(
                f"stream {stream_id} is open at broker {row.node_id} (epoch {row.broker_epoch}), not recovered"
            )
    opened: dict[int, StreamInfo] = {}
    for ids in chunks(sorted(rows)):
        updated = tx.execute(
            update(streams)
            .where(streams.c.stream_id.in_(ids))
            .values(
                epoch=streams.c.epoch + 1,
                state=STREAM_OPEN,
                node_id=node_id,
                broker_epoch=broker_epoch,
                end_offset=case(
                    (streams.c.start_offset > streams.c.end_offset, streams.c.start_offset),
                    else_=streams.c.end_offset,
                ),
            )
            .returning(streams)
        )
        opened.update((row.stream_id, _info(row)) for row in updated)
    return [opened[stream_id] for stream_id in stream_ids]


def close_streams(tx: Connection, node_id: int, broker_epoch: int, epochs: Mapping[int, int]) -> None:
    require_broker(tx, node_id, broker_epoch)
    to_close = []
    for row in lock_streams(tx, epochs).values():
        if row.epoch != epochs[row.stream_id]:
            raise _fenced(row, epochs[row.stream_id])
        if row.state == STREAM_OPEN:
            if row.broker_epoch != broker_epoch:
                raise _fenced(row, epochs[row.stream_id])
            to_close.append(row.stream_id)
    for ids in chunks(to_close):
        tx.execute(
            update(streams)
            .where(streams.c.stream_id.in_(ids))
            .values(state=STREAM_CLOSED, node_id=None, broker_epoch=None)
        )


def trim_streams(tx: Connection, node_id: int, broker_epoch: int, starts: Mapping[int, tuple[int, int]]) -> None:
    require_broker(tx, node_id, broker_epoch)
    moved = []
    for row in lock_streams(tx, starts).values():
        epoch, start = starts[row.stream_id]
        if row.epoch != epoch or row.state != STREAM_OPEN or row.broker_epoch != broker_epoch:
            raise _fenced(row, epoch)
        if start > row.start_offset:
            moved.append({"id": row.stream_id, "start": start})
    if moved:
        tx.execute(_TRIM, moved)
        retire_dead(tx, [trim["id"] for trim in moved])


def infos(tx: Connection, stream_ids: Sequence[int]) -> list[StreamInfo]:
    found: dict[int, StreamInfo] = {}
    for ids in chunks(stream_ids):
        rows = tx.execute(select(streams).where(streams.c.stream_id.in_(ids)))
        found.update((row.stream_id, _info(row)) for row in rows)
    return [found[stream_id] for stream_id in stream_ids if stream_id in found]


def _fenced(row: Row[Any], epoch: int) -> StreamEpochFenced:
    held = f"open at broker {row.node_id} (epoch {row.broker_epoch})" if row.state == STREAM_OPEN else "closed"
    return StreamEpochFenced(
        f"stream {row.stream_id} has epoch {row.epoch} and is {held}, not open under epoch {epoch}"
    )


def _info(row: Row[Any]) -> StreamInfo:
    return StreamInfo(
        row.stream_id,
        row.epoch,
        row.state == STREAM_OPEN,
        row.node_id,
        row.start_offset,
        row.end_offset,
        row.compacted_offset or 0,
    )
