"""A member of a consumer group of the new protocol (KIP-848): it tells what it holds, and is told what to hold.

A partition that is taken away is committed and let go before the group hears of it, so that nobody else has it
meanwhile. A member that was fenced has lost everything and joins anew. Errors of a coordinator that moves are waited
out; what an application would be told is in `errors`.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from bench.transaction_history import Place
from drills.client.client import Client
from drills.client.connection import Disconnected
from protocol.errors import ErrorCode
from protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest, TopicPartitions
from protocol.messages.find_coordinator import FindCoordinatorRequest
from protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from protocol.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics

HEARTBEAT_VERSION = 1
FIND_COORDINATOR_VERSION = 4
OFFSET_COMMIT_VERSION = 9
OFFSET_FETCH_VERSION = 9
REBALANCE_TIMEOUT_MS = 10_000
LEAVE_EPOCH = -1
STOP_TIMEOUT_S = 10.0
_FENCED = (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_MEMBER_EPOCH)
_MOVING = (
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.NOT_COORDINATOR,
    ErrorCode.REQUEST_TIMED_OUT,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ErrorCode.KAFKA_STORAGE_ERROR,
    ErrorCode.STALE_MEMBER_EPOCH,
    ErrorCode.UNSTABLE_OFFSET_COMMIT,
)


class Owner(Protocol):
    """What does the reading for a member."""

    def assigned(self, positions: Mapping[Place, int | None]) -> None:
        """Read these from the committed offsets on; None: there is none, begin at the log's start."""

    def positions_to_commit(self, places: Sequence[Place]) -> dict[Place, int]: ...

    def committed(self, positions: Mapping[Place, int], *, certain: bool) -> None: ...

    def let_go(self, places: Sequence[Place]) -> None: ...


