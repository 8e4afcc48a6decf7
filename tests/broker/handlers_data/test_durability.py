"""`tailrace.durability`: which streams wait for their commits, and that it can be changed while partitions are led."""

from __future__ import annotations

from dataclasses import replace

from s3stream.catalog.api import Changes, TopicInfo

from .node import Node


def confirm_on_commit(node: Node, topic: TopicInfo) -> tuple[bool, bool]:
    """Of the log, and of the state: a snapshot is to be as safe as what it stands for."""
    info = topic.partitions[0]
    streams = node.storage.streams
    return streams[info.log_stream_id].confirms_on_commit, streams[info.state_stream_id].confirms_on_commit


async def test_a_topic_of_durability_object_waits_for_its_commits_and_others_do_not() -> None:
    node = Node()
    safe = await node.topic("safe", tailrace_durability="object")
    plain = await node.topic("plain")
    assert confirm_on_commit(node, safe) == (True, True)
    assert confirm_on_commit(node, plain) == (False, False)


async def test_it_is_changed_while_the_partition_is_led() -> None:
    node = Node()
    topic = await node.topic("t")
    safe = replace(topic, configs={"tailrace.durability": "object"})
    await node.learn({topic.topic_id: safe})
    assert confirm_on_commit(node, topic) == (True, True)
    await node.learn({topic.topic_id: replace(topic, configs={})})
    assert confirm_on_commit(node, topic) == (False, False)


async def test_topics_that_do_not_say_follow_the_brokers() -> None:
    node = Node()
    silent = await node.topic("silent")
    quick = await node.topic("quick", tailrace_durability="wal")
    for value, expected in (({"tailrace.durability": "object"}, True), ({}, False)):
        node.catalog.changes = Changes(node.image.seq + 1, {}, {}, {("broker", ""): value})
        await node.image.refresh()
        assert confirm_on_commit(node, silent) == (expected, expected)
        assert confirm_on_commit(node, quick) == (False, False)
