"""Brokers that are out are taken over from while this one serves; living and starting ones are left alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from broker import peer_watch
from broker.cluster.image import MetadataImage
from broker.config.broker_config import BrokerConfig
from broker.failover import LOOK_INTERVAL_S, Failover
from broker.lease import lease_clock
from broker.peer_watch import PeerWatch
from broker.server.turning_away import TurningAway
from broker.settings import Address, Settings, load_settings
from broker.takeover import fence_own_wal, recover_fenced, recover_logs, register
from broker.wal_address import fence_log, open_log
from s3stream.catalog import open_catalog
from s3stream.catalog.api import NO_LEADER, BrokerFenced, Catalog, CatalogError, NewTopic
from s3stream.objectstore.api import ObjectStore, StoreError
from s3stream.objectstore.memory import MemoryStore
from s3stream.recovery import recover_wal
from s3stream.wal_record import encode_header
from wal import fence_wal, memory, read_wal
from wal.api import RecoverableWal, Wal, WalCorrupt, WalError, WalRecord
from wal.memory import MemoryWal

HOUR_MS = 3_600_000


class Cluster:
    """Registrations in one catalog, by node id; node 9 is the broker under test."""

    def __init__(self, catalog: Catalog, wals: str, tmp_path: Path) -> None:
        self.catalog = catalog
        self.wals = wals
        self.tmp_path = tmp_path
        self.store = MemoryStore()
        self.epochs: dict[int, int] = {}
        self.logs: dict[int, Wal] = {}

    def settings(self, node_id: int) -> Settings:
        return load_settings({"node_id": node_id, "wal": f"{self.wals}/{node_id}"}, {}, None)

    async def register(self, node_id: int, *, lease_ms: int = HOUR_MS, port: int = 1) -> None:
        url = self.settings(node_id).wal_url
        found = await self.catalog.register_broker(node_id, "127.0.0.1", port, None, url, lease_ms, uuid4())
        self.epochs[node_id] = found.epoch

    async def serve(self, node_id: int, *, lease_ms: int = HOUR_MS, port: int = 1, records: int = 3) -> int:
        """A broker that leads two partitions and has acknowledged `records` in one; returns that one's stream."""
        await self.register(node_id, lease_ms=lease_ms, port=port)
        topic = await self.catalog.create_topic(NewTopic(f"t{node_id}", [node_id] * 2, {}))
        stream_id = topic.partitions[0].log_stream_id
        (stream,) = await self.catalog.open_streams(node_id, self.epochs[node_id], [stream_id])
        log = await open_log(self.settings(node_id).wal_url, self.epochs[node_id], self.catalog.cluster_id)
        for offset in range(records):
            log.append((encode_header(stream_id, stream.epoch, offset, 1, 0), b"record"))
        await log.flush()
        self.logs[node_id] = log
        return stream_id

    async def append(self, node_id: int, stream_id: int, offset: int) -> None:
        """As its leader, under the first epoch of the stream."""
        self.logs[node_id].append((encode_header(stream_id, 1, offset, 1, 0), b"record"))
        await self.logs[node_id].flush()

    async def log_of(self, node_id: int) -> list[WalRecord]:
        wal = await read_wal(self.settings(node_id).wal_url)
        return [record for chunk in [chunk async for chunk in wal.records()] for record in chunk]

    async def start_again(self, node_id: int, ended_epoch: int | None = None) -> None:
        """A new process of this node, up to where its log is recovered."""
        own_wal = await fence_own_wal(self.settings(node_id).wal_url, self.catalog.cluster_id)
        settings = self.settings(node_id)
        address = Address("127.0.0.1", 1)
        self.epochs[node_id], _ = await register(self.catalog, settings, address, own_wal, ended_epoch)
        await recover_logs(self.catalog, self.store, settings, self.epochs[node_id], own_wal)

    def die(self, node_id: int) -> None:
        log = self.logs[node_id]
        assert isinstance(log, MemoryWal)
        log.crash()

    async def survivor(self, node_id: int = 9) -> Survivor:
        if node_id not in self.epochs:
            await self.register(node_id)
        image = MetadataImage(self.catalog, BrokerConfig({}), node_id, follow_interval_s=0.02)
        await image.start()
        return Survivor(self, image, node_id)

    async def leaders(self, node_id: int) -> list[int]:
        topics = (await self.catalog.load_changes(0)).topics.values()
        return [p.leader for t in topics if t is not None and t.name == f"t{node_id}" for p in t.partitions]

    async def is_led_by(self, node_id: int, leaders: list[int]) -> bool:
        return await self.leaders(node_id) == leaders

    async def end_offset(self, stream_id: int) -> int:
        (info,) = await self.catalog.stream_infos([stream_id])
        return info.end_offset


