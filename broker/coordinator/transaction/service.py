"""`TransactionService`: the transaction coordinator of this broker, as handlers see it.

Its shards live in a `ShardHost` over `__transaction_state`; their markers leave through one `MarkerSender`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from broker.cluster.names import TRANSACTION_STATE
from broker.coordinator.hosting import ShardHost
from broker.coordinator.machine import Outcome, ShardTimers
from broker.coordinator.reply import Reply
from broker.coordinator.shard import Shard
from broker.coordinator.transaction.config import TransactionConfig
from broker.coordinator.transaction.machine import TransactionMachine
from broker.coordinator.transaction.marker_job import MarkerJob
from broker.coordinator.transaction.marker_sender import Brokers, MarkerChannel, MarkerSender
from protocol.errors import ErrorCode

if TYPE_CHECKING:
    from broker.cluster.image import MetadataImage
    from broker.cluster.topics import TopicAdmin
    from broker.config.broker_config import BrokerConfig
    from broker.partition.partition import Partition
    from broker.partitions import Partitions
    from broker.producer_ids import ProducerIds
    from s3stream.catalog.api import BrokerInfo, TopicInfo

TRANSACTIONAL_ID_LENGTH_MAX = 8_000
"""Characters: any such fits the int16 string of a record's key."""

TransactionOperation = Callable[[TransactionMachine, Outcome], None]


class TransactionService:
    def __init__(
        self,
        config: BrokerConfig,
        image: MetadataImage,
        partitions: Partitions,
        topics: TopicAdmin,
        producer_ids: ProducerIds,
        brokers: Brokers,
        now_ms: Callable[[], int],
    ) -> None:
        self.config = TransactionConfig.from_broker(config)
        self._producer_ids = producer_ids
        self._markers = MarkerSender(image, brokers)
        self._channels: dict[int, MarkerChannel] = {}
        self._host: ShardHost[TransactionMachine] = ShardHost(
            TRANSACTION_STATE,
            config.transaction_state_log_num_partitions,
            self._new_machine,
            image,
            partitions,
            topics,
            now_ms,
            on_dropped=self._drop_markers,
        )

    # -- lifecycle --------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Serve what is led here, and what will be. Loading goes on in the background."""
        await self._host.start()

    async def stop(self) -> None:
        """Refuse everything and send no more markers: decided transactions are taken up by whoever loads them next."""
        await self._host.stop()
        self._markers.close()

    async def wait_loaded(self) -> None:
        """Until every shard that is loading now has loaded or gone."""
        await self._host.wait_loaded()

    # -- routing ----------------------------------------------------------------------------------------------------
    def submit(self, transactional_id: str, reply: Reply, operation: TransactionOperation) -> None:
        """Run an operation on the transactional id's shard, as soon as it serves; refused if it is not to be here."""
        if not 0 < len(transactional_id) <= TRANSACTIONAL_ID_LENGTH_MAX:
            reply.refuse(ErrorCode.INVALID_REQUEST)
        else:
            self._host.submit(transactional_id, reply, operation)

    def shards(self) -> Iterable[Shard[TransactionMachine]]:
        """All that are led here, loading ones included."""
        return self._host.shards()

    # -- finding the coordinator --------------------------------------------------------------------------------------
    def topic(self) -> TopicInfo | None:
        return self._host.topic()

    async def create_topic(self) -> None:
        """Raises what TopicAdmin raises; returns with what is led here loaded."""
        await self._host.create_topic()

    def coordinator(self, transactional_id: str) -> BrokerInfo | None:
        """The leader of the transactional id's partition, if there is one alive."""
        return self._host.coordinator(transactional_id)

    # -- machines and their markers -----------------------------------------------------------------------------------
    def _new_machine(self, partition: Partition, timers: ShardTimers) -> TransactionMachine:
        index = partition.index
        self._drop_markers(index)
        channel = MarkerChannel(self._markers, partition.leader_epoch, partial(self._markers_written, index))
        self._channels[index] = channel
        return TransactionMachine(timers, self.config, self._producer_ids.take, channel)

    def _drop_markers(self, index: int) -> None:
        channel = self._channels.pop(index, None)
        if channel is not None:
            channel.close()

    def _markers_written(self, index: int, job: MarkerJob) -> None:
        unheard = Reply(lambda code: code)
        self._host.submit_to(
            index,
            job.transactional_id,
            unheard,
            lambda machine, out: machine.markers_written(out, unheard, job),
        )
