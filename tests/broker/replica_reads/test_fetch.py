"""What Fetch answers to consumers that say in which rack they are: at the leader, and at a broker of their rack."""

from __future__ import annotations

import dataclasses
from typing import Any
from uuid import uuid4

import pytest

from broker.handlers import fetch
from broker.replica_reads import ReplicaReads
from broker.replica_reads.selection import SETTLED_MS
from protocol.errors import ErrorCode
from protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic, PartitionData
from s3stream.block_cache import BlockReader
from s3stream.catalog.api import BrokerInfo, PartitionInfo, TopicInfo
from s3stream.objectstore.memory import MemoryStore
from tests.broker.handlers_data.node import NODE_ID, Node, answer, context, fetched
from tests.broker.partition.batches import batch
from tests.s3stream.rig import Rig
from tests.s3stream.sim.catalog import MemoryCatalog

LEADER, OTHER = NODE_ID, 2
LARGE = b"x" * 400_000


def broker(node_id: int, rack: str | None) -> BrokerInfo:
    return BrokerInfo(node_id, node_id, "h", 9092, rack, "file:///wal", True, False)


class NearNode(Node):
    """In rack `a`, beside broker 2 in rack `b`."""

    def __init__(self, catalog: Any = None, reader: BlockReader | None = None) -> None:
        super().__init__()
        self.reads = ReplicaReads(
            NODE_ID,
            "a",
            self.image,
            self.partitions,
            catalog or MemoryCatalog(),
            reader or BlockReader(MemoryStore()),
            lambda: self.now_ms,
        )
        self.services = dataclasses.replace(self.services, replica_reads=self.reads)

    async def meet(self, rack: str | None = "b") -> None:
        await self.learn(brokers={LEADER: broker(LEADER, "a"), OTHER: broker(OTHER, rack)})

    async def old_topic(self, factor: int = 2) -> TopicInfo:
        """Led here: 2 MiB in objects, appended long ago, and one record more."""
        topic = dataclasses.replace(self.topic_info("t"), replication_factor=factor)
        await self.learn({topic.topic_id: topic})
        await self.partitions.open_topic(topic)
        for _ in range(5):
            self.appended("t", batch([LARGE]))
        self.log(topic).upload()
        self.appended("t", batch([b"new"]))
        self.now_ms += SETTLED_MS
        return topic

    async def fetch_one(self, offset: int, rack: str = "b", **fields: Any) -> PartitionData:
        response = await answer(self.fetch({("t", 0): offset}, rack_id=rack, **fields))
        return response.responses[0].partitions[0]  # type: ignore[no-any-return]


async def test_the_leader_names_the_replica_of_the_readers_rack_instead_of_sending_records() -> None:
    node = NearNode()
    await node.meet()
    await node.old_topic()
    told = await node.fetch_one(0, max_wait_ms=60_000)
    assert (told.error_code, told.preferred_read_replica, told.records) == (ErrorCode.NONE, OTHER, [])
    assert (told.high_watermark, told.log_start_offset) == (6, 0)


@pytest.mark.parametrize(("rack", "offset"), [("", 0), ("a", 0), ("c", 0), ("b", 5)])
async def test_others_read_from_the_leader(rack: str, offset: int) -> None:
    node = NearNode()
    await node.meet()
    await node.old_topic()
    told = await node.fetch_one(offset, rack)
    assert told.preferred_read_replica == -1
    assert told.records


async def test_only_listed_replicas_stand_in() -> None:
    node = NearNode()
    await node.meet()
    await node.old_topic(factor=1)
    assert (await node.fetch_one(0)).preferred_read_replica == -1


async def test_nobody_is_sent_to_a_broker_that_is_drained() -> None:
    node = NearNode()
    await node.meet()
    await node.old_topic()
    node.image._draining = frozenset({OTHER})
    assert (await node.fetch_one(0)).preferred_read_replica == -1


async def test_what_is_new_is_read_from_the_leader() -> None:
    node = NearNode()
    await node.meet()
    await node.old_topic()
    node.now_ms -= 1
    assert (await node.fetch_one(0)).records


async def test_who_comes_back_without_progress_is_not_sent_again() -> None:
    node = NearNode()
    await node.meet()
    await node.old_topic()
    assert (await node.fetch_one(1)).preferred_read_replica == OTHER
    assert (await node.fetch_one(1)).records
    assert (await node.fetch_one(2)).records


async def test_a_session_is_told_even_if_nothing_else_changed() -> None:
    node = NearNode()
    await node.meet()
    await node.old_topic()
    first = await answer(node.fetch({("t", 0): 5}, rack_id="b", session_epoch=0))
    assert first.session_id
    again = await answer(node.fetch({("t", 0): 0}, rack_id="b", session_id=first.session_id, session_epoch=1))
    assert again.responses[0].partitions[0].preferred_read_replica == OTHER