class Survivor:
    def __init__(self, cluster: Cluster, image: MetadataImage, node_id: int) -> None:
        self.image = image
        self.failover = Failover(
            cluster.catalog, cluster.store, cluster.settings(node_id), cluster.epochs[node_id], image
        )
        # the database was there all the time
        self.failover._leases_count_from = lease_clock()

    async def look(self) -> None:
        """Once, until nothing comes of it any more."""
        await self.image.refresh()
        await self.failover._look()
        if looks := [*self.failover._looks.values()]:
            await asyncio.wait(looks)
        await self.failover._share()

    async def close(self) -> None:
        await self.failover.stop()
        await self.image.stop()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.01)


async def is_told(lines: Sequence[Mapping[str, object]], event: str) -> bool:
    return any(event in str(line["event"]) for line in lines)


@pytest.fixture
async def catalog() -> AsyncIterator[Catalog]:
    catalog = await open_catalog("sqlite://")
    yield catalog
    await catalog.close()


@pytest.fixture
def cluster(catalog: Catalog, tmp_path: Path) -> Iterator[Cluster]:
    yield Cluster(catalog, f"memory://{tmp_path}", tmp_path)
    for node_id in range(10):
        memory.forget(f"{tmp_path}/{node_id}")


@pytest.fixture
def object_cluster(catalog: Catalog, tmp_path: Path) -> Cluster:
    return Cluster(catalog, f"object+file://{tmp_path}", tmp_path)


async def test_the_tail_of_a_dead_broker_is_recovered_and_its_partitions_are_shared(cluster: Cluster) -> None:
    stream_id = await cluster.serve(1)
    await cluster.register(5)
    survivor = await cluster.survivor()
    await survivor.look()
    assert await cluster.leaders(1) == [1, 1], "it lives"
    cluster.die(1)
    await survivor.look()
    assert await cluster.end_offset(stream_id) == 3
    assert await cluster.leaders(1) == [5, 9]
    assert await cluster.catalog.unrecovered() == []
    assert [(b.closed, b.alive) for b in await cluster.catalog.brokers() if b.node_id == 1] == [(True, False)]
    await survivor.close()


async def test_who_comes_second_to_a_recovery_learns_at_once_what_it_leads(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.serve(1)
    await cluster.register(2)
    survivor = await cluster.survivor()
    await survivor.image.stop()  # it follows nothing by itself
    cluster.die(1)
    place = 1, cluster.epochs[1], 2, cluster.epochs[2]
    assert await cluster.catalog.claim_recovery(*place)
    looked = asyncio.Event()
    refresh = survivor.image.refresh

    async def look() -> None:
        await refresh()
        looked.set()

    await refresh()
    monkeypatch.setattr(survivor.image, "refresh", look)
    await survivor.failover._look()
    looks = [*survivor.failover._looks.values()]
    await looked.wait()
    await cluster.catalog.recovered(*place, absent=())
    await asyncio.wait(looks)
    topic = survivor.image.topic("t1")
    assert topic is not None
    assert [p.leader for p in topic.partitions] == [2, 9]
    await survivor.close()


async def test_a_lost_connection_is_enough_to_notice_a_death(cluster: Cluster) -> None:
    connected = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda reader, writer: connected.set_result(writer), "127.0.0.1", 0)
    stream_id = await cluster.serve(1, port=server.sockets[0].getsockname()[1])
    survivor = await cluster.survivor()
    survivor.failover.start()
    writer = await connected
    cluster.die(1)
    server.close()
    writer.close()
    await until(lambda: cluster.is_led_by(1, [9, 9]))
    assert await cluster.end_offset(stream_id) == 3
    await survivor.close()


