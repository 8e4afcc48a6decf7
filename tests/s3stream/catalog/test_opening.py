from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bench.free_ports import free_port
from bench.postgres_process import PASSWORD, PostgresServer
from s3stream.catalog import open_catalog
from s3stream.catalog.api import CatalogError, CatalogTooNew, CatalogUnreachable, NewTopic
from tests.s3stream.catalog.steps import register


async def test_what_was_written_is_there_after_a_restart(catalog_url: str) -> None:
    first = await open_catalog(catalog_url)
    broker = await register(first)
    topic = await first.create_topic(NewTopic("t", [1], {"a": "b"}))
    await first.close()
    second = await open_catalog(catalog_url, create=False)
    assert second.cluster_id == first.cluster_id
    changes = await second.load_changes(0)
    assert changes.topics == {topic.topic_id: topic}
    assert changes.brokers == {1: broker}
    await second.close()


async def test_cluster_ids_are_22_characters_and_differ(tmp_path: Path) -> None:
    ids = set()
    for i in range(20):
        catalog = await open_catalog(f"sqlite:///{tmp_path}/{i}.db")
        ids.add(catalog.cluster_id)
        await catalog.close()
    assert len(ids) == 20
    assert all(len(i) == 22 and not i.startswith("-") for i in ids)


async def test_without_create_an_empty_database_stays_empty(catalog_url: str) -> None:
    with pytest.raises(CatalogError, match="no catalog"):
        await open_catalog(catalog_url, create=False)
    catalog = await open_catalog(catalog_url)
    await catalog.close()


async def test_the_directory_of_a_sqlite_file_is_made(tmp_path: Path) -> None:
    catalog = await open_catalog(f"sqlite:///{tmp_path}/a/b/catalog.db")
    await catalog.close()
    assert (tmp_path / "a/b/catalog.db").exists()


async def test_a_catalog_in_memory_is_gone_when_closed() -> None:
    for _ in range(2):
        catalog = await open_catalog("sqlite://")
        await catalog.create_topic(NewTopic("t", [1], {}))
        await catalog.close()


async def test_a_newer_schema_is_refused_in_one_line(catalog_url: str) -> None:
    await (await open_catalog(catalog_url)).close()
    await restamp(catalog_url, "9999")
    with pytest.raises(CatalogTooNew, match=r"^[^\n]*9999[^\n]*newer tailrace$"):
        await open_catalog(catalog_url)


async def test_tables_of_another_application_are_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE topics (x)")
    other.close()
    with pytest.raises(CatalogError, match="another application"):
        await open_catalog(f"sqlite:///{tmp_path}/other.db")
    await (await open_catalog(f"sqlite:///{tmp_path}/catalog.db")).close()
    await restamp(f"sqlite:///{tmp_path}/catalog.db", "ae1027a6acf")
    with pytest.raises(CatalogError, match="another application"):
        await open_catalog(f"sqlite:///{tmp_path}/catalog.db")


async def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("important " * 1000)
    with pytest.raises(CatalogError, match="no catalog"):
        await open_catalog(f"sqlite:///{file}")
    assert file.read_text() == "important " * 1000


async def test_a_directory_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CatalogUnreachable, match="cannot create"):
        await open_catalog(f"sqlite:///{tmp_path}/file/catalog.db")
    with pytest.raises(CatalogUnreachable):
        await open_catalog(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "catalog.db",
        "mysql://u:topsecret@h/d",
        "sqlite://host/x",
        "sqlite:///x?mode=ro",
        "postgresql://u:topsecret@h:port/d",
    ],
)
async def test_a_wrong_url_ends_in_one_line_without_the_password(url: str) -> None:
    with pytest.raises(CatalogError) as caught:
        await open_catalog(url)
    assert "\n" not in str(caught.value)
    assert "topsecret" not in str(caught.value)


async def test_nobody_listening_is_told_as_unreachable() -> None:
    port = free_port()
    with pytest.raises(CatalogUnreachable, match=f"127.0.0.1:{port}/db: connection refused"):
        await open_catalog(f"postgresql://u:topsecret@127.0.0.1:{port}/db")


async def test_a_closed_catalog_answers_unreachable() -> None:
    catalog = await open_catalog("sqlite://")
    await catalog.close()
    with pytest.raises(CatalogUnreachable):
        await catalog.brokers()
    await catalog.close()


@pytest.mark.integration
async def test_postgresql_says_what_is_wrong_without_the_password(postgres_server: PostgresServer) -> None:
    for url, message in [
        (postgres_server.url("postgres", password="topsecret"), "password authentication failed"),
        (postgres_server.url("nothing_there"), '"nothing_there" does not exist'),
        (postgres_server.url("postgres") + "?colour=blue", "unknown parameter.*colour"),
    ]:
        with pytest.raises(CatalogError, match=message) as caught:
            await open_catalog(url)
        assert "\n" not in str(caught.value)
        assert "topsecret" not in str(caught.value)
        assert PASSWORD not in str(caught.value)


@pytest.mark.integration
async def test_the_short_scheme_and_sslmode_work_too(postgres_url: str) -> None:
    url = postgres_url.replace("postgresql://", "postgres://") + "?sslmode=prefer"
    await (await open_catalog(url)).close()


async def test_many_who_open_a_fresh_database_at_once_get_one_catalog(catalog_url: str) -> None:
    catalogs = await asyncio.gather(*(open_catalog(catalog_url) for _ in range(8)))
    assert len({catalog.cluster_id for catalog in catalogs}) == 1
    for catalog in catalogs:
        await catalog.close()


OPEN_AND_REGISTER = """
import asyncio, sys, uuid
from s3stream.catalog import open_catalog
import s3stream.catalog.opening
async def main(url, node_id):
    print("ready", flush=True)
    sys.stdin.readline()
    catalog = await open_catalog(url)
    await catalog.register_broker(node_id, "h", 1, None, "file:///w", 60000, uuid.uuid4())
    print(catalog.cluster_id, *sorted(m for m in ("alembic", "sqlalchemy.orm") if m in sys.modules))
    await catalog.close()
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_two_processes_open_a_fresh_file_at_once_without_loading_what_they_do_not_need(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AND_REGISTER, url, str(node_id)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for node_id in (1, 2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=30)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]

    async def read() -> tuple[str, list[int]]:
        catalog = await open_catalog(url)
        node_ids = [broker.node_id for broker in await catalog.brokers()]
        await catalog.close()
        return catalog.cluster_id, node_ids

    cluster_id, node_ids = asyncio.run(read())
    assert set(answers) == {cluster_id}
    assert node_ids == [1, 2]


async def restamp(catalog_url: str, version: str) -> None:
    if catalog_url.startswith("sqlite:///"):
        connection = sqlite3.connect(catalog_url.removeprefix("sqlite:///"))
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
        connection.commit()
        connection.close()
        return
    import asyncpg

    connection = await asyncpg.connect(catalog_url)
    await connection.execute("UPDATE alembic_version SET version_num = $1", version)
    await connection.close()
