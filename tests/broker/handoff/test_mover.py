"""What a leader does with its targets, step by step."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broker.handlers import produce
from broker.handoff import leaving, mover
from broker.partition.opening import RecoveredState, recover_state
from broker.request import RequestContext
from protocol.errors import ErrorCode
from protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from s3stream.api import ObjectCorrupt
from s3stream.catalog.api import CatalogUnreachable
from tests.broker.handlers_data.virtual_loop import run
from tests.broker.handoff.world import TOPIC_ID, Node, World
from tests.broker.partition.batches import batch
from tests.broker.partition.fake_stream import FakeStream


@asynccontextmanager
async def cluster(nodes: int = 3, partitions: int = 2, seed: int = 1) -> AsyncIterator[World]:
    """All partitions are led by node 1."""
    world = World(random.Random(seed), partitions)
    for node_id in range(1, nodes + 1):
        world.start(node_id)
    await asyncio.gather(*(node.run() for node in world.nodes.values()))
    await until(lambda: all(world.nodes[1].partitions.get("t", index) for index in range(partitions)))
    try:
        yield world
    finally:
        for node in world.nodes.values():
            await node.abandon()


async def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> float:
    """Returns how long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        assert loop.time() - began < timeout_s, "it does not happen"
        await asyncio.sleep(0.001)
    return loop.time() - began


def send(node: Node, index: int = 0) -> Any:
    data = PartitionProduceData(index=index, records=memoryview(batch()))
    request = ProduceRequest(acks=-1, topic_data=[TopicProduceData(name="t", partition_data=[data])])
    return produce.handle(node.services, RequestContext(0, 10, 1, "test", 1, "host"), request)


def error_of(sent: Any) -> int:
    code: int = sent.response.responses[0].partition_responses[0].error_code
    return code


def leads(node: Node, index: int = 0) -> bool:
    return node.partitions.get("t", index) is not None


async def leave(node: Node, has_failed: Callable[[], bool] = lambda: False) -> None:
    await leaving.leave(node.node_id, node.epoch, node.catalog, node.image, has_failed)


def test_a_partition_goes_to_its_target_with_all_its_records() -> None:
    async def main() -> None:
        async with cluster() as world:
            sent = [send(world.nodes[1]) for _ in range(5)]
            world.set_target(0, 2)
            await until(lambda: leads(world.nodes[2]))
            assert [error_of(each) for each in sent] == [0] * 5
            moved = world.nodes[2].partitions.get("t", 0)
            assert moved is not None
            assert (moved.high_watermark, moved.leader_epoch) == (5, 1)
            assert not leads(world.nodes[1])
            assert leads(world.nodes[1], 1)
            assert error_of(send(world.nodes[1])) == ErrorCode.NOT_LEADER_OR_FOLLOWER

    run(main())


def test_nobody_waits_for_long_whoever_is_asked() -> None:
    async def main() -> None:
        async with cluster() as world:
            world.set_target(0, 2)
            await until(lambda: world.nodes[1].partitions.in_transit("t", 0))
            at_source, at_target = send(world.nodes[1]), send(world.nodes[2])
            assert await until(lambda: at_source.done and at_target.done) < 0.15
            assert error_of(at_source) == ErrorCode.NOT_LEADER_OR_FOLLOWER
            assert at_source.response.responses[0].partition_responses[0].current_leader.leader_id == 2
            assert error_of(at_target) == 0

    run(main())


def test_hundreds_go_in_few_transactions() -> None:
    async def main() -> None:
        async with cluster(partitions=500) as world:
            for index in range(500):
                world.set_target(index, 2 + index % 2)
            await until(lambda: all(leads(world.nodes[2 + index % 2], index) for index in range(500)))
            assert world.hand_overs == 500 / mover.ROUND_MAX + 0.5

    run(main())


def test_a_move_whose_upload_takes_too_long_is_given_up_and_made_later() -> None:
    async def main() -> None:
        async with cluster() as world:
            world.nodes[1].storage.upload_now, quick = slow_after(world.nodes[1], 4), world.nodes[1].storage.upload_now
            world.set_target(0, 2)
            await until(lambda: world.nodes[1].partitions.in_transit("t", 0))
            sent = send(world.nodes[1])
            await until(lambda: sent.done)
            assert error_of(sent) == 0
            assert leads(world.nodes[1])
            world.nodes[1].storage.upload_now = quick
            await until(lambda: leads(world.nodes[2]))
            moved = world.nodes[2].partitions.get("t", 0)
            assert moved is not None
            assert moved.high_watermark == 1

    run(main())


def test_a_move_waits_for_a_quicker_store_but_not_for_ever() -> None:
    async def main() -> None:
        async with cluster() as world:
            world.store_delay_s = 1.0
            world.set_target(0, 2)
            node, held = world.nodes[1], 0
            began = asyncio.get_running_loop().time()
            while not leads(world.nodes[2]):
                held += not leads(node) and world.infos[0].leader == 1
                await asyncio.sleep(0.02)
                if asyncio.get_running_loop().time() - began < 10:
                    assert not held, "clients would wait for a second"
            assert held

    run(main())


