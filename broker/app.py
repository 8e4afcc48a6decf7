"""One broker, wired: the only module that knows all parts. Start-up and shutdown are one list, read in two directions.

Start: data dir -> object store -> catalog -> registration -> lease -> recovery of write-ahead logs -> storage ->
metadata image -> partitions -> coordinators -> server -> ready line. Everything is entered on one exit stack, so that a
failure anywhere, and SIGTERM, undo exactly what was done, last first: requests finish, partitions save their state, the
storage uploads all and the catalog is told that this broker left.

Errors that a user can do something about end the process with one line and exit code 1; so does a broken invariant or a
failed write-ahead log, after which nothing can be acknowledged any more.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from broker import handlers
from broker.balance.balancer import Balancer
from broker.balance.load import LoadMeter
from broker.cluster.image import MetadataImage
from broker.cluster.topics import TopicAdmin
from broker.compaction.cleaner import LogCleaner
from broker.compaction.share import compacts_objects_of
from broker.compaction.worker import CleaningProcess
from broker.config.broker_config import BrokerConfig
from broker.config.broker_definitions import RACK_AWARE_SELECTOR
from broker.config.definition import ConfigError
from broker.coordinator.group.service import GroupService
from broker.coordinator.transaction.service import TransactionService
from broker.data_dir import DataDirError, check_data_dir, claim_data_dir, prepare_data_dir
from broker.failover import Failover
from broker.fetch_memory import FetchMemory
from broker.fetch_sessions import FetchSessions
from broker.former_life import ProcessLock, lock_process
from broker.handoff.leaving import leave
from broker.handoff.mover import Mover
from broker.lease import Lease
from broker.log_setup import configure_logging
from broker.partitions import Partitions
from broker.peers import Peers
from broker.producer_ids import ProducerIds
from broker.replica_reads import ReplicaReads
from broker.retention import Retention
from broker.second_opinion import SecondOpinion
from broker.server.dispatch import api_table
from broker.server.limits import ServerLimits
from broker.server.listener import Server, bind
from broker.server.turning_away import TurningAway
from broker.services import Services
from broker.settings import Address, Settings
from broker.takeover import TakeoverError, fence_own_wal, open_own_wal, recover_logs, register
from broker.verification import Verification
from s3stream.api import StorageError
from s3stream.block_cache import BlockReader
from s3stream.catalog import open_catalog
from s3stream.catalog.api import Catalog, CatalogError
from s3stream.objectstore.api import ObjectStore, StoreError
from s3stream.objectstore.meter import StoreMeter
from s3stream.objectstore.opening import open_store
from s3stream.rebuild.backup import MetadataBackup
from s3stream.rebuild.snapshots import claim_bucket, require_newer
from s3stream.storage import S3Storage
from wal.api import WalError

log = structlog.get_logger()

STORE_CHECK_S = 15.0
"""How long the object store may take to answer at start-up."""
STORAGE_CLOSE_S = 60.0
"""How long a stopping broker tries to upload what is left."""
GC_THRESHOLDS = (50_000, 50, 100)
"""Collections are rare: requests leave no reference cycles. See DESIGN, process and speed."""
WILDCARD_HOSTS = ("0.0.0.0", "::")


class BrokerError(Exception):
    """One line: why the broker cannot start or stop as it should, and what to do."""


class Ending:
    """What ends a broker: a signal, or a failure that nothing can be done about here."""

    def __init__(self, starting: asyncio.Task[Any] | None = None) -> None:
        self.error: Exception | None = None
        self.starting = starting
        """The start as long as it lasts: it is cancelled by a stop, once, however often that is asked for."""
        self._ended = asyncio.Event()

    def stop(self) -> None:
        self._ended.set()
        if self.starting is not None and not self.starting.cancelling():
            self.starting.cancel()

    def fail(self, error: Exception) -> None:
        if self.error is None:
            self.error = error
        self._ended.set()

    async def wait(self) -> None:
        await self._ended.wait()


def _print_line(line: str) -> None:
    print(line, flush=True)


def run(settings: Settings, *, announce: Callable[[str], None] = _print_line, lifeline: int | None = None) -> int:
    """Serve until a signal; returns the exit code.

    `announce` gets the ready line. `lifeline` is the end of a pipe to whoever runs this broker: when that is closed the
    broker stops, as on a signal.
    """
    configure_logging(settings.log_level, broker=settings.node_id if settings.brokers > 1 else None)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(settings, announce, lifeline))
    except (CatalogError, ConfigError, DataDirError, BrokerError, StorageError, TakeoverError, WalError) as error:
        print(f"tailrace: {error}", file=sys.stderr)
        return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed; the standard loop serves as well."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


async def _serve(settings: Settings, announce: Callable[[str], None], lifeline: int | None) -> int:
    ending = Ending(asyncio.current_task())
    _stop_when_told(ending, lifeline)
    try:
        async with running_broker(settings, ending) as broker:
            ending.starting = None
            _tame_garbage_collector()
            announce(
                f"tailrace ready: {broker.address} node={settings.node_id} cluster={broker.services.image.cluster_id}"
            )
            await ending.wait()
            if ending.error is None:
                log.info("stopping")
    except asyncio.CancelledError:
        return 0
    if ending.error is not None:
        print(f"tailrace: stopped: {ending.error}", file=sys.stderr)
        return 1
    return 0


def _stop_when_told(ending: Ending, lifeline: int | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.stop)
    if lifeline is not None:

        def ended() -> None:
            loop.remove_reader(lifeline)
            ending.stop()

        loop.add_reader(lifeline, ended)


def _tame_garbage_collector() -> None:
    """What start-up made stays, so it is never looked at again."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """`address` is what it listens on, with the port it got."""

    address: Address
    services: Services
    server: Server


@asynccontextmanager
async def running_broker(settings: Settings, ending: Ending) -> AsyncIterator[RunningBroker]:
    """A broker that serves for as long as the context is open. Raises what `run` reports."""
    config = BrokerConfig(_static_configs(settings))
    async with AsyncExitStack() as stack:
        prepare_data_dir(settings.data_dir)
        check_data_dir(settings.data_dir, settings.node_id)
        process = await lock_process(settings.data_dir)
        stack.callback(process.close)
        listening = stack.enter_context(_bind(settings.listen))
        address = Address(settings.listen.host, listening.getsockname()[1])
        turning_away = TurningAway(listening)
        stack.push_async_callback(turning_away.close)
        meter = StoreMeter()
        store = await _open_store(stack, settings.objects_url, meter)
        catalog = await open_catalog(settings.metadata_url)
        stack.push_async_callback(catalog.close)
        await claim_bucket(store, catalog.cluster_id)
        await require_newer(store, catalog.last_object_id)
        backup = MetadataBackup(catalog, store, settings.node_id)
        stack.push_async_callback(backup.stop)
        claim_data_dir(settings.data_dir, catalog.cluster_id, settings.node_id)

        advertised = _advertised(settings, address)
        epoch, lease = await _register(stack, catalog, store, settings, advertised, ending, process)
        storage = await _open_storage(stack, catalog, store, settings, epoch, lease, ending)
        services = await _open_services(stack, catalog, storage, settings, config, epoch, ending, meter)
        backup.follow(services.image.subscribe, lambda: services.image.controller_id == settings.node_id)

        apis = api_table(handlers.MODULES)
        services.peers.serve_locally(services, apis)
        server = Server(services, apis, ServerLimits.from_config(config))
        storage.set_pressure_listener(server.pause_producers)
        await server.start(listening)
        stack.push_async_callback(turning_away.start)
        stack.push_async_callback(server.stop)
        second_opinion = SecondOpinion(lease, services.image, services.partitions, services.peers)
        second_opinion.start()
        stack.push_async_callback(second_opinion.stop)
        failover = Failover(catalog, store, settings, epoch, services.image)
        failover.start()
        stack.push_async_callback(failover.stop)
        mover = Mover(
            settings.node_id, epoch, catalog, services.image, services.partitions, storage, services.peers, now_ms
        )
        mover.start()
        stack.push_async_callback(mover.stop)
        services.balancer.start()
        stack.push_async_callback(services.balancer.stop)
        stack.push_async_callback(_leave, services, epoch, ending)
        yield RunningBroker(address, services, server)


async def _leave(services: Services, epoch: int, ending: Ending) -> None:
    def has_failed() -> bool:
        return ending.error is not None

    if not has_failed():
        await leave(services.node_id, epoch, services.catalog, services.image, has_failed=has_failed)


def _static_configs(settings: Settings) -> dict[str, str]:
    """Broker configs with what the settings say of the same things, so that tools show the truth."""
    static = dict(settings.broker)
    static["node.id"] = static["broker.id"] = str(settings.node_id)
    static["listeners"] = f"PLAINTEXT://{settings.listen}"
    if settings.advertised is not None:
        static["advertised.listeners"] = f"PLAINTEXT://{settings.advertised}"
    if settings.rack is not None:
        static["broker.rack"] = settings.rack
    static["log.dirs"] = str(settings.data_dir.absolute())
    return static


def _bind(listen: Address) -> socket.socket:
    try:
        return bind(listen.host, listen.port)
    except OSError as error:
        raise BrokerError(f"cannot listen on {listen}: {error.strerror or error} (--listen HOST:PORT)") from None


def _advertised(settings: Settings, address: Address) -> Address:
    """A port of 0 stands for the one that is listened on."""
    if settings.advertised is not None:
        return Address(settings.advertised.host, settings.advertised.port or address.port)
    if address.host in WILDCARD_HOSTS:
        host = socket.gethostname()
        log.warning("clients are told this machine's name (--advertised HOST:PORT says otherwise)", host=host)
        return Address(host, address.port)
    return address


async def _open_store(stack: AsyncExitStack, url: str, meter: StoreMeter) -> ObjectStore:
    """Open the store and see that it answers. What is said about it does not hold the URL's query: credentials."""
    public_url = url.partition("?")[0]
    try:
        store = await open_store(url, meter)
        stack.push_async_callback(store.close)
        async with asyncio.timeout(STORE_CHECK_S):
            await store.head("tailrace")
    except TimeoutError:
        raise BrokerError(f"the object store {public_url} does not answer (--objects URL)") from None
    except StoreError as error:
        reason = str(error).replace(url, public_url)
        raise BrokerError(f"the object store {public_url} cannot be used: {reason} (--objects URL)") from None
    return store


