"""DescribeStorage and what `tailrace storage` makes of its answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from broker.cli.errors import CommandError
from broker.cli.storage import MONTH_MS, Prices, _row, _sum, load_prices
from broker.handlers import describe_storage
from protocol.codec import decode_request, decode_response, encode_request, encode_response
from protocol.errors import ErrorCode
from protocol.messages.describe_storage import (
    DescribeStorageRequest,
    DescribeStorageResponse,
    StorageOfPartition,
    StorageOfTopic,
)
from protocol.private_keys import PrivateApiKey
from s3stream.api import Pressure, Usage
from s3stream.catalog.api import CatalogUnreachable, ObjectTotals
from s3stream.objectstore.meter import StoreMeter
from tests.broker.cluster.cluster import Cluster

KEY = PrivateApiKey.DESCRIBE_STORAGE


def stored(topic: str, index: int, size: int, objects: int, unuploaded: int) -> SimpleNamespace:
    log = SimpleNamespace(ranges=lambda: [None] * objects, unuploaded_size=unuploaded)
    return SimpleNamespace(topic=topic, index=index, size=size, log=log)


def prepare(node: Cluster) -> SimpleNamespace:
    services = cast("SimpleNamespace", node.services)
    services.store_meter = StoreMeter(put_count=10, get_count=20, put_size=1500)
    services.storage = SimpleNamespace(
        usage=lambda: Usage(1000, 3, 1, 600, 500), pressure=lambda: Pressure(0.1, 70, 800, 0)
    )
    partitions = [stored("a", 0, 100, 2, 7), stored("b", 0, 300, 3, 0), stored("a", 1, 0, 0, 0)]
    services.partitions = SimpleNamespace(all=lambda: partitions)
    return services


async def test_a_broker_says_what_it_stores(node: Cluster) -> None:
    prepare(node)
    response = await node.ask(describe_storage, 0, DescribeStorageRequest(include_objects=True))
    assert (response.node_id, response.put_count, response.get_count, response.put_size) == (1, 10, 20, 1500)
    assert (response.cache_hit_count, response.cache_miss_count, response.unuploaded_age_ms) == (3, 1, 800)
    assert (response.object_count, response.object_size) == (0, 0)
    assert (response.appended_size, response.compaction_read_size, response.compaction_written_size) == (1000, 600, 500)
    sizes = {(topic.name, each.partition_index): each.size for topic in response.topics for each in topic.partitions}
    assert sizes == {("b", 0): 300, ("a", 0): 100}
    one = await node.ask(describe_storage, 0, DescribeStorageRequest(topics=["a"]))
    assert one.object_count == -1
    assert [each.object_count for each in one.topics[0].partitions] == [2, 0]


async def test_a_database_that_is_away_is_an_error(node: Cluster) -> None:
    services = prepare(node)

    async def away() -> ObjectTotals:
        raise CatalogUnreachable("away")

    services.catalog = SimpleNamespace(object_totals=away)
    response = await node.ask(describe_storage, 0, DescribeStorageRequest(include_objects=True))
    assert response.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE


def test_the_messages_are_round_trips() -> None:
    for topics in (None, ["a", "b"]):
        request = DescribeStorageRequest(topics=topics, include_objects=True)
        _, decoded = decode_request(memoryview(encode_request(KEY, 0, 1, "c", request))[4:])
        assert (decoded.topics, decoded.include_objects) == (topics, True)
    partition = StorageOfPartition(partition_index=1, size=1 << 40, object_count=5, unuploaded_size=6)
    response = DescribeStorageResponse(put_size=1 << 41, topics=[StorageOfTopic(name="a", partitions=[partition])])
    _, answer = decode_response(KEY, 0, b"".join(encode_response(KEY, 0, 1, response))[4:])
    assert answer.put_size == 1 << 41
    assert answer.topics[0].partitions[0].size == 1 << 40


def test_a_month_is_what_is_stored_and_what_is_asked() -> None:
    answer = DescribeStorageResponse(
        uptime_ms=MONTH_MS // 2, put_count=1_000_000, object_count=1, object_size=100_000_000_000, put_size=30
    )
    answer.appended_size = 20
    answer.compaction_written_size = 10
    row = _row("all", _sum([answer, answer]), Prices(), 2 * 10.0)
    assert row[-1] == pytest.approx(100 * 0.023 + 20.0)
    assert row[13:15] == (1.5, 0.5)


def test_a_price_table_can_be_edited(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text("put = 1\nstorage_gb_month = 0.5\n")
    assert load_prices(file) == Prices(put=1, storage_gb_month=0.5)
    file.write_text("puts = 1\n")
    with pytest.raises(CommandError, match="puts"):
        load_prices(file)
