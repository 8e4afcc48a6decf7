"""The transaction of compaction: new objects take the place of ranges of others.

It is optimistic: who replaces has read without a lock, and here it is checked that every range is still where it was.
No offset may appear or get lost by it, so readers do not notice. The objects that lose their last range are retired,
and stay in the bucket for as long as a reader with an older index may want them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, null, select, update

from s3stream.catalog.api import (
    NewObject,
    ObjectsReplaced,
    OffsetsNotContinuous,
    StreamEpochFenced,
    StreamRange,
)
from s3stream.catalog.locks import chunks, lock_streams, require_broker
from s3stream.catalog.objects import committed_values, set_committed, were_committed
from s3stream.catalog.ranges import decode_ranges
from s3stream.catalog.schema import COMMITTED, RETIRED, STREAM_OPEN, NowMs, objects, streams

_SET_COMPACTED = (
    update(streams).where(streams.c.stream_id == bindparam("id")).values(compacted_offset=bindparam("offset"))
)
_Spans = dict[int, list[tuple[int, int]]]
"""Stream id -> offsets [start, end), in order, adjacent ones joined."""


def replace_objects(
    tx: Connection,
    node_id: int,
    broker_epoch: int,
    removed: Mapping[int, Sequence[StreamRange]],
    added: Sequence[NewObject],
    compacted: Mapping[int, tuple[int, int]],
) -> None:
    require_broker(tx, node_id, broker_epoch)
    if added and were_committed(tx, broker_epoch, added):
        return
    gone = [each for ranges in removed.values() for each in ranges]
    present = lock_streams(tx, {*(each.stream_id for each in gone), *compacted})
    starts = {stream_id: row.start_offset for stream_id, row in present.items()}
    _check_epochs(present, broker_epoch, compacted)
    _check_offsets(gone, [each for new in added for each in new.ranges], starts)
    for object_id, left in _leftovers(tx, removed).items():
        tx.execute(update(objects).where(objects.c.object_id == object_id).values(**_left_values(left, starts)))
    set_committed(tx, added, starts)
    offsets = [{"id": stream_id, "offset": offset} for stream_id, (_, offset) in compacted.items()]
    if offsets:
        tx.execute(_SET_COMPACTED, offsets)


def _check_epochs(present: Mapping[int, Row[Any]], broker_epoch: int, compacted: Mapping[int, tuple[int, int]]) -> None:
    for stream_id, (epoch, _) in compacted.items():
        row = present.get(stream_id)
        if row is None or row.state != STREAM_OPEN or row.epoch != epoch or row.broker_epoch != broker_epoch:
            raise StreamEpochFenced(f"stream {stream_id} is not open here under epoch {epoch}")


def _check_offsets(gone: Iterable[StreamRange], new: Iterable[StreamRange], starts: Mapping[int, int]) -> None:
    """What is there afterwards are the offsets that were there before, but for what is below the starts."""
    before = _spans(gone, {})
    live, after = _spans(gone, starts), _spans(new, starts)
    for stream_id in starts.keys() & (live.keys() | after.keys()):
        if live.get(stream_id) != after.get(stream_id):
            raise OffsetsNotContinuous(
                f"stream {stream_id}: offsets {live.get(stream_id)} would become {after.get(stream_id)}"
            )
    for stream_id, spans in _spans(new, {}).items():
        if any(not any(a <= start and end <= b for a, b in before.get(stream_id, ())) for start, end in spans):
            raise OffsetsNotContinuous(f"stream {stream_id}: {spans} is not within what is replaced")


def _spans(ranges: Iterable[StreamRange], starts: Mapping[int, int]) -> _Spans:
    """Clipped at `starts`. Raises OffsetsNotContinuous where two overlap."""
    spans: _Spans = defaultdict(list)
    for each in sorted(ranges):
        start = max(each.start_offset, starts.get(each.stream_id, 0))
        if start >= each.end_offset:
            continue
        known = spans[each.stream_id]
        if known and start < known[-1][1]:
            raise OffsetsNotContinuous(f"stream {each.stream_id}: offset {start} is there twice")
        if known and start == known[-1][1]:
            known[-1] = (known[-1][0], each.end_offset)
        else:
            known.append((start, each.end_offset))
    return dict(spans)


def _leftovers(tx: Connection, removed: Mapping[int, Sequence[StreamRange]]) -> dict[int, list[StreamRange]]:
    """What the objects keep, which are locked by id. Raises ObjectsReplaced."""
    left: dict[int, list[StreamRange]] = {}
    columns = select(objects.c.object_id, objects.c.state, objects.c.ranges)
    for ids in chunks(sorted(removed)):
        locked = columns.where(objects.c.object_id.in_(ids)).order_by(objects.c.object_id).with_for_update()
        for object_id, state, value in tx.execute(locked):
            if state != COMMITTED:
                raise ObjectsReplaced(f"object {object_id} is not needed any more")
            held = set(decode_ranges(value))
            if not held.issuperset(removed[object_id]):
                raise ObjectsReplaced(f"object {object_id} does not hold what was read in it any more")
            left[object_id] = sorted(held.difference(removed[object_id]))
    if len(left) != len(removed):
        raise ObjectsReplaced(f"objects {sorted(removed.keys() - left.keys())} are gone")
    return left


def _left_values(left: Sequence[StreamRange], starts: Mapping[int, int]) -> dict[str, Any]:
    """The starts of other streams than those that were locked are not known: their ranges count as live. What is not
    any more is noticed when its witness is looked at."""
    values = committed_values(left, {each.stream_id: starts.get(each.stream_id, 0) for each in left})
    if values["state"] == RETIRED:
        return {"state": RETIRED, "since_ms": NowMs(), "witness_stream_id": null(), "witness_end_offset": null()}
    return values
