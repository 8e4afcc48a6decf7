"""A store that no broker uses: opened for `fsck` and `rebuild-catalog` with the settings that `serve` takes.

A broker that may be alive is a reason to refuse, by its lock (at once) or its lease. Logs in directories are read along
and not changed. Logs of objects are taken away from their former owners by looking, as by any take-over, and only when
these are out; nothing in them is lost by that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from broker.settings import Settings
from broker.wal_address import fence_log, is_sealed_by_looking
from protocol.records import build_batch
from s3stream.catalog.database import Database
from s3stream.catalog.opening import open_database
from s3stream.catalog.schema import ACTIVE, brokers
from s3stream.catalog.snapshot import Snapshot
from s3stream.fsck.logs import BrokerLog
from s3stream.fsck.tables import BrokerRow, Tables, load_tables
from s3stream.object.writer import Batch
from s3stream.objectstore.api import ObjectStore
from s3stream.objectstore.opening import open_store
from s3stream.rebuild.log_streams import FoundLog
from wal import fence_wal
from wal.api import RecoverableWal, WalError, WalForeign, WalLocked, WalOfAnotherEpoch, WalUnreachable

LEASE_CHECK_S = 0.5
CONNECT_TIMEOUT_S = 2.0
OFFSETS_MAX = 1 << 31
"""Offsets that one batch can cover."""
_NO_TIMESTAMP = -1
_NO_EPOCH = -1


class StoreInUse(Exception):
    """One line: which broker may be alive."""


@dataclass(frozen=True, slots=True)
class StoppedStore:
    """`logs` are those of brokers that crashed: they may hold what is in no object."""

    database: Database
    cluster_id: str
    store: ObjectStore
    logs: Sequence[BrokerLog]


@asynccontextmanager
async def stopped_store(
    settings: Settings, waiting: Callable[[str], None], *, for_writing: bool
) -> AsyncIterator[StoppedStore]:
    """Raises StoreInUse, CatalogError, StoreError. `waiting` is told if the lease of a dead broker is waited for, which
    is needed before anything is written."""
    async with AsyncExitStack() as stack:
        database, cluster_id = await open_database(settings.metadata_url, create=False)
        stack.push_async_callback(database.close)
        store = await open_store(settings.objects_url)
        stack.push_async_callback(store.close)
        await _require_free(settings.wal_url, "a broker")
        tables = await load_tables(database)
        for broker in tables.brokers:
            await _require_out(broker)
        if for_writing:
            await _wait_for_leases(database, waiting)
        logs = [
            await _open_log(stack, broker, cluster_id) for broker in tables.brokers if _may_hold_more(tables, broker)
        ]
        yield StoppedStore(database, cluster_id, store, logs)


def _may_hold_more(tables: Tables, broker: BrokerRow) -> bool:
    return broker.is_waiting and any(stream.owner == broker.epoch for stream in tables.streams.values())


async def _require_out(broker: BrokerRow) -> None:
    name = f"node {broker.node_id} at {broker.address}"
    # on another machine the same address is another log
    if await _require_free(broker.wal_url, name) != broker.epoch and broker.is_leased:
        raise StoreInUse(f"{name} holds its lease: stop all brokers first (after a crash, wait 10 s)")


async def _require_free(wal_url: str, name: str) -> int | None:
    """The broker epoch whose owner is out for certain, by this log. The lock is taken for a moment, which changes
    nothing."""
    if is_sealed_by_looking(wal_url):
        return None
    try:
        wal = await fence_wal(wal_url)
    except WalLocked:
        raise StoreInUse(f"{name} is running on {wal_url}: stop all brokers first") from None
    except WalError:
        return None
    await wal.close()
    return wal.epoch if wal.owner_is_out else None


async def _require_silent(node_id: int, host: str, port: int) -> None:
    """There is no lease to ask for when the database is lost, and a living broker would lose its log by the look."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return
    writer.close()
    raise StoreInUse(f"node {node_id} answers at {host}:{port}: stop all brokers first")


async def _wait_for_leases(database: Database, waiting: Callable[[str], None]) -> None:
    """Whoever starts now must find that the dead are out, and the repair's transaction looks at leases only."""
    told = False
    while leased := [broker for broker in (await load_tables(database)).brokers if broker.is_leased]:
        if not told:
            nodes = ", ".join(str(broker.node_id) for broker in leased)
            waiting(f"waiting for the lease of node {nodes}, which is gone")
            told = True
        await asyncio.sleep(LEASE_CHECK_S)


async def _open_log(stack: AsyncExitStack, broker: BrokerRow, cluster_id: str) -> BrokerLog:
    try:
        wal = await fence_log(broker.wal_url, cluster_id, broker.epoch)
    except WalError as error:
        return BrokerLog(broker.node_id, broker.epoch, broker.wal_url, None, error)
    stack.push_async_callback(wal.close)
    return BrokerLog(broker.node_id, broker.epoch, broker.wal_url, wal)


async def find_logs(stack: AsyncExitStack, settings: Settings, snapshot: Snapshot) -> list[FoundLog]:
    """The logs that the snapshot and the settings name, as far as they can be had from here.

    Raises StoreInUse, WalCorrupt.
    """
    registered = sorted(snapshot.rows(brokers), key=lambda row: int(row["epoch"]))
    urls = {row["wal_url"]: row["node_id"] for row in registered}
    urls.setdefault(settings.wal_url, settings.node_id)
    # several machines may have a log each at the same address: the one that is here says by its epoch whose it is
    nodes = {row["epoch"]: row["node_id"] for row in registered}
    found = []
    for url, node_id in urls.items():
        await _require_free(url, f"node {node_id}")
        if is_sealed_by_looking(url):
            for row in registered:
                if row["wal_url"] == url and row["state"] == ACTIVE:
                    await _require_silent(row["node_id"], row["host"], row["port"])
        try:
            wal = await _open_whatever_epoch(url, snapshot.cluster_id)
        except (WalUnreachable, WalForeign):
            continue
        stack.push_async_callback(wal.close)
        found.append(FoundLog(nodes.get(wal.epoch, node_id), url, wal))
    return found


async def _open_whatever_epoch(url: str, cluster_id: str) -> RecoverableWal:
    try:
        return await fence_log(url, cluster_id, _NO_EPOCH)
    except WalOfAnotherEpoch as error:
        return await fence_log(url, cluster_id, error.epoch)


def filling(is_log: bool, start: int, end: int) -> list[Batch]:
    """What stands for offsets that are lost: Kafka's batches without records, as compaction leaves them; in the stream
    of snapshots, one that cannot be read and is skipped."""
    if not is_log:
        return [(start, end - start, _NO_TIMESTAMP, b"\0")]
    return [
        (first, min(end, first + OFFSETS_MAX) - first, _NO_TIMESTAMP, _empty(first, min(end, first + OFFSETS_MAX)))
        for first in range(start, end, OFFSETS_MAX)
    ]


def _empty(start: int, end: int) -> bytearray:
    return build_batch([], base_offset=start, last_offset=end - 1)
