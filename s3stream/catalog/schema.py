"""The catalog's tables, its schema version and the database's clock.

Fresh databases are made from `METADATA` directly and stamped; `migrations/` leads older ones to the same schema (a test
compares the two). There are no foreign keys: every transaction that removes a row removes what hangs on it.

* Times are ms since 1970 by the **database's** clock (`NowMs`).
* A registration of a broker (`brokers` row) is never changed back: ACTIVE -> CLOSED, or ACTIVE -> FENCED -> RECOVERED.
  Of one node id at most one row, the one with the highest epoch, is ACTIVE; older rows stay only while FENCED. A FENCED
  one is recovered by the broker of its `recoverer_epoch`, for as long as that one is ACTIVE.
* `partitions.replicas` is node ids with commas between, null where nobody assigned any; `former_replicas` is null but
  while a reassignment waits for its leader to move.
* A stream that has no row was deleted (or never was: ids are given out in order from `counters`).
* An object goes PREPARED -> COMMITTED -> RETIRED -> no row, or PREPARED -> RETIRED -> no row.
* A committed object carries a **witness**: one of its ranges that is still live, that is above its stream's start.
  Trimming a stream only has to look at the objects whose witness it killed (an index finds them); each gets another
  witness or is retired. So a trim never reads the ranges of unrelated objects.
* An object whose ranges are all of one stream is a **stream object**: `stream_id` says of which, and an index finds
  those of a stream. The others are **stream set objects**: `stream_id` is NULL, their streams lie between
  `first_stream_id` and `last_stream_id`, and compaction keeps them few, so that whoever opens a stream may look at all
  of them. `generation` counts how often a set object was rewritten. Ranges that compaction moved are taken out of an
  object's `ranges`.
* `compacted_offset`: the records of the stream below it were compacted by key; NULL: none were.
* `changes` keeps one row per entity, with the sequence number of the last transaction that changed it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

SCHEMA_VERSION = "0005"
"""The head of `migrations/versions`. Versions are four digits that count up, so that a newer one can be told."""

ACTIVE, CLOSED, FENCED, RECOVERED = 0, 1, 2, 3
"""States of a broker's registration."""

STREAM_CLOSED, STREAM_OPEN = 0, 1

PREPARED, COMMITTED, RETIRED = 0, 1, 2
"""States of an object."""

TOPIC_CHANGED, BROKER_CHANGED, CONFIG_CHANGED = 0, 1, 2
"""Kinds of change rows; their keys are a topic id in hex, a node id, and "type:name"."""

STREAM_ID, OBJECT_ID, PRODUCER_ID, BROKER_EPOCH, CHANGE_SEQ = (
    "stream_id",
    "object_id",
    "producer_id",
    "broker_epoch",
    "change_seq",
)
COUNTERS = {STREAM_ID: 0, OBJECT_ID: 0, PRODUCER_ID: -1, BROKER_EPOCH: 0, CHANGE_SEQ: 0}
"""Counters and the last value that counts as taken in a fresh catalog: producer ids begin at 0, all else at 1."""

METADATA = MetaData()

# Alembic's own table, so that it finds the stamp of a database that was made without it.
VERSION_METADATA = MetaData()
alembic_version = Table("alembic_version", VERSION_METADATA, Column("version_num", String(32), primary_key=True))


class SharedUuid(Uuid[UUID]):
    """The same ids are in thousands of rows: each is made once."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], UUID | None] | None:
        make = super().result_processor(dialect, coltype)  # type: ignore[no-untyped-call]
        return None if make is None else lru_cache(maxsize=16_384)(make)


meta = Table(
    "meta",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

counters = Table(
    "counters",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

brokers = Table(
    "brokers",
    METADATA,
    Column("node_id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("incarnation", Uuid, nullable=False),
    Column("host", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("rack", Text),
    Column("wal_url", Text, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("lease_end_ms", BigInteger, nullable=False),
    Column("recoverer_epoch", BigInteger),
    Column("leaving", Boolean),
)

topics = Table(
    "topics",
    METADATA,
    Column("topic_id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("internal", Boolean, nullable=False),
    Column("replication_factor", SmallInteger, nullable=False),
    Index("topics_name", "name", unique=True),
)

partitions = Table(
    "partitions",
    METADATA,
    Column("topic_id", SharedUuid, primary_key=True),
    Column("partition_index", Integer, primary_key=True, autoincrement=False),
    Column("leader", Integer, nullable=False),
    Column("leader_epoch", Integer, nullable=False),
    Column("log_stream_id", BigInteger, nullable=False),
    Column("state_stream_id", BigInteger, nullable=False),
    Column("target", Integer),
    Column("replicas", Text),
    Column("former_replicas", Text),
    Index("partitions_leader", "leader"),
)

configs = Table(
    "configs",
    METADATA,
    Column("resource_type", Text, primary_key=True),
    Column("resource_name", Text, primary_key=True),
    Column("config_key", Text, primary_key=True),
    Column("config_value", Text, nullable=False),
)

streams = Table(
    "streams",
    METADATA,
    Column("stream_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("node_id", Integer),
    Column("broker_epoch", BigInteger),
    Column("start_offset", BigInteger, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
    Column("compacted_offset", BigInteger),
    Index("streams_broker_epoch", "broker_epoch"),
)

objects = Table(
    "objects",
    METADATA,
    Column("object_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("object_key", Text, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("node_id", Integer, nullable=False),
    Column("broker_epoch", BigInteger, nullable=False),
    Column("was_committed", Boolean, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
    Column("size", BigInteger),
    Column("ranges", LargeBinary),
    Column("witness_stream_id", BigInteger),
    Column("witness_end_offset", BigInteger),
    Column("stream_id", BigInteger),
    Column("first_stream_id", BigInteger),
    Column("last_stream_id", BigInteger),
    Column("generation", SmallInteger),
    Index("objects_state", "state", "object_id"),
    Index("objects_stream", "stream_id", "object_id"),
    Index("objects_witness", "witness_stream_id", "witness_end_offset"),
)

IS_COMMITTED = objects.c.state + 0 == COMMITTED
"""For where another index finds the few that are wanted. A sum, so that the index of states is not taken, by which
SQLite, which has no statistics, would go through nearly all objects."""

changes = Table(
    "changes",
    METADATA,
    Column("kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("entity", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Index("changes_seq", "seq"),
)


class NowMs(FunctionElement[int]):
    """The database's clock, in ms since 1970."""

    type = BigInteger()
    inherit_cache = True


@compiles(NowMs, "sqlite")
def _sqlite_now(element: NowMs, compiler: Any, **kw: Any) -> str:
    # 2440587.5 is 1970 in Julian days; unixepoch('subsec') would need SQLite 3.42.
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


@compiles(NowMs, "postgresql")
def _postgresql_now(element: NowMs, compiler: Any, **kw: Any) -> str:
    # Not now(): that is the transaction's start, which may lie before a long wait for a lock.
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
