"""Transactions on who leads a partition: planned moves, handing over, claiming what has lost its leader.

Moves and reassignments
-----------------------
* `target` says where the leadership goes. Only the leader acts on it (`hand_over`), or whoever claims a partition that
  has lost its leader. A target that is not alive any more is never given anything.
* A reassignment whose leader has to move is a target with the replicas of before (`former_replicas`). Any change of the
  leader ends it; a change of the target that is not its own takes it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    case,
    exists,
    func,
    null,
    or_,
    select,
    update,
)

from s3stream.catalog.api import DRAINING, NO_LEADER, BrokerUnavailable, PartitionInfo
from s3stream.catalog.locks import begin_change, chunks, lock_streams, record_changes, require_broker
from s3stream.catalog.schema import (
    ACTIVE,
    FENCED,
    STREAM_CLOSED,
    STREAM_OPEN,
    TOPIC_CHANGED,
    NowMs,
    brokers,
    configs,
    partitions,
    streams,
)
from s3stream.catalog.topics import node_ids, partition_info, replicas_text

_ENDS_MOVE = {"target": null(), "former_replicas": null()}
_PLAN = (
    update(partitions)
    .where(partitions.c.topic_id == bindparam("topic"), partitions.c.partition_index == bindparam("index"))
    .values(target=bindparam("new_target"), replicas=bindparam("new_replicas"), former_replicas=bindparam("new_former"))
)
_GIVE = (
    update(partitions)
    .where(
        partitions.c.topic_id == bindparam("topic"),
        partitions.c.partition_index.in_(bindparam("given", expanding=True)),
    )
    .values(leader=bindparam("new_leader"), leader_epoch=partitions.c.leader_epoch + 1, **_ENDS_MOVE)
)
_ALIVE = select(brokers.c.node_id).where(brokers.c.state == ACTIVE, brokers.c.lease_end_ms > NowMs())
_CAN_LEAD = _ALIVE.where(brokers.c.leaving.is_not(True))
_DRAINED = select(configs.c.resource_name).where(
    configs.c.resource_type == "broker",
    configs.c.config_key == DRAINING,
    func.lower(func.trim(configs.c.config_value)) == "true",
)


def set_targets(tx: Connection, targets: Mapping[UUID, Mapping[int, int | None]]) -> int:
    def plan(info: PartitionInfo, target: int | None, usable: Collection[int]) -> _Plan:
        if target is not None and target not in usable:
            raise BrokerUnavailable(f"broker {target} is not alive, or about to stop")
        wanted = None if target == info.leader else target
        if wanted == info.target:
            return info.target, info.replicas, info.former_replicas
        return wanted, _replicas_before(info), None

    return _plan_each(tx, targets, plan)


def cancel_moves(tx: Connection, leader: int, targets: Collection[int]) -> int:
    seq = begin_change(tx)
    cancelled = _cancel_moves(tx, and_(partitions.c.leader == leader, partitions.c.target.in_(targets)))
    _record(tx, seq, {row.topic_id for row in cancelled})
    return len(cancelled)


def set_replicas(tx: Connection, replicas: Mapping[UUID, Mapping[int, Sequence[int] | None]]) -> int:
    def plan(info: PartitionInfo, assigned: Sequence[int] | None, usable: Collection[int]) -> _Plan:
        if assigned is None:
            if info.former_replicas is None:
                return info.target, info.replicas, None
            return None, info.former_replicas, None
        if info.leader in assigned:
            return None, tuple(assigned), None
        target = next((node_id for node_id in assigned if node_id in usable), None)
        if target is None:
            raise BrokerUnavailable(f"none of the brokers {', '.join(map(str, assigned))} is alive")
        return target, tuple(assigned), _replicas_before(info)

    return _plan_each(tx, replicas, plan)


_Plan = tuple[int | None, tuple[int, ...], tuple[int, ...] | None]
"""Target, replicas, former replicas."""


def _replicas_before(info: PartitionInfo) -> tuple[int, ...]:
    return info.replicas if info.former_replicas is None else info.former_replicas


def _plan_each(tx: Connection, wanted: Mapping[UUID, Mapping[int, Any]], plan: Any) -> int:
    seq = begin_change(tx)
    usable = frozenset(tx.execute(_CAN_LEAD).scalars())
    planned, topic_ids = [], set()
    for topic_id, info in _load(tx, wanted):
        target, replicas, former = plan(info, wanted[topic_id][info.index], usable)
        if (target, replicas, former) != (info.target, info.replicas, info.former_replicas):
            topic_ids.add(topic_id)
            planned.append(
                {
                    "topic": topic_id,
                    "index": info.index,
                    "new_target": target,
                    "new_replicas": replicas_text(replicas) or None,
                    "new_former": None if former is None else replicas_text(former),
                }
            )
    if planned:
        tx.execute(_PLAN, planned)
    _record(tx, seq, topic_ids)
    return len(planned)


def hand_over(
    tx: Connection, node_id: int, broker_epoch: int, moved: Mapping[UUID, Sequence[int]]
) -> dict[UUID, dict[int, PartitionInfo]]:
    seq = begin_change(tx)
    require_broker(tx, node_id, broker_epoch)
    usable = frozenset(tx.execute(_CAN_LEAD).scalars())
    given = [(t, p) for t, p in _load(tx, moved) if p.leader == node_id and p.target in usable]
    _close_streams(tx, broker_epoch, [i for _, p in given for i in (p.log_stream_id, p.state_stream_id)])
    _give(tx, ((topic_id, info.index, info.target) for topic_id, info in given if info.target is not None))
    _record(tx, seq, {topic_id for topic_id, _ in given})
    found: dict[UUID, dict[int, PartitionInfo]] = {}
    for topic_id, info in _load(tx, moved):
        if info.leader != node_id:
            found.setdefault(topic_id, {})[info.index] = info
    return found


def _close_streams(tx: Connection, broker_epoch: int, stream_ids: Iterable[int]) -> None:
    """Those that are open at this broker."""
    rows = lock_streams(tx, stream_ids).values()
    to_close = [row.stream_id for row in rows if row.state == STREAM_OPEN and row.broker_epoch == broker_epoch]
    for ids in chunks(to_close):
        closed = update(streams).where(streams.c.stream_id.in_(ids))
        tx.execute(closed.values(state=STREAM_CLOSED, node_id=None, broker_epoch=None))


def claim_partitions(tx: Connection, node_id: int, broker_epoch: int, absent: Collection[int] = ()) -> int:
    seq = begin_change(tx)
    require_broker(tx, node_id, broker_epoch)
    # the one that asks lives, whatever its lease
    asks = and_(brokers.c.epoch == broker_epoch, brokers.c.leaving.is_not(True))
    usable = set(tx.execute(_CAN_LEAD).scalars()) - set(absent)
    usable = usable.union(tx.execute(select(brokers.c.node_id).where(asks)).scalars()) or {node_id}
    unplanned = _cancel_moves(tx, partitions.c.target.not_in(usable))
    claimed = tx.execute(_select_unled(node_id)).all()
    if claimed:
        heirs = _heirs(tx, usable, [(target, node_ids(replicas)) for _, _, target, replicas in claimed])
        _give(tx, ((topic_id, index, heir) for (topic_id, index, *_), heir in zip(claimed, heirs, strict=True)))
    offline = tx.execute(
        update(partitions)
        .where(partitions.c.leader == node_id, _has_stream_in(_streams_of(brokers.c.state == FENCED)))
        .values(leader=NO_LEADER, leader_epoch=partitions.c.leader_epoch + 1)
        .returning(partitions.c.topic_id)
    ).all()
    _record(tx, seq, {row[0] for row in (*unplanned, *claimed, *offline)})
    return len(claimed)


def _give(tx: Connection, moves: Iterable[tuple[UUID, int, int]]) -> None:
    """Topic ids, indexes, and who is to lead: thousands of partitions by a few statements."""
    indexes: dict[tuple[UUID, int], list[int]] = {}
    for topic_id, index, leader in moves:
        indexes.setdefault((topic_id, leader), []).append(index)
    for (topic_id, leader), given in indexes.items():
        for some in chunks(given):
            tx.execute(_GIVE, {"topic": topic_id, "given": some, "new_leader": leader})


def _select_unled(node_id: int) -> Any:
    """Topic id, index, target and replicas."""
    # A leader that never registered holds nothing back either. One whose lease is over holds what it has opened.
    held = exists().where(
        brokers.c.node_id == partitions.c.leader, brokers.c.state == ACTIVE, brokers.c.lease_end_ms > NowMs()
    )
    left_open = _streams_of(or_(brokers.c.state == FENCED, brokers.c.lease_end_ms <= NowMs()))
    return (
        select(partitions.c.topic_id, partitions.c.partition_index, partitions.c.target, partitions.c.replicas)
        .where(partitions.c.leader != node_id, ~held, ~_has_stream_in(left_open))
        .order_by(partitions.c.topic_id, partitions.c.partition_index)
        .with_for_update()
    )


def _streams_of(these_brokers: ColumnElement[bool]) -> Any:
    return select(streams.c.stream_id).where(
        streams.c.broker_epoch.in_(select(brokers.c.epoch).where(these_brokers)),
    )


def _has_stream_in(stream_ids: Any) -> ColumnElement[bool]:
    return or_(partitions.c.log_stream_id.in_(stream_ids), partitions.c.state_stream_id.in_(stream_ids))


def _cancel_moves(tx: Connection, these: ColumnElement[bool]) -> Sequence[Row[Any]]:
    return tx.execute(
        update(partitions)
        .where(partitions.c.target.is_not(None), these)
        .values(
            replicas=case(
                (partitions.c.former_replicas.is_(None), partitions.c.replicas),
                else_=func.nullif(partitions.c.former_replicas, ""),
            ),
            **_ENDS_MOVE,
        )
        .returning(partitions.c.topic_id)
    ).all()


def _heirs(tx: Connection, usable: Collection[int], unled: Iterable[tuple[int | None, Sequence[int]]]) -> list[int]:
    """Who gets each of these partitions (target, replicas), so that what the brokers lead becomes even."""
    drained = {int(name) for name in tx.execute(_DRAINED).scalars() if name}
    preferred = sorted(set(usable) - drained) or sorted(usable)
    led: Counter[int] = Counter()
    for node_id, count in tx.execute(select(partitions.c.leader, func.count()).group_by(partitions.c.leader)):
        led[node_id] = count
    heirs = []
    for target, replicas in unled:
        if target is not None:
            heir = target
        else:
            heir = min([each for each in replicas if each in preferred] or preferred, key=led.__getitem__)
        led[heir] += 1
        heirs.append(heir)
    return heirs


def _load(tx: Connection, wanted: Mapping[UUID, Collection[int]]) -> Iterator[tuple[UUID, PartitionInfo]]:
    """Those of these partitions that exist, locked."""
    for topic_id, indexes in wanted.items():
        for some in chunks(sorted(indexes)):
            rows = tx.execute(
                select(partitions)
                .where(partitions.c.topic_id == topic_id, partitions.c.partition_index.in_(some))
                .order_by(partitions.c.partition_index)
                .with_for_update()
            )
            for row in rows.all():
                yield topic_id, partition_info(row)


def _record(tx: Connection, seq: int, topic_ids: Iterable[UUID]) -> None:
    record_changes(tx, seq, TOPIC_CHANGED, sorted(topic_id.hex for topic_id in topic_ids))
