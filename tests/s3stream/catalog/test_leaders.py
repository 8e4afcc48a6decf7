from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from s3stream.catalog.api import (
    BrokerFenced,
    BrokerInfo,
    BrokerUnavailable,
    Catalog,
    NewTopic,
    PartitionInfo,
    TopicInfo,
)
from tests.s3stream.catalog.steps import open_streams, register


async def brokers(catalog: Catalog, count: int = 3) -> list[BrokerInfo]:
    return [await register(catalog, node_id) for node_id in range(1, count + 1)]


async def topic_led_by(catalog: Catalog, leaders: Sequence[int], replicas: Sequence[Sequence[int]] = ()) -> TopicInfo:
    return await catalog.create_topic(NewTopic("t", leaders, {}, replicas=replicas))


async def partition(catalog: Catalog, index: int = 0) -> PartitionInfo:
    [topic] = (await catalog.load_changes(0)).topics.values()
    assert topic is not None
    return topic.partitions[index]


async def plan(catalog: Catalog, index: int = 0) -> Any:
    """Leader, target, replicas, former replicas."""
    now = await partition(catalog, index)
    return now.leader, now.target, now.replicas, now.former_replicas


async def seq(catalog: Catalog) -> int:
    return (await catalog.load_changes(0)).seq


async def test_a_planned_move_is_seen_by_followers_and_changes_nothing_else(catalog: Catalog) -> None:
    await brokers(catalog)
    topic = await topic_led_by(catalog, [1, 1])
    before = await seq(catalog)
    assert await catalog.set_targets({topic.topic_id: {1: 2}}) == 1
    [changed] = (await catalog.load_changes(before)).topics.values()
    assert changed is not None
    assert [(p.leader, p.leader_epoch, p.target) for p in changed.partitions] == [(1, 0, None), (1, 0, 2)]


async def test_a_move_is_cancelled_by_none_and_by_the_leader_itself(catalog: Catalog) -> None:
    await brokers(catalog)
    topic = await topic_led_by(catalog, [1])
    for cancel in (None, 1):
        assert await catalog.set_targets({topic.topic_id: {0: 2}}) == 1
        assert await catalog.set_targets({topic.topic_id: {0: 2}}) == 0
        assert await catalog.set_targets({topic.topic_id: {0: cancel}}) == 1
        assert await catalog.set_targets({topic.topic_id: {0: cancel}}) == 0
        assert await plan(catalog) == (1, None, (), None)


async def test_nothing_is_moved_to_a_broker_that_is_not_alive(catalog: Catalog) -> None:
    await brokers(catalog)
    await register(catalog, 4, lease_ms=0)
    topic = await topic_led_by(catalog, [1, 1])
    for target in (4, 5):
        with pytest.raises(BrokerUnavailable):
            await catalog.set_targets({topic.topic_id: {0: 2, 1: target}})
        with pytest.raises(BrokerUnavailable):
            await catalog.set_replicas({topic.topic_id: {0: [2], 1: [target]}})
    assert await plan(catalog) == (1, None, (), None)


async def test_moves_of_what_is_gone_are_skipped(catalog: Catalog) -> None:
    first, *_ = await brokers(catalog)
    topic = await topic_led_by(catalog, [1])
    assert await catalog.set_targets({topic.topic_id: {0: 2, 7: 2}}) == 1
    await catalog.delete_topic(topic.topic_id)
    assert await catalog.set_targets({topic.topic_id: {0: 3}}) == 0
    assert await catalog.set_replicas({topic.topic_id: {0: [3]}}) == 0
    assert await catalog.hand_over(1, first.epoch, {topic.topic_id: [0]}) == {}


async def test_handing_over_closes_the_streams_and_lets_the_target_open_them(catalog: Catalog) -> None:
    first, second, _ = await brokers(catalog)
    topic = await topic_led_by(catalog, [1, 1])
    streams = [i for p in topic.partitions for i in (p.log_stream_id, p.state_stream_id)]
    await open_streams(catalog, first, streams)
    await catalog.set_targets({topic.topic_id: {0: 2}})
    before = await seq(catalog)
    for _ in range(2):
        moved = await catalog.hand_over(1, first.epoch, {topic.topic_id: [0, 1]})
        assert [(i, p.leader, p.leader_epoch, p.target) for i, p in moved[topic.topic_id].items()] == [(0, 2, 1, None)]
    assert [s.open for s in await catalog.stream_infos(streams)] == [False, False, True, True]
    assert list((await catalog.load_changes(before)).topics) == [topic.topic_id]
    await open_streams(catalog, second, streams[:2])