async def test_a_broker_that_starts_is_left_alone(cluster: Cluster) -> None:
    await cluster.serve(1)
    cluster.die(1)
    former = cluster.epochs[1]
    await cluster.catalog.fence_broker(1, former)
    await cluster.register(1)  # it has its new epoch, and has not opened its log yet
    survivor = await cluster.survivor()
    starting = await fence_wal(cluster.settings(1).wal_url)
    await survivor.look()
    await starting.close()
    assert [(b.epoch, b.alive) for b in await cluster.catalog.brokers() if b.node_id == 1] == [
        (cluster.epochs[1], True)
    ]
    await survivor.close()


async def test_a_broker_that_is_paused_beyond_its_lease_is_read_along_with_and_taken_over_from(
    cluster: Cluster,
) -> None:
    stream_id = await cluster.serve(1, lease_ms=0)  # and it has the lock of its log all the time
    survivor = await cluster.survivor()
    await survivor.look()
    assert await cluster.end_offset(stream_id) == 3
    assert await cluster.leaders(1) == [9, 9]
    await cluster.append(1, stream_id, 3)  # it goes on, and has not noticed yet
    assert len(await cluster.log_of(1)) == 4, "nobody but its owner empties it"
    with pytest.raises(BrokerFenced):
        await cluster.catalog.renew_lease(1, cluster.epochs[1], HOUR_MS)
    await survivor.close()


async def test_what_a_paused_broker_wrote_too_late_is_dropped_at_its_next_start(cluster: Cluster) -> None:
    stream_id = await cluster.serve(1, lease_ms=0)
    survivor = await cluster.survivor()
    await survivor.look()
    await cluster.append(1, stream_id, 3)
    cluster.die(1)
    await cluster.start_again(1)
    assert await cluster.end_offset(stream_id) == 3, "the successor may have given the offset to another record"
    assert await cluster.log_of(1) == []
    await survivor.close()


async def test_what_was_recovered_is_not_recovered_again_under_its_new_leader(cluster: Cluster) -> None:
    stream_id = await cluster.serve(1, lease_ms=0)
    survivor = await cluster.survivor()
    await survivor.look()
    await cluster.catalog.open_streams(9, cluster.epochs[9], [stream_id])
    await cluster.append(1, stream_id, 3)
    cluster.die(1)
    await cluster.start_again(1)
    assert await cluster.end_offset(stream_id) == 3
    assert await cluster.log_of(1) == []
    await survivor.close()


async def test_a_start_waits_for_as_long_as_another_broker_recovers_its_log(cluster: Cluster) -> None:
    stream_id = await cluster.serve(1)
    former = cluster.epochs[1]
    cluster.die(1)
    await cluster.catalog.fence_broker(1, former)
    await cluster.register(2)
    assert await cluster.catalog.claim_recovery(1, former, 2, cluster.epochs[2])
    with capture_logs() as lines:
        starting = asyncio.create_task(cluster.start_again(1))
        await until(lambda: is_told(lines, "another broker recovers the log"))
    assert not starting.done()
    wal = await fence_log(cluster.settings(1).wal_url, cluster.catalog.cluster_id, former)
    await recover_wal(wal, cluster.catalog, cluster.store, 2, cluster.epochs[2])
    await cluster.catalog.recovered(1, former, 2, cluster.epochs[2])
    await starting
    assert await cluster.end_offset(stream_id) == 3
    assert await cluster.log_of(1) == []


async def test_a_start_recovers_its_log_itself_if_who_was_at_it_gives_up(cluster: Cluster) -> None:
    stream_id = await cluster.serve(1)
    former = cluster.epochs[1]
    cluster.die(1)
    await cluster.catalog.fence_broker(1, former)
    await cluster.register(2)
    assert await cluster.catalog.claim_recovery(1, former, 2, cluster.epochs[2])
    with capture_logs() as lines:
        starting = asyncio.create_task(cluster.start_again(1))
        await until(lambda: is_told(lines, "another broker recovers the log"))
    await cluster.catalog.release_recovery(1, former, 2, cluster.epochs[2])
    await starting
    assert await cluster.end_offset(stream_id) == 3
    assert await cluster.catalog.unrecovered() == []


async def test_a_broker_that_stopped_cleanly_has_its_partitions_shared(cluster: Cluster) -> None:
    stream_id = await cluster.serve(1, records=0)
    (info,) = await cluster.catalog.stream_infos([stream_id])
    await cluster.catalog.close_streams(1, cluster.epochs[1], {stream_id: info.epoch})
    await cluster.logs[1].close()
    await cluster.catalog.close_broker(1, cluster.epochs[1])
    survivor = await cluster.survivor()
    await survivor.look()
    assert await cluster.leaders(1) == [9, 9]
    await survivor.close()


