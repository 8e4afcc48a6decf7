"""The balancer on a real catalog: leaders are played by the test, which carries out what it is asked for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import pytest

from broker.balance.balancer import LOAD_PATIENCE_S, LOOK_INTERVAL_S, SILENT_PAUSE_S, Balancer, Picture
from broker.balance.model import Move
from broker.cluster.topics import TopicSpec
from broker.config.broker_config import BrokerConfig
from broker.peers import PeerUnavailable
from protocol.messages.describe_load import DescribeLoadResponse, LoadOfPartition, LoadOfTopic
from s3stream.catalog.api import DRAINING, BrokerInfo
from tests.broker.cluster.cluster import Cluster, cluster


class World:
    """Brokers that register, answer what they are said to have to do, and hand over when they are asked to."""

    def __init__(self, node: Cluster) -> None:
        self.node = node
        self.now_s = 1000.0
        self.brokers: dict[int, BrokerInfo] = {}
        self.silent: set[int] = set()
        self.bytes_in: dict[tuple[str, int], float] = {}
        self.balancer = Balancer(node.image, node.catalog, cast("Any", self), node.config, lambda: self.now_s)

    def call(self, node_id: int, api_version: int, request: object) -> asyncio.Future[DescribeLoadResponse]:
        answer: asyncio.Future[DescribeLoadResponse] = asyncio.get_running_loop().create_future()
        if node_id in self.silent:
            answer.set_exception(PeerUnavailable("it does not answer"))
            return answer
        topics = []
        for topic in self.node.image.topics():
            loads = [
                LoadOfPartition(partition_index=each.index, bytes_in=rate, requests=rate / 1e4)
                for each in topic.partitions
                if each.leader == node_id and (rate := self.bytes_in.get((topic.name, each.index)))
            ]
            topics.append(LoadOfTopic(topic_id=topic.topic_id.bytes, partitions=loads))
        answer.set_result(DescribeLoadResponse(node_id=node_id, topics=topics))
        return answer

    async def join(self, *node_ids: int) -> None:
        for node_id in node_ids:
            self.brokers[node_id] = await self.node.join(node_id)

    async def create(self, name: str, partitions: int) -> None:
        await self.node.topics.create(TopicSpec(name, num_partitions=partitions))

    async def drain(self, node_id: int, value: str | None = "true") -> None:
        await self.node.catalog.alter_configs("broker", str(node_id), {DRAINING: value})
        await self.node.image.refresh()

    async def configure(self, **configs: str) -> None:
        changes = {name.replace("_", "."): value for name, value in configs.items()}
        await self.node.catalog.alter_configs("broker", "", changes)
        await self.node.image.refresh()

    def targets(self) -> Mapping[int, int]:
        """Node id -> partitions on their way there."""
        return Counter(p.target for t in self.node.image.topics() for p in t.partitions if p.target is not None)

    def led(self) -> Mapping[int, int]:
        return Counter(p.leader for t in self.node.image.topics() for p in t.partitions)

    async def hand_over(self) -> int:
        """Every leader does what it is asked for; returns how many moved."""
        moved = 0
        for broker in [each for each in self.node.image.registered_brokers() if each.alive]:
            asked = {
                topic.topic_id: [p.index for p in topic.partitions if p.leader == broker.node_id and p.target]
                for topic in self.node.image.topics()
            }
            asked = {topic_id: indexes for topic_id, indexes in asked.items() if indexes}
            if asked:
                await self.node.catalog.hand_over(broker.node_id, broker.epoch, asked)
                moved += sum(map(len, asked.values()))
        await self.node.image.refresh()
        return moved

    async def settle(self) -> int:
        """Look and hand over until nothing moves any more; returns how many moved."""
        total = 0
        for _ in range(100):
            await self.balancer.act()
            moved = await self.hand_over()
            if not moved:
                return total
            total += moved
        pytest.fail("it does not come to rest")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with cluster() as node:
        made = World(node)
        yield made
        await made.balancer.stop()


async def test_a_new_broker_gets_its_share_and_then_nothing_moves(world: World) -> None:
    await world.join(2)
    await world.create("t", 12)
    await world.join(3)
    assert await world.settle() == 4
    assert world.led() == {1: 4, 2: 4, 3: 4}
    assert not world.balancer.asked_for


async def test_no_more_is_on_the_move_than_is_allowed(world: World) -> None:
    await world.configure(tailrace_balance_moves_max="3")
    await world.create("t", 30)
    await world.join(2)
    for _ in range(3):
        await world.balancer.act()
        assert world.targets() == {2: 3}
    await world.hand_over()
    assert await world.settle() == 12


async def test_what_is_planned_is_moved_bit_by_bit_while_the_brokers_are_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[int] = []
    original = world.balancer.plan

    async def counted(picture: Picture, ahead: int = 1) -> list[Move]:
        plans.append(len(picture.brokers))
        return await original(picture, ahead)

    monkeypatch.setattr(world.balancer, "plan", counted)
    await world.configure(tailrace_balance_moves_max="3")
    await world.create("t", 30)
    await world.join(2)
    for _ in range(4):
        await world.balancer.act()
        assert await world.hand_over() == 3
    assert plans == [2]
    await world.join(3)
    await world.settle()
    assert plans[:2] == [2, 3]
    assert world.led() == {1: 10, 2: 10, 3: 10}


async def test_what_is_assigned_after_the_plan_was_made_is_not_moved_away(world: World) -> None:
    await world.configure(tailrace_balance_moves_max="1")
    await world.create("t", 6)
    await world.join(2)
    await world.balancer.act()
    topic = world.node.image.topic("t")
    assert topic is not None
    stays = {each.index: (1,) for each in topic.partitions if each.target is None}
    await world.node.catalog.set_replicas({topic.topic_id: stays})
    assert await world.hand_over() == 1
    assert await world.settle() == 0


async def test_a_drained_broker_leads_nothing_and_gets_nothing_until_it_is_undrained(world: World) -> None:
    await world.join(2)
    await world.create("t", 10)
    await world.drain(2, " TRUE ")
    assert world.node.image.draining() == {2}
    assert await world.settle() == 5
    assert world.led() == {1: 10}
    await world.create("u", 4)
    assert world.led() == {1: 14}
    await world.drain(2, None)
    await world.settle()
    assert world.led() == {1: 7, 2: 7}


async def test_only_the_broker_with_the_smallest_id_acts(world: World) -> None:
    await world.create("t", 8)
    await world.join(0)
    assert not world.balancer.acts
    assert await world.settle() == 0


async def test_two_that_act_at_once_do_no_harm(world: World) -> None:
    await world.create("t", 20)
    await world.join(2, 3)
    other = Balancer(world.node.image, world.node.catalog, cast("Any", world), BrokerConfig(), lambda: world.now_s)
    for _ in range(5):
        await asyncio.gather(world.balancer.act(), other.act())
        await world.hand_over()
    await other.stop()
    assert sorted(world.led().values()) == [6, 7, 7]
    assert not world.targets()


async def test_what_somebody_else_asks_for_while_a_plan_is_made_is_not_overwritten(world: World) -> None:
    await world.join(2, 3)
    await world.create("t", 9)
    await world.drain(1)
    topic = world.node.image.topic("t")
    assert topic is not None
    mine = next(each.index for each in topic.partitions if each.leader == 1)

    original = world.balancer.plan

    async def plan_while_others_act(picture: Picture, ahead: int = 1) -> list[Move]:
        moves = await original(picture, ahead)
        await world.node.catalog.set_replicas({topic.topic_id: {mine: (2,)}})
        await world.node.image.refresh()
        return [move._replace(target=3) for move in moves]

    world.balancer.plan = plan_while_others_act  # type: ignore[method-assign]
    await world.balancer.act()
    assert world.targets() == {2: 1, 3: 2}


async def test_a_broker_that_does_not_answer_gets_nothing_and_is_looked_at_again_soon(world: World) -> None:
    await world.create("t", 8)
    await world.join(2)
    world.silent.add(2)
    assert await world.balancer.act() == SILENT_PAUSE_S
    assert not world.targets()
    world.silent.clear()
    assert await world.balancer.act() == LOOK_INTERVAL_S
    assert world.targets() == {2: 4}


async def test_switched_off_it_only_drains(world: World) -> None:
    await world.configure(auto_leader_rebalance_enable="false")
    await world.create("t", 8)
    await world.join(2)
    assert not world.balancer.enabled
    assert await world.settle() == 0
    await world.drain(1)
    assert await world.settle() == 8


async def test_brokers_that_are_uneven_for_a_moment_are_left_alone(world: World) -> None:
    await world.join(2)
    await world.create("t", 8)
    first = [each.index for each in world.node.image.topic("t").partitions if each.leader == 1]  # type: ignore[union-attr]
    world.bytes_in = {("t", index): 5e6 for index in first}
    await world.balancer.act()
    assert not world.targets()
    world.now_s += LOAD_PATIENCE_S / 2
    world.bytes_in, busy = {}, world.bytes_in
    await world.balancer.act()
    world.bytes_in = busy
    world.now_s += LOAD_PATIENCE_S / 2
    await world.balancer.act()
    assert not world.targets()
    world.now_s += LOAD_PATIENCE_S
    await world.balancer.act()
    assert sum(world.targets().values()) == 4  # two there, two back


async def test_what_moved_is_left_alone_for_a_while(world: World) -> None:
    await world.join(2)
    await world.create("t", 4)
    moved = {each.index: 3 - each.leader for each in world.node.image.topic("t").partitions}  # type: ignore[union-attr]
    topic_id = world.node.image.topic("t").topic_id  # type: ignore[union-attr]
    await world.node.catalog.set_targets({topic_id: moved})
    await world.node.image.refresh()
    await world.hand_over()
    world.bytes_in = {("t", each.index): 5e6 for each in world.node.image.topic("t").partitions if each.leader == 1}  # type: ignore[union-attr]
    for _ in range(10):
        world.now_s += LOAD_PATIENCE_S
        await world.balancer.act()
    assert not world.targets()
    world.now_s += 300
    await world.balancer.act()
    world.now_s += LOAD_PATIENCE_S
    await world.balancer.act()
    assert world.targets()


async def test_a_broker_that_keeps_coming_and_going_is_not_filled_each_time(world: World) -> None:
    await world.create("t", 8)
    for _ in range(6):
        await world.join(2)
        await world.balancer.act()
        broker = world.brokers[2]
        if not world.targets():
            return
        await world.hand_over()
        await world.node.catalog.fence_broker(2, broker.epoch)
        await world.node.catalog.claim_partitions(1, world.node.image.broker(1).epoch)  # type: ignore[union-attr]
        world.now_s += 5
    pytest.fail("it was given partitions each time")


async def test_it_looks_as_soon_as_a_broker_joins(world: World) -> None:
    await world.create("t", 8)
    world.balancer.start()
    await asyncio.sleep(0.01)
    await world.join(2)
    async with asyncio.timeout(LOOK_INTERVAL_S / 2):
        while not world.targets():  # noqa: ASYNC110 - the balancer tells nobody
            await asyncio.sleep(0.01)