class Member:
    def __init__(self, client: Client, group: str, topic: str, owner: Owner, chance: random.Random) -> None:
        self.errors: list[str] = []
        self.owned: set[Place] = set()
        self._client = client
        self._group = group
        self._topic = topic
        self._owner = owner
        self._id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        self._epoch = 0
        self._coordinator: int | None = None
        self._failures = 0
        self._interval_s = 1.0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"{self._client.name}-member")

    async def stop(self) -> None:
        """Commit, leave, and let everything go."""
        self._stopping.set()
        if self._task is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._task, STOP_TIMEOUT_S)

    async def _run(self) -> None:
        tell_all = True
        while not self._stopping.is_set():
            try:
                tell_all = await self._beat(tell_all)
            except Disconnected:
                self._coordinator = None
                tell_all = True
                await self._back_off()
            else:
                if not tell_all:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), self._interval_s)
        await self._leave()

    async def _leave(self) -> None:
        """The group hears of it, also where its coordinator has just gone; `stop` bounds how long that is tried."""
        self._stopping.clear()
        committed = False
        try:
            while True:
                try:
                    if not committed:
                        await self._commit(sorted(self.owned))
                        committed = True
                    response = await self._heartbeat(LEAVE_EPOCH, [])
                except Disconnected:
                    self._coordinator = None
                else:
                    if not response.error_code or response.error_code in _FENCED:
                        return
                    self._not_answered(response.error_code, "leave")
                await self._back_off()
        finally:
            self._lose(sorted(self.owned))

    async def _beat(self, tell_all: bool) -> bool:
        """One heartbeat and what follows from it; returns whether the next one, at once, has to tell everything."""
        if self.owned:
            await self._commit(sorted(self.owned))
        response = await self._heartbeat(self._epoch, sorted(self.owned) if tell_all or not self._epoch else None)
        error = response.error_code
        if error in _FENCED:
            self._lose(sorted(self.owned))
            self._epoch = 0
            return True
        if error:
            self._not_answered(error, "heartbeat")
            await self._back_off()
            return True
        self._failures = 0
        self._epoch = response.member_epoch
        self._interval_s = response.heartbeat_interval_ms / 1000
        if response.assignment is None:
            return False
        return await self._reconcile(self._places(response.assignment.topic_partitions))

    def _places(self, assigned: Sequence[TopicPartitions]) -> set[Place]:
        names = self._client.view.topic_names
        return {
            Place(names[bytes(each.topic_id)], index)
            for each in assigned
            if bytes(each.topic_id) in names
            for index in each.partitions
        }

    async def _reconcile(self, target: set[Place]) -> bool:
        revoked, added = sorted(self.owned - target), sorted(target - self.owned)
        if revoked:
            await self._commit(revoked)
            self._lose(revoked)
        if added:
            positions = await self._committed(added)
            if positions is None:
                return True
            self.owned |= positions.keys()
            self._owner.assigned(positions)
        return bool(revoked or added)

    def _lose(self, places: Sequence[Place]) -> None:
        self.owned -= set(places)
        if places:
            self._owner.let_go(places)

    # -- requests to the coordinator --------------------------------------------------------------------------------
    async def _heartbeat(self, epoch: int, owned: Sequence[Place] | None) -> Any:
        request = ConsumerGroupHeartbeatRequest(
            group_id=self._group,
            member_id=self._id,
            member_epoch=epoch,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS if owned is not None else -1,
            subscribed_topic_names=[self._topic] if owned is not None else None,
            topic_partitions=None if owned is None else self._told(owned),
        )
        return await self._ask(HEARTBEAT_VERSION, request)

    def _told(self, owned: Sequence[Place]) -> list[TopicPartitions]:
        by_topic: dict[str, list[int]] = defaultdict(list)
        for place in owned:
            by_topic[place.topic].append(place.partition)
        ids = self._client.view.topic_ids
        return [TopicPartitions(topic_id=ids[topic], partitions=indexes) for topic, indexes in by_topic.items()]

    async def _commit(self, places: Sequence[Place]) -> None:
        positions = self._owner.positions_to_commit(places)
        if not positions:
            return
        topics: dict[str, list[OffsetCommitRequestPartition]] = defaultdict(list)
        for place, at in positions.items():
            topics[place.topic].append(
                OffsetCommitRequestPartition(
                    partition_index=place.partition, committed_offset=at, committed_metadata=""
                )
            )
        request = OffsetCommitRequest(
            group_id=self._group,
            generation_id_or_member_epoch=self._epoch,
            member_id=self._id,
            topics=[OffsetCommitRequestTopic(name=topic, partitions=found) for topic, found in topics.items()],
        )
        self._owner.committed(positions, certain=False)
        response = await self._ask(OFFSET_COMMIT_VERSION, request)
        done = {}
        for topic in response.topics:
            for partition in topic.partitions:
                place = Place(topic.name, partition.partition_index)
                if not partition.error_code:
                    done[place] = positions[place]
                elif partition.error_code not in _FENCED:
                    self._not_answered(partition.error_code, "commit")
        self._owner.committed(done, certain=True)

    async def _committed(self, places: Sequence[Place]) -> dict[Place, int | None] | None:
        """None if the coordinator does not tell now."""
        topics: dict[str, list[int]] = defaultdict(list)
        for place in places:
            topics[place.topic].append(place.partition)
        asked = [OffsetFetchRequestTopics(name=topic, partition_indexes=indexes) for topic, indexes in topics.items()]
        group = OffsetFetchRequestGroup(
            group_id=self._group, member_id=self._id, member_epoch=self._epoch, topics=asked
        )
        request = OffsetFetchRequest(groups=[group], require_stable=True)
        for attempt in range(1, 20):
            response = (await self._ask(OFFSET_FETCH_VERSION, request)).groups[0]
            found = [
                (Place(topic.name, partition.partition_index), partition)
                for topic in response.topics
                for partition in topic.partitions
            ]
            if not response.error_code and not any(partition.error_code for _, partition in found):
                return {
                    place: partition.committed_offset if partition.committed_offset >= 0 else None
                    for place, partition in found
                }
            if response.error_code in (*_FENCED, ErrorCode.STALE_MEMBER_EPOCH):
                return None
            self._not_answered(response.error_code, "offset fetch")
            await asyncio.sleep(self._client.retry_backoff.pause_s(attempt))
        return None

    async def _ask(self, version: int, request: Any) -> Any:
        if self._coordinator is None:
            self._coordinator = await self._find_coordinator()
        return await self._client.call(self._coordinator, version, request)

    async def _find_coordinator(self) -> int:
        request = FindCoordinatorRequest(key_type=0, coordinator_keys=[self._group])
        found = (await self._client.call_any(FIND_COORDINATOR_VERSION, request)).coordinators[0]
        if found.error_code:
            raise Disconnected(f"no coordinator: {ErrorCode(found.error_code).name}")
        if found.node_id not in self._client.view.nodes:
            self._client.refresh()
            raise Disconnected(f"coordinator {found.node_id} is not known")
        node_id: int = found.node_id
        return node_id

    def _not_answered(self, error_code: int, what: str) -> None:
        self._coordinator = None
        if error_code and error_code not in _MOVING:
            self.errors.append(f"{self._client.name}: {what}: {ErrorCode(error_code).name}")

    async def _back_off(self) -> None:
        self._failures += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._client.retry_backoff.pause_s(self._failures))
