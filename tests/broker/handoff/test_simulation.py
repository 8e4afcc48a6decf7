"""Moves, cancelled moves, crashes, outages and slow stores at random, under producers that keep several requests in
flight. In the end every acknowledged record is there once, in order and where it was said to be, nobody waits any more,
and every partition has one leader. `TAILRACE_SIM_SEED=17` runs one seed."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from broker.handlers import produce
from broker.request import RequestContext
from protocol.errors import ErrorCode
from protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from protocol.records import iter_batches
from tests.broker.handlers_data.virtual_loop import run
from tests.broker.handoff.world import World
from tests.broker.partition.batches import batch

SEEDS = [int(os.environ["TAILRACE_SIM_SEED"])] if "TAILRACE_SIM_SEED" in os.environ else range(2)
PARTITIONS = 3
IN_FLIGHT = 3
TROUBLE_S = 6.0
RECORDS_AFTER = 5


class Producer:
    """Idempotent, of one partition. What is not acknowledged is sent again, in order, to whoever is said to lead."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.acked: dict[int, int] = {}
        """Sequence -> offset."""
        self.count = 0
        """Of those that are acknowledged without one missing before."""
        self.leader = 1
        self.unanswered: list[tuple[int, Any]] = []

    async def produce_until(self, is_over: Callable[[Producer], bool]) -> None:
        while not is_over(self):
            first = self.count
            sent = [(sequence, await self._send(sequence)) for sequence in range(first, first + IN_FLIGHT)]
            for sequence, deferred in sent:
                await self._answered(sequence, deferred)

    async def _send(self, sequence: int) -> Any:
        rng = self.world.rng
        await asyncio.sleep(rng.uniform(0.0, 0.004))
        node = self.world.nodes.get(self.leader)
        if node is None or not node.is_ready:
            self.leader = rng.choice(sorted(self.world.nodes) or [1])
            return None
        records = batch([b"%d" % sequence], producer_id=self.index + 1, epoch=0, sequence=sequence)
        data = PartitionProduceData(index=self.index, records=memoryview(records))
        request = ProduceRequest(acks=-1, topic_data=[TopicProduceData(name="t", partition_data=[data])])
        sent = produce.handle(node.services, RequestContext(0, 10, 1, "test", self.index, "host"), request)
        self.unanswered.append((node.epoch, sent))
        return node, sent

    async def _answered(self, sequence: int, sending: Any) -> None:
        if sending is None:
            await asyncio.sleep(0.02)
            return
        node, sent = sending
        while not sent.done and not node.is_dead:  # noqa: ASYNC110 - a dead broker tells nobody
            await asyncio.sleep(0.003)
        if not sent.done or node.is_dead:
            return
        [answer] = sent.response.responses[0].partition_responses
        code = answer.error_code
        if code == 0:
            # what is before it may have been appended without an answer: then it comes again
            self.acked[sequence] = answer.base_offset
            while self.count in self.acked:
                self.count += 1
        elif code == ErrorCode.NOT_LEADER_OR_FOLLOWER:
            told = answer.current_leader.leader_id
            self.leader = told if told >= 0 else self.world.rng.choice(sorted(self.world.nodes) or [1])
            await asyncio.sleep(0.01)
        else:
            assert code in (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, ErrorCode.KAFKA_STORAGE_ERROR), ErrorCode(code)


async def trouble(world: World, rng: random.Random, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    crashes: list[asyncio.Task[None]] = []
    while loop.time() < end:
        await asyncio.sleep(rng.uniform(0.02, 0.4))
        what = rng.random()
        if what < 0.6:
            world.set_target(rng.randrange(PARTITIONS), rng.choice([*sorted(world.nodes), *sorted(world.nodes), None]))
        elif what < 0.7 and len(world.nodes) > 1:
            crashes.append(asyncio.create_task(world.crash(rng.choice(sorted(world.nodes)))))
        elif what < 0.85:
            absent = sorted({1, 2, 3} - set(world.nodes))
            if absent:
                crashes.append(asyncio.create_task(world.start(rng.choice(absent)).run()))
        elif what < 0.93:
            world.store_delay_s = rng.choice([0.005, 0.01, 0.1, 3.0])
        else:
            world.catalog_is_away = True
            await asyncio.sleep(rng.uniform(0.05, 2.0))
            world.catalog_is_away = False
    world.store_delay_s, world.faults = 0.01, 0.0
    await asyncio.gather(*crashes)
    for node_id in sorted({1, 2, 3} - set(world.nodes)):
        await world.start(node_id).run()


async def history(seed: int) -> None:
    rng = random.Random(seed)
    world = World(rng, PARTITIONS, faults=(0.1, 0.0, 0.02)[seed % 3])
    await asyncio.gather(*(world.start(node_id).run() for node_id in (1, 2, 3)))
    producers = [Producer(world, index) for index in range(PARTITIONS)]
    is_over = asyncio.Event()
    producing = [asyncio.create_task(each.produce_until(lambda _: is_over.is_set())) for each in producers]
    await trouble(world, rng, TROUBLE_S)
    is_over.set()
    await asyncio.gather(*producing)
    # healed: everybody gets on
    goals = [each.count + RECORDS_AFTER for each in producers]
    async with asyncio.timeout(60):
        for producer, goal in zip(producers, goals, strict=True):
            await producer.produce_until(lambda each, goal=goal: each.count >= goal)
        while not all(_is_led(world, index) for index in range(PARTITIONS)):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    check(world, producers)
    for node in world.nodes.values():
        await node.abandon()


def _is_led(world: World, index: int) -> bool:
    info = world.infos[index]
    return info.target is None and world.nodes[info.leader].partitions.get("t", index) is not None


def check(world: World, producers: list[Producer]) -> None:
    living = {node.epoch for node in world.nodes.values()}
    for producer in producers:
        forgotten = [sent for epoch, sent in producer.unanswered if epoch in living and not sent.done]
        assert not forgotten, "a parked request was forgotten"
        info = world.infos[producer.index]
        leaders = [n for n, node in world.nodes.items() if node.partitions.get("t", producer.index) is not None]
        assert leaders == [info.leader]
        stream = world.streams[info.log_stream_id]
        found: dict[int, int] = {}
        for base, _, data, _ in stream.batches:
            for header, _ in iter_batches(data):
                assert header.base_sequence not in found, "a record is there twice"
                assert header.base_sequence == len(found), "records are not in order"
                found[header.base_sequence] = base
        for sequence, offset in producer.acked.items():
            assert found.get(sequence) == offset, f"acknowledged record {sequence} is not at {offset}"


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_acknowledged_is_lost_and_nobody_waits_for_ever(seed: int) -> None:
    run(history(seed))
