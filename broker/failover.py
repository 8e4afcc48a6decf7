"""Takes over from other brokers of the cluster that are out, while this one serves.

Every broker watches every other one (`PeerWatch`), and looks at all of them now and then. One that may be out is fenced
with proof: the free lock of its log, the seal that was put to it, or a lease that has run out on the database's clock.
Whoever gets the claim recovers the log's tail into objects; then its partitions are shared among those that are
alive, who learn of it from the catalog. A broker that stopped cleanly left nothing to recover: its partitions are
only shared. What is done about one broker waits for nothing that is done about another.

Nothing here is needed for safety: two that do the same at once get in each other's way in the catalog, harmlessly.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from functools import partial

import structlog

from broker.background import BackgroundTask
from broker.cluster.image import MetadataImage
from broker.lease import lease_clock
from broker.peer_watch import PeerWatch
from broker.settings import Address, Settings
from broker.takeover import recover_claimed, store_answers
from broker.wal_address import fence_log, is_sealed_by_looking
from s3stream.api import StorageError
from s3stream.catalog.api import BrokerInfo, Catalog, CatalogError, Changes
from s3stream.objectstore.api import ObjectStore
from wal.api import RecoverableWal, WalError

log = structlog.get_logger()

LOOK_INTERVAL_S = 1.0
"""How often all other brokers are looked at when nothing tells of a change."""
FOLLOW_RECOVERY_S, FOLLOW_RECOVERY_INTERVAL_S = 3.0, 0.02
"""How long, and how often, another broker's recovery is asked after."""
RETRY_MIN_S, RETRY_MAX_S = 2.0, 60.0
"""Pauses before a recovery that failed is tried again: it may read the whole log each time."""


