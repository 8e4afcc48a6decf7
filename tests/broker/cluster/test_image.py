"""The image follows the catalog; look-ups never wait."""

from __future__ import annotations

from broker.cluster.image import MetadataImage
from s3stream.catalog.api import CatalogUnreachable, Changes, NewTopic, TopicInfo
from tests.broker.cluster.cluster import NODE_ID, Cluster, until


async def test_a_topic_is_found_by_name_and_by_id_once_refreshed(node: Cluster) -> None:
    created = await node.catalog.create_topic(NewTopic("t", [NODE_ID, NODE_ID], {}))
    assert node.image.topic("t") is None
    await node.image.refresh()
    assert node.image.topic("t") == created
    assert node.image.topic_by_id(created.topic_id.bytes) is node.image.topic("t")
    assert [each.name for each in node.image.topics()] == ["t"]


async def test_a_topic_created_again_under_the_same_name_takes_its_place(node: Cluster) -> None:
    old = await node.catalog.create_topic(NewTopic("t", [NODE_ID], {}))
    await node.image.refresh()
    await node.catalog.delete_topic(old.topic_id)
    new = await node.catalog.create_topic(NewTopic("t", [NODE_ID], {}))
    await node.image.refresh()
    assert node.image.topic("t") == new
    assert node.image.topic_by_id(old.topic_id.bytes) is None


async def test_deleting_is_told_to_subscribers_after_the_image_took_it(node: Cluster) -> None:
    topic = await node.catalog.create_topic(NewTopic("t", [NODE_ID], {}))
    await node.image.refresh()
    seen: list[tuple[Changes, TopicInfo | None]] = []
    unsubscribe = node.image.subscribe(lambda changes: seen.append((changes, node.image.topic("t"))))
    await node.catalog.delete_topic(topic.topic_id)
    await node.image.refresh()
    assert [(dict(changes.topics), after) for changes, after in seen] == [({topic.topic_id: None}, None)]
    unsubscribe()
    await node.catalog.create_topic(NewTopic("u", [NODE_ID], {}))
    await node.image.refresh()
    assert len(seen) == 1


async def test_a_refresh_without_changes_tells_nobody(node: Cluster) -> None:
    seen: list[Changes] = []
    node.image.subscribe(seen.append)
    generation = node.image.generation
    await node.image.refresh()
    assert (seen, node.image.generation) == ([], generation)


async def test_topic_configs_are_cached_until_something_changes(node: Cluster) -> None:
    await node.catalog.create_topic(NewTopic("t", [NODE_ID], {"retention.ms": "5"}))
    await node.image.refresh()
    config = node.image.topic_config("t")
    assert config.retention_ms == 5
    assert node.image.topic_config("t") is config
    await node.catalog.alter_configs("topic", "t", {"retention.ms": None, "max.message.bytes": "77"})
    await node.image.refresh()
    assert node.image.topic_config("t").retention_ms == 604800000
    assert node.image.topic_config("t").max_message_bytes == 77


async def test_dynamic_broker_configs_reach_broker_and_topics(node: Cluster) -> None:
    await node.catalog.create_topic(NewTopic("t", [NODE_ID], {}))
    await node.image.refresh()
    assert node.image.topic_config("t").max_message_bytes == 1048588
    await node.catalog.alter_configs("broker", "", {"message.max.bytes": "2000"})
    await node.catalog.alter_configs("broker", "9", {"message.max.bytes": "9000"})
    await node.image.refresh()
    assert node.config.message_max_bytes == 2000
    assert node.image.topic_config("t").max_message_bytes == 2000
    assert node.image.topic_config("unknown").max_message_bytes == 2000
    await node.catalog.alter_configs("broker", "", {"message.max.bytes": None})
    await node.image.refresh()
    assert node.config.message_max_bytes == 1048588


async def test_only_alive_brokers_are_listed_in_order(node: Cluster) -> None:
    await node.join(3)
    second = await node.join(2)
    assert [each.node_id for each in node.image.brokers()] == [1, 2, 3]
    assert node.image.controller_id == 1
    await node.catalog.close_broker(2, second.epoch)
    await node.image.refresh()
    assert [each.node_id for each in node.image.brokers()] == [1, 3]
    gone = node.image.broker(2)
    assert gone is not None
    assert not gone.alive


async def test_what_is_derived_from_a_topic_is_kept_until_it_or_a_broker_changes(node: Cluster) -> None:
    built: list[str] = []

    def build(image: MetadataImage, topic: TopicInfo) -> int:
        built.append(topic.name)
        return len(topic.partitions)

    await node.catalog.create_topic(NewTopic("t", [NODE_ID], {}))
    await node.image.refresh()
    former = node.image.topic("t")
    assert former is not None
    assert [node.image.derived(former, build), node.image.derived(former, build)] == [1, 1]
    assert built == ["t"]
    await node.catalog.add_partitions(former.topic_id, [NODE_ID])
    await node.image.refresh()
    topic = node.image.topic("t")
    assert topic is not None
    assert [node.image.derived(topic, build), node.image.derived(former, build)] == [2, 1]
    await node.join(2)
    assert node.image.derived(topic, build) == 2
    assert len(built) == 4


async def test_the_follower_takes_in_what_others_commit(node: Cluster) -> None:
    await node.image.start()
    try:
        await node.catalog.create_topic(NewTopic("t", [NODE_ID], {}))
        await until(lambda: node.image.topic("t") is not None)
    finally:
        await node.image.stop()


async def test_the_follower_keeps_the_image_over_an_outage_and_goes_on_after_it(node: Cluster) -> None:
    catalog = _Flaky(node)
    image = MetadataImage(catalog, node.config, NODE_ID, follow_interval_s=0.001)  # type: ignore[arg-type]
    await image.start()
    try:
        catalog.down = True
        await until(lambda: catalog.failures > 2)
        assert [each.node_id for each in image.brokers()] == [NODE_ID]
        await node.catalog.create_topic(NewTopic("t", [NODE_ID], {}))
        catalog.down = False
        await until(lambda: image.topic("t") is not None)
    finally:
        await image.stop()


async def test_a_follower_that_meets_a_defect_says_so(node: Cluster) -> None:
    image = MetadataImage(node.catalog, node.config, NODE_ID, follow_interval_s=0.001)
    failures: list[Exception] = []
    await image.start(failures.append)

    def fail(changes: Changes) -> None:
        raise ValueError("a defect")

    image.subscribe(fail)
    await node.catalog.create_topic(NewTopic("t", [NODE_ID], {}))
    await until(lambda: bool(failures))
    assert str(failures[0]) == "a defect"
    await image.stop()


class _Flaky:
    def __init__(self, node: Cluster) -> None:
        self.cluster_id = node.catalog.cluster_id
        self.brokers = node.catalog.brokers
        self.down = False
        self.failures = 0
        self._catalog = node.catalog

    async def load_changes(self, after: int) -> Changes:
        if self.down:
            self.failures += 1
            raise CatalogUnreachable("down")
        return await self._catalog.load_changes(after)
