"""Several catalogs on one database at the same time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import chain

import pytest

from s3stream.catalog import open_catalog
from s3stream.catalog.api import (
    BrokerAlreadyRegistered,
    BrokerFenced,
    Catalog,
    CatalogError,
    NewTopic,
    OffsetsNotContinuous,
    StreamEpochFenced,
    TopicExists,
)
from tests.s3stream.catalog.steps import HOUR_MS, NEVER_MS, commit, live_ids, new_streams, open_streams, register, span


@pytest.fixture
async def pair(catalog_url: str) -> AsyncIterator[tuple[Catalog, Catalog]]:
    one, two = await asyncio.gather(open_catalog(catalog_url), open_catalog(catalog_url))
    yield one, two
    await one.close()
    await two.close()


async def test_of_two_that_want_one_node_id_one_gets_it(pair: tuple[Catalog, Catalog]) -> None:
    answers = await asyncio.gather(*(register(catalog) for catalog in pair), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["BrokerAlreadyRegistered", "BrokerInfo"]
    assert any(isinstance(answer, BrokerAlreadyRegistered) for answer in answers)


async def test_of_two_that_create_one_topic_one_does(pair: tuple[Catalog, Catalog]) -> None:
    topic = NewTopic("t", [1, 1], {"a": "b"})
    answers = await asyncio.gather(*(catalog.create_topic(topic) for catalog in pair * 3), return_exceptions=True)
    assert sum(isinstance(answer, TopicExists) for answer in answers) == 5


async def test_no_id_is_given_twice(pair: tuple[Catalog, Catalog]) -> None:
    brokers = [await register(catalog, i) for i, catalog in enumerate(pair)]

    async def take(catalog: Catalog, node_id: int) -> list[tuple[str, int]]:
        taken = []
        for i in range(10):
            broker = brokers[node_id]
            taken += [("object", found) for found, _ in await catalog.prepare_objects(node_id, broker.epoch, 3)]
            taken.append(("producer", await catalog.allocate_producer_ids(node_id, broker.epoch, 1)))
            taken += [("stream", found) for found in await new_streams(catalog, name=f"{node_id}-{i}")]
        return taken

    taken = list(chain.from_iterable(await asyncio.gather(*(take(c, i) for i, c in enumerate(pair)))))
    assert len(set(taken)) == len(taken) == 120


async def test_of_two_commits_at_the_same_end_one_is_made(pair: tuple[Catalog, Catalog]) -> None:
    broker = await register(pair[0])
    a, b = await new_streams(pair[0])
    epochs = await open_streams(pair[0], broker, [a, b])
    for i in range(10):
        racing = (
            commit(catalog, broker, epochs, *(span(s, i, i + 1) for s in order))
            for catalog, order in zip(pair, ((a, b), (b, a)), strict=True)
        )
        answers = await asyncio.gather(*racing, return_exceptions=True)
        assert sum(isinstance(answer, OffsetsNotContinuous) for answer in answers) == 1
        assert sum(isinstance(answer, int) for answer in answers) == 1
    assert len(await live_ids(pair[1], [a, b])) == 10


async def test_of_two_who_open_a_stream_the_second_is_refused(pair: tuple[Catalog, Catalog]) -> None:
    brokers = [await register(catalog, i) for i, catalog in enumerate(pair)]
    streams = await new_streams(pair[0], 20)
    opening = (open_streams(c, b, streams) for c, b in zip(pair, brokers, strict=True))
    answers = await asyncio.gather(*opening, return_exceptions=True)
    assert sum(isinstance(answer, StreamEpochFenced) for answer in answers) == 1
    assert {s.epoch for s in await pair[0].stream_infos(streams)} == {1}


async def test_two_heirs_share_what_there_is_to_claim(pair: tuple[Catalog, Catalog]) -> None:
    heirs = [await register(catalog, i) for i, catalog in enumerate(pair)]
    await pair[0].create_topic(NewTopic("t", [9] * 50, {}))
    claimed = await asyncio.gather(*(c.claim_partitions(b.node_id, b.epoch) for c, b in zip(pair, heirs, strict=True)))
    assert sorted(claimed) == [0, 50]


async def test_nothing_is_committed_after_a_fence_was_answered(pair: tuple[Catalog, Catalog]) -> None:
    writer, judge = pair
    broker = await register(writer)
    a, _ = await new_streams(writer)
    epochs = await open_streams(writer, broker, [a])

    async def write() -> int:
        for end in range(1, 1000):
            try:
                await commit(writer, broker, epochs, span(a, end - 1, end))
            except BrokerFenced:
                return end - 1
        raise AssertionError("never fenced")

    async def fence() -> int:
        while (await judge.stream_infos([a]))[0].end_offset < 5:
            pass
        await judge.fence_broker(1, broker.epoch)
        return (await judge.stream_infos([a]))[0].end_offset

    written, seen = await asyncio.gather(write(), fence())
    assert written == seen
    assert [s.end_offset for s in await judge.stream_infos([a])] == [seen]


async def test_mixed_work_neither_locks_up_nor_loses_anything(pair: tuple[Catalog, Catalog]) -> None:
    """Both brokers commit, trim, renew, create and delete topics at the same time, each in several tasks."""
    rng = random.Random(20)

    async def work(catalog: Catalog, node_id: int, tasks: int) -> None:
        broker = await register(catalog, node_id)

        async def topic_life(number: int) -> None:
            name = f"{node_id}-{number}"
            streams = await new_streams(catalog, 3, leader=node_id, name=name)
            epochs = await open_streams(catalog, broker, streams)
            for end in range(10, 60, 10):
                shuffled = rng.sample(streams, len(streams))
                await commit(catalog, broker, epochs, *(span(s, end - 10, end) for s in shuffled))
                await catalog.trim_streams(node_id, broker.epoch, dict.fromkeys(shuffled[:3], (1, end - 5)))
                await catalog.renew_lease(node_id, broker.epoch, HOUR_MS)
                await catalog.abandoned_objects(NEVER_MS, 100)
            assert [s.end_offset for s in await catalog.stream_infos(streams)] == [50] * 6
            if number % 2:
                topics = (await catalog.load_changes(0)).topics.values()
                [topic_id] = [t.topic_id for t in topics if t is not None and t.name == name]
                await catalog.delete_topic(topic_id)
            else:
                await catalog.close_streams(node_id, broker.epoch, epochs)

        await asyncio.gather(*(topic_life(number) for number in range(tasks)))
        await catalog.close_broker(node_id, broker.epoch)

    await asyncio.gather(*(work(catalog, i, 3) for i, catalog in enumerate(pair)))
    assert [b.closed for b in await pair[0].brokers()] == [True, True]
    assert len((await pair[1].load_changes(0)).topics) == 4


async def test_a_cancelled_transaction_leaves_the_catalog_usable(catalog: Catalog) -> None:
    for i in range(20):
        task = asyncio.ensure_future(catalog.create_topic(NewTopic(f"t{i}", [1] * 10, {})))
        for _ in range(i % 7):
            await asyncio.sleep(0)
        task.cancel()
        answer = (await asyncio.gather(task, return_exceptions=True))[0]
        assert not isinstance(answer, CatalogError)
    await catalog.create_topic(NewTopic("last", [1], {}))
    topics = (await catalog.load_changes(0)).topics.values()
    assert {len(t.partitions) for t in topics if t is not None and t.name != "last"} <= {10}