async def _register(
    stack: AsyncExitStack,
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    advertised: Address,
    ending: Ending,
    process: ProcessLock,
) -> tuple[int, Lease]:
    """Take this node's place: fence, register, hold the lease, recover what is left. Returns the broker epoch."""
    own_wal = await fence_own_wal(settings.wal_url, catalog.cluster_id)
    try:
        epoch, asked_at = await register(catalog, settings, advertised, own_wal, process.ended_epoch)
        process.name(epoch)
        lease = Lease(catalog, settings.node_id, epoch, settings.lease_ms, asked_at, ending.fail)
        lease.start()
        stack.push_async_callback(lease.stop)
        recovering, own_wal = own_wal, None
        await recover_logs(catalog, store, settings, epoch, recovering)
        await catalog.claim_partitions(settings.node_id, epoch)
    finally:
        if own_wal is not None:
            await own_wal.close()
    return epoch, lease


async def _open_storage(
    stack: AsyncExitStack,
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    epoch: int,
    lease: Lease,
    ending: Ending,
) -> S3Storage:
    wal = await open_own_wal(settings.wal_url, epoch, catalog.cluster_id)
    reader = BlockReader(store, cache_size=settings.storage.block_cache_size_max)
    stack.push_async_callback(reader.close)
    storage = S3Storage(
        catalog, store, wal, reader, settings.node_id, epoch, settings.storage, may_confirm=lease.is_held
    )
    stack.push_async_callback(_close_storage, storage)
    storage.on_failed = ending.fail
    lease.on_lost = storage.lose_lease
    await storage.start()
    return storage


