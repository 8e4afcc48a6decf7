"""Whose log it is, who is provably out, and what that lets a starting broker do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from broker.settings import Address, Settings, load_settings
from broker.takeover import TakeoverError, fence_own_wal, open_own_wal, recover_logs, register
from s3stream.catalog import open_catalog
from s3stream.catalog.api import Catalog, NewTopic
from s3stream.objectstore.memory import MemoryStore
from s3stream.wal_record import encode_header
from wal import fence_wal, memory, open_wal
from wal.api import WalForeign
from wal.memory import MemoryWal

ADDRESS = Address("localhost", 9092)


@pytest.fixture
async def catalog() -> AsyncIterator[Catalog]:
    catalog = await open_catalog("sqlite://")
    yield catalog
    await catalog.close()


@pytest.fixture
def wal_url(tmp_path: Path) -> Iterator[str]:
    yield f"memory://{tmp_path}"
    memory.forget(str(tmp_path))


def settings_of(node_id: int, wal_url: str, lease_ms: int = 1_000) -> Settings:
    return load_settings({"node_id": node_id, "wal": wal_url, "lease_ms": str(lease_ms)}, {}, None)


async def serve(catalog: Catalog, settings: Settings, *, records: int = 1, lease_ms: int = 60_000) -> tuple[int, int]:
    """A broker with one stream open that acknowledged `records` and uploaded nothing, then died. Epoch, stream id."""
    found = await catalog.register_broker(
        settings.node_id, "localhost", 9092, None, settings.wal_url, lease_ms, uuid4()
    )
    topic = await catalog.create_topic(NewTopic(f"t{found.epoch}", [settings.node_id], {}))
    stream_id = topic.partitions[0].log_stream_id
    (stream,) = await catalog.open_streams(settings.node_id, found.epoch, [stream_id])
    wal = await open_wal(settings.wal_url, epoch=found.epoch)
    for offset in range(records):
        wal.append((encode_header(stream_id, stream.epoch, offset, 1, 0), b"record"))
    await wal.flush()
    assert isinstance(wal, MemoryWal)
    wal.crash()
    return found.epoch, stream_id


async def start(catalog: Catalog, settings: Settings) -> int:
    """The take-over part of a start; returns the broker epoch."""
    own_wal = await fence_own_wal(settings.wal_url, catalog.cluster_id)
    epoch, _ = await register(catalog, settings, ADDRESS, own_wal)
    await recover_logs(catalog, MemoryStore(), settings, epoch, own_wal)
    return epoch


async def committed_end(catalog: Catalog, stream_id: int) -> int:
    (info,) = await catalog.stream_infos([stream_id])
    return info.end_offset


async def test_a_restart_brings_the_own_tail_into_objects_at_once(catalog: Catalog, wal_url: str) -> None:
    _, stream_id = await serve(catalog, settings_of(1, wal_url), records=3)
    await start(catalog, settings_of(1, wal_url))
    assert await committed_end(catalog, stream_id) == 3
    assert await catalog.unrecovered() == []


async def test_a_log_of_another_machine_at_the_same_address_recovers_nobody(catalog: Catalog, wal_url: str) -> None:
    epoch, stream_id = await serve(catalog, settings_of(1, wal_url), lease_ms=0)
    memory.forget(wal_url.removeprefix("memory://"))  # on the other machine it is as if it were not there ...
    await serve(catalog, settings_of(2, wal_url))  # ... but for a log of its own
    await start(catalog, settings_of(2, wal_url))
    (info,) = await catalog.stream_infos([stream_id])
    assert (info.open, info.end_offset) == (True, 0)
    assert await catalog.unrecovered() == [], "nobody gains by fencing it: it may come back"
    await catalog.renew_lease(1, epoch, 1_000)


async def test_a_free_log_of_somebody_else_is_no_proof_that_a_broker_is_out(catalog: Catalog, wal_url: str) -> None:
    epoch, _ = await serve(catalog, settings_of(1, wal_url))
    memory.forget(wal_url.removeprefix("memory://"))
    stranger = await open_wal(wal_url, epoch=epoch + 5)
    await stranger.close()
    await start(catalog, settings_of(2, f"{wal_url}/2"))
    assert epoch in [broker.epoch for broker in await catalog.brokers() if broker.alive]


async def test_a_log_that_was_lost_is_not_taken_for_recovered_at_the_next_start(catalog: Catalog, wal_url: str) -> None:
    settings = settings_of(1, wal_url)
    epoch, stream_id = await serve(catalog, settings, lease_ms=0)
    memory.forget(wal_url.removeprefix("memory://"))
    for _ in range(2):
        wal = await open_wal(wal_url, epoch=await start(catalog, settings))
        await wal.close()
    assert [broker.epoch for broker in await catalog.unrecovered()] == [epoch]
    (info,) = await catalog.stream_infos([stream_id])
    assert info.open


async def test_a_moved_log_is_still_the_one_it_was(catalog: Catalog, wal_url: str) -> None:
    _, stream_id = await serve(catalog, settings_of(1, f"{wal_url}/old"), records=2, lease_ms=0)
    name = wal_url.removeprefix("memory://")
    memory._logs[f"{name}/new"] = memory._logs.pop(f"{name}/old")
    await start(catalog, settings_of(1, f"{wal_url}/new"))
    assert await committed_end(catalog, stream_id) == 2
    assert await catalog.unrecovered() == []


async def test_a_start_that_died_half_way_does_not_make_the_next_one_wait(catalog: Catalog, wal_url: str) -> None:
    settings = settings_of(1, wal_url, lease_ms=600_000)
    _, stream_id = await serve(catalog, settings, records=2)
    own_wal = await fence_own_wal(wal_url, catalog.cluster_id)
    assert own_wal is not None
    await register(catalog, settings, ADDRESS, own_wal)
    await own_wal.close()
    await start(catalog, settings)
    assert await committed_end(catalog, stream_id) == 2


async def test_a_node_id_that_is_in_use_elsewhere_is_refused_by_its_address(
    catalog: Catalog, wal_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serve(catalog, settings_of(1, wal_url))
    memory.forget(wal_url.removeprefix("memory://"))
    monkeypatch.setattr("broker.takeover.EXPIRY_LEASES_MAX", 0)
    monkeypatch.setattr("broker.takeover.EXPIRY_CHECK_S", 0)
    with pytest.raises(TakeoverError, match="node id 1 is in use by the broker at localhost:9092"):
        await register(catalog, settings_of(1, f"{wal_url}/elsewhere", 1_000), ADDRESS, None)


async def test_a_log_of_another_broker_that_makes_no_sense_keeps_nobody_from_starting(
    catalog: Catalog, wal_url: str
) -> None:
    epoch, stream_id = await serve(catalog, settings_of(1, wal_url), records=0)
    wal = await fence_wal(wal_url)
    await wal.close()
    damaged = await open_wal(wal_url, epoch=epoch)
    damaged.append((encode_header(stream_id, 1, 7, 1, 0), b"after a hole"))
    await damaged.flush()
    assert isinstance(damaged, MemoryWal)
    damaged.crash()
    await start(catalog, settings_of(2, f"{wal_url}/2"))
    assert [broker.epoch for broker in await catalog.unrecovered()] == [epoch]


async def test_a_glance_of_another_broker_at_the_lock_keeps_nobody_from_starting(
    catalog: Catalog, wal_url: str
) -> None:
    await serve(catalog, settings_of(1, wal_url))
    glance = await fence_wal(wal_url)
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(fence_own_wal(wal_url, catalog.cluster_id))
        await asyncio.sleep(0.01)
        assert not starting.done()
        await glance.close()
    own_wal = starting.result()
    assert own_wal is not None
    await own_wal.close()


async def test_the_log_of_another_cluster_is_refused_and_left_as_it_is(wal_url: str, catalog: Catalog) -> None:
    foreign = await open_own_wal(wal_url, 1, "another cluster")
    foreign.append([b"theirs"])
    await foreign.flush()
    assert isinstance(foreign, MemoryWal)
    foreign.crash()
    with pytest.raises(WalForeign, match="another cluster"):
        await start(catalog, settings_of(1, wal_url))
    assert await catalog.brokers() == []
    kept = await fence_wal(wal_url, owner="another cluster")
    assert [bytes(record.data) async for chunk in kept.records() for record in chunk] == [b"theirs"]
    await kept.close()


async def test_a_log_that_stays_in_use_is_refused(wal_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.takeover.LOCK_WAIT_S", 0.01)
    wal = await open_own_wal(wal_url, 1, "c")
    with pytest.raises(TakeoverError, match="is another broker running"):
        await fence_own_wal(wal_url, "c")
    with pytest.raises(TakeoverError, match="is another broker running"):
        await open_own_wal(wal_url, 1, "c")
    await wal.close()
