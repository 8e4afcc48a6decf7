"""All of the catalog but the objects, as a value: what the bucket cannot tell by itself.

Every table is taken with all of its columns, whatever a later schema adds; left out are `objects` (their own indexes
say what is in them) and `changes` (a new database begins with everything). What is restored into a newer schema has
NULL in the columns that came since.

Encoded: msgpack `[1, crc32c(body), body]`, body the zlib-compressed msgpack map of `Snapshot`'s fields; UUIDs are 16
bytes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgpack
from crc32c import crc32c
from sqlalchemy import Connection, Table, Uuid, insert, select

from s3stream.catalog.api import CatalogError, CatalogTooNew
from s3stream.catalog.locks import chunks
from s3stream.catalog.schema import (
    CHANGE_SEQ,
    METADATA,
    SCHEMA_VERSION,
    NowMs,
    brokers,
    changes,
    counters,
    meta,
    objects,
)

VERSION = 1
PAGE_COUNT = 1000
"""Rows read by one statement: on PostgreSQL their decoding holds the event loop."""
_CLUSTER_ID = "cluster_id"
_BODY_SIZE_MAX = 1 << 30
_LEFT_OUT = (objects, changes)


class SnapshotUnreadable(CatalogError):
    """Not a snapshot of the catalog, or a damaged one."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`tables`: name -> columns and rows, as of `taken_at_ms` by the database's clock."""

    cluster_id: str
    schema_version: str
    taken_at_ms: int
    tables: dict[str, tuple[list[str], list[list[Any]]]]

    def rows(self, table: Table) -> list[dict[str, Any]]:
        """With the values of all columns that there were."""
        columns, rows = self.tables.get(table.name, ([], []))
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def counter(self, name: str) -> int:
        return next((int(row["value"]) for row in self.rows(counters) if row["name"] == name), 0)

    @property
    def seq(self) -> int:
        """The last change of metadata that is in it."""
        return self.counter(CHANGE_SEQ)

    def fingerprint(self) -> bytes:
        """Equal for snapshots that differ in nothing that a restored catalog would need: leases and object ids move all
        the time."""
        kept = {
            name: [
                [value for column, value in zip(columns, row, strict=True) if column != brokers.c.lease_end_ms.name]
                for row in rows
                if name != counters.name or row[columns.index("name")] != "object_id"
            ]
            for name, (columns, rows) in self.tables.items()
        }
        return sha256(msgpack.packb(kept, default=_plain)).digest()


def take(tx: Connection) -> Snapshot:
    """In a transaction that sees one state of the database."""
    tables = {table.name: _rows(tx, table) for table in METADATA.sorted_tables if table not in _LEFT_OUT}
    columns, rows = tables[meta.name]
    values = {row[columns.index("name")]: row[columns.index("value")] for row in rows}
    now_ms: int = tx.execute(select(NowMs())).scalar_one()
    return Snapshot(values[_CLUSTER_ID], SCHEMA_VERSION, now_ms, tables)


def restore(tx: Connection, snapshot: Snapshot) -> None:
    """Into a database whose tables are there, and hold nothing but what a fresh one does."""
    for table in METADATA.sorted_tables:
        if table in _LEFT_OUT:
            continue
        tx.execute(table.delete())
        known = {column.name for column in table.columns}
        rows = [{name: value for name, value in row.items() if name in known} for row in snapshot.rows(table)]
        for some in chunks(rows):
            tx.execute(insert(table), some)


def _rows(tx: Connection, table: Table) -> tuple[list[str], list[list[Any]]]:
    columns = [column.name for column in table.columns]
    ordered = select(table).order_by(*table.primary_key)
    found: list[list[Any]] = []
    while True:
        page = tx.execute(ordered.offset(len(found)).limit(PAGE_COUNT)).all()
        found += [list(row) for row in page]
        if len(page) < PAGE_COUNT:
            return columns, found


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Pure computing, some tens of ms for ten thousand partitions: run it in a thread."""
    fields = [snapshot.cluster_id, snapshot.schema_version, snapshot.taken_at_ms, snapshot.tables]
    body = zlib.compress(msgpack.packb(fields, default=_plain), 3)
    return bytes(msgpack.packb([VERSION, crc32c(body), body]))


def decode_snapshot(data: bytes) -> Snapshot:
    """Raises SnapshotUnreadable, CatalogTooNew."""
    try:
        version, crc, body = msgpack.unpackb(data, max_array_len=3)
        if version != VERSION:
            raise CatalogTooNew(f"a snapshot of version {version!r}: use a newer tailrace")
        if crc32c(body) != crc:
            raise SnapshotUnreadable("a snapshot of the catalog fails its checksum")
        decompressor = zlib.decompressobj()
        plain = decompressor.decompress(body, _BODY_SIZE_MAX)
        cluster_id, schema_version, taken_at_ms, tables = msgpack.unpackb(plain)
        if schema_version > SCHEMA_VERSION:
            raise CatalogTooNew(f"a snapshot of schema {schema_version}, this tailrace knows {SCHEMA_VERSION}")
        restored = {name: (columns, _typed(name, columns, rows)) for name, (columns, rows) in tables.items()}
        return Snapshot(cluster_id, schema_version, taken_at_ms, restored)
    except CatalogError:
        raise
    except (ValueError, TypeError, zlib.error, msgpack.UnpackException) as error:
        raise SnapshotUnreadable(f"a snapshot of the catalog does not decode: {error}") from error


def _plain(value: object) -> bytes:
    if isinstance(value, UUID):
        return value.bytes
    raise TypeError(f"no value of a snapshot: {value!r}")


def _typed(name: str, columns: list[str], rows: list[list[Any]]) -> list[list[Any]]:
    table = METADATA.tables.get(name)
    uuids = [
        i
        for i, column in enumerate(columns)
        if table is not None and column in table.columns and isinstance(table.columns[column].type, Uuid)
    ]
    for row in rows:
        for i in uuids:
            row[i] = UUID(bytes=row[i])
    return rows
