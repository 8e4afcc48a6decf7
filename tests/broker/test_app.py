"""The whole broker in one process: what it serves, and what ends it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker import app, handlers
from broker.app import BrokerError, Ending, running_broker
from broker.settings import Settings, load_settings
from protocol.api_keys import ApiKey
from protocol.messages.create_topics import CreatableTopic
from protocol.messages.produce import PartitionProduceData, TopicProduceData
from protocol.private_keys import is_private
from protocol.records.header import HEADER_SIZE
from s3stream.api import StorageError, StreamFailed
from s3stream.catalog.api import BrokerFenced
from s3stream.objectstore.memory import MemoryStore
from s3stream.storage import S3Storage
from tests.broker.hostile.mutation import batch
from tests.broker.server.harness import RawClient, until
from wal import memory


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    flags = {
        "listen": "127.0.0.1:0",
        "data_dir": tmp_path / "data",
        "objects": "memory://",
        "wal": f"memory://{tmp_path}",
        "lease_ms": "1000",
    }
    return load_settings(flags, {}, None)


async def test_api_versions_lists_exactly_what_has_a_handler(settings: Settings) -> None:
    async with running_broker(settings, Ending()) as broker:
        client = RawClient(*await asyncio.open_connection(*broker.address))
        client.send(ApiKey.API_VERSIONS, 1, 3, client_software_name="test", client_software_version="1.0")
        _, response = await client.receive(ApiKey.API_VERSIONS, 3)
        listed = {each.api_key: (each.min_version, each.max_version) for each in response.api_keys}
        public = (module for module in handlers.MODULES if not is_private(module.API_KEY))
        served = {int(module.API_KEY): (module.MIN_VERSION, module.MAX_VERSION) for module in public}
        served[ApiKey.PRODUCE] = (0, served[ApiKey.PRODUCE][1])
        assert listed == served
        client.close()


async def test_a_stopped_broker_has_left_the_catalog_cleanly_and_starts_again(settings: Settings) -> None:
    for _ in range(2):
        async with running_broker(settings, Ending()) as broker:
            catalog = broker.services.catalog
            (registered,) = await catalog.brokers()
            assert (registered.port, registered.closed) == (broker.address.port, False)


async def test_a_lease_that_is_renewed_while_the_broker_leaves_is_no_failure(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = Ending()
    async with running_broker(settings, ending) as broker:
        catalog = broker.services.catalog
        storage = broker.services.storage
        assert isinstance(storage, S3Storage)
        close_broker = catalog.close_broker

        async def close_and_renew(node_id: int, epoch: int) -> None:
            await close_broker(node_id, epoch)
            with pytest.raises(BrokerFenced) as fenced:
                await catalog.renew_lease(node_id, epoch, 1_000)
            storage.lose_lease(fenced.value)

        monkeypatch.setattr(catalog, "close_broker", close_and_renew)
    assert ending.error is None
    assert storage.failed is None


async def test_a_failed_storage_ends_the_broker(settings: Settings) -> None:
    ending = Ending()
    async with running_broker(settings, ending) as broker:
        storage = broker.services.storage
        assert isinstance(storage, S3Storage)
        assert storage.on_failed is not None
        storage.on_failed(StreamFailed("the disk is gone"))
        async with asyncio.timeout(5):
            await ending.wait()
    assert str(ending.error) == "the disk is gone"


async def test_a_fenced_broker_ends(settings: Settings) -> None:
    ending = Ending()
    async with running_broker(settings, ending) as broker:
        catalog = broker.services.catalog
        (registered,) = await catalog.brokers()
        await catalog.fence_broker(registered.node_id, registered.epoch)
        await until(lambda: ending.error is not None)
    assert isinstance(ending.error, BrokerFenced | StorageError)


async def test_an_address_in_use_leaves_nothing_open(settings: Settings, tmp_path: Path) -> None:
    async with running_broker(settings, Ending()) as broker:
        flags = {"listen": str(broker.address), "data_dir": tmp_path / "other", "wal": f"memory://{tmp_path}/other"}
        with pytest.raises(BrokerError, match="cannot listen"):
            async with running_broker(load_settings(flags, {}, None), Ending()):
                pass


async def test_a_stop_while_the_store_does_not_answer_ends_in_time_and_loses_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "STORAGE_CLOSE_S", 0.1)
    loop = asyncio.get_running_loop()

    async def silent(*arguments: object) -> None:
        await loop.create_future()

    with pytest.raises(BrokerError, match="the rest is in the write-ahead log"):  # noqa: PT012
        async with running_broker(settings, Ending()) as broker:
            monkeypatch.setattr(MemoryStore, "put", silent)
            client = RawClient(*await asyncio.open_connection(*broker.address))
            topic = CreatableTopic(name="t", num_partitions=1, replication_factor=1)
            client.send(ApiKey.CREATE_TOPICS, 1, 7, topics=[topic], timeout_ms=5000)
            await client.receive(ApiKey.CREATE_TOPICS, 7)
            data = TopicProduceData(name="t", partition_data=[PartitionProduceData(index=0, records=batch())])
            client.send(ApiKey.PRODUCE, 2, 9, acks=-1, timeout_ms=5000, topic_data=[data])
            _, response = await client.receive(ApiKey.PRODUCE, 9)
            assert response.responses[0].partition_responses[0].error_code == 0
            client.close()
            began = loop.time()
    assert loop.time() - began < 5
    log = memory._logs[settings.wal_url.removeprefix("memory://")]
    assert bytes(log.untrimmed()[0].data).endswith(batch()[HEADER_SIZE:])
