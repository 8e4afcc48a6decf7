from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, inspect, select, text

from s3stream.catalog import open_catalog, opening
from s3stream.catalog.api import CatalogError, NewTopic
from s3stream.catalog.database import Database
from s3stream.catalog.migrations import upgrade as upgrade_module
from s3stream.catalog.migrations.upgrade import config, upgrade
from s3stream.catalog.schema import METADATA, SCHEMA_VERSION, alembic_version, counters


async def open_database(url: str) -> Database:
    return Database(await opening._connect(opening._parse(url), create=True))


async def test_migrations_make_the_schema_that_a_fresh_catalog_has(catalog_url: str) -> None:
    database = await open_database(catalog_url)

    def fresh(tx: Connection) -> Any:
        opening._bring_up(tx, "fresh", create=True)
        made = describe(tx)
        METADATA.drop_all(tx)
        alembic_version.drop(tx)
        return made

    def migrated(tx: Connection) -> Any:
        upgrade(tx)
        context = MigrationContext.configure(
            tx, opts={"compare_type": True, "include_name": lambda name, kind, _: name != "alembic_version"}
        )
        return describe(tx), compare_metadata(context, METADATA)

    from_metadata = await database.write(fresh, idempotent=False)
    from_migrations, differences = await database.write(migrated, idempotent=False)
    assert from_migrations == from_metadata
    assert differences == []
    await database.close()


NEXT = f"{int(SCHEMA_VERSION) + 1:04}"
NEXT_REVISION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "{revision}", "{down_revision}"
def upgrade():
    op.create_table("extras", sa.Column("name", sa.Text, primary_key=True))
    {last_step}
"""


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a tailrace of the next schema version out of this one."""

    def become_next_version(last_step: str) -> None:
        migrations = tmp_path / "migrations"
        shutil.copytree(upgrade_module.DIRECTORY, migrations, dirs_exist_ok=True)
        revision = NEXT_REVISION.format(revision=NEXT, down_revision=SCHEMA_VERSION, last_step=last_step)
        (migrations / "versions" / f"{NEXT}_next.py").write_text(revision)
        monkeypatch.setattr(upgrade_module, "DIRECTORY", migrations)
        monkeypatch.setattr(opening, "SCHEMA_VERSION", NEXT)

    return become_next_version


async def test_an_older_schema_is_migrated_when_it_is_opened(
    catalog_url: str, next_version: Callable[[str], None]
) -> None:
    old = await open_catalog(catalog_url)
    topic = await old.create_topic(NewTopic("t", [1], {}))
    await old.close()
    next_version("pass")
    for new in await asyncio.gather(*(open_catalog(catalog_url, create=False) for _ in range(3))):
        assert new.cluster_id == old.cluster_id
        assert (await new.load_changes(0)).topics == {topic.topic_id: topic}
        await new.close()
    assert await tables_and_stamp(catalog_url) == (True, NEXT)


async def test_a_migration_that_fails_changes_nothing(catalog_url: str, next_version: Callable[[str], None]) -> None:
    await (await open_catalog(catalog_url)).close()
    next_version("op.execute('SELECT * FROM nowhere')")
    with pytest.raises(CatalogError):
        await open_catalog(catalog_url)
    assert await tables_and_stamp(catalog_url) == (False, SCHEMA_VERSION)


async def tables_and_stamp(catalog_url: str) -> tuple[bool, str]:
    """Whether the table of the next revision is there."""
    database = await open_database(catalog_url)
    found = await database.read(
        lambda tx: ("extras" in inspect(tx).get_table_names(), tx.execute(select(alembic_version)).scalar_one())
    )
    await database.close()
    return found


def test_versions_count_up_in_four_digits_and_the_stamp_is_the_head() -> None:
    scripts = ScriptDirectory.from_config(config())
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    assert revisions == [f"{i + 1:04}" for i in range(len(revisions))]
    assert scripts.get_heads() == [SCHEMA_VERSION]


def describe(tx: Connection) -> Any:
    """Everything the database says of its tables."""
    if tx.dialect.name == "sqlite":
        rows = tx.execute(text("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"))
        tables: Any = [
            (*row[:3], re.sub(r"[\s\"]+", "", row.sql or "")) for row in rows if row.tbl_name != "alembic_version"
        ]
    else:
        reflected = MetaData()
        reflected.reflect(tx)
        inspector = inspect(tx)
        tables = {
            name: (
                [(c.name, str(c.type), c.nullable, str(c.server_default), c.autoincrement) for c in table.columns],
                inspector.get_pk_constraint(name),
                sorted(inspector.get_indexes(name), key=lambda index: str(index["name"])),
            )
            for name, table in reflected.tables.items()
            if name != "alembic_version"
        }
    stamps = tx.execute(select(alembic_version.c.version_num)).scalars().all()
    return tables, stamps, sorted(tuple(row) for row in tx.execute(select(counters)))
