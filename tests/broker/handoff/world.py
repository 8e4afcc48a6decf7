"""Brokers in one process and in virtual time that hand partitions to each other: images, partitions and movers are
real; the catalog, the logs and the store are dictionaries with delays and faults.

What a stream was committed to is what a target opens; what was confirmed is what a recovery finds. A broker that kept
accepting what it has handed over would go on writing into a log that nobody reads any more, and the checks of the
clients' history would miss it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from broker.cluster.image import MetadataImage
from broker.config.broker_config import BrokerConfig
from broker.fetch_memory import FetchMemory
from broker.handlers import announce_leadership
from broker.handoff.mover import Mover
from broker.partitions import Partitions
from broker.request import RequestContext
from protocol.messages.announce_leadership import AnnounceLeadershipRequest
from s3stream.api import StreamFailed, StreamFenced
from s3stream.catalog.api import (
    BrokerFenced,
    BrokerInfo,
    BrokerUnavailable,
    CatalogUnreachable,
    Changes,
    PartitionInfo,
    TopicInfo,
)
from tests.broker.partition.fake_stream import FakeStorage, FakeStream

TOPIC_ID = UUID(int=1)
NOW_MS = 1_700_000_000_000


class World:
    """`faults` 0: nothing fails and everything answers quickly."""

    def __init__(self, rng: random.Random, partitions: int, faults: float = 0.0) -> None:
        self.rng = rng
        self.faults = faults
        self.catalog_is_away = False
        self.store_delay_s = 0.01
        self.nodes: dict[int, Node] = {}
        self.epochs: dict[int, int] = {}
        self.leaving: set[int] = set()
        self.seq = 1
        self.infos = [PartitionInfo(index, 1, 0, 2 * index + 1, 2 * index + 2) for index in range(partitions)]
        self.streams: dict[int, FakeStream] = {}
        self.owners: dict[int, tuple[int, int]] = {}
        self.hand_overs = 0

    def start(self, node_id: int) -> Node:
        self.epochs[node_id] = max(self.epochs.values(), default=0) + 1
        self.leaving.discard(node_id)
        self.seq += 1
        node = self.nodes[node_id] = Node(self, node_id, self.epochs[node_id])
        return node

    def topic(self) -> TopicInfo:
        return TopicInfo(TOPIC_ID, "t", False, 1, tuple(self.infos), {})

    def brokers(self) -> dict[int, BrokerInfo | None]:
        return {
            node_id: BrokerInfo(
                node_id, epoch, f"host{node_id}", 9092, None, "memory://", node_id in self.nodes, False,
                leaving=node_id in self.leaving,
            )
            for node_id, epoch in self.epochs.items()
        }  # fmt: skip

    def change(self, index: int, **fields: Any) -> None:
        self.infos[index] = replace(self.infos[index], **fields)
        self.seq += 1

    def set_target(self, index: int, target: int | None) -> None:
        self.change(index, target=None if target == self.infos[index].leader else target)

    async def crash(self, node_id: int) -> None:
        """The process is gone; a while later its log is recovered and its partitions are led by others."""
        node = self.nodes.pop(node_id)
        node.is_dead = True
        epoch = self.epochs[node_id]
        self.seq += 1
        await node.abandon()
        await asyncio.sleep(self.rng.uniform(0.05, 0.5))
        for stream_id, owner in list(self.owners.items()):
            if owner == (node_id, epoch):
                self.give_back(stream_id, self.streams[stream_id].confirmed_offset)
        for info in list(self.infos):
            # one that was started again leads on
            if info.leader == node_id and self.nodes and node_id not in self.nodes:
                heir = info.target if info.target in self.nodes else self.rng.choice(sorted(self.nodes))
                self.change(info.index, leader=heir, leader_epoch=info.leader_epoch + 1, target=None)

    def give_back(self, stream_id: int, end_offset: int) -> None:
        """The stream is closed: whoever opens it next sees what is below `end_offset`."""
        del self.owners[stream_id]
        former = self.streams[stream_id]
        durable = former.reopened()
        durable.batches = [each for each in former.batches if each[1] <= end_offset]
        durable.next_offset = durable.confirmed_offset = durable.committed_offset = end_offset
        durable.closed = True
        self.streams[stream_id] = durable


class WorldCatalog:
    """What one broker uses of a `Catalog`."""

    cluster_id = "simulated"

    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._node = node

    async def _arrive(self, *, writes: bool = False) -> bool:
        """Whether the answer will be lost."""
        world = self._world
        await asyncio.sleep(world.rng.uniform(0.001, 0.01))
        if self._node.is_dead:
            await asyncio.get_running_loop().create_future()
        if world.catalog_is_away or world.rng.random() < world.faults:
            raise CatalogUnreachable("away")
        return writes and world.rng.random() < world.faults

    def _answer(self, is_lost: bool) -> None:
        if is_lost:
            raise CatalogUnreachable("the answer is lost")

    async def load_changes(self, after: int) -> Changes:
        await self._arrive()
        world = self._world
        if world.seq <= after:
            return Changes(after, {}, {}, {})
        return Changes(world.seq, {TOPIC_ID: world.topic()}, world.brokers(), {})

    async def brokers(self) -> list[BrokerInfo]:
        await self._arrive()
        return [each for each in self._world.brokers().values() if each is not None]

    async def leave(self, node_id: int, broker_epoch: int) -> None:
        is_lost = await self._arrive(writes=True)
        self._world.leaving.add(node_id)
        self._world.seq += 1
        self._answer(is_lost)

    async def set_targets(self, targets: Mapping[UUID, Mapping[int, int | None]]) -> int:
        is_lost = await self._arrive(writes=True)
        world = self._world
        for index, target in targets[TOPIC_ID].items():
            if target is not None and (target not in world.nodes or target in world.leaving):
                raise BrokerUnavailable(str(target))
            world.set_target(index, target)
        self._answer(is_lost)
        return len(targets)

    async def cancel_moves(self, leader: int, targets: Collection[int]) -> int:
        is_lost = await self._arrive(writes=True)
        for info in list(self._world.infos):
            if info.leader == leader and info.target in targets:
                self._world.set_target(info.index, None)
        self._answer(is_lost)
        return 0

    async def hand_over(
        self, node_id: int, broker_epoch: int, partitions: Mapping[UUID, Sequence[int]]
    ) -> dict[UUID, dict[int, PartitionInfo]]:
        is_lost = await self._arrive(writes=True) or self._world.rng.random() < 3 * self._world.faults
        world = self._world
        if world.epochs[node_id] != broker_epoch or node_id not in world.nodes:
            raise BrokerFenced("fenced")
        world.hand_overs += 1
        for index in partitions[TOPIC_ID]:
            info = world.infos[index]
            usable = info.target in world.nodes and info.target not in world.leaving
            if info.leader != node_id or info.target is None or not usable:
                continue
            for stream_id in (info.log_stream_id, info.state_stream_id):
                if world.owners.get(stream_id) == (node_id, broker_epoch):
                    world.give_back(stream_id, world.streams[stream_id].committed_offset)
            world.change(index, leader=info.target, leader_epoch=info.leader_epoch + 1, target=None)
        self._answer(is_lost)
        found = {index: world.infos[index] for index in partitions[TOPIC_ID] if world.infos[index].leader != node_id}
        return {TOPIC_ID: found}


class WorldStorage(FakeStorage):
    """Appends become durable in a moment; uploads take what the store takes."""

    def __init__(self, world: World, node: Node) -> None:
        super().__init__()
        self._world = world
        self._node = node

    async def open_streams(self, stream_ids: Sequence[int]) -> list[FakeStream]:
        world, node = self._world, self._node
        await asyncio.sleep(world.rng.uniform(0.001, 0.02))
        if node.is_dead:
            await asyncio.get_running_loop().create_future()
        if world.catalog_is_away or world.rng.random() < world.faults:
            raise CatalogUnreachable("away")
        me = (node.node_id, node.epoch)
        if any(world.owners.get(stream_id, me) != me for stream_id in stream_ids):
            raise StreamFenced("open elsewhere")
        for stream_id in stream_ids:
            world.owners[stream_id] = me
            former = world.streams.get(stream_id)
            self.streams[stream_id] = FakeStream(stream_id) if former is None else former.reopened()
            world.streams[stream_id] = self.streams[stream_id]
        return [self.streams[stream_id] for stream_id in stream_ids]

    async def upload_now(self) -> None:
        ends = {stream: stream.next_offset for stream in self.streams.values() if not stream.released}
        await asyncio.sleep(self._world.store_delay_s * self._world.rng.uniform(0.5, 1.5))
        if self._node.is_dead:
            raise StreamFailed("dead")
        for stream, end in ends.items():
            if not stream.released:
                stream.flush(max(end, stream.confirmed_offset))
                stream.committed_offset = max(end, stream.committed_offset)

    async def flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._world.rng.uniform(0.002, 0.01))
            for stream in list(self.streams.values()):
                if not stream.released:
                    stream.flush()


class WorldPeers:
    def __init__(self, world: World) -> None:
        self._world = world

    def call(self, node_id: int, version: int, request: AnnounceLeadershipRequest) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._call(node_id, version, request))

    async def _call(self, node_id: int, version: int, request: AnnounceLeadershipRequest) -> Any:
        world = self._world
        await asyncio.sleep(world.rng.uniform(0.0005, 0.005))
        node = world.nodes.get(node_id)
        if node is None or world.rng.random() < world.faults:
            await asyncio.sleep(30.0)
            return None
        ctx = RequestContext(request.API_KEY, version, 1, "broker", 0, "host")
        return await announce_leadership.handle(node.services, ctx, request)


class Node:
    """One broker process."""

    def __init__(self, world: World, node_id: int, epoch: int) -> None:
        self.node_id = node_id
        self.epoch = epoch
        self.is_dead = False
        self.is_ready = False
        self.catalog: Any = WorldCatalog(world, self)
        self.storage: Any = WorldStorage(world, self)
        config = BrokerConfig()
        self.image = MetadataImage(self.catalog, config, node_id)
        self.partitions = Partitions(node_id, self.storage, self.image, lambda: NOW_MS)
        self.services: Any = SimpleNamespace(
            node_id=node_id,
            config=config,
            image=self.image,
            storage=self.storage,
            partitions=self.partitions,
            fetch_memory=FetchMemory(1 << 30),
            now_ms=lambda: NOW_MS,
        )
        peers: Any = WorldPeers(world)
        self.mover = Mover(
            node_id, epoch, self.catalog, self.image, self.partitions, self.storage, peers, lambda: NOW_MS
        )
        self._flushing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        while True:
            try:
                await self.image.start()
                break
            except CatalogUnreachable:
                await asyncio.sleep(0.05)
        self._flushing = asyncio.create_task(self.storage.flush_for_ever())
        while True:
            try:
                await self.partitions.open_all()
                break
            except (CatalogUnreachable, StreamFenced):
                await asyncio.sleep(0.05)
        self.mover.start()
        self.is_ready = True

    async def abandon(self) -> None:
        """Nothing of it runs any more, and nothing is put in order."""
        await self.mover.stop()
        await self.image.stop()
        if self._flushing is not None:
            self._flushing.cancel()
        for stream in self.storage.streams.values():
            stream.on_confirmed = stream.on_failed = None
        tasks = list(self.partitions._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