async def test_repeating_a_handover_does_not_touch_what_the_target_has_opened(catalog: Catalog) -> None:
    first, second, _ = await brokers(catalog)
    topic = await topic_led_by(catalog, [1])
    stream = topic.partitions[0].log_stream_id
    await open_streams(catalog, first, [stream])
    await catalog.set_targets({topic.topic_id: {0: 2}})
    await catalog.hand_over(1, first.epoch, {topic.topic_id: [0]})
    await open_streams(catalog, second, [stream])
    moved = await catalog.hand_over(1, first.epoch, {topic.topic_id: [0]})
    assert moved[topic.topic_id][0].leader == 2
    [info] = await catalog.stream_infos([stream])
    assert (info.open, info.node_id, info.epoch) == (True, 2, 2)


async def test_only_the_leader_hands_over_and_only_to_a_living_target(catalog: Catalog) -> None:
    first, second, third = await brokers(catalog)
    topic = await topic_led_by(catalog, [1])
    streams = [topic.partitions[0].log_stream_id]
    await open_streams(catalog, first, streams)
    assert await catalog.hand_over(1, first.epoch, {topic.topic_id: [0]}) == {}, "no target"
    await catalog.set_targets({topic.topic_id: {0: 2}})
    moved = await catalog.hand_over(3, third.epoch, {topic.topic_id: [0]})
    assert moved[topic.topic_id][0].leader == 1, "it never led it"
    await catalog.fence_broker(2, second.epoch)
    assert await catalog.hand_over(1, first.epoch, {topic.topic_id: [0]}) == {}, "the target is gone"
    assert [s.open for s in await catalog.stream_infos(streams)] == [True]
    await catalog.fence_broker(1, first.epoch)
    with pytest.raises(BrokerFenced):
        await catalog.hand_over(1, first.epoch, {topic.topic_id: [0]})


async def test_hundreds_of_partitions_are_handed_over_at_once(catalog: Catalog) -> None:
    first, *_ = await brokers(catalog)
    topic = await topic_led_by(catalog, [1] * 1200)
    await open_streams(catalog, first, [p.log_stream_id for p in topic.partitions])
    await catalog.set_targets({topic.topic_id: {i: 2 + i % 2 for i in range(1200)}})
    moved = await catalog.hand_over(1, first.epoch, {topic.topic_id: range(1200)})
    assert [p.leader for _, p in sorted(moved[topic.topic_id].items())] == [2 + i % 2 for i in range(1200)]


async def test_a_reassignment_goes_on_until_its_target_leads(catalog: Catalog) -> None:
    first, *_ = await brokers(catalog)
    topic = await topic_led_by(catalog, [1], [[1, 2]])
    assert await catalog.set_replicas({topic.topic_id: {0: [9, 3, 2]}}) == 1
    assert await plan(catalog) == (1, 3, (9, 3, 2), (1, 2))
    assert await catalog.set_replicas({topic.topic_id: {0: [2, 3]}}) == 1
    assert await plan(catalog) == (1, 2, (2, 3), (1, 2))
    await catalog.hand_over(1, first.epoch, {topic.topic_id: [0]})
    assert await plan(catalog) == (2, None, (2, 3), None)


async def test_a_reassignment_that_keeps_the_leader_is_done_at_once(catalog: Catalog) -> None:
    await brokers(catalog)
    topic = await topic_led_by(catalog, [1])
    assert await catalog.set_replicas({topic.topic_id: {0: [2, 1]}}) == 1
    assert await catalog.set_replicas({topic.topic_id: {0: [2, 1]}}) == 0
    assert await plan(catalog) == (1, None, (2, 1), None)


@pytest.mark.parametrize("former", [(), (1, 3)])
@pytest.mark.parametrize("end", ["cancel", "another move", "no move", "the target dies"])
async def test_a_reassignment_that_does_not_happen_leaves_the_former_replicas(
    catalog: Catalog, end: str, former: tuple[int, ...]
) -> None:
    first, second, _ = await brokers(catalog)
    topic = await topic_led_by(catalog, [1], [former] if former else ())
    await catalog.set_replicas({topic.topic_id: {0: [2, 3]}})
    expected: Any = (1, None, former, None)
    if end == "cancel":
        for changed in (1, 0):
            assert await catalog.set_replicas({topic.topic_id: {0: None}}) == changed
    elif end == "another move":
        await catalog.set_targets({topic.topic_id: {0: 3}})
        expected = (1, 3, former, None)
    elif end == "no move":
        await catalog.set_targets({topic.topic_id: {0: None}})
    else:
        await catalog.fence_broker(2, second.epoch)
        await catalog.claim_partitions(1, first.epoch)
    assert await plan(catalog) == expected


async def test_a_move_without_a_reassignment_is_not_taken_back_by_cancelling_reassignments(catalog: Catalog) -> None:
    await brokers(catalog)
    topic = await topic_led_by(catalog, [1], [[1, 2]])
    await catalog.set_targets({topic.topic_id: {0: 2}})
    assert await catalog.set_replicas({topic.topic_id: {0: None}}) == 0
    assert await plan(catalog) == (1, 2, (1, 2), None)


