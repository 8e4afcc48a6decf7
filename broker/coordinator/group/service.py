"""`GroupService`: the group coordinator of this broker, as handlers see it.

Its shards live in a `ShardHost` over `__consumer_offsets`. Offsets of deleted topics go with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from broker.cluster.names import CONSUMER_OFFSETS
from broker.coordinator.group.config import GroupConfig
from broker.coordinator.group.image_topics import ImageTopics
from broker.coordinator.group.machine import GroupMachine
from broker.coordinator.hosting import ShardHost
from broker.coordinator.log import Marker
from broker.coordinator.machine import Outcome
from broker.coordinator.reply import Reply
from broker.coordinator.shard import Shard
from protocol.errors import ErrorCode
from protocol.records import Codec

if TYPE_CHECKING:
    from broker.cluster.image import MetadataImage
    from broker.cluster.topics import TopicAdmin
    from broker.config.broker_config import BrokerConfig
    from broker.partitions import Partitions
    from s3stream.catalog.api import BrokerInfo, Changes, TopicInfo

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
        self.config = GroupConfig.from_broker(config, lambda group_id: image.dynamic_configs("group", group_id))
        topics_view = ImageTopics(image)
        self._image = image
        self._host: ShardHost[GroupMachine] = ShardHost(
            CONSUMER_OFFSETS,
            config.offsets_topic_num_partitions,
            lambda _, timers: GroupMachine(timers, self.config, topics_view),
            image,
            partitions,
            topics,
            now_ms,
            Codec(config.offsets_topic_compression_codec),
        )
        self._topic_names: dict[UUID, str] = {}
        self._unsubscribe: Callable[[], None] | None = None

    # -- lifecycle --------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Serve what is led here, and what will be. Loading goes on in the background."""
        self._topic_names = {topic.topic_id: topic.name for topic in self._image.topics()}
        self._unsubscribe = self._image.subscribe(self._follow)
        await self._host.start()

    async def stop(self) -> None:
        """Refuse everything; what was appended is the log's to keep."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        await self._host.stop()

    async def wait_loaded(self) -> None:
        """Until every shard that is loading now has loaded or gone."""
        await self._host.wait_loaded()

    # -- routing ----------------------------------------------------------------------------------------------------
    def submit(self, group_id: str, reply: Reply, operation: GroupOperation) -> None:
        """Run an operation on the group's shard, as soon as it serves; refused if it is not to be here."""
        self._host.submit(group_id, reply, operation)

    def complete_transaction(
        self,
        index: int,
        producer_id: int,
        producer_epoch: int,
        coordinator_epoch: int,
        commit: bool,
        transaction_version: int,
    ) -> Reply:
        """End a producer's transaction in a partition of the offsets topic: what it committed there takes effect, or
        does not. Answered with an ErrorCode when that is durable."""
        reply = Reply(_marker_refusal)
        marker = Marker(producer_id, producer_epoch, coordinator_epoch, commit, transaction_version)
        self._host.end_transaction(index, reply, marker)
        return reply

    def shards(self) -> Iterable[Shard[GroupMachine]]:
        """All that are led here, loading ones included."""
        return self._host.shards()

    def partition_of(self, group_id: str) -> int:
        return self._host.partition_of(group_id)

    # -- finding the coordinator --------------------------------------------------------------------------------------
    def topic(self) -> TopicInfo | None:
        return self._host.topic()

    async def create_topic(self) -> None:
        """Raises what TopicAdmin raises; returns with what is led here loaded."""
        await self._host.create_topic()

    def coordinator(self, group_id: str) -> BrokerInfo | None:
        """The leader of the group's partition, if there is one alive."""
        return self._host.coordinator(group_id)

    # -- following the image ----------------------------------------------------------------------------------------
    def _follow(self, changes: Changes) -> None:
        for topic_id, topic in changes.topics.items():
            if topic is not None:
                self._topic_names[topic_id] = topic.name
            elif (name := self._topic_names.pop(topic_id, None)) is not None:
                forget = partial(_forget_topic, name, topic_id.bytes)
                for shard in [*self._host.shards()]:
                    shard.submit(None, _unheard(), forget)


def _forget_topic(name: str, topic_id: bytes, machine: GroupMachine, out: Outcome) -> None:
    machine.offsets.forget_topic(out, name, topic_id)


_UNAVAILABLE = (
    ErrorCode.NOT_COORDINATOR,
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
)


def _marker_refusal(code: ErrorCode) -> ErrorCode:
    """A transaction coordinator expects what leaders of partitions answer, and tries again."""
    return ErrorCode.NOT_LEADER_OR_FOLLOWER if code in _UNAVAILABLE else code


def _unheard() -> Reply:
    """For what the broker itself submits."""
    return Reply(lambda code: code)
