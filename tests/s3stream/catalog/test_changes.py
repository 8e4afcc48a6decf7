from __future__ import annotations

import asyncio

from s3stream.catalog import open_catalog
from s3stream.catalog.api import BrokerInfo, Catalog, NewObject, NewTopic, TopicInfo
from tests.s3stream.catalog.steps import HOUR_MS, new_streams, open_streams, register, span


class Follower:
    """What a broker's metadata image does with changes."""

    def __init__(self) -> None:
        self.seq = 0
        self.topics: dict[object, TopicInfo] = {}
        self.brokers: dict[int, BrokerInfo] = {}
        self.configs: dict[tuple[str, str], dict[str, str]] = {}

    async def follow(self, catalog: Catalog) -> None:
        changes = await catalog.load_changes(self.seq)
        assert changes.seq >= self.seq
        self.seq = changes.seq
        for topic_id, topic in changes.topics.items():
            self.topics.pop(topic_id, None)
            if topic is not None:
                self.topics[topic_id] = topic
        self.brokers.update({i: b for i, b in changes.brokers.items() if b is not None})
        self.configs.update({k: dict(v) for k, v in changes.configs.items()})

    def state(self) -> object:
        return self.topics, self.brokers, {k: v for k, v in self.configs.items() if v}


async def test_a_follower_arrives_at_what_a_newcomer_loads(catalog: Catalog) -> None:
    follower = Follower()
    a = await catalog.create_topic(NewTopic("a", [1], {}))
    await follower.follow(catalog)
    broker = await register(catalog)
    other = await register(catalog, 2)
    b = await catalog.create_topic(NewTopic("b", [1], {"x": "y"}))
    await follower.follow(catalog)
    steps = [
        catalog.delete_topic(a.topic_id),
        catalog.add_partitions(b.topic_id, [2, 9]),
        catalog.set_replicas({b.topic_id: {1: [1]}}),
        catalog.hand_over(2, other.epoch, {b.topic_id: [1]}),
        catalog.alter_configs("topic", "b", {"x": None}),
        catalog.alter_configs("broker", "1", {"k": "v"}),
        catalog.alter_configs("broker", "1", {"k": None}),
        catalog.claim_partitions(1, broker.epoch),
        catalog.close_broker(1, broker.epoch),
        register(catalog, 1),
        register(catalog, 3),
    ]
    for step in steps:
        await step
        await follower.follow(catalog)
        newcomer = Follower()
        await newcomer.follow(catalog)
        assert follower.state() == newcomer.state()
        assert follower.seq == newcomer.seq


async def test_nothing_changed_is_answered_with_nothing(catalog: Catalog) -> None:
    await register(catalog)
    seq = (await catalog.load_changes(0)).seq
    again = await catalog.load_changes(seq)
    assert (again.seq, again.topics, again.brokers, again.configs) == (seq, {}, {}, {})


async def test_work_on_streams_and_objects_and_renewals_change_nothing_for_followers(catalog: Catalog) -> None:
    broker = await register(catalog)
    streams = await new_streams(catalog)
    seq = (await catalog.load_changes(0)).seq
    epochs = await open_streams(catalog, broker, streams)
    [(object_id, _)] = await catalog.prepare_objects(1, broker.epoch, 1)
    await catalog.commit_objects(1, broker.epoch, [NewObject(object_id, 1, (span(streams[0], 0, 1),))], epochs)
    await catalog.trim_streams(1, broker.epoch, {streams[0]: (epochs[streams[0]], 1)})
    await catalog.renew_lease(1, broker.epoch, HOUR_MS)
    await catalog.close_streams(1, broker.epoch, epochs)
    assert (await catalog.load_changes(seq)).seq == seq


async def test_a_lease_that_ran_out_and_came_back_is_seen_by_followers(catalog: Catalog) -> None:
    broker = await register(catalog, lease_ms=0)
    follower = Follower()
    await follower.follow(catalog)
    expired = await catalog.load_changes(follower.seq)
    assert [b.alive for b in expired.brokers.values() if b] == [False]
    await catalog.renew_lease(1, broker.epoch, HOUR_MS)
    await follower.follow(catalog)
    assert follower.brokers[1].alive


async def test_a_removed_topic_is_told_as_none(catalog: Catalog) -> None:
    topic = await catalog.create_topic(NewTopic("t", [1], {}))
    seq = (await catalog.load_changes(0)).seq
    await catalog.delete_topic(topic.topic_id)
    assert (await catalog.load_changes(seq)).topics == {topic.topic_id: None}


async def test_a_follower_of_concurrent_writers_misses_nothing(catalog_url: str) -> None:
    writers = [await open_catalog(catalog_url) for _ in range(2)]
    reader = await open_catalog(catalog_url)
    follower = Follower()

    async def write(number: int, writer: Catalog) -> None:
        for i in range(10):
            topic = await writer.create_topic(NewTopic(f"topic-{number}-{i}", [1], {}))
            if i % 3 == 0:
                await writer.delete_topic(topic.topic_id)

    writing = asyncio.gather(*(write(n, w) for n, w in enumerate(writers)))
    while not writing.done():
        await follower.follow(reader)
    await writing
    await follower.follow(reader)
    newcomer = Follower()
    await newcomer.follow(reader)
    assert follower.state() == newcomer.state()
    assert len(follower.topics) == 12
    for catalog in (*writers, reader):
        await catalog.close()
