"""The partitions led by this broker: opened, looked up, kept in step with the metadata image, closed.

Invariants
----------
* `get` returns a partition only while it is led here and its state has been recovered.
* Of thousands a few are opened at a time, in one catalog transaction (`openings`): first the internal ones, those
  that requests are parked for, and those that were written to last.
* Opening and closing of one topic never overlap, and nothing is opened that is still to be closed.
* A partition that is being handed over (`broker.handoff`) accepts nothing but is read on (`readable`), until the image
  says that another broker leads it, or it goes on here.
* A partition whose records or snapshots cannot be read is offline, alone: it is answered for as one that is not led
  here, and tried again from time to time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from operator import attrgetter
from typing import Any
from uuid import UUID

import structlog

from broker.cluster.image import MetadataImage
from broker.handoff.parking import Parked, Parking
from broker.handoff.refused import RefusedBatches
from broker.leadership import find_partition
from broker.openings import OPENED_AT_ONCE, Openings, Wanted
from broker.partition.inspection import InspectionBudget
from broker.partition.opening import recover_states
from broker.partition.partition import Partition
from broker.partition.replay_budget import ReplayBudget
from broker.produce_throttle import ProduceThrottle
from s3stream.api import Storage, StorageError, StreamFenced
from s3stream.catalog.api import CatalogError, Changes, PartitionInfo, TopicInfo, UnknownStream

log = structlog.get_logger()

REOPEN_MIN_S, REOPEN_MAX_S = 0.05, 1.0
"""Pauses before topics that could not be opened are tried again, each twice as long as the one before."""

OFFLINE_INTERVAL_S = 60.0
"""Pause before a partition that could not be read is tried again."""

Watcher = Callable[[Partition], None]


class Partitions:
    """See the module docstring. Follows the image from its construction on."""

    def __init__(self, node_id: int, storage: Storage, image: MetadataImage, now_ms: Callable[[], int]) -> None:
        self._node_id = node_id
        self._storage = storage
        self._image = image
        self._now_ms = now_ms
        self._by_name: dict[tuple[str, int], Partition] = {}
        self._by_topic: dict[UUID, dict[int, Partition]] = {}
        self._locks: defaultdict[UUID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._watchers: dict[str, tuple[Watcher, Watcher]] = {}
        self._departing: dict[tuple[str, int], Partition] = {}
        self._parking = Parking()
        self._openings = Openings(self._open, self._parking.places)
        self.refused = RefusedBatches(image)
        self._offline: dict[UUID, set[int]] = {}
        """Partitions that are to be tried again."""
        self._shut: set[tuple[UUID, int]] = set()
        """Partitions that are not to be opened for now: their streams are still to be closed, or they are to be handed
        over although they cannot be read."""
        self._follows_new_topics = False
        self._closed = False
        self._inspections = InspectionBudget()
        self._replay = ReplayBudget()
        self.throttle = ProduceThrottle(storage.pressure_level)
        self._unsubscribe = image.subscribe(self._follow)

    # -- look-ups ---------------------------------------------------------------------------------------------------
    def get(self, topic: str, index: int) -> Partition | None:
        return self._by_name.get((topic, index))

    def all(self) -> Iterable[Partition]:
        return self._by_name.values()

    def readable(self, topic: str, index: int) -> Partition | None:
        """As `get`, or one that is being handed over."""
        key = (topic, index)
        return self._by_name.get(key) or self._departing.get(key)

    def in_transit(self, topic: str, index: int) -> bool:
        """It is on its way here, or away and not there yet: whoever asks for it does well to `park`."""
        if (topic, index) in self._departing:
            return True
        info = self._image.topic(topic)
        partition = find_partition(info, index)
        if info is None or partition is None or self._closed or (topic, index) in self._by_name:
            return False
        if self.is_offline(info.topic_id, index):
            return False
        return self._node_id in (partition.leader, partition.target)

    def is_offline(self, topic_id: UUID, index: int) -> bool:
        """It is led here and cannot be read."""
        return index in self._offline.get(topic_id, ())

    def park(self, topic: str, index: int, parked: Parked) -> bool:
        """Have `parked` called when the partition has arrived or gone, or when that takes too long. False: there is
        nothing to wait for, or no room."""
        if not self.in_transit(topic, index) or not self._parking.park((topic, index), parked):
            return False
        self._openings.asked((topic, index))
        return True

    def leave_parking(self, topic: str, index: int, parked: Parked) -> None:
        """Nobody waits for that any more: it is not called, unless it was already."""
        self._parking.leave((topic, index), parked)

    def watch(self, topic: str, opened: Watcher, closed: Watcher) -> None:
        """Be told, on the loop's thread, when partitions of this topic come and go. One watcher per topic."""
        self._watchers[topic] = (opened, closed)

    def unwatch(self, topic: str) -> None:
        self._watchers.pop(topic, None)

    # -- opening and closing ----------------------------------------------------------------------------------------
    async def open_topic(self, topic: TopicInfo) -> None:
        """Open those of its partitions that are led here and not open yet. Raises errors of storage and catalog."""
        await self._open_topics([topic])

    async def _open_topics(self, topics: Sequence[TopicInfo]) -> None:
        async with AsyncExitStack() as locked:
            for topic in sorted(topics, key=attrgetter("topic_id")):
                await locked.enter_async_context(self._locks[topic.topic_id])
            # they may have changed meanwhile, or gone
            present = [self._image.topic_by_id(topic.topic_id.bytes) for topic in topics]
            missing = [(t, each) for t in present if t for each in t.partitions if self._is_missing(t, each)]
            if missing:
                await self._openings.open(await self._in_order(missing), gently=bool(self._by_name))

    async def _in_order(self, missing: Sequence[Wanted]) -> Sequence[Wanted]:
        """Internal topics first; of very many those that were written to last."""
        latest = await self._storage.latest_streams() if len(missing) > OPENED_AT_ONCE else ()
        return sorted(missing, key=lambda each: (not each[0].internal, each[1].log_stream_id not in latest))

    def _present(self, wanted: Wanted) -> Wanted:
        topic = self._image.topic_by_id(wanted[0].topic_id.bytes) or wanted[0]
        return topic, topic.partitions[wanted[1].index]

    async def open_all(self) -> None:
        """Open everything that the image says is led here; new topics are opened as the image learns of them."""
        self._follows_new_topics = True
        await self._open_topics(list(self._image.topics()))

    async def close_topic(self, topic_id: UUID) -> None:
        """Close what is open of it: with its state saved, or let go if the image does not know the topic any more."""
        async with self._locks[topic_id]:
            partitions = self._forget(topic_id)
            is_gone = self._image.topic_by_id(topic_id.bytes) is None
            await asyncio.gather(*(self._close(partition, is_gone) for partition in partitions))
        if is_gone:
            self._locks.pop(topic_id, None)

    async def _close(self, partition: Partition, is_gone: bool) -> None:
        try:
            if is_gone:
                await partition.discard()
            else:
                await partition.close(self._now_ms())
        except Exception as error:
            log.warning("partition not closed", topic=partition.topic, partition=partition.index, error=repr(error))

    async def close_all(self) -> None:
        """Accept nothing more and save every state; `Storage.close` then uploads and closes all streams at once."""
        self._closed = True
        self._unsubscribe()
        self._parking.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        now_ms = self._now_ms()
        for count, partition in enumerate([*self._by_name.values(), *self._departing.values()], 1):
            partition.stop()
            partition.save(now_ms)
            if count % 100 == 0:
                await asyncio.sleep(0)
        self._by_name.clear()
        self._by_topic.clear()
        self._departing.clear()

    def _is_missing(self, topic: TopicInfo, partition: PartitionInfo) -> bool:
        return (
            not self._closed
            and partition.leader == self._node_id
            and partition.index not in self._by_topic.get(topic.topic_id, ())
            and (topic.topic_id, partition.index) not in self._shut
        )

    async def _open(self, wanted: Sequence[Wanted], recovering: asyncio.Semaphore) -> None:
        wanted = [each for each in map(self._present, wanted) if self._is_missing(*each)]
        if not wanted:
            return
        stream_ids = [each for _, info in wanted for each in (info.log_stream_id, info.state_stream_id)]
        streams = await self._storage.open_streams(stream_ids)
        pairs = list(zip(streams[::2], streams[1::2], strict=True))
        try:
            recovered = await recover_states(pairs, recovering)
        except Exception:
            # so that they can be opened again
            await asyncio.gather(*(each.close() for each in streams), return_exceptions=True)
            raise
        # others may have taken one over meanwhile, or it is led here under a newer epoch
        for (topic, info), pair, state in zip(map(self._present, wanted), pairs, recovered, strict=True):
            if isinstance(state, Exception) or info.leader != self._node_id:
                await asyncio.gather(*(each.close() for each in pair), return_exceptions=True)
                if isinstance(state, Exception):
                    self._stays_offline(topic, info, state)
                continue
            config = self._image.topic_config(topic.name)
            place = topic.name, topic.topic_id.bytes, info.index, info.leader_epoch
            self._add(Partition(*place, *pair, config, state, self._inspections, self._replay), topic.topic_id)
        self._replay.share_among(len(self._by_name))
        self._release_parked()

    def _stays_offline(self, topic: TopicInfo, info: PartitionInfo, error: Exception) -> None:
        log.error("partition is offline: it cannot be read", topic=topic.name, partition=info.index, error=str(error))
        is_known = topic.topic_id in self._offline
        self._offline.setdefault(topic.topic_id, set()).add(info.index)
        if not is_known:
            self._spawn(self._open_later(topic.topic_id))

    async def _open_later(self, topic_id: UUID) -> None:
        await asyncio.sleep(OFFLINE_INTERVAL_S)
        self._offline.pop(topic_id, None)
        await self._open_followed([topic_id])

    def _add(self, partition: Partition, topic_id: UUID) -> None:
        self._by_topic.setdefault(topic_id, {})[partition.index] = partition
        self._offline.get(topic_id, set()).discard(partition.index)
        if self._image.topic_by_id(topic_id.bytes) is None:
            # deleted meanwhile, and about to be closed; its name may belong to another topic by now
            partition.stop()
            return
        self._name(partition)

    def _name(self, partition: Partition) -> None:
        key = (partition.topic, partition.index)
        now_ms = self._now_ms()
        for header in self.refused.take(partition.topic, partition.topic_id, partition.index, now_ms):
            partition.expect(header, now_ms)
        self._by_name[key] = partition
        # before anybody else comes to it
        self._parking.release(key)
        if (watcher := self._watchers.get(partition.topic)) is not None:
            watcher[0](partition)

    def _remove(self, partition: Partition, topic_id: UUID) -> None:
        self._by_topic[topic_id].pop(partition.index, None)
        self._unname(partition)

    def _unname(self, partition: Partition) -> None:
        key = (partition.topic, partition.index)
        if self._departing.get(key) is partition:
            del self._departing[key]
        # a topic of the same name that was created since may have taken the place
        if self._by_name.get(key) is partition:
            del self._by_name[key]
            if (watcher := self._watchers.get(partition.topic)) is not None:
                watcher[1](partition)

    def _forget(self, topic_id: UUID) -> list[Partition]:
        partitions = list(self._by_topic.get(topic_id, {}).values())
        for partition in partitions:
            self._remove(partition, topic_id)
        self._by_topic.pop(topic_id, None)
        return partitions

    # -- handing over -----------------------------------------------------------------------------------------------
    def open_partition(self, topic_id: UUID, index: int) -> Partition | None:
        """One that is open here, and not being handed over."""
        partition = self._by_topic.get(topic_id, {}).get(index)
        return None if partition is None or partition.closed else partition

    def hold(self, partition: Partition) -> None:
        """It is to be handed over: accept nothing more, until the image says that it is led elsewhere or `go_on`."""
        self._unname(partition)
        partition.hold()
        self._departing[(partition.topic, partition.index)] = partition

    def go_on(self, partition: Partition) -> None:
        """It is not handed over after all. Nothing happens if it is gone already."""
        key = (partition.topic, partition.index)
        if self._departing.get(key) is partition and not self._closed:
            del self._departing[key]
            partition.go_on()
            self._name(partition)

    def shut(self, topic_id: UUID, index: int) -> bool:
        """One that is offline is to be handed over: do not open it before `reopen`. False: it may be open soon."""
        if not self.is_offline(topic_id, index) or self._locks[topic_id].locked():
            return False
        self._shut.add((topic_id, index))
        return True

    def reopen(self, topic_id: UUID, index: int) -> None:
        """It is not shut any more, and is opened if it is led here: nobody could act on that meanwhile."""
        self._shut.discard((topic_id, index))
        if not self._closed:
            self._spawn(self._open_followed([topic_id]))

    def _gone(self, partition: Partition, topic_id: UUID) -> None:
        """It was handed over: its streams are closed in the catalog, and may be open elsewhere."""
        self._remove(partition, topic_id)
        partition.abandon()
        self._storage.release_streams(partition.streams)

    def _release_parked(self) -> None:
        """Call those who wait for what is not on its way any more."""
        if self._parking:
            for key in self._parking.places():
                if not self.in_transit(*key):
                    self._parking.release(key)

    # -- following the image ----------------------------------------------------------------------------------------
    def _follow(self, changes: Changes) -> None:
        missing = []
        for topic_id, topic in changes.topics.items():
            if topic is None:
                self._topic_deleted(topic_id)
            elif self._topic_changed(topic):
                missing.append(topic_id)
        if missing and self._follows_new_topics:
            self._spawn(self._open_followed(missing))
        self._release_parked()
        if any(kind == "broker" for kind, _ in changes.configs):
            for partition in (*self._by_name.values(), *self._departing.values()):
                partition.set_config(self._image.topic_config(partition.topic))

    def _topic_deleted(self, topic_id: UUID) -> None:
        for partition in self._by_topic.get(topic_id, {}).values():
            partition.stop()
            self._unname(partition)
        # a topic that is being opened has its lock, and is closed once it is open
        if topic_id in self._by_topic or topic_id in self._locks:
            self._spawn(self.close_topic(topic_id))

    def _topic_changed(self, topic: TopicInfo) -> bool:
        """Whether something of it is to be opened."""
        config = self._image.topic_config(topic.name)
        for partition in list(self._by_topic.get(topic.topic_id, {}).values()):
            info = topic.partitions[partition.index]
            if self._departing.get((partition.topic, partition.index)) is partition:
                # it may be back already, under another epoch
                if (info.leader, info.leader_epoch) != (self._node_id, partition.leader_epoch):
                    self._gone(partition, topic.topic_id)
                else:
                    partition.set_config(config)
                continue
            if info.leader != self._node_id:
                self._remove(partition, topic.topic_id)
                partition.stop()
                self._shut.add((topic.topic_id, partition.index))
                self._spawn(self._hand_over(topic.topic_id, partition))
                continue
            partition.set_config(config)
            if info.leader_epoch > partition.leader_epoch:
                partition.set_leader_epoch(info.leader_epoch)
        return any(self._is_missing(topic, each) for each in topic.partitions)

    async def _open_followed(self, topic_ids: Sequence[UUID]) -> None:
        """Try until it works: nothing else would open topics whose news came while the database was away."""
        pause_s = REOPEN_MIN_S
        while topics := [t for t in (self._image.topic_by_id(each.bytes) for each in topic_ids) if t is not None]:
            try:
                await self._open_topics(topics)
                return
            except (CatalogError, StorageError) as error:
                if len(topics) > 1 and isinstance(error, UnknownStream | StreamFenced):
                    # one was deleted meanwhile, or is not free yet: the others have no part in it
                    await asyncio.gather(*(self._open_followed([topic.topic_id]) for topic in topics))
                    return
                log.warning("topics not opened, trying again", topics=len(topics), error=repr(error))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, REOPEN_MAX_S)

    async def _hand_over(self, topic_id: UUID, partition: Partition) -> None:
        async with self._locks[topic_id]:
            await self._close(partition, is_gone=False)
        self.reopen(topic_id, partition.index)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="partitions-follow")
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("partitions do not follow the metadata", error=repr(error))
