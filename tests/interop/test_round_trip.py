"""What any client writes, every client reads back the same."""

from __future__ import annotations

from typing import Any

import pytest

from .admin import create_topic, produce
from .clients import CLIENTS, Client, record

pytestmark = pytest.mark.interop
BASE_TIME = 1_700_000_000_000


def varied_records() -> list[dict[str, Any]]:
    """Keys, null keys, null and empty values, headers (also null ones), binary data, spread timestamps."""
    records = []
    for i in range(200):
        key = None if i % 5 == 0 else f"key-{i % 17}".encode()
        value = None if i % 7 == 3 and key else bytes([i % 256]) * (i * 13 % 900)
        headers = [(f"h{n}", None if (i + n) % 4 == 0 else f"{i}/{n}".encode()) for n in range(i % 3)]
        records.append(record(key, value, BASE_TIME + i * 1000, headers, partition=i % 3))
    return records


def by_partition(records: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Partition -> records in the order met, without the offset."""
    found: dict[int, list[dict[str, Any]]] = {}
    for each in records:
        found.setdefault(each["p"], []).append({name: each[name] for name in "kvht"})
    return found


def without_null_headers(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """kafkajs and kafka-python cannot write or read a null header value."""
    return [{**each, "h": [pair for pair in each["h"] if pair[1] is not None]} for each in records]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_come_back_unchanged_to_every_client(bootstrap: str, topic: str, client: Client, codec: str) -> None:
    if codec not in client.codecs:
        pytest.skip(f"{client.name} has no {codec}")
    create_topic(bootstrap, topic, partitions=3)
    sent = without_null_headers(varied_records())
    client.produce(bootstrap, topic, sent, codec)
    readers = CLIENTS if codec == "none" else {client, CLIENTS[0]}
    for reader in readers:
        got = reader.consume(bootstrap, topic, f"{topic}-{reader.name}", len(sent))
        assert by_partition(got) == by_partition(sent), f"{client.name} -> {reader.name}"
        for part in range(3):
            offsets = [each["o"] for each in got if each["p"] == part]
            assert offsets == list(range(len(offsets)))


def test_null_header_values_survive(bootstrap: str, topic: str) -> None:
    create_topic(bootstrap, topic, partitions=3)
    sent = varied_records()
    CLIENTS[0].produce(bootstrap, topic, sent)
    assert by_partition(CLIENTS[0].consume(bootstrap, topic, f"{topic}-g", len(sent))) == by_partition(sent)


def test_batches_from_one_byte_to_the_size_limit(bootstrap: str, topic: str, client: Client) -> None:
    create_topic(bootstrap, topic, partitions=1)
    sizes = [1, 1000, 100_000, 500_000, 999_000, 0, 7]
    sent = [record(b"k", b"x" * size, BASE_TIME, partition=0) for size in sizes]
    client.produce(bootstrap, topic, sent)
    got = client.consume(bootstrap, topic, f"{topic}-g", len(sent))
    assert by_partition(got) == by_partition(sent)


def test_many_partitions(bootstrap: str, topic: str, client: Client) -> None:
    create_topic(bootstrap, topic, partitions=60)
    sent = [record(b"k", f"{i}".encode(), BASE_TIME + i, partition=i % 60) for i in range(600)]
    client.produce(bootstrap, topic, sent)
    assert by_partition(client.consume(bootstrap, topic, f"{topic}-g", 600)) == by_partition(sent)


def test_acks_of_zero_and_one(bootstrap: str, topic: str, client: Client) -> None:
    create_topic(bootstrap, topic, partitions=2)
    lots = [[record(b"k", b"%d" % (lot * 50 + i), BASE_TIME + i, partition=i % 2) for i in range(50)] for lot in (0, 1)]
    for acks, lot in zip(("acks=1", "acks=0"), lots, strict=True):
        client.produce(bootstrap, topic, lot, settings=[acks])
    got = CLIENTS[0].consume(bootstrap, topic, f"{topic}-g", 100)
    assert by_partition(got) == by_partition([*lots[0], *lots[1]])


def test_seeks_back_and_forth(bootstrap: str, topic: str, client: Client) -> None:
    create_topic(bootstrap, topic, partitions=1)
    sent = [record(b"k", b"%d" % i, BASE_TIME + i, partition=0) for i in range(300)]
    produce(bootstrap, topic, sent, records_per_batch=50)  # seeks go into and over batches
    offsets = [270, 3, 299, 0, 149, 150]
    got = client.run("seek", bootstrap, topic, *offsets)
    assert [(each["o"], each["v"]) for each in got] == [(offset, sent[offset]["v"]) for offset in offsets]


OLD_RELEASES = [
    *((name, f"version={release}") for name in ("kafka-python", "franz-go") for release in ("0.11", "1.1", "2.4")),
    ("confluent-kafka", "api.version.request=false broker.version.fallback=0.11.0.0"),
]


@pytest.mark.parametrize(("name", "settings"), OLD_RELEASES)
def test_a_client_that_takes_the_broker_for_an_old_release(
    bootstrap: str, topic: str, name: str, settings: str
) -> None:
    client = next(each for each in CLIENTS if each.name == name)
    client.driver()
    create_topic(bootstrap, topic, partitions=3)
    sent = without_null_headers(varied_records())
    plain = ["acks=1", "enable.idempotence=false"] if name == "confluent-kafka" else ["acks=1"]
    client.produce(bootstrap, topic, sent, settings=[*settings.split(), *plain])
    got = client.consume(bootstrap, topic, f"{topic}-g", len(sent), settings=settings.split())
    assert by_partition(got) == by_partition(sent)


def test_offsets_by_time(bootstrap: str, topic: str, client: Client) -> None:
    create_topic(bootstrap, topic, partitions=2)
    sent = [record(b"k", b"v", BASE_TIME + i * 10, partition=i % 2) for i in range(100)]
    client.produce(bootstrap, topic, sent)
    assert client.run("times", bootstrap, topic, BASE_TIME) == [{"p": 0, "o": 0}, {"p": 1, "o": 0}]
    assert client.run("times", bootstrap, topic, BASE_TIME + 500) == [{"p": 0, "o": 25}, {"p": 1, "o": 25}]
    assert client.run("times", bootstrap, topic, BASE_TIME + 505) == [{"p": 0, "o": 26}, {"p": 1, "o": 25}]
    assert client.run("times", bootstrap, topic, BASE_TIME + 5000) == [{"p": 0, "o": -1}, {"p": 1, "o": -1}]