def slow_after(node: Node, calls: int) -> Callable[[], Any]:
    """The store takes a minute from the upload on that follows so many others."""
    upload_now, count = node.storage.upload_now, 0

    async def upload() -> None:
        nonlocal count
        count += 1
        await asyncio.sleep(60.0 if node.partitions.in_transit("t", 0) else 0.0)
        await upload_now()

    return upload


def test_a_target_that_dies_is_forgotten_and_the_partition_stays() -> None:
    async def main() -> None:
        async with cluster() as world:
            world.store_delay_s = 5.0
            world.set_target(0, 2)
            await asyncio.sleep(0.5)
            await world.crash(2)
            await until(lambda: world.infos[0].target is None)
            assert leads(world.nodes[1])
            sent = send(world.nodes[1])
            await until(lambda: sent.done)
            assert error_of(sent) == 0

    run(main())


def test_a_target_that_dies_after_the_preparation_keeps_nobody_waiting() -> None:
    async def main() -> None:
        async with cluster() as world:
            world.set_target(0, 2)
            await until(lambda: world.nodes[1].partitions.in_transit("t", 0))
            dying = asyncio.create_task(world.crash(2))
            sent = send(world.nodes[1])
            await until(lambda: sent.done)
            await dying
            await until(lambda: leads(world.nodes[1]) or leads(world.nodes[3]))

    run(main())


def test_a_move_that_is_cancelled_in_the_last_moment_does_not_happen() -> None:
    async def main() -> None:
        async with cluster() as world:
            world.set_target(0, 2)
            await until(lambda: world.nodes[1].partitions.in_transit("t", 0))
            world.set_target(0, None)
            sent = send(world.nodes[1])
            await until(lambda: sent.done)
            assert error_of(sent) == 0
            await until(lambda: leads(world.nodes[1]))
            assert world.infos[0].leader == 1

    run(main())


@pytest.mark.parametrize("was_done", [False, True])
def test_while_the_catalog_does_not_say_what_happened_nobody_serves(was_done: bool) -> None:
    async def main() -> None:
        async with cluster() as world:
            node = world.nodes[1]
            hand_over, asked = node.catalog.hand_over, asyncio.Event()

            async def lost(*arguments: Any) -> None:
                if was_done:
                    await hand_over(*arguments)
                world.catalog_is_away = True
                node.catalog.hand_over = hand_over
                asked.set()
                await hand_over(*arguments)

            node.catalog.hand_over = lost
            world.set_target(0, 2)
            await asked.wait()
            sent = send(node)
            await until(lambda: sent.done)
            assert error_of(sent) == ErrorCode.NOT_LEADER_OR_FOLLOWER
            assert not leads(node)
            assert not leads(world.nodes[2])
            world.catalog_is_away = False
            await until(lambda: leads(world.nodes[2]))
            assert not leads(node)

    run(main())


def test_a_broker_that_leaves_gives_everything_to_those_that_stay() -> None:
    async def main() -> None:
        async with cluster(partitions=20) as world:
            node = world.nodes[1]
            began = asyncio.get_running_loop().time()
            await leave(node)
            assert asyncio.get_running_loop().time() - began < 1.0
            assert sorted(info.leader for info in world.infos) == [2] * 10 + [3] * 10

    run(main())


def test_two_that_leave_at_once_do_not_give_to_each_other() -> None:
    async def main() -> None:
        async with cluster(partitions=10) as world:
            for index in range(5):
                world.set_target(index, 2)
            await until(lambda: all(leads(world.nodes[2], index) for index in range(5)))
            await asyncio.gather(leave(world.nodes[1]), leave(world.nodes[2]))
            assert {info.leader for info in world.infos} == {3}

    run(main())