async def _close_storage(storage: S3Storage) -> None:
    """Upload everything, within a bound: what a store that does not answer cannot take stays in the write-ahead log."""
    try:
        async with asyncio.timeout(STORAGE_CLOSE_S):
            await storage.close()
    except TimeoutError:
        raise BrokerError(
            "stopped without uploading everything: the object store or the metadata database does not answer; "
            "the rest is in the write-ahead log and is uploaded at the next start"
        ) from None


async def _open_services(
    stack: AsyncExitStack,
    catalog: Catalog,
    storage: S3Storage,
    settings: Settings,
    config: BrokerConfig,
    epoch: int,
    ending: Ending,
    meter: StoreMeter,
) -> Services:
    """Metadata, partitions, coordinators; loaded and led here when this returns."""
    image = MetadataImage(catalog, config, settings.node_id, expects_others=settings.brokers > 1)
    await image.start(ending.fail)
    stack.push_async_callback(image.stop)
    partitions = Partitions(settings.node_id, storage, image, now_ms)
    stack.push_async_callback(partitions.close_all)
    await partitions.open_all()
    topics = TopicAdmin(catalog, image, partitions, config)
    stack.push_async_callback(topics.close)
    producer_ids = ProducerIds(partial(catalog.allocate_producer_ids, settings.node_id, epoch))
    stack.push_async_callback(producer_ids.close)
    peers = Peers(image)
    stack.push_async_callback(peers.close)
    groups = GroupService(config, image, partitions, topics, now_ms)
    await groups.start()
    stack.push_async_callback(groups.stop)
    transactions = TransactionService(config, image, partitions, topics, producer_ids, peers, now_ms)
    await transactions.start()
    stack.push_async_callback(transactions.stop)
    retention = Retention(partitions, config, now_ms)
    retention.start()
    stack.push_async_callback(retention.stop)
    storage.compactor.adopts = partial(compacts_objects_of, image)
    cleaner = LogCleaner(partitions, storage.compactor, CleaningProcess(), config, now_ms)
    cleaner.start()
    stack.push_async_callback(cleaner.stop)
    load_meter = LoadMeter(partitions.all)
    load_meter.start()
    stack.push_async_callback(load_meter.stop)
    replica_reads = None
    if config.replica_selector_class == RACK_AWARE_SELECTOR:
        replica_reads = ReplicaReads(
            settings.node_id, settings.rack, image, partitions, catalog, storage.reader, now_ms
        )
        stack.callback(replica_reads.close)
    return Services(
        node_id=settings.node_id,
        config=config,
        catalog=catalog,
        image=image,
        storage=storage,
        partitions=partitions,
        topics=topics,
        groups=groups,
        transactions=transactions,
        fetch_sessions=FetchSessions(config.max_incremental_fetch_session_cache_slots),
        producer_ids=producer_ids,
        peers=peers,
        load_meter=load_meter,
        balancer=Balancer(image, catalog, peers, config),
        verification=Verification(
            peers,
            transactions.coordinator,
            retry_backoff_ms=config.add_partitions_to_txn_retry_backoff_ms,
            retry_max_ms=config.add_partitions_to_txn_retry_backoff_max_ms,
        ),
        now_ms=now_ms,
        fetch_memory=FetchMemory(settings.storage.fetch_memory_max),
        replica_reads=replica_reads,
        store_meter=meter,
    )


def now_ms() -> int:
    """Wall-clock time."""
    return time.time_ns() // 1_000_000
