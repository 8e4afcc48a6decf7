from __future__ import annotations

from uuid import uuid4

import pytest

from s3stream.catalog import topics
from s3stream.catalog.api import Catalog, NewTopic, TopicExists, TopicInfo, UnknownTopic
from tests.s3stream.catalog.steps import new_streams


async def only_topic(catalog: Catalog) -> TopicInfo | None:
    [topic] = (await catalog.load_changes(0)).topics.values()
    return topic


async def test_a_created_topic_is_read_back_as_it_was_answered(catalog: Catalog) -> None:
    topic_id = uuid4()
    created = await catalog.create_topic(
        NewTopic("orders", [1, 2, 1], {"retention.ms": "1000"}, replication_factor=3, internal=True, topic_id=topic_id)
    )
    assert (created.topic_id, created.name, created.internal) == (topic_id, "orders", True)
    assert [(p.index, p.leader, p.leader_epoch) for p in created.partitions] == [(0, 1, 0), (1, 2, 0), (2, 1, 0)]
    assert await only_topic(catalog) == created


async def test_many_partitions_are_read_page_by_page(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    for page_count in (1000, 3):
        monkeypatch.setattr(topics, "PAGE_COUNT", page_count)
        for count in (1, 3, 7, 2):
            await catalog.create_topic(NewTopic(f"t{count}-{page_count}", list(range(count)), {}))
        found = [each for each in (await catalog.load_changes(0)).topics.values() if each is not None]
        assert {each.name: [part.leader for part in each.partitions] for each in found} == {
            each.name: list(range(int(each.name[1]))) for each in found
        }
    assert len(found) == 8


async def test_every_partition_has_two_streams_of_its_own(catalog: Catalog) -> None:
    stream_ids = await new_streams(catalog, 3, name="a") + await new_streams(catalog, 2, name="b")
    assert len(set(stream_ids)) == 10
    infos = await catalog.stream_infos(stream_ids)
    assert {(s.epoch, s.open, s.start_offset, s.end_offset) for s in infos} == {(0, False, 0, 0)}


async def test_a_name_is_taken_once_and_compared_exactly(catalog: Catalog) -> None:
    await catalog.create_topic(NewTopic("Orders", [1], {}))
    await catalog.create_topic(NewTopic("orders", [1], {}))
    with pytest.raises(TopicExists):
        await catalog.create_topic(NewTopic("orders", [1], {}))


async def test_a_deleted_topic_leaves_no_streams_and_its_name_is_free_without_its_configs(catalog: Catalog) -> None:
    topic = await catalog.create_topic(NewTopic("t", [1], {"a": "b"}))
    await catalog.delete_topic(topic.topic_id)
    assert await catalog.stream_infos([topic.partitions[0].log_stream_id, topic.partitions[0].state_stream_id]) == []
    with pytest.raises(UnknownTopic):
        await catalog.delete_topic(topic.topic_id)
    again = await catalog.create_topic(NewTopic("t", [1], {}))
    assert again.configs == {}
    assert again.partitions[0].log_stream_id > topic.partitions[0].state_stream_id
    assert await only_topic(catalog) == again


async def test_partitions_are_appended(catalog: Catalog) -> None:
    topic = await catalog.create_topic(NewTopic("t", [1], {}))
    grown = await catalog.add_partitions(topic.topic_id, [2, 3])
    assert grown.partitions[0] == topic.partitions[0]
    assert [(p.index, p.leader) for p in grown.partitions] == [(0, 1), (1, 2), (2, 3)]
    assert await only_topic(catalog) == grown
    with pytest.raises(UnknownTopic):
        await catalog.add_partitions(uuid4(), [1])


async def test_assigned_replicas_are_kept(catalog: Catalog) -> None:
    topic = await catalog.create_topic(NewTopic("t", [1, 2], {}, 2, replicas=[[1, 2], [2, 1]]))
    grown = await catalog.add_partitions(topic.topic_id, [3], [[3, 1]])
    assert [p.replicas for p in grown.partitions] == [(1, 2), (2, 1), (3, 1)]
    assert await only_topic(catalog) == grown


async def test_configs_are_set_changed_and_removed(catalog: Catalog) -> None:
    await catalog.create_topic(NewTopic("t", [1], {"a": "1", "b": "2"}))
    await catalog.alter_configs("topic", "t", {"a": None, "b": "3", "c": "4", "never": None})
    topic = await only_topic(catalog)
    assert topic is not None
    assert topic.configs == {"b": "3", "c": "4"}
    with pytest.raises(UnknownTopic):
        await catalog.alter_configs("topic", "other", {"a": "1"})


async def test_configs_of_brokers_and_groups_stand_beside_those_of_topics(catalog: Catalog) -> None:
    await catalog.alter_configs("broker", "", {"a": "1"})
    await catalog.alter_configs("broker", "7", {"a": "2"})
    await catalog.alter_configs("group", "team:one", {"a": "3"})
    assert (await catalog.load_changes(0)).configs == {
        ("broker", ""): {"a": "1"},
        ("broker", "7"): {"a": "2"},
        ("group", "team:one"): {"a": "3"},
    }


async def test_a_topic_of_2500_partitions_comes_back_in_order(catalog: Catalog) -> None:
    created = await catalog.create_topic(NewTopic("wide", [1] * 2500, {}))
    assert await only_topic(catalog) == created
    await catalog.delete_topic(created.topic_id)
    assert (await catalog.load_changes(0)).topics == {}
