"""Committed offsets: commit, fetch, delete and expiry.

Offsets live in their group (`Group.offsets`); a commit to a group that does not exist makes a simple one. They change
only in `replay`. What transactions hold beside them (`Group.transactional`) makes `require_stable` fetches wait and
keeps from expiry; see `transactional_offsets`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.group.config import GroupConfig
from broker.coordinator.group.group import Group
from broker.coordinator.group.records import NO_EXPIRY, CommittedOffset, OffsetCommit
from broker.coordinator.machine import Outcome, ShardTimers
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode
from protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from protocol.messages.offset_delete import (
    OffsetDeleteRequestTopic,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from protocol.messages.offset_fetch import (
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopics,
)
from protocol.messages.txn_offset_commit import TxnOffsetCommitRequest
from protocol.types import ZERO_UUID

_GROUP_ID_NOT_FOUND_SINCE = 9
_COMMIT_SIZE = 56
"""Of the record of a commit, besides names and metadata: numbers, lengths, and what it takes in a batch."""
_TIMESTAMP_MAX = 2**63 - 1
_SWEPT_PER_EVENT = 500
"""Offsets that one step over all groups looks at, so that it never holds the loop for long."""
_SWEEP_PAUSE_MS = 5


class TopicOffsets(NamedTuple):
    """What an OffsetFetch asks of one topic. `topic_id` is the topic's present one, zero if not known."""

    name: str
    topic_id: bytes
    partitions: Sequence[int]


class Offsets:
    """`on_commit` is told of every member that commits."""

    def __init__(
        self,
        groups: Mapping[str, Group],
        on_commit: Callable[[Group, str], None],
        timers: ShardTimers,
        config: GroupConfig,
    ) -> None:
        self._groups = groups
        self._on_commit = on_commit
        self._timers = timers
        self._config = config
        self._unswept: list[str] = []

    # -- OffsetCommit -----------------------------------------------------------------------------------------------
    def commit(self, out: Outcome, reply: Reply, request: OffsetCommitRequest, version: int) -> None:
        """Topics and partitions are known to exist, and carry name and id."""
        group_id = request.group_id
        check_size(request, self._config)
        self._check_commit(request, version)
        now_ms = out.now_ms
        retention_ms = request.retention_time_ms
        expire_timestamp = NO_EXPIRY if retention_ms == -1 else min(now_ms + retention_ms, _TIMESTAMP_MAX)
        metadata_size_max = self._config.offset_metadata_size_max
        records = out.records
        topics = []
        for topic in request.topics:
            name, topic_id = topic.name, topic.topic_id
            partitions = []
            for each in topic.partitions:
                index = each.partition_index
                metadata = each.committed_metadata or ""
                if len(metadata) > metadata_size_max:
                    error = ErrorCode.OFFSET_METADATA_TOO_LARGE
                else:
                    error = ErrorCode.NONE
                    committed = CommittedOffset(
                        each.committed_offset, each.committed_leader_epoch, metadata, now_ms, expire_timestamp, topic_id
                    )
                    records.append(OffsetCommit(group_id, name, index, committed))
                partitions.append(OffsetCommitResponsePartition(partition_index=index, error_code=error))
            topics.append(OffsetCommitResponseTopic(name=name, topic_id=topic_id, partitions=partitions))
        out.answer(reply, OffsetCommitResponse(topics=topics))

    def _check_commit(self, request: OffsetCommitRequest, version: int) -> None:
        """See `Group.check_commit`. A commit of a member is a sign of life."""
        group = self._groups.get(request.group_id)
        generation = request.generation_id_or_member_epoch
        if group is None:
            if generation >= 0:
                known = version >= _GROUP_ID_NOT_FOUND_SINCE
                raise CoordinatorError(ErrorCode.GROUP_ID_NOT_FOUND if known else ErrorCode.ILLEGAL_GENERATION)
            return
        check = group.check_commit(request.member_id, request.group_instance_id, generation, version)
        if check is not None:
            for topic in request.topics:
                for partition in topic.partitions:
                    check(topic.topic_id, partition.partition_index)
        self._on_commit(group, request.member_id)

    # -- OffsetFetch ------------------------------------------------------------------------------------------------
    def fetch(
        self,
        out: Outcome,
        reply: Reply,
        group_id: str,
        topics: Sequence[TopicOffsets] | None,
        require_stable: bool,
        member_id: str | None = None,
        member_epoch: int = -1,
    ) -> None:
        """`topics` None: all that have an offset. What was never committed is answered with offset -1."""
        group = self._groups.get(group_id)
        if group is not None:
            group.check_fetch(member_id, member_epoch)
        offsets = group.offsets if group is not None else {}
        if topics is None:
            topics = [TopicOffsets(name, ZERO_UUID, [*partitions]) for name, partitions in offsets.items()]
        unstable = group.transactional if group is not None and require_stable else {}
        results = []
        for name, topic_id, indexes in topics:
            committed = offsets.get(name, {})
            results.append(
                OffsetFetchResponseTopics(
                    name=name,
                    topic_id=topic_id,
                    partitions=[
                        _unstable(index)
                        if (name, index) in unstable
                        else _fetched(index, committed.get(index), topic_id)
                        for index in indexes
                    ],
                )
            )
        out.answer(reply, OffsetFetchResponseGroup(group_id=group_id, topics=results))

    # -- OffsetDelete -----------------------------------------------------------------------------------------------
    def delete(self, out: Outcome, reply: Reply, group_id: str, topics: Sequence[OffsetDeleteRequestTopic]) -> None:
        """Of topics that no member is subscribed to. KIP-496."""
        group = self._groups.get(group_id)
        if group is None:
            raise CoordinatorError(ErrorCode.GROUP_ID_NOT_FOUND)
        group.check_offset_delete()
        results = []
        for topic in topics:
            subscribed = group.is_subscribed_to(topic.name)
            committed = group.offsets.get(topic.name, {})
            error = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC if subscribed else ErrorCode.NONE
            if not subscribed:
                for index in {each.partition_index: None for each in topic.partitions}:
                    if index in committed or (topic.name, index) in group.transactional:
                        out.write(OffsetCommit(group_id, topic.name, index, None))
            partitions = [
                OffsetDeleteResponsePartition(partition_index=each.partition_index, error_code=error)
                for each in topic.partitions
            ]
            results.append(OffsetDeleteResponseTopic(name=topic.name, partitions=partitions))
        out.answer(reply, OffsetDeleteResponse(topics=results))

    def forget_topic(self, out: Outcome, name: str, topic_id: bytes) -> None:
        """This topic was deleted: so are all offsets of it, but not those of one that has its name since."""
        self._forget([*self._groups], name, topic_id, out)

    def _forget(self, group_ids: list[str], name: str, topic_id: bytes, out: Outcome) -> None:
        """One step over the groups; the next follows soon."""
        looked_at = 0
        while group_ids and looked_at < _SWEPT_PER_EVENT:
            group = self._groups.get(group_ids.pop())
            if group is None:
                continue
            committed = group.offsets.get(name, {})
            looked_at += 1 + len(committed)
            for index, each in committed.items():
                if each.topic_id in (topic_id, ZERO_UUID):
                    out.write(OffsetCommit(group.group_id, name, index, None))
            for (topic, index), held in group.transactional.items():
                pending = (each for each in held.values() if each is not None)
                if topic == name and any(each.topic_id in (topic_id, ZERO_UUID) for each in pending):
                    out.write(OffsetCommit(group.group_id, name, index, None))
        if group_ids:
            event = partial(self._forget, group_ids, name, topic_id)
            self._timers.schedule(("forget", topic_id.hex()), _SWEEP_PAUSE_MS, None, event)

    # -- expiry -----------------------------------------------------------------------------------------------------
    def start_expiry(self) -> None:
        interval_ms = self._config.offsets_retention_check_interval_ms
        self._timers.schedule(("expiry",), interval_ms, None, self._expire)

    def _expire(self, out: Outcome) -> None:
        """One step over the groups; the next follows soon, or after the interval once all have been seen."""
        if not self._unswept:
            self._unswept = [*self._groups]
        looked_at = 0
        while self._unswept and looked_at < _SWEPT_PER_EVENT:
            group = self._groups.get(self._unswept.pop())
            if group is not None:
                looked_at += 1 + self._expire_group(out, group)
        if self._unswept:
            self._timers.schedule(("expiry",), _SWEEP_PAUSE_MS, None, self._expire)
        else:
            self.start_expiry()

    def _expire_group(self, out: Outcome, group: Group) -> int:
        """Write the tombstones of what has expired, and of a group that is left with nothing. KIP-211."""
        looked_at = 0
        all_expired = True
        for topic, partitions in group.offsets.items():
            looked_at += len(partitions)
            for index, committed in partitions.items():
                if _has_expired(group, topic, index, committed, out.now_ms, self._config.offsets_retention_ms):
                    out.write(OffsetCommit(group.group_id, topic, index, None))
                else:
                    all_expired = False
        if all_expired and group.is_unused and not group.transactional:
            out.records += group.tombstones()
        return looked_at