async def test_a_log_that_cannot_be_reached_leaves_partitions_offline_until_it_can(cluster: Cluster) -> None:
    stream_id = await cluster.serve(1, lease_ms=0)
    cluster.die(1)
    name = f"{cluster.tmp_path}/1"
    away = memory._logs.pop(name)
    survivor = await cluster.survivor()
    await survivor.look()
    assert await cluster.leaders(1) == [1, 9], "one was never opened, so that nothing of it is lost"
    assert await cluster.catalog.unrecovered() == [], "nobody gains by fencing it: it may come back"
    memory._logs[name] = away
    await survivor.look()
    assert await cluster.leaders(1) == [9, 9]
    assert await cluster.end_offset(stream_id) == 3
    await survivor.close()


async def test_a_log_of_another_machine_at_the_same_address_ends_nobody(cluster: Cluster) -> None:
    await cluster.serve(1, lease_ms=0)
    name = f"{cluster.tmp_path}/1"
    memory.forget(name)  # it is on the other machine; here is one of somebody else
    stranger = await open_log(cluster.settings(1).wal_url, cluster.epochs[1] + 5, cluster.catalog.cluster_id)
    survivor = await cluster.survivor()
    with capture_logs() as lines:
        await survivor.look()
    assert await cluster.catalog.unrecovered() == [], "nobody gains by fencing it: it may come back"
    assert await is_told(lines, "partitions stay offline")
    await cluster.catalog.renew_lease(1, cluster.epochs[1], HOUR_MS)
    await stranger.close()
    await survivor.close()


async def test_two_that_notice_at_once_recover_once(cluster: Cluster) -> None:
    stream_id = await cluster.serve(1, records=50)
    survivors = [await cluster.survivor(node_id) for node_id in (7, 8)]
    cluster.die(1)
    for _ in range(3):
        await asyncio.gather(*(survivor.look() for survivor in survivors))
    assert await cluster.end_offset(stream_id) == 50
    assert sorted(await cluster.leaders(1)) == [7, 8]
    for survivor in survivors:
        await survivor.close()


async def test_a_recovery_whose_broker_died_is_taken_up_by_another(cluster: Cluster) -> None:
    stream_id = await cluster.serve(1)
    cluster.die(1)
    await cluster.serve(2)
    await cluster.catalog.fence_broker(1, cluster.epochs[1])
    assert await cluster.catalog.claim_recovery(1, cluster.epochs[1], 2, cluster.epochs[2])
    survivor = await cluster.survivor()
    await survivor.look()
    assert await cluster.end_offset(stream_id) == 0, "somebody who lives is at it"
    cluster.die(2)
    await survivor.look()
    await survivor.look()
    assert await cluster.end_offset(stream_id) == 3
    assert await cluster.leaders(1) == [9, 9]
    await survivor.close()


async def test_a_log_of_objects_is_not_sealed_while_its_owner_may_live(object_cluster: Cluster) -> None:
    cluster = object_cluster
    await cluster.serve(1)
    survivor = await cluster.survivor()
    await survivor.look()
    log = cluster.logs[1]
    log.append([b"more"])
    await log.flush()
    await log.close()
    await survivor.close()


async def test_a_log_of_objects_is_sealed_when_the_lease_is_over(object_cluster: Cluster) -> None:
    cluster = object_cluster
    stream_id = await cluster.serve(1, lease_ms=0)
    survivor = await cluster.survivor()
    await survivor.look()
    assert await cluster.end_offset(stream_id) == 3
    assert await cluster.leaders(1) == [9, 9]
    await survivor.close()


async def test_a_log_of_objects_is_sealed_when_nobody_listens_where_its_owner_did(object_cluster: Cluster) -> None:
    cluster = object_cluster
    connected = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        connected.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    stream_id = await cluster.serve(1, port=server.sockets[0].getsockname()[1])
    survivor = await cluster.survivor()
    survivor.failover.start()
    async with asyncio.timeout(10):
        await connected.wait()
    server.close()
    for writer in writers:
        writer.close()
    await until(lambda: cluster.is_led_by(1, [9, 9]))
    assert await cluster.end_offset(stream_id) == 3
    await survivor.close()


