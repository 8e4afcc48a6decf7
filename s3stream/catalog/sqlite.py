"""SQLite: one connection on one thread of its own.

The standard library's driver runs a whole transaction on that thread and lets go of the GIL in every step, which costs
a third of what an async driver's hand-over per statement does, and keeps large reads off the event loop. There is one
writer at a time anyway; other processes are kept out by BEGIN IMMEDIATE and waited for by the busy timeout.

Journal mode WAL with synchronous=FULL: a commit that returned has been synced.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from s3stream.catalog.api import CatalogError, CatalogUnreachable
from s3stream.catalog.database import RolledBack, Transaction

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5_000
_NO_CATALOG = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_CONTENDED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_MEDIUM = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


class SqliteBackend:
    """`path` None keeps the database in memory."""

    def __init__(self, path: Path | None) -> None:
        self.name = f"sqlite {path}" if path else "sqlite in memory"
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="catalog")
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._begin = "BEGIN"

    async def open(self, *, create: bool) -> None:
        """Raises CatalogError, CatalogUnreachable."""
        try:
            await self._call(self._open, create)
        except BaseException:
            await self.close()
            raise

    async def run(self, transaction: Transaction[T], *, write: bool) -> T:
        result: T = await self._call(self._run, transaction, write)
        return result

    async def close(self) -> None:
        await self._call(self._close)
        self._thread.shutdown(wait=False)

    async def _call(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    # -- on the thread ----------------------------------------------------------------------------------------------
    def _open(self, create: bool) -> None:
        if self._path is not None and not self._path.exists():
            if not create:
                raise CatalogError(f"there is no catalog at {self._path}")
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CatalogUnreachable(f"cannot create {self._path.parent}: {error.strerror}") from error
        self._engine = create_engine(
            "sqlite://", creator=self._connect, poolclass=StaticPool, pool_reset_on_return=None, hide_parameters=True
        )
        event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql(self._begin))
        try:
            self._connection = self._engine.connect()
        except (DBAPIError, sqlite3.Error) as error:
            raise self._explain(error) from error
        except RolledBack as error:
            raise CatalogUnreachable(f"{self.name}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path or ":memory:", timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            if self._path is not None:
                _switch_to_wal(connection)
                connection.execute("PRAGMA synchronous=FULL")
                # macOS: past the drive's cache. Without effect elsewhere.
                connection.execute("PRAGMA fullfsync=ON")
                connection.execute("PRAGMA checkpoint_fullfsync=ON")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _run(self, transaction: Transaction[T], write: bool) -> T:
        if self._connection is None:
            raise CatalogUnreachable(f"{self.name} is closed")
        self._begin = "BEGIN IMMEDIATE" if write else "BEGIN"
        try:
            with self._connection.begin():
                return transaction(self._connection)
        except DBAPIError as error:
            raise self._explain(error) from error

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._engine is not None:
            self._engine.dispose()

    def _explain(self, error: DBAPIError | sqlite3.Error) -> Exception:
        cause = error.orig if isinstance(error, DBAPIError) else error
        # The low byte is the primary code of an extended one.
        code = (getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF
        if code in _CONTENDED:
            return RolledBack(str(cause))
        if code in _MEDIUM:
            return CatalogUnreachable(f"{self.name}: {cause}")
        if code in _NO_CATALOG:
            return CatalogError(f"{self.name} is damaged or no catalog: {cause}")
        return CatalogError(f"{self.name}: {cause}")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # The switch needs the file for itself for a moment and does not honour the busy timeout.
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        with contextlib.suppress(sqlite3.OperationalError):
            if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
                return
        if time.monotonic() >= deadline:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        time.sleep(0.005)
