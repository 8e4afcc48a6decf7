"""Reads near the consumer, as the Fetch handler calls them: at the leader and at the broker that stands in for it.

At the leader, a reader that is catching up is told its preferred replica instead of being given records. At that
broker, a view takes the partition's place; when the view has nothing for the reader, its preferred replica is the
leader: no client takes that for an error, and none has to ask for metadata first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from broker.cluster.image import MetadataImage
from broker.cluster.leadership import leaderships
from broker.leadership import find_partition
from broker.partition.partition import Partition
from broker.partitions import Partitions
from broker.replica_reads.redirects import Redirects
from broker.replica_reads.selection import is_catching_up, preferred_replica
from broker.replica_reads.view import BACK_TO_LEADER, ReplicaView
from broker.replica_reads.views import ReplicaViews
from protocol.errors import ErrorCode
from protocol.types import ZERO_UUID
from s3stream.api import FetchResult
from s3stream.block_cache import BlockReader
from s3stream.catalog.api import Catalog, TopicInfo

if TYPE_CHECKING:
    from broker.fetch import Fetch
    from broker.fetch_sessions import Fetched, FetchTarget

_NOTHING = FetchResult((), 0, -1)
_UNKNOWN_OFFSET = -1


class ReplicaReads:
    """`rack`: of this broker."""

    def __init__(
        self,
        node_id: int,
        rack: str | None,
        image: MetadataImage,
        partitions: Partitions,
        catalog: Catalog,
        reader: BlockReader,
        now_ms: Callable[[], int],
    ) -> None:
        self._node_id = node_id
        self._rack = rack
        self._image = image
        self._partitions = partitions
        self._views = ReplicaViews(catalog, reader)
        self._now_ms = now_ms
        self._redirects = Redirects()

    def close(self) -> None:
        self._views.close()

    # -- at the broker that stands in -------------------------------------------------------------------------------
    def attach(self, targets: Sequence[FetchTarget], rack: str) -> None:
        """Before a fetch from `rack` reads: give views to the targets that others lead."""
        serves = rack == self._rack and self._node_id not in self._image.draining()
        for target in targets:
            partition = target.partition
            if partition is None or partition.closed or isinstance(partition, ReplicaView):
                target.partition = self._find(target) if serves else None

    def _find(self, target: FetchTarget) -> ReplicaView | None:
        image = self._image
        by_id = target.topic_id != ZERO_UUID
        topic = image.topic_by_id(target.topic_id) if by_id else image.topic(target.topic)
        info = find_partition(topic, target.index)
        if topic is None or info is None or self._node_id in (info.leader, info.target):
            return None
        if target.leader_epoch not in (_UNKNOWN_OFFSET, info.leader_epoch):
            return None
        if self._partitions.get(topic.name, target.index) is not None:
            return None
        return self._views.get(topic, info)

    def send_back(self, fetch: Fetch) -> None:
        """After a fetch has read: readers for whom their views had nothing go to the leader."""
        for position, result in enumerate(fetch.results):
            if result.found is BACK_TO_LEADER:
                view = result.target.partition
                assert isinstance(view, ReplicaView)
                leader = self._image.broker(view.leader)
                if leader is not None and leader in self._image.brokers():
                    fetch.results[position] = _directed(result, view.leader)
                else:
                    code = ErrorCode.NOT_LEADER_OR_FOLLOWER
                    fetch.results[position] = result._replace(error_code=code, found=_NOTHING)

    # -- at the leader ----------------------------------------------------------------------------------------------
    def send_away(self, fetch: Fetch, rack: str, connection_id: int) -> None:
        """After a fetch from `rack` has looked into memory: readers of old records go to a broker of their rack."""
        if rack == self._rack:
            return
        sent = set()
        for position, result in enumerate(fetch.results):
            partition = result.target.partition
            if result.error_code or result.diverging is not None or not isinstance(partition, Partition):
                continue
            end_offset = min(partition.log.committed_offset, partition.end_offset(fetch.isolation_level))
            if result.target.fetch_offset >= end_offset:
                continue
            replica = self._replica_for(partition, result.target.fetch_offset, rack, connection_id)
            if replica is not None:
                fetch.results[position] = _directed(result, replica)
                fetch.size -= result.found.size if result.found is not None else 0
                sent.add(position)
        if sent:
            fetch.cold = [each for each in fetch.cold if each[0] not in sent]
            fetch.answer_now = True

    def _replica_for(self, partition: Partition, offset: int, rack: str, connection_id: int) -> int | None:
        topic = self._image.topic_by_id(partition.topic_id)
        if topic is None or not is_catching_up(partition.log.ranges(), offset, self._now_ms()):
            return None
        replicas = self._image.derived(topic, _replica_lists)[partition.index]
        replica = preferred_replica(self._node_id, replicas, rack, self._image.receivers(), partition.index)
        reader = (connection_id, partition.topic_id, partition.index)
        if replica is None or not self._redirects.may_send(reader, offset, monotonic()):
            return None
        return replica


def _directed(result: Fetched, node_id: int) -> Fetched:
    # even if nothing else changed since the last response of the session, this is to be told
    result.target.sent_high_watermark = _UNKNOWN_OFFSET
    return result._replace(found=_NOTHING, aborted=(), preferred_read_replica=node_id)


def _replica_lists(image: MetadataImage, topic: TopicInfo) -> list[list[int]]:
    return [told.replicas for _, told in leaderships(image, topic)]