async def test_a_log_of_objects_that_has_a_new_owner_is_not_sealed(object_cluster: Cluster) -> None:
    cluster = object_cluster
    await cluster.serve(1, records=0)
    await cluster.catalog.fence_broker(1, cluster.epochs[1])
    (former,) = await cluster.catalog.unrecovered()
    await cluster.logs[1].close()
    await cluster.register(1)  # it has recovered the log of the former one, and begins its own
    log = await open_log(former.wal_url, cluster.epochs[1], cluster.catalog.cluster_id)
    survivor = await cluster.survivor()
    await survivor.failover._look_at(former)
    log.append([b"more"])
    await log.flush()
    await log.close()
    await survivor.close()


async def test_a_starting_broker_leaves_the_recovery_of_its_log_to_who_is_at_it(
    object_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = object_cluster
    stream_id = await cluster.serve(1)
    former = cluster.epochs[1]
    await cluster.catalog.fence_broker(1, former)
    await cluster.register(2)
    await cluster.register(1)
    assert await cluster.catalog.claim_recovery(1, former, 2, cluster.epochs[2])
    settings = cluster.settings(1)
    starting = asyncio.create_task(recover_logs(cluster.catalog, cluster.store, settings, cluster.epochs[1], None))
    await asyncio.sleep(0.05)
    assert await cluster.end_offset(stream_id) == 0
    wal = await fence_log(settings.wal_url, cluster.catalog.cluster_id, former)
    await recover_wal(wal, cluster.catalog, cluster.store, 2, cluster.epochs[2])
    await cluster.catalog.recovered(1, former, 2, cluster.epochs[2])
    await wal.close()  # it dies before it has emptied the log
    await starting
    log = await open_log(settings.wal_url, cluster.epochs[1], cluster.catalog.cluster_id)
    assert await cluster.end_offset(stream_id) == 3
    await log.close()


async def test_a_start_waits_for_no_lease_of_a_process_that_has_ended(object_cluster: Cluster) -> None:
    cluster = object_cluster
    stream_id = await cluster.serve(1, lease_ms=HOUR_MS)
    former = cluster.epochs[1]
    async with asyncio.timeout(5):
        await cluster.start_again(1, ended_epoch=former)
    assert await cluster.end_offset(stream_id) == 3
    log = await open_log(cluster.settings(1).wal_url, cluster.epochs[1], cluster.catalog.cluster_id)
    with pytest.raises(WalError):
        await cluster.append(1, stream_id, 3)  # a request of it that was on its way
    await log.close()


async def test_the_log_of_a_living_broker_at_the_own_address_is_left_alone(object_cluster: Cluster) -> None:
    cluster = object_cluster
    await cluster.serve(1)
    await cluster.register(9)
    settings = load_settings({"node_id": 9, "wal": cluster.settings(1).wal_url}, {}, None)
    await recover_logs(cluster.catalog, cluster.store, settings, cluster.epochs[9], None)
    with pytest.raises(WalError):
        await open_log(settings.wal_url, cluster.epochs[9], cluster.catalog.cluster_id)
    cluster.logs[1].append([b"more"])
    await cluster.logs[1].flush()
    await cluster.logs[1].close()


async def test_one_that_cannot_be_taken_over_from_keeps_nobody_from_the_others(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node_id in (1, 2, 3):
        await cluster.serve(node_id)
        cluster.die(node_id)
    claim_recovery = cluster.catalog.claim_recovery

    async def claim_others(node_id: int, *rest: int) -> bool:
        if node_id == 1:
            raise CatalogError("not this one")
        if node_id == 2:
            raise RuntimeError("nor this one")
        return await claim_recovery(node_id, *rest)

    monkeypatch.setattr(cluster.catalog, "claim_recovery", claim_others)
    survivor = await cluster.survivor()
    await survivor.look()
    assert [await cluster.leaders(node_id) for node_id in (1, 2, 3)] == [[1, 1], [2, 2], [9, 9]]
    await survivor.close()


async def test_a_recovery_that_failed_is_tried_again_after_a_pause(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream_id = await cluster.serve(1)
    cluster.die(1)
    tries = 0

    async def fail(*args: object) -> None:
        nonlocal tries
        tries += 1
        raise WalCorrupt("damaged")

    survivor = await cluster.survivor()
    with monkeypatch.context() as patch:
        patch.setattr("broker.takeover.recover_fenced", fail)
        for _ in range(3):
            await survivor.look()
    assert tries == 1
    await cluster.register(2)
    assert await cluster.catalog.claim_recovery(1, cluster.epochs[1], 2, cluster.epochs[2]), "others may try"
    await cluster.catalog.release_recovery(1, cluster.epochs[1], 2, cluster.epochs[2])
    monkeypatch.setattr("broker.failover.lease_clock", lambda: lease_clock() + 3)
    await survivor.look()
    assert await cluster.end_offset(stream_id) == 3
    await survivor.close()


async def test_leases_that_ended_while_the_catalog_was_away_may_be_renewed(object_cluster: Cluster) -> None:
    cluster = object_cluster
    stream_id = await cluster.serve(1, lease_ms=0)
    survivor = await cluster.survivor()
    survivor.failover._answered_at -= 3600
    for _ in range(2):
        await survivor.look()
    assert await cluster.leaders(1) == [1, 9], "it has opened one"
    cluster.logs[1].append((encode_header(stream_id, 1, 3, 1, 0), b"record"))
    await cluster.logs[1].flush()
    survivor.failover._leases_count_from -= 3600
    await survivor.look()
    assert await cluster.leaders(1) == [9, 9]
    assert await cluster.end_offset(stream_id) == 4
    await cluster.logs[1].close()
    await survivor.close()


async def test_leases_that_ended_before_a_broker_started_may_be_renewed(object_cluster: Cluster) -> None:
    cluster = object_cluster
    await cluster.serve(1, lease_ms=0)
    await cluster.register(9)
    await recover_logs(cluster.catalog, cluster.store, cluster.settings(9), cluster.epochs[9], None)
    survivor = await cluster.survivor()
    survivor.failover = Failover(cluster.catalog, cluster.store, cluster.settings(9), cluster.epochs[9], survivor.image)
    with capture_logs() as lines:
        await survivor.look()
    assert await cluster.leaders(1) == [1, 9], "it has opened one"
    assert not lines or not await is_told(lines, "partitions stay offline")
    await cluster.catalog.renew_lease(1, cluster.epochs[1], HOUR_MS)
    await cluster.append(1, 1, 3)
    await cluster.logs[1].close()
    await survivor.close()


async def test_what_was_recovered_of_a_former_life_is_shared_though_its_node_lives_again(cluster: Cluster) -> None:
    await cluster.serve(1)
    cluster.die(1)
    former = cluster.epochs[1]
    await cluster.catalog.fence_broker(1, former)
    await cluster.register(1)
    await cluster.catalog.claim_partitions(1, cluster.epochs[1])
    assert await cluster.leaders(1) == [NO_LEADER, 1]
    survivor = await cluster.survivor()
    await survivor.look()
    assert await cluster.leaders(1) == [9, 1]
    await survivor.close()


async def test_what_was_given_up_is_shared_though_nobody_else_is_there(cluster: Cluster) -> None:
    await cluster.serve(1, lease_ms=0)
    memory.forget(f"{cluster.tmp_path}/1")
    await cluster.register(1)
    await cluster.catalog.claim_partitions(1, cluster.epochs[1])
    alone = await cluster.survivor(1)
    await alone.look()
    assert await cluster.leaders(1) == [NO_LEADER, 1]
    assert len(await cluster.catalog.give_up(1)) == 1
    await alone.look()
    assert await cluster.leaders(1) == [1, 1]
    await alone.close()


async def test_leases_count_however_short_they_are(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    await cluster.serve(1, lease_ms=0)
    survivor = await cluster.survivor()
    survivor.failover._patience_s = 0.0
    clock = [lease_clock()]
    monkeypatch.setattr("broker.failover.lease_clock", lambda: clock[0])
    for _ in range(2):
        clock[0] += LOOK_INTERVAL_S
        await survivor.look()
    assert await cluster.leaders(1) == [9, 9]
    await survivor.close()


async def test_nobody_listens_if_all_addresses_of_a_name_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = asyncio.Event()
    watch = PeerWatch(lost.set)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def resolve(*args: object, **kwargs: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    watch.follow({1: Address("broker", port)})
    async with asyncio.timeout(10):
        await lost.wait()
    server.close()

    async def is_gone() -> bool:
        return watch.is_gone(1)

    await until(is_gone)
    await watch.close()


async def test_who_turns_connections_away_while_it_stops_is_absent_and_not_gone() -> None:
    watch = PeerWatch(lambda: None)
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    turning_away = TurningAway(listening)
    listening.close()
    await turning_away.start()
    watch.follow({1: Address("127.0.0.1", port)})

    async def is_absent() -> bool:
        return watch.absent == {1}

    async def is_gone() -> bool:
        return watch.is_gone(1)

    await until(is_absent)
    assert not watch.is_gone(1)
    await turning_away.close()
    await until(is_gone)
    assert watch.absent == {1}
    await watch.close()


async def test_a_broker_that_stays_gone_is_looked_at_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.peer_watch.RETRY_S", 0.01)
    monkeypatch.setattr("broker.peer_watch.STAYS_S", 0.01)
    found = list[float]()
    watch = PeerWatch(lambda: found.append(lease_clock()))
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    watch.follow({1: Address("127.0.0.1", server.sockets[0].getsockname()[1])})

    async def is_absent() -> bool:
        return bool(watch.absent)

    await until(is_absent)
    server.close()

    async def was_found_often() -> bool:
        return len(found) > 5

    await until(was_found_often)
    assert found[5] - found[1] >= 0.01 + 0.02 + 0.04 + 0.08
    await watch.close()


async def test_who_never_listened_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.peer_watch.RETRY_S", 0.01)
    monkeypatch.setattr("broker.peer_watch.STAYS_S", 0.01)
    lost = asyncio.Event()
    watch = PeerWatch(lost.set)
    closed = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = closed.sockets[0].getsockname()[1]
    closed.close()
    await closed.wait_closed()
    watch.follow({1: Address("127.0.0.1", port)})
    await asyncio.sleep(0.05)
    assert not watch.is_gone(1)
    assert not lost.is_set()
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
    async with asyncio.timeout(10):
        await lost.wait()
    server.close()

    async def is_gone() -> bool:
        return watch.is_gone(1)

    await until(is_gone)
    watch.follow({})
    assert not watch.is_gone(1)
    await watch.close()


async def test_clients_are_not_sent_to_a_broker_that_turns_connections_away(cluster: Cluster) -> None:
    stays, watchers = True, list[asyncio.StreamWriter]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if stays:
            watchers.append(writer)
        else:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    await cluster.serve(1, port=server.sockets[0].getsockname()[1])
    survivor = await cluster.survivor()
    survivor.failover.start()

    async def shown(expected: list[int]) -> bool:
        return [broker.node_id for broker in survivor.image.brokers()] == expected

    async def watched() -> bool:
        return len(watchers) == 1

    await until(watched)
    assert await shown([1, 9])
    stays = False
    watchers.pop().close()
    await until(lambda: shown([9]))
    stays = True
    await until(lambda: shown([1, 9]))
    assert await cluster.leaders(1) == [1, 1], "it is not out"
    for writer in watchers:
        writer.close()
    server.close()
    await survivor.close()


async def test_a_slow_recovery_keeps_nobody_from_the_other_partitions(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = await cluster.serve(1), await cluster.serve(2)
    goes_on = asyncio.Event()

    async def recover(catalog: Catalog, store: ObjectStore, settings: Settings, epoch: int, *rest: Any) -> int:
        if rest[1][0].node_id == 1:
            await goes_on.wait()
        return await recover_fenced(catalog, store, settings, epoch, *rest)

    monkeypatch.setattr("broker.takeover.recover_fenced", recover)
    survivor = await cluster.survivor()
    cluster.die(1)
    survivor.failover.start()
    cluster.die(2)
    await until(lambda: cluster.is_led_by(2, [9, 9]))
    assert (await cluster.end_offset(slow), await cluster.end_offset(quick)) == (0, 3)
    goes_on.set()
    await until(lambda: cluster.is_led_by(1, [9, 9]))
    assert await cluster.end_offset(slow) == 3
    await survivor.close()


async def test_who_does_not_reach_the_store_leaves_recoveries_to_others(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.serve(1)
    cluster.die(1)
    survivor = await cluster.survivor()

    async def fail(key: str) -> None:
        raise StoreError("no way there")

    with monkeypatch.context() as patch:
        patch.setattr(cluster.store, "head", fail)
        await survivor.look()
    await cluster.register(2)
    assert await cluster.catalog.claim_recovery(1, cluster.epochs[1], 2, cluster.epochs[2])
    await survivor.close()


async def test_who_does_not_reach_the_store_any_more_lets_others_recover(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.takeover.STORE_CHECK_S", 0.01)
    monkeypatch.setattr("broker.takeover.STORE_PATIENCE_S", 0.05)
    stream_id = await cluster.serve(1)
    cluster.die(1)
    survivor = await cluster.survivor()
    put = cluster.store.put

    async def lose_the_way(key: str, *args: object) -> None:
        for name in ("put", "head"):
            patch.setattr(cluster.store, name, fail)
        raise StoreError("no way there")

    async def fail(*args: object) -> None:
        raise StoreError("no way there")

    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(cluster.store, "put", lose_the_way)
        async with asyncio.timeout(10):
            await survivor.look()
    assert await is_told(lines, "partitions stay offline")
    assert cluster.store.put == put
    other = await cluster.survivor(2)
    await other.look()
    assert await cluster.end_offset(stream_id) == 3
    for each in (survivor, other):
        await each.close()


async def test_a_recovery_from_a_slow_store_goes_on(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.takeover.STORE_CHECK_S", 0.01)
    monkeypatch.setattr("broker.takeover.STORE_PATIENCE_S", 0.05)
    stream_id = await cluster.serve(1)
    cluster.die(1)
    put, asked = cluster.store.put, 0

    async def put_slowly(key: str, pieces: Any) -> None:
        while asked < 20:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
        await put(key, pieces)

    async def head(key: str) -> None:
        nonlocal asked
        asked += 1

    monkeypatch.setattr(cluster.store, "put", put_slowly)
    monkeypatch.setattr(cluster.store, "head", head)
    survivor = await cluster.survivor()
    await survivor.look()
    assert await cluster.end_offset(stream_id) == 3
    await survivor.close()


async def test_a_listener_that_is_opened_anew_does_not_make_its_broker_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.peer_watch.RETRY_S", 0.01)
    monkeypatch.setattr("broker.peer_watch.STAYS_S", 0.01)
    changes = asyncio.Event()
    watch = PeerWatch(changes.set)
    refusing = {"left": 0, "was_gone": 0}
    connect = peer_watch._connect

    async def refuse_now_and_then(address: Address) -> Any:
        refusing["was_gone"] += watch.is_gone(1)
        if refusing["left"]:
            refusing["left"] -= 1
            raise ConnectionRefusedError
        return await connect(address)

    monkeypatch.setattr(peer_watch, "_connect", refuse_now_and_then)
    writers: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda reader, writer: writers.put_nowait(writer), "127.0.0.1", 0)
    watch.follow({1: Address("127.0.0.1", server.sockets[0].getsockname()[1])})
    for refusals in (1, 2, 2, 1):
        writer = await writers.get()
        await asyncio.sleep(0.03)
        refusing["left"] = refusals
        writer.close()
    async with asyncio.timeout(10):
        (await writers.get()).close()
    assert not refusing["was_gone"]
    refusing["left"] = 1000

    async def is_gone() -> bool:
        return watch.is_gone(1)

    await until(is_gone)
    server.close()
    await watch.close()


async def test_partitions_are_not_given_to_a_broker_that_is_known_to_be_gone(cluster: Cluster) -> None:
    await cluster.serve(1)
    await cluster.register(2)  # it has led nothing, and died a moment ago
    survivor = await cluster.survivor()
    survivor.failover._watch._refusals[cluster.epochs[2]] = 1
    cluster.die(1)
    await survivor.look()
    assert await cluster.leaders(1) == [9, 9]
    await survivor.close()


async def test_a_death_during_a_look_is_seen_by_the_next_one_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.serve(1)
    survivor = await cluster.survivor()
    monkeypatch.setattr("broker.failover.LOOK_INTERVAL_S", 3600)
    looked, goes_on = asyncio.Event(), asyncio.Event()

    async def look(*args: Any) -> RecoverableWal:
        wal = await fence_log(*args)
        looked.set()
        await goes_on.wait()
        return wal

    monkeypatch.setattr("broker.failover.fence_log", look)
    survivor.failover.start()
    await looked.wait()
    cluster.die(1)
    survivor.failover._wake()
    await asyncio.sleep(0.01)
    goes_on.set()
    await until(lambda: cluster.is_led_by(1, [9, 9]))
    await survivor.close()
