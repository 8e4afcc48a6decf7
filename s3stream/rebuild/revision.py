"""The snapshot's tables, brought to the state that objects and logs prove. Pure but for new topic ids.

Counters and epochs go on above anything that can have been in use since the snapshot: a gap harms nobody, and an id
that is given out twice would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from s3stream.catalog.schema import (
    ACTIVE,
    BROKER_EPOCH,
    CHANGE_SEQ,
    FENCED,
    OBJECT_ID,
    PRODUCER_ID,
    RECOVERED,
    STREAM_CLOSED,
    STREAM_ID,
    STREAM_OPEN,
    brokers,
    counters,
    partitions,
    streams,
    topics,
)
from s3stream.catalog.snapshot import Snapshot
from s3stream.rebuild.log_streams import FoundLog, LogStream, LogStreams
from s3stream.rebuild.selection import StreamResult

MARGINS: Mapping[str, int] = {
    OBJECT_ID: 100_000,
    STREAM_ID: 100_000,
    PRODUCER_ID: 1_000_000,
    BROKER_EPOCH: 1_000,
    CHANGE_SEQ: 1_000_000,
}
"""How far counters go on above what is known."""
LEADER_EPOCH_MARGIN = 100
UNNAMED_PREFIX = "recovered-"
_Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Revised:
    """`unnamed`: topics that stand for streams whose topic is not known. `names`: stream id -> what it is."""

    snapshot: Snapshot
    unnamed: list[str]
    notes: list[str]
    names: dict[int, str]
    topic_count: int


def revise(
    snapshot: Snapshot,
    results: Mapping[int, StreamResult],
    younger: set[int],
    logs: Sequence[FoundLog],
    found: LogStreams,
    last_object_id: int,
) -> Revised:
    """The catalog to be. `younger`: streams that are not in the snapshot."""
    topic_rows, partition_rows = snapshot.rows(topics), snapshot.rows(partitions)
    for row in partition_rows:
        row["leader_epoch"] += LEADER_EPOCH_MARGIN
        row["target"] = None
    unnamed = _add_unnamed(topic_rows, partition_rows, younger, logs)
    stream_ids = sorted(results.keys() | _streams_of(partition_rows))
    broker_rows, waiting, notes = _brokers(snapshot, logs, found)
    former = {row["stream_id"]: row for row in snapshot.rows(streams)}
    stream_rows = [
        _stream(stream_id, former.get(stream_id), results.get(stream_id), found.streams.get(stream_id), waiting)
        for stream_id in stream_ids
    ]
    still_open = {row["broker_epoch"] for row in stream_rows}
    for row in broker_rows:
        if row["state"] == FENCED and row["epoch"] not in still_open:
            row["state"] = RECOVERED
    least = {
        OBJECT_ID: last_object_id,
        STREAM_ID: max(stream_ids, default=0),
        BROKER_EPOCH: max((row["epoch"] for row in broker_rows), default=0),
    }
    counter_rows = [
        {"name": row["name"], "value": _above(row["name"], max(row["value"], least.get(row["name"], 0)))}
        for row in snapshot.rows(counters)
    ]
    tables = dict(snapshot.tables)
    for table, rows in (
        (topics, topic_rows),
        (partitions, partition_rows),
        (streams, stream_rows),
        (brokers, broker_rows),
        (counters, counter_rows),
    ):
        tables[table.name] = _table(rows, [column.name for column in table.columns])
    revised = Snapshot(snapshot.cluster_id, snapshot.schema_version, snapshot.taken_at_ms, tables)
    return Revised(revised, unnamed, notes, _names(topic_rows, partition_rows), len(topic_rows))


def _above(counter: str, value: int) -> int:
    value += MARGINS.get(counter, 0)
    # streams come in pairs, the log first: its id stays odd
    return value + value % 2 if counter == STREAM_ID else value


def _streams_of(partition_rows: Iterable[_Row]) -> set[int]:
    return {row[name] for row in partition_rows for name in ("log_stream_id", "state_stream_id")}


def _names(topic_rows: Sequence[_Row], partition_rows: Sequence[_Row]) -> dict[int, str]:
    names = {row["topic_id"]: row["name"] for row in topic_rows}
    found: dict[int, str] = {}
    for row in partition_rows:
        name = f"{names.get(row['topic_id'])}-{row['partition_index']}"
        found[row["log_stream_id"]] = name
        found[row["state_stream_id"]] = f"state of {name}"
    return found


def _add_unnamed(
    topic_rows: list[_Row], partition_rows: list[_Row], younger: set[int], logs: Sequence[FoundLog]
) -> list[str]:
    """A topic of one partition for each pair of streams; log streams have odd ids."""
    leader = logs[0].node_id if logs else max((row["leader"] for row in partition_rows), default=-1)
    unnamed = []
    for log_id in sorted({stream_id - (stream_id + 1) % 2 for stream_id in younger}):
        name = f"{UNNAMED_PREFIX}{log_id}"
        unnamed.append(name)
        topic_id = uuid4()
        topic_rows.append({"topic_id": topic_id, "name": name, "internal": False, "replication_factor": 1})
        partition_rows.append(
            {
                "topic_id": topic_id,
                "partition_index": 0,
                "leader": leader,
                "leader_epoch": LEADER_EPOCH_MARGIN,
                "log_stream_id": log_id,
                "state_stream_id": log_id + 1,
            }
        )
    return unnamed


def _brokers(snapshot: Snapshot, logs: Sequence[FoundLog], found: LogStreams) -> tuple[list[_Row], set[int], list[str]]:
    """Registrations, those among them (by epoch) that wait for the recovery of their log, and what there is to say."""
    rows = snapshot.rows(brokers)
    notes = []
    with_records = {each.broker_epoch for each in found.streams.values()}
    at_hand = {log.epoch for log in logs}
    opened = {row["broker_epoch"] for row in snapshot.rows(streams) if row["state"] == STREAM_OPEN}
    for log in logs:
        if log.epoch in with_records and log.epoch not in {row["epoch"] for row in rows}:
            # registered after the snapshot; the former one of its node was recovered before it wrote its log
            like = next((row for row in rows if row["node_id"] == log.node_id), None)
            rows = [row for row in rows if row["node_id"] != log.node_id or row["epoch"] > log.epoch]
            rows.append(_registration(log, like))
    waiting: set[int] = set()
    for row in rows:
        row["lease_end_ms"] = 0
        row["recoverer_epoch"] = None
        epoch = row["epoch"]
        if epoch in with_records or (row["state"] in (ACTIVE, FENCED) and epoch in opened and epoch not in at_hand):
            row["state"] = FENCED
            waiting.add(epoch)
            if epoch not in at_hand:
                notes.append(
                    f"the write-ahead log of node {row['node_id']} ({row['wal_url']}) was not found: partitions that "
                    "it had open stay offline until it is, or is given up"
                )
        elif row["state"] in (ACTIVE, FENCED):
            row["state"] = RECOVERED
    return rows, waiting, notes


def _registration(log: FoundLog, like: _Row | None) -> _Row:
    row: _Row = dict(like) if like is not None else {"host": "unknown", "port": 0, "rack": None}
    return row | {
        "node_id": log.node_id,
        "epoch": log.epoch,
        "incarnation": uuid4(),
        "wal_url": log.url,
        "state": FENCED,
    }


def _stream(
    stream_id: int, former: _Row | None, result: StreamResult | None, in_log: LogStream | None, waiting: set[int]
) -> _Row:
    row: _Row = dict(former) if former is not None else {"epoch": 0, "start_offset": 0, "broker_epoch": None}
    row["stream_id"] = stream_id
    owner: tuple[int, int] | None = None
    if in_log is not None and in_log.epoch >= row["epoch"]:
        row["epoch"] = in_log.epoch
        owner = (in_log.node_id, in_log.broker_epoch)
    elif row["broker_epoch"] in waiting:
        owner = (row["node_id"], row["broker_epoch"])
    row["state"] = STREAM_CLOSED if owner is None else STREAM_OPEN
    row["node_id"], row["broker_epoch"] = (None, None) if owner is None else owner
    row["end_offset"] = result.end_offset if result is not None else row["start_offset"]
    return row


def _table(rows: Sequence[_Row], columns: list[str]) -> tuple[list[str], list[list[Any]]]:
    return columns, [[row.get(column) for column in columns] for row in rows]