async def cannot_read(world: World, node_id: int, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Partition 0, which holds a record, goes to this broker, which cannot read it; others can. Those that cannot."""
    sent = send(world.nodes[1])
    await until(lambda: sent.done)
    blind = {node_id}

    async def recover(log_stream: FakeStream, state_stream: FakeStream) -> RecoveredState:
        if any(world.nodes[each].storage.streams.get(log_stream.stream_id) is log_stream for each in blind):
            raise ObjectCorrupt("it cannot be read")
        return await recover_state(log_stream, state_stream)

    monkeypatch.setattr("broker.partition.opening.recover_state", recover)
    world.set_target(0, node_id)
    await until(lambda: world.nodes[node_id].partitions.is_offline(TOPIC_ID, 0))
    return blind


def test_what_cannot_be_read_is_handed_over_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with cluster() as world:
            await cannot_read(world, 2, monkeypatch)
            world.set_target(0, 3)
            assert await until(lambda: leads(world.nodes[3])) < 1.0
            moved = world.nodes[3].partitions.get("t", 0)
            assert moved is not None
            assert moved.high_watermark == 1

    run(main())


def test_what_cannot_be_read_and_stays_after_all_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with cluster() as world:
            blind = await cannot_read(world, 2, monkeypatch)
            hand_over = world.nodes[2].catalog.hand_over

            async def cancelled(*arguments: Any) -> Any:
                assert not world.nodes[2].partitions._is_missing(world.topic(), world.infos[0])
                world.set_target(0, None)
                blind.clear()
                return await hand_over(*arguments)

            world.nodes[2].catalog.hand_over = cancelled
            world.set_target(0, 3)
            assert await until(lambda: leads(world.nodes[2])) < 1.0

    run(main())


def test_what_is_being_read_again_is_not_handed_over_until_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with cluster() as world:
            blind, goes_on = await cannot_read(world, 2, monkeypatch), asyncio.Event()

            async def recover_slowly(log_stream: FakeStream, state_stream: FakeStream) -> RecoveredState:
                await goes_on.wait()
                return await recover_state(log_stream, state_stream)

            blind.clear()
            monkeypatch.setattr("broker.partition.opening.recover_state", recover_slowly)
            world.set_target(0, 3)
            await asyncio.sleep(1.0)
            assert world.infos[0].leader == 2, "it might be open there in a moment, and accept records"
            goes_on.set()
            await until(lambda: leads(world.nodes[3]))

    run(main())


def test_a_broker_that_leaves_gives_away_what_it_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with cluster() as world:
            await cannot_read(world, 2, monkeypatch)
            await leave(world.nodes[2])
            assert 2 not in {info.leader for info in world.infos}

    run(main())


def test_a_partition_that_does_not_open_is_looked_at_less_and_less_often() -> None:
    async def main() -> None:
        async with cluster() as world:
            partitions, looked = world.nodes[1].partitions, list[float]()

            def open_partition(*key: Any) -> None:
                looked.append(asyncio.get_running_loop().time())

            partitions.open_partition = open_partition  # type: ignore[method-assign]
            world.set_target(0, 2)
            await asyncio.sleep(60)
            assert looked[1] - looked[0] < 0.2
            assert len(looked) < 15

    run(main())


def test_a_move_that_has_another_target_by_now_is_not_cancelled_for_the_former_one() -> None:
    async def main() -> None:
        async with cluster() as world:
            await world.crash(2)
            mover, forgotten = world.nodes[1].mover, asyncio.Event()
            forget = mover._forget

            async def forget_late(targets: Any) -> None:
                world.set_target(0, 3)
                await forget(targets)
                forgotten.set()

            mover._forget = forget_late  # type: ignore[method-assign]
            world.set_target(0, 2)
            await forgotten.wait()
            await until(lambda: leads(world.nodes[3]))

    run(main())


def test_the_last_one_just_stops() -> None:
    async def main() -> None:
        async with cluster(nodes=1) as world:
            node = world.nodes[1]
            await leave(node)
            assert {info.leader for info in world.infos} == {1}

    run(main())


@pytest.mark.parametrize("trouble", ["store", "catalog"])
def test_leaving_ends_in_time_whatever_does_not_answer(trouble: str) -> None:
    async def main() -> None:
        async with cluster() as world:
            if trouble == "store":
                world.store_delay_s = 1000.0
            else:
                world.catalog_is_away = True
            node = world.nodes[1]
            loop = asyncio.get_running_loop()
            began = loop.time()
            await leave(node)
            assert loop.time() - began <= leaving.LEAVE_MAX_S + 1

    run(main())


def test_one_that_fails_while_it_leaves_keeps_nobody_waiting() -> None:
    async def main() -> None:
        async with cluster() as world:
            world.store_delay_s = 1000.0
            loop = asyncio.get_running_loop()
            began = loop.time()
            await leave(world.nodes[1], lambda: loop.time() > began + 1)
            assert loop.time() - began < 1.5

    run(main())


def test_one_that_was_away_and_is_back_when_the_catalog_answers_is_opened_anew() -> None:
    async def main() -> None:
        async with cluster() as world:
            node = world.nodes[1]
            hand_over, load_changes, is_back = node.catalog.hand_over, node.catalog.load_changes, asyncio.Event()

            async def lost(*arguments: Any) -> None:
                await hand_over(*arguments)
                node.catalog.hand_over, node.catalog.load_changes = late, blind
                raise CatalogUnreachable("the answer is lost")

            async def late(*arguments: Any) -> Any:
                world.set_target(0, 1)
                await until(lambda: world.infos[0].leader == 1)
                asyncio.get_running_loop().call_later(0.5, is_back.set)
                return await hand_over(*arguments)

            async def blind(after: int) -> Any:
                if not is_back.is_set():
                    raise CatalogUnreachable("away")
                return await load_changes(after)

            node.catalog.hand_over = lost
            former = node.partitions.get("t", 0)
            world.set_target(0, 2)
            await is_back.wait()
            assert not leads(node), "it would write where nobody reads"
            await until(lambda: leads(node))
            again = node.partitions.get("t", 0)
            assert again is not None
            assert again is not former
            assert again.leader_epoch == 2

    run(main())
