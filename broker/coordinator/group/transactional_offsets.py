"""Offsets that producers commit in their transactions (KIP-98, KIP-447): pending until the transaction ends.

A commit writes records that belong to the producer's transaction. Until its marker, `Group.transactional` holds them
beside the group's offsets: who fetches stable offsets waits, and neither the group nor those offsets expire. A commit
marker makes them the group's offsets, an abort marker drops them.

Invariants
----------
* Of two commits for one partition the later *in the log* wins, whichever marker comes first. So what is pending is
  superseded (held without a value: it is still pending) as soon as something behind it counts.
* A tombstone of an offset takes what is pending for it along.
* Live state and replay of the log end in the same state; see `coordinator.replay`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.group.config import GroupConfig
from broker.coordinator.group.group import Group
from broker.coordinator.group.offsets import check_size
from broker.coordinator.group.records import CommittedOffset, OffsetCommit
from broker.coordinator.log import TransactionalWrite
from broker.coordinator.machine import Outcome
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode
from protocol.messages.txn_offset_commit import (
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
    TxnOffsetCommitResponsePartition,
    TxnOffsetCommitResponseTopic,
)

_Key = tuple[str, str, int]
"""Group, topic, partition."""


class TransactionalOffsets:
    """`new_group` puts a simple group into the table for offsets of a group that does not exist; `drop_unused` takes a
    group out of it that nothing speaks of any more."""

    def __init__(
        self,
        groups: Mapping[str, Group],
        new_group: Callable[[str], Group],
        drop_unused: Callable[[Group], None],
        config: GroupConfig,
    ) -> None:
        self._groups = groups
        self._new_group = new_group
        self._drop_unused = drop_unused
        self._config = config
        self._open: dict[int, dict[_Key, None]] = {}
        """Producer id -> what its transaction has written to; some of it may have been forgotten since."""

    # -- TxnOffsetCommit --------------------------------------------------------------------------------------------
    def commit(
        self,
        out: Outcome,
        reply: Reply,
        request: TxnOffsetCommitRequest,
        topic_ids: Mapping[str, bytes],
        verification: object | None,
    ) -> None:
        """Topics and partitions are known to exist. `verification`: the guard of the log's partition, if needed.

        As with Kafka the offsets have no topic id: the request gives names only.
        """
        check_size(request, self._config)
        self._check(request, topic_ids)
        group_id = request.group_id
        metadata_size_max = self._config.offset_metadata_size_max
        topics = []
        for topic in request.topics:
            partitions = []
            for each in topic.partitions:
                metadata = each.committed_metadata or ""
                error = ErrorCode.NONE
                if len(metadata) > metadata_size_max:
                    error = ErrorCode.OFFSET_METADATA_TOO_LARGE
                else:
                    committed = CommittedOffset(
                        each.committed_offset, each.committed_leader_epoch, metadata, out.now_ms
                    )
                    out.write(OffsetCommit(group_id, topic.name, each.partition_index, committed))
                partitions.append(
                    TxnOffsetCommitResponsePartition(partition_index=each.partition_index, error_code=error)
                )
            topics.append(TxnOffsetCommitResponseTopic(name=topic.name, partitions=partitions))
        out.transaction = TransactionalWrite(request.producer_id, request.producer_epoch, verification)
        out.answer(reply, TxnOffsetCommitResponse(topics=topics))

    def _check(self, request: TxnOffsetCommitRequest, topic_ids: Mapping[str, bytes]) -> None:
        """A producer that names a member is fenced with it: by another generation, or another member in its place."""
        group = self._groups.get(request.group_id)
        generation = request.generation_id
        if group is None:
            if generation >= 0:
                raise CoordinatorError(ErrorCode.ILLEGAL_GENERATION)
            return
        try:
            check = group.check_transactional_commit(request.member_id, request.group_instance_id, generation)
            if check is not None:
                for topic in request.topics:
                    for partition in topic.partitions:
                        check(topic_ids[topic.name], partition.partition_index)
        except CoordinatorError as error:
            if error.code is ErrorCode.STALE_MEMBER_EPOCH:
                raise CoordinatorError(ErrorCode.ILLEGAL_GENERATION) from error
            raise

    # -- replay -----------------------------------------------------------------------------------------------------
    def replay_pending(self, producer_id: int, record: OffsetCommit) -> None:
        group_id, topic, partition, committed = record
        group = self._groups.get(group_id) or self._new_group(group_id)
        held = group.transactional.setdefault((topic, partition), {})
        held.pop(producer_id, None)  # so that it is the latest one
        held[producer_id] = committed
        self._open.setdefault(producer_id, {})[group_id, topic, partition] = None

    def end(self, producer_id: int, commit: bool) -> Collection[str]:
        """The transaction is over; returns the groups that it wrote to."""
        touched: dict[str, None] = {}
        for group_id, topic, partition in self._open.pop(producer_id, ()):
            group = self._groups.get(group_id)
            held = group.transactional.get((topic, partition)) if group is not None else None
            if group is None or held is None or producer_id not in held:
                continue
            touched[group_id] = None
            committed = held[producer_id]
            if commit and committed is not None:
                group.offsets.setdefault(topic, {})[partition] = committed
                for earlier in held:
                    held[earlier] = None
                    if earlier == producer_id:
                        break
            del held[producer_id]
            if not held:
                del group.transactional[topic, partition]
        for group_id in touched:
            self._drop_unused(self._groups[group_id])
        return touched

    @property
    def open_producers(self) -> Collection[int]:
        """Ids of producers whose transactions have offsets here."""
        return self._open.keys()
