"""What a starting broker does about write-ahead logs: its own of last time, and those of brokers that are gone.

The order is the safety: the owner of a log is **fenced** (it is provably out), then the log's un-uploaded records are
brought into objects and committed, then the catalog is told, and only then the log is emptied. A crash anywhere in
between leaves work that the next start does again.

Proof that an owner is out is the free lock of its log, or a lease that has run out on the database's clock: then it may
live, and write its log, but it acknowledges nothing any more. So a log in a directory is only read by others; its own
node empties it, at its next start, once the catalog knows that everything was recovered. Leases of other nodes are
judged by who runs (`broker.failover`): a start cannot tell whether the database was away until a moment ago.

A log is known by the epoch it was last appended under, which is its broker's own: at the same address may lie the log
of another machine, or a new one in the place of one that was lost. A log that cannot be reached leaves the partitions
of its broker offline, and a line in the log says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import TypeVar
from uuid import UUID, uuid4

import structlog

from broker.lease import lease_clock
from broker.settings import Address, Settings
from broker.wal_address import fence_log, is_sealed_by_looking, open_log
from s3stream.api import StorageError
from s3stream.catalog.api import BrokerInfo, Catalog, CatalogError
from s3stream.objectstore.api import ObjectStore, StoreError, StoreUnreachable
from s3stream.recovery import recover_wal
from wal import fence_wal
from wal.api import RecoverableWal, Wal, WalError, WalLocked, WalOfAnotherEpoch, WalUnreachable

log = structlog.get_logger()

T = TypeVar("T")

LOCK_WAIT_S = 5.0
"""How long somebody else may hold the lock: a former process of this node that is about to end. Other brokers look at
it for a moment only."""
LOCK_CHECK_S = 0.02
EXPIRY_CHECK_S = 0.2
EXPIRY_LEASES_MAX = 2
"""A former broker of this node id that still holds its lease after so many of our own is alive."""
STORE_CHECK_S = 2.0
"""A broker that the object store does not answer within this time leaves recoveries to others ..."""
STORE_PATIENCE_S = 10.0
"""... and gives up one that it is at if the store has not answered for so long."""


class TakeoverError(Exception):
    """One line: why this broker cannot take its place."""


async def fence_own_wal(wal_url: str, cluster_id: str) -> RecoverableWal | None:
    """This node's log of last time, locked; None if there is none yet, or if it has no lock: then its owner may live,
    which only the registration can tell.

    Raises TakeoverError, WalError (WalForeign: the log is another cluster's, and stays as it is).
    """
    if is_sealed_by_looking(wal_url):
        return None
    try:
        return await _when_free(wal_url, lambda: fence_wal(wal_url, owner=cluster_id))
    except WalUnreachable:
        return None


async def open_own_wal(wal_url: str, epoch: int, cluster_id: str) -> Wal:
    """The log, recovered and empty, ready to be appended to. Raises TakeoverError, WalError."""
    return await _when_free(wal_url, lambda: open_log(wal_url, epoch, cluster_id))


async def _when_free(wal_url: str, take: Callable[[], Awaitable[T]]) -> T:
    """Others who start look at the lock too, for a moment."""
    deadline = lease_clock() + LOCK_WAIT_S
    while True:
        try:
            return await take()
        except WalLocked:
            if lease_clock() > deadline:
                raise TakeoverError(
                    f"the write-ahead log {wal_url} is in use: is another broker running on this data dir?"
                ) from None
        await asyncio.sleep(LOCK_CHECK_S)


async def register(
    catalog: Catalog,
    settings: Settings,
    advertised: Address,
    own_wal: RecoverableWal | None,
    ended_epoch: int | None = None,
) -> tuple[int, float]:
    """Register this node; returns its broker epoch and when (`lease_clock`) it asked.

    A former registration of this node id is ended first: at once if its process has ended (`ended_epoch` is its epoch)
    or its log (`own_wal`, or the one at its address) proves that it is out, else when its lease has run out. Raises
    TakeoverError if it is alive.
    """
    former = next((broker for broker in await catalog.brokers() if broker.node_id == settings.node_id), None)
    if former is not None and not former.closed:
        if former.epoch == ended_epoch:
            await catalog.fence_broker(former.node_id, former.epoch)
        else:
            await _end_former(catalog, former, settings, own_wal)
    asked_at = lease_clock()
    incarnation: UUID = uuid4()
    registered = await catalog.register_broker(
        settings.node_id,
        advertised.host,
        advertised.port,
        settings.rack,
        settings.wal_url,
        settings.lease_ms,
        incarnation,
    )
    return registered.epoch, asked_at


async def _end_former(catalog: Catalog, former: BrokerInfo, settings: Settings, own_wal: RecoverableWal | None) -> None:
    if own_wal is not None and former.wal_url == settings.wal_url:
        is_out = own_wal.epoch == former.epoch and own_wal.owner_is_out
        # It ended, or lives on another machine, before it opened its log.
        if not is_out and await catalog.fence_broker(former.node_id, former.epoch, only_idle=True):
            return
    else:
        is_out = await _is_out(former, catalog.cluster_id)
    if is_out:
        await catalog.fence_broker(former.node_id, former.epoch)
        return
    deadline = lease_clock() + EXPIRY_LEASES_MAX * settings.lease_ms / 1000
    told = False
    while not await catalog.fence_broker(former.node_id, former.epoch, only_expired=True):
        if lease_clock() > deadline:
            raise TakeoverError(
                f"node id {former.node_id} is in use by the broker at {former.host}:{former.port}: "
                "choose another one (--node-id N)"
            )
        if not told:
            log.warning("waiting for the lease of the former broker of this node id", node=former.node_id)
            told = True
        await asyncio.sleep(EXPIRY_CHECK_S)


async def _is_out(broker: BrokerInfo, cluster_id: str) -> bool:
    """Whether its log proves it. One of objects says nothing without being sealed."""
    if is_sealed_by_looking(broker.wal_url):
        return False
    try:
        wal = await fence_log(broker.wal_url, cluster_id, broker.epoch)
    except WalError:
        return False
    await wal.close()
    return wal.owner_is_out


async def recover_logs(
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    broker_epoch: int,
    own_wal: RecoverableWal | None,
) -> None:
    """Bring into objects what is only in this node's log and in those of dead brokers. Closes `own_wal`.

    Raises WalCorrupt, InvariantBroken and the like for the own log; another broker's damaged log is left as it is.
    """
    await _fence_dead(catalog, settings.node_id)
    waiting = await catalog.unrecovered()
    if own_wal is not None:
        own = [broker for broker in waiting if broker.epoch == own_wal.epoch]
        waiting = [broker for broker in waiting if broker not in own]
        try:
            own = [broker for broker in own if await _claim(catalog, settings, broker_epoch, broker, waits=True)]
            # what others have recovered is dropped record by record: that shows that the log and the catalog agree
            await recover_fenced(catalog, store, settings, broker_epoch, own_wal, own)
            await own_wal.discard()
        finally:
            await own_wal.close()
    for broker in waiting:
        try:
            await _recover_other(catalog, store, settings, broker_epoch, broker)
        except (WalError, StorageError) as error:
            log.error(
                "partitions stay offline: write-ahead log of a dead broker not recovered",
                node=broker.node_id,
                epoch=broker.epoch,
                error=str(error),
            )
    if is_sealed_by_looking(settings.wal_url):
        await _empty_own_log(catalog, settings.wal_url, broker_epoch)


async def _claim(catalog: Catalog, settings: Settings, broker_epoch: int, broker: BrokerInfo, *, waits: bool) -> bool:
    """True if it is to be recovered here. With `waits` only if nobody else has done it in the end."""
    told = False
    while not await catalog.claim_recovery(broker.node_id, broker.epoch, settings.node_id, broker_epoch):
        if not waits or broker.epoch not in {each.epoch for each in await catalog.unrecovered()}:
            return False
        if not told:
            log.info("another broker recovers the log of this one's former life: waiting for it", epoch=broker.epoch)
            told = True
        await asyncio.sleep(EXPIRY_CHECK_S)
    return True


async def _empty_own_log(catalog: Catalog, wal_url: str, broker_epoch: int) -> None:
    """Let go what a log of objects holds if the catalog knows that it was recovered: who did that may have died, or be
    at it, before the log was emptied. A log that was not recovered stays as it is, and cannot be opened."""
    try:
        await (await fence_log(wal_url, catalog.cluster_id, broker_epoch)).close()
    except WalOfAnotherEpoch as error:
        epoch = error.epoch
    except WalUnreachable:
        return
    held = [*await catalog.brokers(), *await catalog.unrecovered()]
    if any(broker.epoch == epoch and not broker.closed for broker in held):
        return
    wal = await fence_log(wal_url, catalog.cluster_id, epoch)
    try:
        await wal.discard()
    finally:
        await wal.close()


async def _recover_other(
    catalog: Catalog, store: ObjectStore, settings: Settings, broker_epoch: int, broker: BrokerInfo
) -> None:
    """Leave it to a broker that is at it already; but the log at this one's own address has to be empty."""
    wal = await fence_log(broker.wal_url, catalog.cluster_id, broker.epoch)
    try:
        if await _claim(catalog, settings, broker_epoch, broker, waits=broker.wal_url == settings.wal_url):
            await recover_claimed(catalog, store, settings, broker_epoch, wal, broker)
            await wal.discard()
    finally:
        await wal.close()


async def _fence_dead(catalog: Catalog, node_id: int) -> None:
    """End the registrations of other brokers whose logs prove that they are out."""
    for broker in await catalog.brokers():
        if not broker.closed and broker.node_id != node_id and await _is_out(broker, catalog.cluster_id):
            await catalog.fence_broker(broker.node_id, broker.epoch)


async def recover_claimed(
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    broker_epoch: int,
    wal: RecoverableWal,
    owner: BrokerInfo,
    absent: Collection[int] | None = None,
) -> int:
    """As `recover_fenced`, of another broker that was claimed. If it fails, or the store does not answer any more,
    others may try: they may reach more."""
    recovering = asyncio.create_task(recover_fenced(catalog, store, settings, broker_epoch, wal, [owner], absent))
    try:
        return await _end_without_store(recovering, store)
    except Exception:
        with suppress(CatalogError):
            await catalog.release_recovery(owner.node_id, owner.epoch, settings.node_id, broker_epoch)
        raise


async def _end_without_store(recovering: asyncio.Task[int], store: ObjectStore) -> int:
    """Wait for it, and for what it returns or raises. Raises StoreUnreachable when the store has not answered for too
    long."""
    answered_at = lease_clock()
    try:
        while not (await asyncio.wait([recovering], timeout=STORE_CHECK_S))[0]:
            if await store_answers(store):
                answered_at = lease_clock()
            elif lease_clock() - answered_at > STORE_PATIENCE_S:
                raise StoreUnreachable("the object store does not answer any more")
    finally:
        recovering.cancel()
        await asyncio.wait([recovering])
    return recovering.result()


async def store_answers(store: ObjectStore) -> bool:
    try:
        async with asyncio.timeout(STORE_CHECK_S):
            await store.head("tailrace")
    except (StoreError, TimeoutError):
        return False
    return True


async def recover_fenced(
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    broker_epoch: int,
    wal: RecoverableWal,
    owners: list[BrokerInfo],
    absent: Collection[int] | None = None,
) -> int:
    """Bring the tail of a log into objects, tell the catalog that its owners are recovered; with `absent` their
    partitions are shared among all others, and it is said how many. The log may be emptied then."""
    await recover_wal(wal, catalog, store, settings.node_id, broker_epoch, settings=settings.storage)
    shared = 0
    for broker in owners:
        shared += await catalog.recovered(broker.node_id, broker.epoch, settings.node_id, broker_epoch, absent)
    return shared
