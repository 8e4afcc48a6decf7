from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import asyncpg
import pytest
from sqlalchemy import Connection, make_url

from bench.postgres_process import PostgresServer
from s3stream.catalog import open_catalog
from s3stream.catalog.api import CatalogError, CatalogUnreachable, NewTopic
from s3stream.catalog.database import ATTEMPTS_MAX, Database, OutcomeUnknown, RolledBack
from s3stream.catalog.postgres import PostgresBackend
from tests.s3stream.catalog.steps import HOUR_MS, register

T = TypeVar("T")


class FailingBackend:
    """Fails as told, then answers 7."""

    name = "failing"

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.runs = 0
        self.closed = 0

    async def run(self, transaction: Callable[[Connection], T], *, write: bool) -> T:
        self.runs += 1
        if self.failures:
            raise self.failures.pop(0)
        return 7  # type: ignore[return-value]

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3stream.catalog.database.BACK_OFF_MS_MAX", 0)


def nothing(tx: Connection) -> int:
    raise AssertionError("the backend is a double")


async def test_what_was_rolled_back_is_tried_again_whatever_it_is() -> None:
    backend = FailingBackend(RolledBack("locked"), RolledBack("deadlock"))
    assert await Database(backend, random.Random(1)).write(nothing, idempotent=False) == 7
    assert backend.runs == 3


async def test_an_unknown_outcome_is_resolved_by_a_retry_only_where_that_is_harmless() -> None:
    backend = FailingBackend(OutcomeUnknown("connection lost"))
    assert await Database(backend).write(nothing, idempotent=True) == 7
    backend = FailingBackend(OutcomeUnknown("connection lost"))
    with pytest.raises(CatalogUnreachable, match="failing: connection lost"):
        await Database(backend).write(nothing, idempotent=False)
    assert backend.runs == 1


async def test_tries_are_bounded() -> None:
    backend = FailingBackend(*[RolledBack("locked")] * 100)
    with pytest.raises(CatalogUnreachable):
        await Database(backend).read(nothing)
    assert backend.runs == ATTEMPTS_MAX


async def test_other_errors_are_not_tried_again() -> None:
    backend = FailingBackend(CatalogError("damaged"))
    with pytest.raises(CatalogError, match="damaged"):
        await Database(backend).write(nothing, idempotent=True)
    assert backend.runs == 1


async def test_closing_twice_closes_once() -> None:
    backend = FailingBackend()
    database = Database(backend)
    await database.close()
    await database.close()
    assert backend.closed == 1


async def test_a_locked_sqlite_file_is_unreachable_and_then_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3stream.catalog.sqlite.BUSY_TIMEOUT_MS", 10)
    catalog = await open_catalog(f"sqlite:///{tmp_path}/catalog.db")
    other = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(CatalogUnreachable, match="locked"):
        await register(catalog)
    assert await catalog.brokers() == []
    other.execute("ROLLBACK")
    other.close()
    assert (await register(catalog)).alive
    await catalog.close()


@pytest.mark.integration
async def test_a_restart_of_postgresql_is_survived_by_the_same_catalog(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="tailrace-postgres-"))
    server = PostgresServer(directory)
    try:
        server.start()
        catalog = await open_catalog(server.new_database())
        broker = await register(catalog)
        server.stop()
        with pytest.raises(CatalogUnreachable):
            await catalog.renew_lease(1, broker.epoch, HOUR_MS)
        with pytest.raises(CatalogUnreachable):
            await catalog.create_topic(NewTopic("t", [1], {}))
        server.start()
        await catalog.renew_lease(1, broker.epoch, HOUR_MS)
        await catalog.create_topic(NewTopic("t", [1], {}))
        await catalog.close()
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.integration
async def test_connections_cut_by_the_server_are_replaced_unnoticed(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    catalog = await open_catalog(postgres_url)
    broker = await register(catalog)
    database = postgres_url.rsplit("/", 1)[1]
    for i in range(3):
        postgres_server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
        await catalog.create_topic(NewTopic(f"t{i}", [1], {}))
        await catalog.renew_lease(1, broker.epoch, HOUR_MS)
    assert len((await catalog.load_changes(0)).topics) == 3
    await catalog.close()


@pytest.mark.parametrize("code", ["ReadOnlySQLTransactionError", "QueryCanceledError", "CannotConnectNowError"])
async def test_a_postgresql_that_changes_its_role_or_starts_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    async def connect(*_: object, **__: object) -> None:
        raise getattr(asyncpg.exceptions, code)("not now")

    monkeypatch.setattr(asyncpg, "connect", connect)
    backend = PostgresBackend(make_url("postgresql://user:password@localhost/catalog"))
    with pytest.raises(RolledBack, match="not now"):
        await backend.run(nothing, write=True)
    await backend.close()


async def test_a_database_that_does_not_answer_in_time_is_asked_again() -> None:
    backend = PostgresBackend(make_url("postgresql://user@127.0.0.1:1/none"))
    try:
        async with asyncio.timeout(0):
            await asyncio.get_running_loop().create_future()
    except TimeoutError as error:
        explained = backend._explain(error)
    assert isinstance(explained, RolledBack)
    await backend.close()
