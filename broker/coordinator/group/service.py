"""`GroupService`: the group coordinator of this broker, as handlers see it.

One shard for each partition of `__consumer_offsets` that is led here; a group belongs to the partition that its id
hashes to. Shards follow the partitions: opened -> load and serve, closed -> refuse. A shard whose log failed is
replaced by a new one, which loads once the log can say what is durable. A shard whose log holds what is no record of a
known kind stays closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from broker.cluster.names import CONSUMER_OFFSETS
from broker.coordinator.group.config import GroupConfig
from broker.coordinator.group.machine import GroupMachine
from broker.coordinator.machine import Outcome
from broker.coordinator.partition_log import PartitionLog
from broker.coordinator.partitioning import partition_for
from broker.coordinator.reply import Reply
from broker.coordinator.shard import Shard, ShardState
from protocol.errors import ErrorCode, ProtocolError
from protocol.records import Codec

if TYPE_CHECKING:
    from broker.cluster.image import MetadataImage
    from broker.cluster.topics import TopicAdmin
    from broker.config.broker_config import BrokerConfig
    from broker.partition.partition import Partition
    from broker.partitions import Partitions
    from s3stream.catalog.api import BrokerInfo, Changes, TopicInfo

log = structlog.get_logger()

RELOAD_DELAY_S = 0.5
"""Between a failure of a shard's log and the next attempt to load it."""
LOADS_AT_ONCE = 4
"""Shards that load at the same time: each takes a share of every turn of the loop."""

GroupOperation = Callable[[GroupMachine, Outcome], None]