async def test_a_committed_reader_at_the_last_stable_offset_stays() -> None:
    node = NearNode()
    await node.meet()
    await node.old_topic()
    partition = node.partitions.get("t", 0)
    assert partition is not None
    partition._transactions.begin(1)
    assert (await node.fetch_one(1, isolation_level=1)).preferred_read_replica == -1
    assert (await node.fetch_one(1, isolation_level=0)).preferred_read_replica == OTHER


# -- at the broker of the rack -----------------------------------------------------------------------------------------


class Near:
    """A storage at broker 2, which leads, and this node in the reader's rack."""

    async def __aenter__(self) -> Near:
        self.rig = Rig()
        self.streams = await self.rig.start()
        self.reader = BlockReader(self.rig.store)
        self.node = NearNode(self.rig.catalog, self.reader)
        self.topic = self.info(OTHER, 7)
        await self.node.meet()
        await self.node.learn({self.topic.topic_id: self.topic})
        return self

    async def __aexit__(self, *_: object) -> None:
        self.node.reads.close()
        await self.reader.close()
        await self.rig.stop()

    def info(self, leader: int, epoch: int) -> TopicInfo:
        topic_id = self.topic.topic_id if hasattr(self, "topic") else uuid4()
        return TopicInfo(topic_id, "t", False, 2, (PartitionInfo(0, leader, epoch, *self.rig.stream_ids),), {})

    async def commit(self, *batches: bytes) -> None:
        for each in batches:
            self.streams[0].append(each, 1, 0)
        await self.streams[0].wait_committed(self.streams[0].next_offset)

    async def fetch(self, offset: int, rack: str = "a", epoch: int = 7) -> PartitionData:
        asked = FetchPartition(
            partition=0, fetch_offset=offset, current_leader_epoch=epoch, partition_max_bytes=1 << 20
        )
        request = FetchRequest(
            max_wait_ms=60_000,
            min_bytes=1,
            max_bytes=1 << 25,
            topics=[FetchTopic(topic="t", partitions=[asked])],
            rack_id=rack,
        )
        response = await answer(fetch.handle(self.node.services, context(1, 12), request))
        self.fetched = fetched(response)
        return response.responses[0].partitions[0]  # type: ignore[no-any-return]


async def test_a_broker_of_the_rack_serves_what_is_committed_and_then_names_the_leader() -> None:
    async with Near() as near:
        await near.commit(b"one", b"two")
        told = await near.fetch(0)
        assert (told.error_code, told.preferred_read_replica) == (ErrorCode.NONE, -1)
        assert near.fetched["t", 0] == b"onetwo"
        assert (told.high_watermark, told.log_start_offset) == (2, 0)
        told = await near.fetch(2)
        assert (told.error_code, told.preferred_read_replica, told.records) == (ErrorCode.NONE, OTHER, [])


async def test_of_a_partition_that_was_not_looked_at_yet_no_offsets_are_told() -> None:
    async with Near() as near:
        await near.commit(b"one")
        wanted = [FetchPartition(partition=0, fetch_offset=0, current_leader_epoch=7, partition_max_bytes=1 << 20)] * 2
        topics = [FetchTopic(topic="t", partitions=wanted)]
        request = FetchRequest(max_wait_ms=0, min_bytes=1, max_bytes=1, topics=topics, rack_id="a")
        response = await answer(fetch.handle(near.node.services, context(1, 12), request))
        read, not_read = response.responses[0].partitions
        assert (b"".join(read.records), read.high_watermark) == (b"one", 1)
        assert (not_read.records, not_read.high_watermark, not_read.log_start_offset) == ([], -1, -1)


@pytest.mark.parametrize(("rack", "epoch"), [("", 7), ("b", 7), ("a", 6), ("a", 8)])
async def test_everybody_else_is_told_that_this_is_not_the_leader(rack: str, epoch: int) -> None:
    async with Near() as near:
        await near.commit(b"one")
        told = await near.fetch(0, rack, epoch)
        assert told.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_a_leader_that_moved_is_named_and_one_that_is_gone_is_not() -> None:
    async with Near() as near:
        await near.commit(b"one")
        assert (await near.fetch(1)).preferred_read_replica == OTHER
        moved = near.info(3, 8)
        await near.node.learn({moved.topic_id: moved}, {3: broker(3, "b")})
        assert (await near.fetch(1)).error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert (await near.fetch(1, epoch=8)).preferred_read_replica == 3
        assert (await near.fetch(0, epoch=8)).records, "committed is committed, whoever leads"
        await near.node.learn(brokers={3: dataclasses.replace(broker(3, "b"), alive=False)})
        assert (await near.fetch(0, epoch=8)).records
        assert (await near.fetch(1, epoch=8)).error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_a_broker_that_is_drained_stands_in_no_more() -> None:
    async with Near() as near:
        await near.commit(b"one")
        assert (await near.fetch(0)).records
        near.node.image._draining = frozenset({NODE_ID})
        assert (await near.fetch(0)).error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
