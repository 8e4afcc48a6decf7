"""A shard of the group coordinator in virtual time, over an in-memory log, with calls that read like requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from typing import Any

from broker.coordinator.group.answers import JoinContext, join_error
from broker.coordinator.group.config import GroupConfig
from broker.coordinator.group.consumer.heartbeat import HeartbeatContext
from broker.coordinator.group.consumer.topics import MemoryTopics
from broker.coordinator.group.machine import GroupMachine
from broker.coordinator.group.offsets import TopicOffsets
from broker.coordinator.log import Marker
from broker.coordinator.memory_log import MemoryLog
from broker.coordinator.reply import Reply
from broker.coordinator.shard import Shard
from protocol.errors import ErrorCode
from protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse
from protocol.messages.delete_groups import DeletableGroupResult
from protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from protocol.messages.leave_group import LeaveGroupResponse, MemberIdentity
from protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
    OffsetCommitResponse,
)
from protocol.messages.offset_delete import (
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
)
from protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse
from protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition,
    TxnOffsetCommitRequestTopic,
)
from protocol.types import ZERO_UUID

START_MS = 1_700_000_000_000


class VirtualScheduler:
    """The part of an event loop that a shard uses. Time moves only in `advance`."""

    def __init__(self) -> None:
        self.now_ms = 0
        self._soon: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._sequence = 0

    def time(self) -> float:
        return self.now_ms / 1000

    def call_soon(self, callback: Callable[[], None], /) -> None:
        self._soon.append(callback)

    def call_at(self, when: float, callback: Callable[[], None], /) -> _Handle:
        handle = _Handle(callback)
        self._sequence += 1
        heappush(self._timers, (when, self._sequence, handle))
        return handle

    def turn(self) -> None:
        """Run what was put off to the end of the loop's turn."""
        while self._soon:
            self._soon.popleft()()

    def advance(self, ms: int) -> None:
        end_ms = self.now_ms + ms
        while self._timers and round(self._timers[0][0] * 1000) <= end_ms:
            when, _, handle = heappop(self._timers)
            self.now_ms = max(self.now_ms, round(when * 1000))
            if not handle.cancelled:
                handle.callback()
                self.turn()
        self.now_ms = end_ms