class GroupService:
    def __init__(
        self,
        config: BrokerConfig,
        image: MetadataImage,
        partitions: Partitions,
        topics: TopicAdmin,
        now_ms: Callable[[], int],
    ) -> None:
        self.config = GroupConfig.from_broker(config)
        self._broker_config = config
        self._codec = Codec(config.offsets_topic_compression_codec)
        self._image = image
        self._partitions = partitions
        self._topics = topics
        self._now_ms = now_ms
        self._shards: dict[int, Shard[GroupMachine]] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._load_places = asyncio.Semaphore(LOADS_AT_ONCE)
        self._topic_names: dict[UUID, str] = {}
        self._unsubscribe: Callable[[], None] | None = None
        self._running = False

    # -- lifecycle --------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Serve what is led here, and what will be. Loading goes on in the background."""
        self._running = True
        self._topic_names = {topic.topic_id: topic.name for topic in self._image.topics()}
        self._unsubscribe = self._image.subscribe(self._follow)
        self._partitions.watch(CONSUMER_OFFSETS, self._opened, self._closed)
        for partition in self._partitions.all():
            if partition.topic == CONSUMER_OFFSETS:
                self._opened(partition)

    async def stop(self) -> None:
        """Refuse everything; what was appended is the log's to keep."""
        self._running = False
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._partitions.unwatch(CONSUMER_OFFSETS)
        for index in [*self._shards]:
            self._drop(index)
        loads = [*self._loads]
        for load in loads:
            load.cancel()
        for load in loads:
            with suppress(asyncio.CancelledError):
                await load

    async def wait_loaded(self) -> None:
        """Until every shard that is loading now has loaded or gone."""
        if self._loads:
            await asyncio.wait([*self._loads])

    # -- routing ----------------------------------------------------------------------------------------------------
    def submit(self, group_id: str, reply: Reply, operation: GroupOperation) -> None:
        """Run an operation on the group's shard, or refuse the reply if that is not here (or not yet)."""
        index = self.partition_of(group_id)
        shard = self._shards.get(index)
        if shard is not None:
            shard.submit(group_id, reply, operation)
        else:
            reply.refuse(self._absence(index))

    def shards(self) -> Iterable[Shard[GroupMachine]]:
        """All that are led here, loading ones included."""
        return self._shards.values()

    def partition_of(self, group_id: str) -> int:
        topic = self._image.topic(CONSUMER_OFFSETS)
        count = len(topic.partitions) if topic is not None else self._broker_config.offsets_topic_num_partitions
        return partition_for(group_id, count)

    def _absence(self, index: int) -> ErrorCode:
        topic = self._image.topic(CONSUMER_OFFSETS)
        led_here = topic is not None and topic.partitions[index].leader == self._image.node_id
        return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS if led_here else ErrorCode.NOT_COORDINATOR

    # -- finding the coordinator --------------------------------------------------------------------------------------
    def offsets_topic(self) -> TopicInfo | None:
        return self._image.topic(CONSUMER_OFFSETS)

    async def create_offsets_topic(self) -> None:
        """Raises what TopicAdmin raises. Returns with the shards that are led here loaded, so that the first request
        need not be refused."""
        await self._topics.ensure(CONSUMER_OFFSETS)
        await self.wait_loaded()

    def coordinator(self, group_id: str) -> BrokerInfo | None:
        """The leader of the group's partition, if there is one alive."""
        topic = self._image.topic(CONSUMER_OFFSETS)
        if topic is None:
            return None
        broker = self._image.broker(topic.partitions[self.partition_of(group_id)].leader)
        return broker if broker is not None and broker.alive else None

    # -- following the partitions -----------------------------------------------------------------------------------
    def _opened(self, partition: Partition) -> None:
        self._drop(partition.index)
        if self._running:
            self._load(partition)

    def _closed(self, partition: Partition) -> None:
        self._drop(partition.index)

    def _drop(self, index: int) -> None:
        shard = self._shards.pop(index, None)
        if shard is not None:
            shard.close()

    def _load(self, partition: Partition) -> None:
        index = partition.index
        shard = Shard(
            index,
            PartitionLog(partition, self._codec),
            lambda timers: GroupMachine(timers, self.config),
            asyncio.get_running_loop(),
            self._now_ms,
            partial(self._failed, partition),
        )
        self._shards[index] = shard
        load = asyncio.create_task(self._load_shard(shard), name=f"load-groups-{index}")
        self._loads.add(load)
        load.add_done_callback(self._loads.discard)

    async def _load_shard(self, shard: Shard[GroupMachine]) -> None:
        while shard.state is ShardState.LOADING:
            try:
                async with self._load_places:
                    await shard.load()
            except ProtocolError as error:
                # reading it again would not help; as with Kafka, these groups have no coordinator until it is mended
                log.error("groups cannot be loaded", partition=shard.index, error=str(error))
                shard.close()
            except Exception as error:
                log.warning("groups not loaded", partition=shard.index, error=str(error))
                await asyncio.sleep(RELOAD_DELAY_S)

    def _failed(self, partition: Partition, shard: Shard[GroupMachine], _: Exception) -> None:
        """What is in memory may not be in the log: start again from what is, as long as it is ours."""
        if self._shards.get(shard.index) is not shard:
            return
        del self._shards[shard.index]
        if self._running and self._partitions.get(CONSUMER_OFFSETS, partition.index) is partition:
            self._load(partition)

    # -- following the image ----------------------------------------------------------------------------------------
    def _follow(self, changes: Changes) -> None:
        """Offsets of deleted topics go with them."""
        for topic_id, topic in changes.topics.items():
            if topic is not None:
                self._topic_names[topic_id] = topic.name
            elif (name := self._topic_names.pop(topic_id, None)) is not None:
                forget = partial(_forget_topic, name, topic_id.bytes)
                for shard in [*self._shards.values()]:
                    shard.submit(None, _unheard(), forget)


def _forget_topic(name: str, topic_id: bytes, machine: GroupMachine, out: Outcome) -> None:
    machine.offsets.forget_topic(out, name, topic_id)


def _unheard() -> Reply:
    """For what the broker itself submits."""
    return Reply(lambda code: code)
