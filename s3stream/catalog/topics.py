"""Transactions on topics, their partitions, and configs of all kinds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, Select, and_, delete, insert, or_, select

from s3stream.catalog.api import NewTopic, PartitionInfo, TopicExists, TopicInfo, UnknownTopic
from s3stream.catalog.locks import begin_change, chunks, record_changes, take
from s3stream.catalog.objects import retire_dead
from s3stream.catalog.schema import (
    CONFIG_CHANGED,
    STREAM_CLOSED,
    STREAM_ID,
    TOPIC_CHANGED,
    configs,
    partitions,
    streams,
    topics,
)

TOPIC = "topic"
"""The resource type of topic configs."""
PAGE_COUNT = 1000
"""Partitions read by one statement: on PostgreSQL their decoding holds the event loop."""


def create(tx: Connection, topic: NewTopic) -> TopicInfo:
    seq = begin_change(tx)
    if tx.execute(select(topics.c.topic_id).where(topics.c.name == topic.name)).first() is not None:
        raise TopicExists(f"topic {topic.name} exists")
    topic_id = topic.topic_id or uuid4()
    tx.execute(
        insert(topics).values(
            topic_id=topic_id, name=topic.name, internal=topic.internal, replication_factor=topic.replication_factor
        )
    )
    _set_configs(tx, TOPIC, topic.name, dict(topic.configs))
    added = _add_partitions(tx, topic_id, 0, topic.leaders, topic.replicas)
    record_changes(tx, seq, TOPIC_CHANGED, [topic_id.hex])
    return TopicInfo(topic_id, topic.name, topic.internal, topic.replication_factor, tuple(added), dict(topic.configs))


def remove(tx: Connection, topic_id: UUID) -> None:
    seq = begin_change(tx)
    topic = _require(tx, topic_id)
    columns = select(partitions.c.log_stream_id, partitions.c.state_stream_id)
    stream_ids = sorted(chain.from_iterable(tx.execute(columns.where(partitions.c.topic_id == topic_id))))
    tx.execute(delete(partitions).where(partitions.c.topic_id == topic_id))
    tx.execute(delete(configs).where(configs.c.resource_type == TOPIC, configs.c.resource_name == topic.name))
    tx.execute(delete(topics).where(topics.c.topic_id == topic_id))
    for ids in chunks(stream_ids):
        tx.execute(delete(streams).where(streams.c.stream_id.in_(ids)))
    record_changes(tx, seq, TOPIC_CHANGED, [topic_id.hex])
    retire_dead(tx, stream_ids)


def add_partitions(
    tx: Connection, topic_id: UUID, leaders: Sequence[int], replicas: Sequence[Sequence[int]]
) -> TopicInfo:
    seq = begin_change(tx)
    _require(tx, topic_id)
    present = load(tx, [topic_id])[topic_id]
    _add_partitions(tx, topic_id, len(present.partitions), leaders, replicas)
    record_changes(tx, seq, TOPIC_CHANGED, [topic_id.hex])
    return load(tx, [topic_id])[topic_id]


def alter_configs(tx: Connection, resource_type: str, name: str, values: Mapping[str, str | None]) -> None:
    seq = begin_change(tx)
    if resource_type == TOPIC:
        topic_id = tx.execute(select(topics.c.topic_id).where(topics.c.name == name)).scalar()
        if topic_id is None:
            raise UnknownTopic(f"no topic {name}")
        record_changes(tx, seq, TOPIC_CHANGED, [topic_id.hex])
    else:
        record_changes(tx, seq, CONFIG_CHANGED, [f"{resource_type}:{name}"])
    _set_configs(tx, resource_type, name, values)


def load(tx: Connection, topic_ids: Sequence[UUID] | None = None) -> dict[UUID, TopicInfo]:
    """Those of these topics that exist, or all."""
    if topic_ids is None:
        return _load(tx, None)
    found: dict[UUID, TopicInfo] = {}
    for ids in chunks(topic_ids):
        found.update(_load(tx, ids))
    return found


def _load(tx: Connection, topic_ids: Sequence[UUID] | None) -> dict[UUID, TopicInfo]:
    these_topics = select(topics)
    these_partitions = select(partitions).order_by(partitions.c.topic_id, partitions.c.partition_index)
    these_configs = select(configs.c.resource_name, configs.c.config_key, configs.c.config_value).where(
        configs.c.resource_type == TOPIC
    )
    if topic_ids is not None:
        these_topics = these_topics.where(topics.c.topic_id.in_(topic_ids))
        these_partitions = these_partitions.where(partitions.c.topic_id.in_(topic_ids))
    topic_rows = tx.execute(these_topics).all()
    if topic_ids is not None:
        these_configs = these_configs.where(configs.c.resource_name.in_([row.name for row in topic_rows]))
    partitions_of: dict[UUID, list[PartitionInfo]] = {row.topic_id: [] for row in topic_rows}
    for row in _paged(tx, these_partitions):
        partitions_of[row[0]].append(partition_info(row))
    configs_of: dict[str, dict[str, str]] = {row.name: {} for row in topic_rows}
    for name, key, value in tx.execute(these_configs):
        configs_of[name][key] = value
    return {row.topic_id: _info(row, partitions_of[row.topic_id], configs_of[row.name]) for row in topic_rows}


def _paged(tx: Connection, these: Select[Any]) -> Iterator[Row[Any]]:
    """These partitions, which are ordered."""
    page = tx.execute(these.limit(PAGE_COUNT)).all()
    while page:
        yield from page
        if len(page) < PAGE_COUNT:
            return
        topic_id, index = page[-1].topic_id, page[-1].partition_index
        after = and_(partitions.c.topic_id == topic_id, partitions.c.partition_index > index)
        page = tx.execute(these.where(or_(partitions.c.topic_id > topic_id, after)).limit(PAGE_COUNT)).all()


def partition_info(row: Row[Any]) -> PartitionInfo:
    """`row`: all columns of `partitions`."""
    # by position, because the names of a row's columns cost more than all else of what is done to thousands of them
    _, index, leader, leader_epoch, log_stream_id, state_stream_id, target, replicas, former = tuple(row)
    return PartitionInfo(
        index,
        leader,
        leader_epoch,
        log_stream_id,
        state_stream_id,
        target,
        node_ids(replicas),
        None if former is None else node_ids(former),
    )


def replicas_text(node_ids: Iterable[int]) -> str:
    return ",".join(map(str, node_ids))


@lru_cache(maxsize=1024)
def node_ids(text: str | None) -> tuple[int, ...]:
    """Of `replicas_text`. Many partitions have the same ones."""
    return tuple(map(int, text.split(","))) if text else ()


def _info(row: Row[Any], its_partitions: Iterable[PartitionInfo], its_configs: Mapping[str, str]) -> TopicInfo:
    return TopicInfo(row.topic_id, row.name, row.internal, row.replication_factor, tuple(its_partitions), its_configs)


def _require(tx: Connection, topic_id: UUID) -> Row[Any]:
    row = tx.execute(select(topics).where(topics.c.topic_id == topic_id)).one_or_none()
    if row is None:
        raise UnknownTopic(f"no topic with id {topic_id}")
    return row


def _add_partitions(
    tx: Connection, topic_id: UUID, first: int, leaders: Sequence[int], replicas: Sequence[Sequence[int]]
) -> list[PartitionInfo]:
    if not leaders:
        return []
    assigned = [tuple(each) for each in replicas] or [()] * len(leaders)
    stream_id = take(tx, STREAM_ID, 2 * len(leaders))
    added = [
        PartitionInfo(first + i, leader, 0, stream_id + 2 * i, stream_id + 2 * i + 1, replicas=nodes)
        for i, (leader, nodes) in enumerate(zip(leaders, assigned, strict=True))
    ]
    tx.execute(
        insert(streams),
        [
            {"stream_id": stream_id + i, "epoch": 0, "state": STREAM_CLOSED, "start_offset": 0, "end_offset": 0}
            for i in range(2 * len(leaders))
        ],
    )
    tx.execute(
        insert(partitions),
        [
            {
                "topic_id": topic_id,
                "partition_index": p.index,
                "leader": p.leader,
                "leader_epoch": p.leader_epoch,
                "log_stream_id": p.log_stream_id,
                "state_stream_id": p.state_stream_id,
                "replicas": replicas_text(p.replicas) or None,
            }
            for p in added
        ],
    )
    return added


def _set_configs(tx: Connection, resource_type: str, name: str, values: Mapping[str, str | None]) -> None:
    if not values:
        return
    tx.execute(
        delete(configs).where(
            configs.c.resource_type == resource_type,
            configs.c.resource_name == name,
            configs.c.config_key.in_(list(values)),
        )
    )
    rows = [
        {"resource_type": resource_type, "resource_name": name, "config_key": key, "config_value": value}
        for key, value in values.items()
        if value is not None
    ]
    if rows:
        tx.execute(insert(configs), rows)
