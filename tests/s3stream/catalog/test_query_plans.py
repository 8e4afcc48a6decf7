"""However many objects there are, what looks for those of a few streams does not go through all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from s3stream.catalog.catalog import SqlCatalog
from s3stream.catalog.database import Database
from s3stream.catalog.listing import live_rows, set_objects
from s3stream.catalog.objects import retire_dead
from s3stream.catalog.opening import open_database
from s3stream.catalog.schema import streams


async def plans(database: Database, call: Callable[[Connection], object]) -> list[str]:
    """How SQLite finds objects in what `call` executes."""

    def transaction(tx: Connection) -> list[str]:
        executed: list[tuple[str, Any]] = []

        def note(_: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
            executed.append((statement, parameters))

        event.listen(tx, "before_cursor_execute", note)
        call(tx)
        event.remove(tx, "before_cursor_execute", note)
        steps = [tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {each}", given) for each, given in executed]
        return [row[3] for found in steps for row in found if " objects " in row[3]]

    return await database.write(transaction, idempotent=False)


@pytest.mark.parametrize(
    ("call", "index"),
    [
        (lambda tx: live_rows(tx, [1, 2]), "objects_stream"),
        (lambda tx: live_rows(tx, [1, 2], 7), "objects_stream"),
        (set_objects, "objects_stream"),
        (lambda tx: retire_dead(tx, [1, 2]), "objects_witness"),
    ],
)
async def test_objects_of_streams_are_found_by_their_index(
    tmp_path: Path, call: Callable[[Connection], object], index: str
) -> None:
    database, _ = await open_database(f"sqlite:///{tmp_path}/catalog.db", create=True)
    given = {"stream_id": 1, "epoch": 1, "state": 0, "start_offset": 0, "end_offset": 9}
    await database.write(lambda tx: tx.execute(streams.insert().values(given)), idempotent=False)
    found = await plans(database, call)
    await database.close()
    assert found
    assert all(index in each for each in found), found


async def test_where_no_object_is_dead_nothing_is_locked_to_look_for_them() -> None:
    database, cluster_id = await open_database("sqlite://", create=True)
    writes: list[Callable[[Connection], object]] = []
    real = database.write

    async def write(transaction: Callable[[Connection], Any], *, idempotent: bool) -> Any:
        writes.append(transaction)
        return await real(transaction, idempotent=idempotent)

    database.write = write  # type: ignore[method-assign]
    catalog = SqlCatalog(database, cluster_id)
    assert await catalog.abandoned_objects(0, 10) == []
    assert len(writes) == 1
    await catalog.close()
