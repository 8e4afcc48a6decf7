"""`ShardHost`: the shards of one coordinator at this broker, one for each partition of its topic that is led here.

A key (a group id, a transactional id) belongs to the partition that it hashes to. Shards follow the partitions:
opened -> load and serve, closed -> refuse. A shard whose log failed is replaced by a new one, which loads once the log
can say what is durable. A shard whose log holds what is no record of a known kind stays closed.

What is asked of a key whose shard is not here is refused with NOT_COORDINATOR. Where it will be, or loads, requests
wait for it (`parking`), and are refused with COORDINATOR_LOAD_IN_PROGRESS if that takes too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Generic

import structlog

from broker.coordinator.log import Marker
from broker.coordinator.machine import M, Outcome, ShardTimers
from broker.coordinator.parking import Parking
from broker.coordinator.partition_log import PartitionLog
from broker.coordinator.partitioning import partition_for
from broker.coordinator.reply import Reply
from broker.coordinator.shard import Shard, ShardState
from protocol.errors import ErrorCode, ProtocolError
from protocol.records import Codec

if TYPE_CHECKING:
    from broker.cluster.image import MetadataImage
    from broker.cluster.topics import TopicAdmin
    from broker.partition.partition import Partition
    from broker.partitions import Partitions
    from s3stream.catalog.api import BrokerInfo, Changes, TopicInfo

log = structlog.get_logger()

RELOAD_DELAY_S = 0.5
"""Between a failure of a shard's log and the next attempt to load it."""
SUBMITTED_PER_TURN = 50
"""Requests that waited for a shard, once it serves."""
LOADS_AT_ONCE = 4
"""Shards of one coordinator that load at the same time: each takes a share of every turn of the loop."""


