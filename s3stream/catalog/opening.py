"""From a URL to a catalog: which database, and what to do with the schema found there.

* nothing there: the schema is made and stamped in one transaction
* this version: nothing to do
* an older one: Alembic (imported only then) leads it here, in one transaction
* a newer one, or something else's tables: refused

Whoever else opens the same database at the same time waits: on SQLite by BEGIN IMMEDIATE, on PostgreSQL by an advisory
lock.
"""

from __future__ import annotations

import base64
import uuid
from pathlib import Path

from sqlalchemy import URL, Connection, insert, inspect, make_url, select, text
from sqlalchemy.exc import ArgumentError

from s3stream.catalog.api import CatalogError, CatalogTooNew
from s3stream.catalog.catalog import SqlCatalog
from s3stream.catalog.database import Backend, Database
from s3stream.catalog.schema import (
    COUNTERS,
    METADATA,
    SCHEMA_VERSION,
    VERSION_METADATA,
    alembic_version,
    counters,
    meta,
)

_CREATION_LOCK = 0x7461_696C_7261_6365
_CLUSTER_ID = "cluster_id"


async def open_sql_catalog(url: str, *, create: bool) -> SqlCatalog:
    """See `s3stream.catalog.open_catalog`."""
    return SqlCatalog(*await open_database(url, create=create))


async def open_database(url: str, *, create: bool) -> tuple[Database, str]:
    """The database behind a catalog, for tools that look at its tables; and the cluster id.

    Raises as `open_catalog`.
    """
    database = Database(await _connect(_parse(url), create=create))
    try:
        cluster_id = await database.read(lambda tx: _cluster_id(tx, database.name))
        if cluster_id is None:
            cluster_id = await database.write(lambda tx: _bring_up(tx, database.name, create), idempotent=True)
    except BaseException:
        await database.close()
        raise
    return database, cluster_id


def _parse(text_url: str) -> URL:
    try:
        url = make_url(text_url)
    except (ArgumentError, ValueError):
        raise CatalogError(
            "the metadata URL must be sqlite:///path or postgresql://user:password@host:port/database"
        ) from None
    if url.drivername not in ("sqlite", "postgresql", "postgres"):
        raise CatalogError(f"metadata can be kept in sqlite:///path or postgresql://..., not in {url.drivername}://")
    if url.drivername == "sqlite" and (url.host or url.query):
        raise CatalogError("a SQLite URL is sqlite:///relative/path or sqlite:////absolute/path")
    return url


async def _connect(url: URL, *, create: bool) -> Backend:
    if url.drivername == "sqlite":
        from s3stream.catalog.sqlite import SqliteBackend

        sqlite = SqliteBackend(Path(url.database) if url.database and url.database != ":memory:" else None)
        await sqlite.open(create=create)
        return sqlite
    from s3stream.catalog.postgres import PostgresBackend  # asyncpg and the async engine cost 0.1 s to import

    postgres = PostgresBackend(url)
    try:
        await postgres.check()
    except BaseException:
        await postgres.close()
        raise
    return postgres


def _cluster_id(tx: Connection, name: str) -> str | None:
    """None unless the schema is there in this version. Raises CatalogTooNew, CatalogError."""
    if _version(tx, name) != SCHEMA_VERSION:
        return None
    return _read_cluster_id(tx)


def _bring_up(tx: Connection, name: str, create: bool) -> str:
    """Make or migrate the schema, unless somebody else just did. Returns the cluster id."""
    if tx.dialect.name == "postgresql":
        tx.execute(text(f"SELECT pg_advisory_xact_lock({_CREATION_LOCK})"))
    version = _version(tx, name)
    if version is None:
        if not create:
            raise CatalogError(f"there is no catalog in {name}")
        METADATA.create_all(tx, checkfirst=False)
        VERSION_METADATA.create_all(tx, checkfirst=False)
        tx.execute(insert(alembic_version).values(version_num=SCHEMA_VERSION))
        tx.execute(insert(counters), [{"name": counter, "value": last} for counter, last in COUNTERS.items()])
        tx.execute(insert(meta).values(name=_CLUSTER_ID, value=_new_cluster_id()))
    elif version != SCHEMA_VERSION:
        from s3stream.catalog.migrations.upgrade import upgrade

        upgrade(tx)
    return _read_cluster_id(tx)


def _read_cluster_id(tx: Connection) -> str:
    cluster_id: str = tx.execute(select(meta.c.value).where(meta.c.name == _CLUSTER_ID)).scalar_one()
    return cluster_id


def _version(tx: Connection, name: str) -> str | None:
    """The stamp, None for a database without any of our tables."""
    tables = set(inspect(tx).get_table_names())
    if alembic_version.name not in tables:
        foreign = sorted(tables & set(METADATA.tables))
        if foreign:
            raise CatalogError(f"{name} has tables of another application ({', '.join(foreign)})")
        return None
    version: str | None = tx.execute(select(alembic_version.c.version_num)).scalar()
    if version is None or not version.isdigit() or meta.name not in tables:
        raise CatalogError(f"{name} belongs to another application")
    if version > SCHEMA_VERSION:
        raise CatalogTooNew(
            f"the catalog in {name} has schema {version}, this tailrace knows {SCHEMA_VERSION}: use a newer tailrace"
        )
    return version


def _new_cluster_id() -> str:
    while True:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        if not cluster_id.startswith("-"):  # tools would take it for an option
            return cluster_id