def check_size(request: OffsetCommitRequest | TxnOffsetCommitRequest, config: GroupConfig) -> None:
    """Raises CoordinatorError if its records would be more than the offsets topic takes at once, and the loop has time
    for. Kafka 4 says UNKNOWN_SERVER_ERROR to the same; this code of the protocol's means just that."""
    metadata_size_max = config.offset_metadata_size_max
    size = 0
    for topic in request.topics:
        size += len(topic.partitions) * (_COMMIT_SIZE + len(request.group_id) + len(topic.name))
        for each in topic.partitions:
            metadata = each.committed_metadata
            if metadata and len(metadata) <= metadata_size_max:
                size += len(metadata) if metadata.isascii() else len(metadata.encode())
    if size > config.offset_commit_size_max:
        raise CoordinatorError(ErrorCode.INVALID_COMMIT_OFFSET_SIZE)


def _has_expired(
    group: Group, topic: str, partition: int, committed: CommittedOffset, now_ms: int, retention_ms: int
) -> bool:
    if (topic, partition) in group.transactional or group.is_subscribed_to(topic):
        return False
    since = group.expires_since(committed.commit_timestamp)
    if since is None:
        return False
    if committed.expire_timestamp != NO_EXPIRY:
        return now_ms >= committed.expire_timestamp
    return now_ms - since >= retention_ms


def _fetched(index: int, committed: CommittedOffset | None, topic_id: bytes) -> OffsetFetchResponsePartitions:
    """An offset of an earlier topic of the same name does not count."""
    if committed is None or (ZERO_UUID not in (topic_id, committed.topic_id) and topic_id != committed.topic_id):
        return OffsetFetchResponsePartitions(partition_index=index, committed_offset=-1)
    return OffsetFetchResponsePartitions(
        partition_index=index,
        committed_offset=committed.offset,
        committed_leader_epoch=committed.leader_epoch,
        metadata=committed.metadata,
    )


def _unstable(index: int) -> OffsetFetchResponsePartitions:
    return OffsetFetchResponsePartitions(
        partition_index=index, committed_offset=-1, error_code=ErrorCode.UNSTABLE_OFFSET_COMMIT
    )