class ShardHost(Generic[M]):
    """`new_machine` makes an empty machine for a shard that loads from this partition; it is called for every load.
    `on_dropped` is told the index of a shard that is gone, its log lost or failed."""

    def __init__(
        self,
        topic: str,
        new_partition_count: int,
        new_machine: Callable[[Partition, ShardTimers], M],
        image: MetadataImage,
        partitions: Partitions,
        topics: TopicAdmin,
        now_ms: Callable[[], int],
        codec: Codec = Codec.NONE,
        on_dropped: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._topic = topic
        self._new_partition_count = new_partition_count
        self._new_machine = new_machine
        self._image = image
        self._partitions = partitions
        self._topics = topics
        self._now_ms = now_ms
        self._codec = codec
        self._on_dropped = on_dropped
        self._shards: dict[int, Shard[M]] = {}
        self._parking: Parking[Shard[M]] = Parking(self._absence)
        self._loads: set[asyncio.Task[None]] = set()
        self._load_places = asyncio.Semaphore(LOADS_AT_ONCE)
        self._running = False
        self._unsubscribe: Callable[[], None] = lambda: None

    # -- lifecycle --------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Serve what is led here, and what will be. Loading goes on in the background."""
        self._running = True
        self._unsubscribe = self._image.subscribe(self._follow)
        self._partitions.watch(self._topic, self._opened, self._closed)
        for partition in self._partitions.all():
            if partition.topic == self._topic:
                self._opened(partition)

    async def stop(self) -> None:
        """Refuse everything; what was appended is the log's to keep."""
        self._running = False
        self._unsubscribe()
        self._partitions.unwatch(self._topic)
        for index in [*self._shards]:
            self._drop(index)
        for index in self._parking.waited_for():
            self._parking.refuse(index, ErrorCode.NOT_COORDINATOR)
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
    def submit(self, key: str, reply: Reply, operation: Callable[[M, Outcome], None]) -> None:
        """Run an operation on the key's shard, as soon as it serves; the reply is refused if it is not to be here."""
        index = self.partition_of(key)
        if self._is_coming(index):
            self._parking.park(index, reply, lambda shard: shard.submit(key, reply, operation))
        else:
            self.submit_to(index, key, reply, operation)

    def submit_to(self, index: int, subject: str | None, reply: Reply, operation: Callable[[M, Outcome], None]) -> None:
        """Run it now on the shard of a partition, or refuse the reply; `subject` is that of `Shard.submit`."""
        shard = self._shards.get(index)
        if shard is not None:
            shard.submit(subject, reply, operation)
        else:
            reply.refuse(self._absence(index))

    def end_transaction(self, index: int, reply: Reply, marker: Marker) -> None:
        """Write a marker into the log of a partition; `reply` is answered with an ErrorCode."""
        shard = self._shards.get(index)
        if shard is not None:
            shard.end_transaction(reply, marker)
        else:
            reply.refuse(self._absence(index))

    def shards(self) -> Iterable[Shard[M]]:
        """All that are led here, loading ones included."""
        return self._shards.values()

    def partition_of(self, key: str) -> int:
        topic = self.topic()
        return partition_for(key, len(topic.partitions) if topic is not None else self._new_partition_count)

    def _is_coming(self, index: int) -> bool:
        """The shard does not serve yet, or still owes others their turn."""
        if not self._running:
            return False
        shard = self._shards.get(index)
        if shard is None:
            return self._is_led_here(index)
        return shard.state is ShardState.LOADING or (shard.state is ShardState.ACTIVE and index in self._parking)

    def _absence(self, index: int) -> ErrorCode:
        return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS if self._is_led_here(index) else ErrorCode.NOT_COORDINATOR

    def _is_led_here(self, index: int) -> bool:
        topic = self.topic()
        if topic is None or index >= len(topic.partitions):
            return False
        return topic.partitions[index].leader == self._image.node_id

    # -- finding the coordinator --------------------------------------------------------------------------------------
    def topic(self) -> TopicInfo | None:
        return self._image.topic(self._topic)

    async def create_topic(self) -> None:
        """Raises what TopicAdmin raises. Returns with the shards that are led here loaded, so that the first request
        need not be refused."""
        await self._topics.ensure(self._topic)
        await self.wait_loaded()

    def coordinator(self, key: str) -> BrokerInfo | None:
        """The leader of the key's partition, if there is one alive."""
        topic = self.topic()
        if topic is None:
            return None
        broker = self._image.broker(topic.partitions[self.partition_of(key)].leader)
        return broker if broker in self._image.brokers() else None

    # -- following the partitions -----------------------------------------------------------------------------------
    def _opened(self, partition: Partition) -> None:
        self._drop(partition.index)
        if self._running:
            self._load(partition)

    def _closed(self, partition: Partition) -> None:
        self._drop(partition.index)
        self._parking.refuse(partition.index, ErrorCode.NOT_COORDINATOR)

    def _follow(self, changes: Changes) -> None:
        """What waits for a partition that another broker has been given would wait in vain."""
        topic = self.topic()
        if topic is None or topic.topic_id in changes.topics:
            for index in self._parking.waited_for():
                if not self._is_led_here(index):
                    self._parking.refuse(index, ErrorCode.NOT_COORDINATOR)

    def _drop(self, index: int) -> None:
        shard = self._shards.pop(index, None)
        if shard is not None:
            shard.close()
            self._on_dropped(index)

    def _load(self, partition: Partition) -> None:
        index = partition.index
        shard = Shard(
            index,
            PartitionLog(partition, self._codec),
            partial(self._new_machine, partition),
            asyncio.get_running_loop(),
            self._now_ms,
            partial(self._failed, partition),
        )
        self._shards[index] = shard
        load = asyncio.create_task(self._load_shard(shard), name=f"load-{self._topic}-{index}")
        self._loads.add(load)
        load.add_done_callback(self._loads.discard)

    async def _load_shard(self, shard: Shard[M]) -> None:
        while shard.state is ShardState.LOADING:
            try:
                async with self._load_places:
                    await shard.load()
            except ProtocolError as error:
                # reading it again would not help; as with Kafka, these keys have no coordinator until it is mended
                log.error("coordinator cannot be loaded", topic=self._topic, partition=shard.index, error=str(error))
                shard.close()
                self._parking.refuse(shard.index, ErrorCode.NOT_COORDINATOR)
            except Exception as error:
                log.warning("coordinator not loaded", topic=self._topic, partition=shard.index, error=str(error))
                await asyncio.sleep(RELOAD_DELAY_S)
        await self._submit_parked(shard)

    async def _submit_parked(self, shard: Shard[M]) -> None:
        count = 0
        while self._shards.get(shard.index) is shard and self._parking.submit_first(shard.index, shard):
            count += 1
            if not count % SUBMITTED_PER_TURN:
                await asyncio.sleep(0)

    def _failed(self, partition: Partition, shard: Shard[M], _: Exception) -> None:
        """What is in memory may not be in the log: start again from what is, as long as it is ours."""
        if self._shards.get(shard.index) is not shard:
            return
        del self._shards[shard.index]
        self._on_dropped(shard.index)
        if self._running and self._partitions.get(self._topic, partition.index) is partition:
            self._load(partition)
