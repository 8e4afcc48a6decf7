"""Commands on a stopped store: whose a log is, and whom it proves to be out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from broker.settings import Settings, load_settings
from broker.stopped_store import StoreInUse, find_logs, stopped_store
from broker.wal_address import open_log
from s3stream.catalog.catalog import SqlCatalog
from s3stream.catalog.opening import open_database
from wal import memory, open_wal
from wal.api import WalFailed

HOUR_MS = 3_600_000


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Several machines have their logs at this address; the one of node 1 is at hand."""
    flags = {"wal": f"memory://{tmp_path}", "objects": "memory://", "metadata": f"sqlite:///{tmp_path}/catalog.db"}
    yield load_settings(flags, {}, None)
    memory.forget(str(tmp_path))


@pytest.fixture
async def catalog(settings: Settings) -> AsyncIterator[SqlCatalog]:
    catalog = SqlCatalog(*await open_database(settings.metadata_url, create=True))
    yield catalog
    await catalog.close()


async def register(catalog: SqlCatalog, settings: Settings, node_id: int) -> int:
    registered = await catalog.register_broker(node_id, "h", 1, None, settings.wal_url, HOUR_MS, uuid4())
    return registered.epoch


async def leave_a_log(settings: Settings, epoch: int) -> None:
    await (await open_wal(settings.wal_url, epoch=epoch)).close()


async def test_a_log_proves_nothing_of_a_broker_on_another_machine(catalog: SqlCatalog, settings: Settings) -> None:
    epoch = await register(catalog, settings, 1)
    await leave_a_log(settings, epoch)
    async with stopped_store(settings, print, for_writing=False) as opened:
        assert opened.cluster_id == catalog.cluster_id
    await register(catalog, settings, 2)
    with pytest.raises(StoreInUse, match="node 2"):
        async with stopped_store(settings, print, for_writing=False):
            pass


async def test_a_log_that_is_found_is_of_the_node_that_wrote_it(catalog: SqlCatalog, settings: Settings) -> None:
    epoch = await register(catalog, settings, 1)
    await leave_a_log(settings, epoch)
    await register(catalog, settings, 2)
    async with AsyncExitStack() as stack:
        found = await find_logs(stack, settings, await catalog.snapshot())
        assert [(log.node_id, log.epoch) for log in found] == [(1, epoch)]


async def test_the_log_of_objects_of_a_broker_that_answers_is_not_sealed(
    catalog: SqlCatalog, settings: Settings, tmp_path: Path
) -> None:
    url = f"object+file://{tmp_path}/slots"
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    registered = await catalog.register_broker(1, "127.0.0.1", port, None, url, HOUR_MS, uuid4())
    log = await open_log(url, registered.epoch, catalog.cluster_id)
    snapshot = await catalog.snapshot()
    async with AsyncExitStack() as stack:
        with pytest.raises(StoreInUse, match="node 1 answers"):
            await find_logs(stack, settings, snapshot)
        log.append([b"acknowledged"])
        await log.flush()
        server.close()
        await server.wait_closed()
        assert [found.epoch for found in await find_logs(stack, settings, snapshot)] == [registered.epoch]
        log.append([b"too late"])
        with pytest.raises(WalFailed):
            await log.flush()
    await log.close()