class Failover:
    def __init__(
        self, catalog: Catalog, store: ObjectStore, settings: Settings, broker_epoch: int, image: MetadataImage
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._settings = settings
        self._node_id = settings.node_id
        self._broker_epoch = broker_epoch
        self._image = image
        self._watch = PeerWatch(self._watch_changed)
        self._woken = asyncio.Event()
        self._task = BackgroundTask(self._run, "failover")
        self._looks: dict[int, asyncio.Task[None]] = {}
        """Broker epoch -> the look at that broker that is under way, with the take-over that comes of it."""
        self._look_again: set[int] = set()
        """Broker epochs that another look was asked for meanwhile."""
        self._unsubscribe = image.subscribe(self._changed)
        self._failed: dict[int, tuple[float, float]] = {}
        """Broker epoch -> when its recovery is tried again, the pause until then."""
        self._unrecoverable: dict[int, str] = {}
        """Broker epoch -> why its log could not be recovered, as it was logged last."""
        self._patience_s = settings.lease_ms / 2000
        """How long the others have, when the catalog answers again, to renew leases that ended meanwhile. It may have
        been away until this broker started."""
        self._answered_at = lease_clock()
        self._leases_count_from = self._answered_at + self._patience_s
        self._shared_generation = -1
        """Of the image when its partitions were looked through last."""

    def start(self) -> None:
        self._follow()
        self._task.start()

    async def stop(self) -> None:
        self._unsubscribe()
        await self._task.stop()
        looks = [*self._looks.values()]
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        await self._watch.close()

    def _changed(self, changes: Changes) -> None:
        if changes.brokers:
            self._follow()
            self._wake()

    def _follow(self) -> None:
        self._watch.follow(
            {
                broker.epoch: Address(broker.host, broker.port)
                for broker in self._others()
                if not broker.closed and not broker.fenced
            }
        )
        self._image.set_absent(self._watch.absent)

    def _others(self) -> list[BrokerInfo]:
        return [broker for broker in self._image.registered_brokers() if broker.node_id != self._node_id]

    def _watch_changed(self) -> None:
        self._image.set_absent(self._watch.absent)
        self._wake()

    def _wake(self) -> None:
        self._woken.set()

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._look()
                await self._share()
            except CatalogError as error:
                log.debug("other brokers are not looked at: catalog unreachable", error=str(error))
            except Exception:
                log.exception("looking for partitions of brokers that are out has a defect")
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._woken.wait()

    async def _look(self) -> None:
        others = self._others()
        if not others:
            return
        suspects = {broker.epoch: broker for broker in others if not broker.closed}
        # those that a newer registration of the same node has replaced, too
        suspects.update((broker.epoch, broker) for broker in await self._catalog.unrecovered())
        now = lease_clock()
        if now - self._answered_at > LOOK_INTERVAL_S + self._patience_s:
            self._leases_count_from = now + self._patience_s
        self._answered_at = now
        for epoch, broker in suspects.items():
            if epoch in self._looks:
                self._look_again.add(epoch)
            else:
                task = asyncio.create_task(self._look_at(broker), name=f"look-at-broker-epoch-{epoch}")
                self._looks[epoch] = task
                task.add_done_callback(partial(self._looked, epoch))

    def _looked(self, epoch: int, task: asyncio.Task[None]) -> None:
        del self._looks[epoch]
        if epoch in self._look_again:
            # what it saw may have been the state before the news that asked for another look
            self._look_again.discard(epoch)
            self._wake()

    async def _share(self) -> None:
        """Once for each state of the image: what is recovered meanwhile changes it."""
        generation = self._image.generation
        if generation == self._shared_generation:
            return
        if self._any_partition_is_left():
            absent = self._absent_nodes()
            await self._shared(await self._catalog.claim_partitions(self._node_id, self._broker_epoch, absent=absent))
        self._shared_generation = generation

    def _absent_nodes(self) -> set[int]:
        return {broker.node_id for broker in self._others() if broker.epoch in self._watch.absent}

    async def _shared(self, partition_count: int) -> None:
        if partition_count:
            log.info("partitions of brokers that are out were shared", partitions=partition_count)
        await self._image.refresh()

    def _any_partition_is_left(self) -> bool:
        """The image knows of a partition without a leader that is alive."""
        held = {broker.node_id for broker in self._image.registered_brokers() if broker.alive}
        return any(each.leader not in held for topic in self._image.topics() for each in topic.partitions)

    async def _look_at(self, broker: BrokerInfo) -> None:
        """Take over from it if it is out. One that cannot be taken over from keeps nobody from the others."""
        try:
            await self._take_over_if_out(broker)
        except CatalogError as error:
            log.debug("a broker is not taken over from", node=broker.node_id, epoch=broker.epoch, error=str(error))
        except Exception:
            log.exception("taking over has a defect", node=broker.node_id, epoch=broker.epoch)

    async def _take_over_if_out(self, broker: BrokerInfo) -> None:
        if lease_clock() < self._failed.get(broker.epoch, (0.0, 0.0))[0]:
            return
        async with AsyncExitStack() as open_logs:
            try:
                wal = await self._fence(broker, open_logs)
            except WalError as error:
                if not broker.alive and not await self._end_idle(broker):
                    await self._tell(broker, str(error))
                return
            if wal is None:
                return
            try:
                await self._recover(broker, wal)
            except (WalError, StorageError) as error:
                await self._tell(broker, str(error))
                pause_s = min(2 * self._failed.get(broker.epoch, (0.0, RETRY_MIN_S / 2))[1], RETRY_MAX_S)
                self._failed[broker.epoch] = (lease_clock() + pause_s, pause_s)

    async def _fence(self, broker: BrokerInfo, open_logs: AsyncExitStack) -> RecoverableWal | None:
        """Its log, if it is out. Raises WalError if the log cannot be reached."""
        sealed_by_looking = is_sealed_by_looking(broker.wal_url)
        if sealed_by_looking and not self._watch.is_gone(broker.epoch) and not await self._has_lost_its_lease(broker):
            return None
        wal = await fence_log(broker.wal_url, self._catalog.cluster_id, broker.epoch)
        open_logs.push_async_callback(wal.close)
        if not wal.owner_is_out and not await self._has_lost_its_lease(broker):
            return None
        return wal

    async def _has_lost_its_lease(self, broker: BrokerInfo) -> bool:
        return broker.fenced or (not broker.alive and await self._end_expired(broker))

    async def _end_idle(self, broker: BrokerInfo) -> bool:
        """Its log cannot be had. True if nothing is offline for it: it may live, or it opened nothing, and ends here.
        Nobody gains by fencing one that did: its log is on another machine most likely, and may come back."""
        if broker.fenced:
            return False
        return not self._leases_count() or await self._end_expired(broker, only_idle=True)

    async def _end_expired(self, broker: BrokerInfo, *, only_idle: bool = False) -> bool:
        if not self._leases_count():
            return False
        return await self._catalog.fence_broker(broker.node_id, broker.epoch, only_expired=True, only_idle=only_idle)

    def _leases_count(self) -> bool:
        """The end of a lease proves nothing just after the catalog was away, when it ended for everybody."""
        return lease_clock() >= self._leases_count_from

    async def _recover(self, broker: BrokerInfo, wal: RecoverableWal) -> None:
        # who has sealed a log of objects has just heard of a store
        if not is_sealed_by_looking(broker.wal_url) and not await store_answers(self._store):
            await self._tell(broker, "the object store does not answer")
            return
        if not await self._catalog.claim_recovery(broker.node_id, broker.epoch, self._node_id, self._broker_epoch):
            await self._follow_recovery()
            return
        log.info("taking over", node=broker.node_id, epoch=broker.epoch)
        place = self._catalog, self._store, self._settings, self._broker_epoch
        shared = await recover_claimed(*place, wal, broker, self._absent_nodes())
        self._unrecoverable.pop(broker.epoch, None)
        self._failed.pop(broker.epoch, None)
        await self._shared(shared)
        await wal.discard()

    async def _follow_recovery(self) -> None:
        """Somebody else is at it: learn at once what is led here then."""
        until = lease_clock() + FOLLOW_RECOVERY_S
        await self._image.refresh()
        while self._any_partition_is_left() and lease_clock() < until:
            await asyncio.sleep(FOLLOW_RECOVERY_INTERVAL_S)
            await self._image.refresh()

    async def _tell(self, broker: BrokerInfo, reason: str) -> None:
        if self._unrecoverable.get(broker.epoch) == reason:
            return
        known = [*await self._catalog.brokers(), *await self._catalog.unrecovered()]
        if all(each.epoch != broker.epoch or each.closed for each in known):
            return  # somebody else has recovered it meanwhile
        self._unrecoverable[broker.epoch] = reason
        log.error(
            "partitions stay offline: write-ahead log of a dead broker not recovered",
            node=broker.node_id,
            epoch=broker.epoch,
            error=reason,
        )