class _Handle:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def drive(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        while True:
            work.send(None)
    except StopIteration:
        return


class Coordinator:
    """One shard. Each call is answered as soon as the log is durable, which `auto_sync` makes at once."""

    def __init__(self, log: MemoryLog | None = None, *, load: bool = True, seed: str = "", **config: Any) -> None:
        self.scheduler = VirtualScheduler()
        self.log = log if log is not None else MemoryLog(auto_sync=True)
        self.config = GroupConfig(**config)
        self.topics = MemoryTopics()
        self.failures: list[Exception] = []
        self._ids = 0
        self._seed = seed
        self.shard = self._new_shard()
        if load:
            drive(self.shard.load())

    def _new_shard(self) -> Shard[GroupMachine]:
        return Shard(
            0,
            self.log,
            lambda timers: GroupMachine(timers, self.config, self.topics),
            self.scheduler,
            lambda: START_MS + self.scheduler.now_ms,
            lambda _, error: self.failures.append(error),
        )

    @property
    def groups(self) -> dict[str, Any]:
        return self.shard.machine.groups

    def restart(self, log: MemoryLog | None = None) -> None:
        """Lose the shard and load a new one from what is durable."""
        self.shard.close()
        self.log = log if log is not None else self.log.survivor()
        self.shard = self._new_shard()
        drive(self.shard.load())

    def advance(self, ms: int) -> None:
        self.scheduler.advance(ms)

    def call(
        self, group_id: str | None, refusal: Callable[[ErrorCode], Any], run: Callable[[GroupMachine, Any, Reply], None]
    ) -> Reply:
        reply = Reply(refusal)
        self.shard.submit(group_id, reply, lambda machine, out: run(machine, out, reply))
        self.scheduler.turn()
        return reply

    def join(
        self,
        group_id: str = "g",
        member_id: str = "",
        *,
        instance_id: str | None = None,
        protocols: dict[str, bytes] | None = None,
        protocol_type: str = "consumer",
        version: int = 9,
        session_ms: int = 10_000,
        rebalance_ms: int = 60_000,
        client_id: str = "client",
    ) -> Reply:
        self._ids += 1
        request = JoinGroupRequest(
            group_id=group_id,
            member_id=member_id,
            group_instance_id=instance_id,
            protocol_type=protocol_type,
            protocols=[
                JoinGroupRequestProtocol(name=name, metadata=metadata)
                for name, metadata in (protocols or {"range": subscription("t")}).items()
            ],
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=rebalance_ms,
        )
        context = JoinContext(version, client_id, "/127.0.0.1", f"{self._seed}{self._ids}")
        return self.call(
            group_id,
            lambda code: join_error(code, member_id),
            lambda machine, out, reply: machine.join(out, reply, request, context),
        )

    def sync(
        self,
        group_id: str,
        member_id: str,
        generation: int,
        assignments: dict[str, bytes] | None = None,
        *,
        instance_id: str | None = None,
        protocol_name: str | None = None,
        protocol_type: str | None = None,
    ) -> Reply:
        request = SyncGroupRequest(
            group_id=group_id,
            member_id=member_id,
            generation_id=generation,
            group_instance_id=instance_id,
            protocol_type=protocol_type,
            protocol_name=protocol_name,
            assignments=[
                SyncGroupRequestAssignment(member_id=each, assignment=assignment)
                for each, assignment in (assignments or {}).items()
            ],
        )
        return self.call(
            group_id,
            lambda code: SyncGroupResponse(error_code=code),
            lambda machine, out, reply: machine.sync(out, reply, request),
        )

    def heartbeat(self, group_id: str, member_id: str, generation: int, instance_id: str | None = None) -> Reply:
        request = HeartbeatRequest(
            group_id=group_id, member_id=member_id, generation_id=generation, group_instance_id=instance_id
        )
        return self.call(
            group_id,
            lambda code: HeartbeatResponse(error_code=code),
            lambda machine, out, reply: machine.heartbeat(out, reply, request),
        )

    def consumer_heartbeat(self, group_id: str, member_id: str, epoch: int, **fields: Any) -> Reply:
        """`fields` are the request's."""
        self._ids += 1
        request = ConsumerGroupHeartbeatRequest(group_id=group_id, member_id=member_id, member_epoch=epoch, **fields)
        context = HeartbeatContext("client", "/127.0.0.1", f"{self._seed}{self._ids}")
        return self.call(
            group_id,
            lambda code: ConsumerGroupHeartbeatResponse(error_code=code),
            lambda machine, out, reply: machine.consumers.heartbeat(out, reply, request, context),
        )

    def leave(self, group_id: str, *members: tuple[str, str | None]) -> Reply:
        identities = [MemberIdentity(member_id=member_id, group_instance_id=each) for member_id, each in members]
        return self.call(
            group_id,
            lambda code: LeaveGroupResponse(error_code=code),
            lambda machine, out, reply: machine.leave(out, reply, group_id, identities),
        )

    def commit(
        self,
        group_id: str,
        offsets: dict[tuple[str, int], int],
        *,
        member_id: str = "",
        generation: int = -1,
        instance_id: str | None = None,
        metadata: str | None = "",
        leader_epoch: int = -1,
        retention_ms: int = -1,
        version: int = 8,
        topic_id: bytes = ZERO_UUID,
    ) -> Reply:
        request = OffsetCommitRequest(
            group_id=group_id,
            member_id=member_id,
            generation_id_or_member_epoch=generation,
            group_instance_id=instance_id,
            retention_time_ms=retention_ms,
            topics=[
                OffsetCommitRequestTopic(
                    name=topic,
                    topic_id=topic_id,
                    partitions=[
                        OffsetCommitRequestPartition(
                            partition_index=partition,
                            committed_offset=offset,
                            committed_metadata=metadata,
                            committed_leader_epoch=leader_epoch,
                        )
                    ],
                )
                for (topic, partition), offset in offsets.items()
            ],
        )
        return self.call(
            group_id,
            lambda code: OffsetCommitResponse(topics=[]) if code is ErrorCode.NONE else code,
            lambda machine, out, reply: machine.offsets.commit(out, reply, request, version),
        )

    def commit_in_transaction(
        self,
        group_id: str,
        offsets: dict[tuple[str, int], int],
        *,
        producer_id: int = 1,
        epoch: int = 0,
        member_id: str = "",
        generation: int = -1,
        instance_id: str | None = None,
        metadata: str | None = "",
        topic_id: bytes = ZERO_UUID,
    ) -> Reply:
        request = TxnOffsetCommitRequest(
            transactional_id=f"tx{producer_id}",
            group_id=group_id,
            producer_id=producer_id,
            producer_epoch=epoch,
            member_id=member_id,
            generation_id=generation,
            group_instance_id=instance_id,
            topics=[
                TxnOffsetCommitRequestTopic(
                    name=topic,
                    partitions=[
                        TxnOffsetCommitRequestPartition(
                            partition_index=partition, committed_offset=offset, committed_metadata=metadata
                        )
                    ],
                )
                for (topic, partition), offset in offsets.items()
            ],
        )
        topic_ids = {topic: topic_id for topic, _ in offsets}
        return self.call(
            group_id,
            lambda code: code,
            lambda machine, out, reply: machine.transactional.commit(out, reply, request, topic_ids, None),
        )

    def end_transaction(self, commit: bool, *, producer_id: int = 1, epoch: int = 0) -> Reply:
        """The marker of the transaction coordinator."""
        reply = Reply(lambda code: code)
        self.shard.end_transaction(reply, Marker(producer_id, epoch, 0, commit, 1))
        self.scheduler.turn()
        return reply

    def fetch(
        self, group_id: str, *partitions: tuple[str, int], stable: bool = False, topic_id: bytes = ZERO_UUID
    ) -> Reply:
        """No partitions: all."""
        asked = [TopicOffsets(topic, topic_id, [partition]) for topic, partition in partitions] or None
        return self.call(
            group_id,
            lambda code: code,
            lambda machine, out, reply: machine.offsets.fetch(out, reply, group_id, asked, stable),
        )

    def delete_offsets(self, group_id: str, *partitions: tuple[str, int]) -> Reply:
        topics = [
            OffsetDeleteRequestTopic(name=topic, partitions=[OffsetDeleteRequestPartition(partition_index=partition)])
            for topic, partition in partitions
        ]
        return self.call(
            group_id,
            lambda code: OffsetDeleteResponse(error_code=code),
            lambda machine, out, reply: machine.offsets.delete(out, reply, group_id, topics),
        )

    def delete_group(self, group_id: str) -> Reply:
        return self.call(
            group_id,
            lambda code: DeletableGroupResult(group_id=group_id, error_code=code),
            lambda machine, out, reply: machine.delete_group(out, reply, group_id),
        )

    def describe(self, group_id: str, version: int = 6) -> Any:
        reply = self.call(
            group_id, lambda code: code, lambda machine, out, reply: machine.describe(out, reply, group_id, version)
        )
        return reply.response

    # -- whole flows ------------------------------------------------------------------------------------------------
    def new_member(self, group_id: str = "g", **options: Any) -> tuple[str, Reply]:
        """Join as a dynamic member that already has its id."""
        member_id = self.join(group_id, **options).response.member_id
        return member_id, self.join(group_id, member_id, **options)

    def stable_group(self, group_id: str = "g", members: int = 1, **options: Any) -> list[str]:
        """Ids of the members of a stable group; the first one leads. Their assignments are their ids."""
        joined = [self.new_member(group_id, **options) for _ in range(members)]
        self.advance(self.config.initial_rebalance_delay_ms * 2)
        ids = [member_id for member_id, _ in joined]
        generation = joined[0][1].response.generation_id
        leader = joined[0][1].response.leader
        for member_id in sorted(ids, key=lambda each: each == leader):
            self.sync(group_id, member_id, generation, {each: each.encode() for each in ids})
        assert self.groups[group_id].state.value == "Stable"
        return ids


def subscription(*topics: str) -> bytes:
    """A consumer's subscription, version 0."""
    encoded = b"\0\0" + len(topics).to_bytes(4, "big")
    for topic in topics:
        encoded += len(topic).to_bytes(2, "big") + topic.encode()
    return encoded + b"\xff\xff\xff\xff"


def offset_of(reply: Reply) -> int:
    """The one offset that an OffsetFetch answers."""
    offset: int = reply.response.topics[0].partitions[0].committed_offset
    return offset


def commit_error(reply: Reply) -> int:
    """The error of a commit of one partition, or of its group."""
    response = reply.response
    if isinstance(response, ErrorCode):
        return response
    code: int = response.topics[0].partitions[0].error_code
    return code
