"""The whole broker in one process: what it serves, and what ends it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker import handlers
from broker.app import BrokerError, Ending, running_broker
from broker.settings import Settings, load_settings
from protocol.api_keys import ApiKey
from s3stream.api import StorageError, StreamFailed
from s3stream.catalog.api import BrokerFenced
from s3stream.storage import S3Storage
from tests.broker.server.harness import RawClient, until


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
        served = {int(module.API_KEY): (module.MIN_VERSION, module.MAX_VERSION) for module in handlers.MODULES}
        served[ApiKey.PRODUCE] = (0, served[ApiKey.PRODUCE][1])
        assert listed == served
        client.close()


async def test_a_stopped_broker_has_left_the_catalog_cleanly_and_starts_again(settings: Settings) -> None:
    for _ in range(2):
        async with running_broker(settings, Ending()) as broker:
            catalog = broker.services.catalog
            (registered,) = await catalog.brokers()
            assert (registered.port, registered.closed) == (broker.address.port, False)


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
