"""What is read of objects: those of a stream, those of many streams, and their ranges.

Stream objects are found by their stream's id. Set objects are looked at one by one, all of them that may hold one of
the streams: compaction keeps them few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, func, select

from s3stream.catalog.api import ObjectInfo, ObjectTotals, SetObject, StreamRange
from s3stream.catalog.locks import chunks
from s3stream.catalog.ranges import decode_live_ranges, decode_ranges
from s3stream.catalog.schema import COMMITTED, IS_COMMITTED, RETIRED, NowMs, objects, streams

STREAMS_OF_STATEMENT = 250
"""Streams whose objects are read by one statement: on PostgreSQL its rows hold the event loop, some 20 of a stream."""
LATEST_COUNT = 32
"""Set objects that tell which streams are in use."""

_COLUMNS = select(
    objects.c.object_id, objects.c.object_key, objects.c.size, objects.c.ranges, objects.c.stream_id.is_(None)
)
_SET_OBJECTS = (
    select(
        objects.c.object_id,
        objects.c.object_key,
        objects.c.size,
        objects.c.node_id,
        objects.c.generation,
        objects.c.first_stream_id,
        objects.c.last_stream_id,
        (NowMs() - objects.c.since_ms).label("age_ms"),
    )
    .where(objects.c.stream_id.is_(None), IS_COMMITTED)
    .order_by(objects.c.object_id)
)


def live_rows(tx: Connection, stream_ids: Sequence[int], after: int = 0) -> tuple[dict[int, int], list[Row[Any]]]:
    """Objects above this id that may hold ranges of these streams above their starts; for `live_object`, with those
    starts."""
    starts = _starts(tx, stream_ids, only_filled=True)
    rows: list[Row[Any]] = []
    if not starts:
        return starts, rows
    wanted = _COLUMNS.where(objects.c.object_id > after)
    for ids in chunks(sorted(starts), STREAMS_OF_STATEMENT):
        rows += tx.execute(wanted.where(objects.c.stream_id.in_(ids), IS_COMMITTED)).all()
    rows += tx.execute(
        wanted.where(
            objects.c.stream_id.is_(None),
            IS_COMMITTED,
            objects.c.first_stream_id <= max(starts),
            objects.c.last_stream_id >= min(starts),
        )
    ).all()
    return starts, rows


def live_object(row: Sequence[Any], starts: Mapping[int, int]) -> ObjectInfo | None:
    """The object with its ranges of these streams that reach above their starts; None if it has none."""
    object_id, key, size, value, shared = row
    ranges = decode_live_ranges(value, starts)
    return ObjectInfo(object_id, key, size, ranges, bool(shared)) if ranges else None


def latest_streams(tx: Connection) -> set[int]:
    rows = tx.execute(
        select(objects.c.ranges)
        .where(objects.c.stream_id.is_(None), IS_COMMITTED, objects.c.generation == 0)
        .order_by(objects.c.object_id.desc())
        .limit(LATEST_COUNT)
    )
    return {each.stream_id for (value,) in rows for each in decode_ranges(value)}


def object_totals(tx: Connection) -> ObjectTotals:
    rows = tx.execute(select(objects.c.state, func.count(), func.sum(objects.c.size)).group_by(objects.c.state))
    found = {state: (count, int(size or 0)) for state, count, size in rows}
    count, size = found.get(COMMITTED, (0, 0))
    unneeded, _ = found.get(RETIRED, (0, 0))
    return ObjectTotals(count, size, unneeded)


def set_objects(tx: Connection) -> list[SetObject]:
    return [SetObject(*row) for row in tx.execute(_SET_OBJECTS)]


def object_ranges(tx: Connection, object_ids: Sequence[int]) -> list[ObjectInfo]:
    """Of those that are still committed, their ranges that are live; by object id."""
    held = []
    for ids in chunks(sorted(object_ids)):
        for object_id, key, size, value, shared in tx.execute(
            _COLUMNS.where(objects.c.object_id.in_(ids), objects.c.state == COMMITTED).order_by(objects.c.object_id)
        ):
            held.append(ObjectInfo(object_id, key, size, decode_ranges(value), bool(shared)))
    starts = _starts(tx, sorted({each.stream_id for info in held for each in info.ranges}), only_filled=False)
    return [replace(info, ranges=tuple(each for each in info.ranges if _is_live(each, starts))) for info in held]


def _is_live(each: StreamRange, starts: Mapping[int, int]) -> bool:
    return each.end_offset > starts.get(each.stream_id, each.end_offset)


def _starts(tx: Connection, stream_ids: Sequence[int], *, only_filled: bool) -> dict[int, int]:
    """The start offsets of those that exist; `only_filled`: and that hold anything."""
    starts: dict[int, int] = {}
    for ids in chunks(stream_ids):
        columns = select(streams.c.stream_id, streams.c.start_offset).where(streams.c.stream_id.in_(ids))
        if only_filled:
            columns = columns.where(streams.c.start_offset < streams.c.end_offset)
        starts.update((stream_id, start) for stream_id, start in tx.execute(columns))
    return starts
