"""Transactions on objects that do not open or close streams: prepare, commit, retire, forget.

What the witness of an object is: see `schema`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, exists, insert, or_, select, update

from s3stream.catalog.api import (
    CatalogError,
    NewObject,
    ObjectGone,
    OffsetsNotContinuous,
    StreamEpochFenced,
    StreamRange,
)
from s3stream.catalog.locks import chunks, lock_streams, require_broker, take
from s3stream.catalog.ranges import decode_ranges, encode_ranges
from s3stream.catalog.schema import (
    ACTIVE,
    COMMITTED,
    FENCED,
    IS_COMMITTED,
    OBJECT_ID,
    PREPARED,
    RETIRED,
    STREAM_ID,
    STREAM_OPEN,
    NowMs,
    brokers,
    counters,
    objects,
    streams,
)

RETIRE_COUNT_MAX = 256
"""Objects looked at in one transaction; what is left over is found by `abandon`."""

_SET_END = update(streams).where(streams.c.stream_id == bindparam("id")).values(end_offset=bindparam("end"))
_SET_WITNESS = (
    update(objects)
    .where(objects.c.object_id == bindparam("id"))
    .values(witness_stream_id=bindparam("stream"), witness_end_offset=bindparam("end"))
)
_SET_COMMITTED = (
    update(objects).where(objects.c.object_id == bindparam("id")).values(was_committed=True, since_ms=NowMs())
)
"""With what else the rows say."""
_STATES = select(objects.c.object_id, objects.c.state, objects.c.was_committed, objects.c.broker_epoch)
_WITNESS_IS_LIVE = exists().where(
    streams.c.stream_id == objects.c.witness_stream_id, streams.c.start_offset < objects.c.witness_end_offset
)
_HELD = select(objects.c.object_id, objects.c.ranges)
_WRITER_IS_ACTIVE = exists().where(
    brokers.c.node_id == objects.c.node_id, brokers.c.epoch == objects.c.broker_epoch, brokers.c.state == ACTIVE
)


def object_key(object_id: int) -> str:
    """Spread over 256 prefixes that differ in their first characters, consecutive ids over different ones."""
    return f"{(object_id * 0x9D) & 0xFF:02x}/{object_id:016x}"


def prepare(tx: Connection, node_id: int, broker_epoch: int, count: int) -> list[tuple[int, str]]:
    require_broker(tx, node_id, broker_epoch)
    first = take(tx, OBJECT_ID, count)
    prepared = [(object_id, object_key(object_id)) for object_id in range(first, first + count)]
    now: int = tx.execute(select(NowMs())).scalar_one()
    tx.execute(
        insert(objects),
        [
            {
                "object_id": object_id,
                "object_key": key,
                "state": PREPARED,
                "node_id": node_id,
                "broker_epoch": broker_epoch,
                "was_committed": False,
                "since_ms": now,
            }
            for object_id, key in prepared
        ],
    )
    return prepared


def commit(
    tx: Connection,
    node_id: int,
    broker_epoch: int,
    added: Sequence[NewObject],
    epochs: Mapping[int, int],
) -> None:
    require_broker(tx, node_id, broker_epoch)
    if were_committed(tx, broker_epoch, added):
        return
    ordered = sorted((r for new in added for r in new.ranges), key=lambda r: (r.stream_id, r.start_offset))
    present = _lock_streams(tx, {r.stream_id for r in ordered})
    _check_epochs(tx, present, epochs, broker_epoch)
    ends = _advance(ordered, present)
    if ends:
        tx.execute(_SET_END, [{"id": stream_id, "end": end} for stream_id, end in ends.items()])
    set_committed(tx, added, {stream_id: stream.start_offset for stream_id, stream in present.items()})


def were_committed(tx: Connection, broker_epoch: int, added: Sequence[NewObject]) -> bool:
    """Whether this was done before: together, or not at all. The objects are locked, by id. Raises ObjectGone."""
    rows: dict[int, Any] = {}
    for ids in chunks(sorted(new.object_id for new in added)):
        locked = _STATES.where(objects.c.object_id.in_(ids)).order_by(objects.c.object_id).with_for_update()
        rows.update((row.object_id, row) for row in tx.execute(locked))
    for new in added:
        row = rows.get(new.object_id)
        if row is None or (row.state == RETIRED and not row.was_committed):
            raise ObjectGone(f"object {new.object_id} was given up before its commit")
        if row.broker_epoch != broker_epoch:
            raise CatalogError(f"object {new.object_id} was prepared by another broker (epoch {row.broker_epoch})")
    return any(row.was_committed for row in rows.values())


def set_committed(tx: Connection, added: Sequence[NewObject], starts: Mapping[int, int]) -> None:
    """These objects hold what they say, of streams that begin at `starts` (or are gone)."""
    rows = [
        {"id": new.object_id, "size": new.size, "generation": new.generation, **committed_values(new.ranges, starts)}
        for new in added
    ]
    if rows:
        tx.execute(_SET_COMMITTED, rows)


def committed_values(ranges: Sequence[StreamRange], starts: Mapping[int, int]) -> dict[str, Any]:
    """State, ranges and witness of an object that holds these, of streams that begin at `starts` (or are gone)."""
    witness = choose_witness(ranges, starts)
    first = min((each.stream_id for each in ranges), default=None)
    last = max((each.stream_id for each in ranges), default=None)
    return {
        "state": RETIRED if witness is None else COMMITTED,
        "ranges": encode_ranges(ranges),
        "witness_stream_id": None if witness is None else witness.stream_id,
        "witness_end_offset": None if witness is None else witness.end_offset,
        "stream_id": first if first == last else None,
        "first_stream_id": first,
        "last_stream_id": last,
    }


def any_dead(tx: Connection) -> bool:
    """Whether `retire_dead` has anything to do in any stream. Goes through all objects, and locks none."""
    dead = select(objects.c.object_id).where(objects.c.state == COMMITTED, ~_WITNESS_IS_LIVE).limit(1)
    return tx.execute(dead).first() is not None


def retire_dead(tx: Connection, stream_ids: Sequence[int] | None) -> int:
    """Retire or re-witness objects whose witness in these (or in any) streams is dead. Returns how many were looked at,
    `RETIRE_COUNT_MAX` at most."""
    if stream_ids is None:
        return _retire(tx, _HELD.where(objects.c.state == COMMITTED), RETIRE_COUNT_MAX)
    seen = 0
    for ids in chunks(stream_ids):
        if seen >= RETIRE_COUNT_MAX:
            break
        of_these = _HELD.where(objects.c.witness_stream_id.in_(ids), IS_COMMITTED)
        seen += _retire(tx, of_these, RETIRE_COUNT_MAX - seen)
    return seen


def abandon(tx: Connection, older_than_ms: int, retired_older_than_ms: int, limit: int) -> list[tuple[int, str]]:
    """Retire what was prepared in vain, then list what has been retired for long enough."""
    old = NowMs() - older_than_ms
    orphans = tx.execute(
        select(objects.c.object_id, objects.c.since_ms <= old)
        .where(objects.c.state == PREPARED, or_(objects.c.since_ms <= old, ~_WRITER_IS_ACTIVE))
        .order_by(objects.c.object_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for ids in chunks([row.object_id for row in orphans]):
        # Nobody reads what was never committed, so there is nothing to wait for.
        tx.execute(update(objects).where(objects.c.object_id.in_(ids)).values(state=RETIRED, since_ms=0))
    retired = tx.execute(
        select(objects.c.object_id, objects.c.object_key)
        .where(objects.c.state == RETIRED, objects.c.since_ms <= NowMs() - retired_older_than_ms)
        .order_by(objects.c.object_id)
        .limit(limit)
    )
    return [(row.object_id, row.object_key) for row in retired]


def forget(tx: Connection, object_ids: Sequence[int]) -> None:
    for ids in chunks(sorted(object_ids)):
        tx.execute(delete(objects).where(objects.c.object_id.in_(ids), objects.c.state == RETIRED))


def _lock_streams(tx: Connection, stream_ids: set[int]) -> dict[int, Row[Any]]:
    """As `lock_streams`, but one that never existed is a mistake."""
    rows = lock_streams(tx, stream_ids)
    if len(rows) < len(stream_ids):
        given_out: int = tx.execute(select(counters.c.value).where(counters.c.name == STREAM_ID)).scalar_one()
        if max(stream_ids) > given_out:
            raise CatalogError(f"there never was a stream {max(stream_ids)}")
    return rows


def _check_epochs(
    tx: Connection, present: Mapping[int, Row[Any]], epochs: Mapping[int, int], broker_epoch: int
) -> None:
    other_owners = set()
    for stream_id, row in present.items():
        epoch = epochs.get(stream_id)
        if row.state != STREAM_OPEN or row.epoch != epoch:
            raise StreamEpochFenced(f"stream {stream_id} has epoch {row.epoch} and is not open under epoch {epoch}")
        if row.broker_epoch != broker_epoch:
            other_owners.add((row.node_id, row.broker_epoch))
    for node_id, epoch in other_owners:
        state = tx.execute(
            select(brokers.c.state).where(brokers.c.node_id == node_id, brokers.c.epoch == epoch)
        ).scalar()
        if state != FENCED:
            raise StreamEpochFenced(f"streams of broker {node_id} (epoch {epoch}), which is not fenced")


def _advance(ordered: Iterable[StreamRange], present: Mapping[int, Row[Any]]) -> dict[int, int]:
    """The new committed ends. A range may skip what was trimmed, nothing else."""
    ends: dict[int, int] = {}
    for r in ordered:
        row = present.get(r.stream_id)
        if row is None:
            continue
        end = ends.get(r.stream_id, row.end_offset)
        if r.end_offset <= r.start_offset or not end <= r.start_offset <= max(end, row.start_offset):
            raise OffsetsNotContinuous(
                f"stream {r.stream_id}: range [{r.start_offset}, {r.end_offset}) does not begin at {end}"
            )
        ends[r.stream_id] = r.end_offset
    return ends


def choose_witness(ranges: Iterable[StreamRange], starts: Mapping[int, int]) -> StreamRange | None:
    """The largest live range: logs are kept for longer than the small streams beside them."""
    live = (r for r in ranges if r.stream_id in starts and r.end_offset > starts[r.stream_id])
    return max(live, key=lambda r: r.size, default=None)


def _retire(tx: Connection, candidates: Any, limit: int) -> int:
    rows = tx.execute(
        candidates.where(~_WITNESS_IS_LIVE).order_by(objects.c.object_id).limit(limit).with_for_update(skip_locked=True)
    ).all()
    if not rows:
        return 0
    held = {object_id: decode_ranges(value) for object_id, value in rows}
    starts: dict[int, int] = {}
    for ids in chunks(sorted({r.stream_id for ranges in held.values() for r in ranges})):
        found = tx.execute(select(streams.c.stream_id, streams.c.start_offset).where(streams.c.stream_id.in_(ids)))
        starts.update((stream_id, start) for stream_id, start in found)
    dead, moved = [], []
    for object_id, ranges in held.items():
        witness = choose_witness(ranges, starts)
        if witness is None:
            dead.append(object_id)
        else:
            moved.append({"id": object_id, "stream": witness.stream_id, "end": witness.end_offset})
    if moved:
        tx.execute(_SET_WITNESS, moved)
    for ids in chunks(dead):
        tx.execute(
            update(objects)
            .where(objects.c.object_id.in_(ids))
            .values(state=RETIRED, since_ms=NowMs(), witness_stream_id=None, witness_end_offset=None)
        )
    return len(rows)
