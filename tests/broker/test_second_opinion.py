"""Who cannot renew its lease hears from the others whether it was replaced."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest

from broker import second_opinion
from broker.peers import PeerUnavailable
from broker.second_opinion import SecondOpinion
from protocol.messages.metadata import (
    MetadataRequest,
    MetadataResponse,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from s3stream.catalog.api import BrokerFenced, BrokerInfo
from tests.broker.server.harness import until

ME, OTHER, GONE = 1, 2, 3
TOPIC_ID = b"t" * 16


@dataclass
class Led:
    topic_id: bytes
    index: int
    leader_epoch: int
    closed: bool = False


class Lease:
    def __init__(self) -> None:
        self.held = False
        self.lost: Exception | None = None

    def is_held(self) -> bool:
        return self.held

    def lose(self, error: Exception) -> None:
        self.lost = error


class Around:
    """The image, the partitions that are open here, and the other brokers, of whom one never answers."""

    def __init__(self) -> None:
        self.node_id = ME
        self.leader, self.leader_epoch = ME, 4
        self.asked = 0

    def registered_brokers(self) -> list[BrokerInfo]:
        return [BrokerInfo(each, each, "h", 1, None, "", False, False) for each in (ME, OTHER, GONE)]

    def all(self) -> list[Led]:
        # the second one is being handed over
        return [Led(TOPIC_ID, 0, 4), Led(TOPIC_ID, 1, 4, closed=True)]

    def call(self, node_id: int, version: int, request: MetadataRequest) -> asyncio.Future[Any]:
        assert node_id != ME
        assert [topic.topic_id for topic in request.topics or ()] == [TOPIC_ID]
        assert not request.allow_auto_topic_creation
        self.asked += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if node_id == GONE:
            answer.set_exception(PeerUnavailable("gone"))
            return answer
        # partition 1 is led by somebody else already
        led = [(0, self.leader, self.leader_epoch), (1, OTHER, 99)]
        partitions = [
            MetadataResponsePartition(partition_index=index, leader_id=leader, leader_epoch=epoch)
            for index, leader, epoch in led
        ]
        topic = MetadataResponseTopic(topic_id=TOPIC_ID, name="t", partitions=partitions)
        answer.set_result(MetadataResponse(topics=[topic]))
        return answer


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Around:
    monkeypatch.setattr(second_opinion, "ASK_INTERVAL_S", 0.001)
    return Around()


def asking(lease: Lease, around: Around) -> SecondOpinion:
    return SecondOpinion(cast("Any", lease), around, cast("Any", around), cast("Any", around))


async def test_a_later_leader_epoch_elsewhere_ends_the_lease(around: Around) -> None:
    lease = Lease()
    opinion = asking(lease, around)
    opinion.start()
    await until(lambda: around.asked > 4)
    assert lease.lost is None, "nobody says that it was replaced"
    around.leader, around.leader_epoch = OTHER, 5
    await until(lambda: lease.lost is not None)
    assert isinstance(lease.lost, BrokerFenced)
    assert "broker 2 knows" in str(lease.lost)
    await opinion.stop()


async def test_nobody_is_asked_while_the_lease_is_held(around: Around) -> None:
    lease = Lease()
    lease.held = True
    around.leader, around.leader_epoch = OTHER, 5
    opinion = asking(lease, around)
    opinion.start()
    await asyncio.sleep(0.02)
    assert (around.asked, lease.lost) == (0, None)
    await opinion.stop()