async def test_who_claims_prefers_the_target_then_replicas_then_who_leads_the_fewest(catalog: Catalog) -> None:
    dead, _, third, _ = await brokers(catalog, 4)
    topic = await topic_led_by(catalog, [1, 1, 1, 2, 3], [[1], [1, 3], [1, 7], [2], [3]])
    await catalog.set_targets({topic.topic_id: {0: 2}})
    await catalog.close_broker(1, dead.epoch)
    assert await catalog.claim_partitions(3, third.epoch) == 3
    assert [(await plan(catalog, index))[:2] for index in range(5)] == [
        (2, None),
        (3, None),
        (4, None),
        (2, None),
        (3, None),
    ]


async def test_nothing_is_claimed_for_brokers_that_are_drained_unless_they_are_all(catalog: Catalog) -> None:
    dead, second, _ = await brokers(catalog)
    topic = await topic_led_by(catalog, [1] * 4)
    await catalog.alter_configs("broker", "3", {"tailrace.draining": "true"})
    await catalog.close_broker(1, dead.epoch)
    assert await catalog.claim_partitions(2, second.epoch) == 4
    assert {(await plan(catalog, index))[0] for index in range(4)} == {2}
    await catalog.close_broker(2, second.epoch)
    third = await register(catalog, 4)
    await catalog.alter_configs("broker", "4", {"tailrace.draining": "true"})
    assert await catalog.claim_partitions(4, third.epoch) == 4
    assert topic.partitions


async def test_a_cancel_and_a_handover_at_once_leave_one_of_the_two(catalog: Catalog) -> None:
    first, *_ = await brokers(catalog)
    topic = await topic_led_by(catalog, [1])
    stream = topic.partitions[0].log_stream_id
    await open_streams(catalog, first, [stream])
    await catalog.set_targets({topic.topic_id: {0: 2}})
    moved, cancelled = await asyncio.gather(
        catalog.hand_over(1, first.epoch, {topic.topic_id: [0]}), catalog.set_targets({topic.topic_id: {0: None}})
    )
    [info] = await catalog.stream_infos([stream])
    now = await partition(catalog)
    assert (now.leader, info.open, bool(moved), cancelled) in ((2, False, True, 0), (1, True, False, 1))
    assert now.target is None


async def test_nothing_is_given_to_a_broker_that_is_about_to_stop(catalog: Catalog) -> None:
    first, second, third = await brokers(catalog)
    topic = await topic_led_by(catalog, [1, 1])
    await catalog.set_targets({topic.topic_id: {0: 2}})
    before = await seq(catalog)
    for _ in range(2):
        await catalog.leave(2, second.epoch)
    assert [b.leaving for b in (await catalog.load_changes(before)).brokers.values() if b] == [True]
    assert await catalog.hand_over(1, first.epoch, {topic.topic_id: [0]}) == {}
    with pytest.raises(BrokerUnavailable):
        await catalog.set_targets({topic.topic_id: {1: 2}})
    with pytest.raises(BrokerUnavailable):
        await catalog.set_replicas({topic.topic_id: {1: [2]}})
    await catalog.close_broker(1, first.epoch)
    assert await catalog.claim_partitions(2, second.epoch) == 2
    assert {(await plan(catalog, index))[:2] for index in range(2)} == {(3, None)}
    await catalog.close_broker(3, third.epoch)
    assert await catalog.claim_partitions(2, second.epoch) == 2, "there is nobody else"


async def test_who_comes_back_stays(catalog: Catalog) -> None:
    first, *_ = await brokers(catalog)
    await catalog.leave(1, first.epoch)
    await catalog.close_broker(1, first.epoch)
    assert not (await register(catalog, 1)).leaving
    with pytest.raises(BrokerFenced):
        await catalog.leave(1, first.epoch)


async def test_moves_to_brokers_that_are_gone_are_cancelled_and_no_others(catalog: Catalog) -> None:
    await brokers(catalog)
    topic = await topic_led_by(catalog, [1, 1, 1, 3], [[1], [1], [1], [3]])
    await catalog.set_replicas({topic.topic_id: {0: [2]}})
    await catalog.set_targets({topic.topic_id: {1: 2, 2: 3, 3: 2}})
    before = await seq(catalog)
    for expected in (2, 0):
        assert await catalog.cancel_moves(1, [2, 7]) == expected
    assert list((await catalog.load_changes(before)).topics) == [topic.topic_id]
    assert [(await plan(catalog, index)) for index in range(4)] == [
        (1, None, (1,), None),
        (1, None, (1,), None),
        (1, 3, (1,), None),
        (3, 2, (3,), None),
    ]
