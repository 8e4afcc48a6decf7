"""PostgreSQL by asyncpg, with a small pool.

Writes run READ COMMITTED and lock the rows they decide on (`locks`); reads run REPEATABLE READ over one snapshot.
A client that stops in the middle of a transaction loses it after `IDLE_IN_TRANSACTION_MS_MAX`, so that a paused broker
holds nobody else's locks for longer.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from s3stream.catalog.api import CatalogError, CatalogUnreachable
from s3stream.catalog.database import OutcomeUnknown, RolledBack, Transaction

T = TypeVar("T")

CONNECTION_COUNT_MAX = 4
CONNECT_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 15.0
LOCK_TIMEOUT_MS = 10_000
IDLE_IN_TRANSACTION_MS_MAX = 3_000

_AGAIN = ("40001", "40P01", "55P03")
"""Serialization failure, deadlock, lock not available."""
_GOING_AWAY = ("08", "57P", "53", "25P03", "25006", "57014")
"""Connection exceptions, shut-down and start-up, too many connections or no room, idle in transaction, a server that
turns into a replica, a statement that was cancelled."""


class PostgresBackend:
    def __init__(self, url: URL) -> None:
        query = dict(url.query)
        connect_args: dict[str, Any] = {
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": STATEMENT_TIMEOUT_S,
            "server_settings": {
                "application_name": "tailrace",
                "lock_timeout": str(LOCK_TIMEOUT_MS),
                "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS_MAX),
            },
        }
        if "sslmode" in query:
            connect_args["ssl"] = query.pop("sslmode")
        if "host" in query:
            connect_args["host"] = query.pop("host")
        if query:
            raise CatalogError(f"unknown parameter in the PostgreSQL URL: {', '.join(sorted(query))}")
        self.name = f"postgresql {url.host or connect_args.get('host', 'localhost')}:{url.port or 5432}/{url.database}"
        self._engine: AsyncEngine = create_async_engine(
            url.set(drivername="postgresql+asyncpg", query={}),
            connect_args=connect_args,
            pool_size=CONNECTION_COUNT_MAX,
            max_overflow=0,
            pool_timeout=STATEMENT_TIMEOUT_S,
            hide_parameters=True,
        )

    async def run(self, transaction: Transaction[T], *, write: bool) -> T:
        try:
            async with self._engine.connect() as connection:
                return await self._run(connection, transaction, write)
        except (DBAPIError, OSError, PoolTimeoutError) as error:
            raise self._explain(error) from error

    async def _run(self, connection: AsyncConnection, transaction: Transaction[T], write: bool) -> T:
        if not write:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        result: T = await connection.run_sync(_call, transaction)
        try:
            await connection.commit()
        except (DBAPIError, OSError) as error:
            explained = self._explain(error)
            if isinstance(explained, RolledBack) and _sqlstate(error) not in _AGAIN:
                raise OutcomeUnknown(str(explained)) from error
            raise explained from error
        return result

    async def close(self) -> None:
        await self._engine.dispose()

    def _explain(self, error: Exception) -> Exception:
        cause = _cause(error)
        state = _sqlstate(error)
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        text = _one_line(cause)
        if lost or state in _AGAIN or (state is not None and state.startswith(_GOING_AWAY)):
            return RolledBack(text)
        if isinstance(cause, asyncio.TimeoutError | PoolTimeoutError):
            return RolledBack("no answer in time")
        if isinstance(cause, OSError):
            return RolledBack(text)
        return CatalogError(f"{self.name}: {text}")

    async def check(self) -> None:
        """One round trip without retries, for start-up. Raises CatalogUnreachable, CatalogError."""
        try:
            async with self._engine.connect() as connection:
                await connection.exec_driver_sql("SELECT 1")
        except (DBAPIError, OSError, PoolTimeoutError) as error:
            explained = self._explain(error)
            if isinstance(explained, RolledBack):
                raise CatalogUnreachable(f"cannot reach {self.name}: {explained}") from error
            raise explained from error


def _call(connection: Connection, transaction: Transaction[T]) -> T:
    return transaction(connection)


def _cause(error: BaseException) -> BaseException:
    """The driver's own error under SQLAlchemy's. (A time-out has a cause too: the cancellation that it made.)"""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return error
    return error.orig.__cause__ if error.orig.__cause__ is not None else error.orig


def _sqlstate(error: BaseException) -> str | None:
    for candidate in (_cause(error), getattr(error, "orig", None)):
        state = getattr(candidate, "sqlstate", None)
        if isinstance(state, str):
            return state
    return None


def _one_line(cause: BaseException) -> str:
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
        return cause.strerror
    lines = str(cause).splitlines()
    return lines[0] if lines else type(cause).__name__
