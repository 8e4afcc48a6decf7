"""Asks the other brokers who leads, while this one's lease is over.

A broker that is cut off from the metadata database, it alone, would hold its clients' acknowledgements back for as
long as that lasts: it cannot learn there that it was fenced and replaced. The others know, so it asks them for the
leaders of partitions that it has open. A later leader epoch of one of them proves that this broker's registration has
ended: what it has open is given to nobody else before. Then it ends, and its clients look for the new leaders.

That nobody says so proves nothing; it goes on waiting for the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import structlog

from broker.background import BackgroundTask
from broker.lease import Lease
from broker.peers import PeerUnavailable
from protocol.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from s3stream.catalog.api import BrokerFenced, BrokerInfo

if TYPE_CHECKING:
    from broker.partition.partition import Partition
    from broker.peers import Peers

log = structlog.get_logger()

ASK_INTERVAL_S = 0.5
ANSWER_TIMEOUT_S = 2.0
PARTITIONS_MAX = 100
"""As many of the partitions that are open here are asked for: all of a broker are taken over at once, or in one go of
recoveries that takes moments."""
_VERSION = 12


class Image(Protocol):
    node_id: int

    def registered_brokers(self) -> list[BrokerInfo]: ...


class OpenPartitions(Protocol):
    def all(self) -> Iterable[Partition]: ...


class SecondOpinion:
    """From `start` to `stop`. Tells the lease if it is lost for good."""

    def __init__(self, lease: Lease, image: Image, partitions: OpenPartitions, peers: Peers) -> None:
        self._lease = lease
        self._image = image
        self._partitions = partitions
        self._peers = peers
        self._task = BackgroundTask(self._run, "second-opinion")

    def start(self) -> None:
        self._task.start()

    async def stop(self) -> None:
        await self._task.stop()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(ASK_INTERVAL_S)
            if not self._lease.is_held() and (witness := await self._ask_all()) is not None:
                self._lease.lose(BrokerFenced(f"replaced meanwhile, as broker {witness} knows"))
                return

    async def _ask_all(self) -> int | None:
        """The node id of a broker that knows of a later leader."""
        # one that is being handed over may have another leader already, and proves nothing
        led_here = (each for each in self._partitions.all() if not each.closed)
        # by id: one that was made anew under the name of one that is open here is another topic
        led = {(each.topic_id, each.index): each.leader_epoch for each in islice(led_here, PARTITIONS_MAX)}
        others = [broker.node_id for broker in self._image.registered_brokers() if not broker.closed]
        asked = [self._ask(node_id, led) for node_id in others if node_id != self._image.node_id]
        return next((found for found in await asyncio.gather(*asked) if found is not None), None)

    async def _ask(self, node_id: int, led: dict[tuple[bytes, int], int]) -> int | None:
        topics = [MetadataRequestTopic(topic_id=each, name=None) for each in sorted({each for each, _ in led})]
        request = MetadataRequest(topics=topics, allow_auto_topic_creation=False)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                response: MetadataResponse = await self._peers.call(node_id, _VERSION, request)
        except (PeerUnavailable, TimeoutError):
            return None
        for topic in response.topics:
            for partition in topic.partitions:
                ours = led.get((topic.topic_id, partition.partition_index))
                if ours is not None and partition.leader_epoch > ours and partition.leader_id != self._image.node_id:
                    return node_id
        return None
