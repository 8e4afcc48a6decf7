"""Fetch and ListOffsets under read_committed: they end at the last stable offset, and what was aborted is named."""

from __future__ import annotations

import asyncio
from typing import Any

from broker.handlers import list_offsets
from broker.partition.partition import Partition
from broker.partition.verification import NOT_REQUIRED
from broker.request import Deferred
from protocol.errors import ErrorCode
from protocol.messages.fetch import FetchResponse, PartitionData
from protocol.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from s3stream.api import FetchResult
from tests.broker.handlers_data import virtual_loop
from tests.broker.handlers_data.node import NOW_MS, Node, answer, context, outcome
from tests.broker.partition.batches import batch
from tests.broker.partition.committed_reader import visible_offsets

READ_UNCOMMITTED, READ_COMMITTED = 0, 1


class Transactional(Node):
    """A node with the topic "t", and producers 1, 2, ... whose transactions need no coordinator."""

    @property
    def partition(self) -> Partition:
        partition = self.partitions.get("t", 0)
        assert partition is not None
        return partition

    def send(self, producer: int, sequence: int, values: int = 1, timestamp: int = NOW_MS, size: int = 5) -> None:
        data = batch(
            [b"v" * size] * values,
            timestamps=[timestamp] * values,
            producer_id=producer,
            epoch=0,
            sequence=sequence,
            transactional=True,
        )
        self.partition.append_as_leader(memoryview(data), NOW_MS, transactional_id="tx", verification=NOT_REQUIRED)

    def end(self, producer: int, commit: bool, flush: bool = True) -> None:
        self.partition.append_marker(producer, 0, 0, commit, NOW_MS, 1)
        if flush:
            self.storage.flush()

    async def delete(self, offset: int) -> None:
        deleting = asyncio.ensure_future(self.partition.delete_records(offset))
        await asyncio.sleep(0)
        self.storage.flush()
        assert await deleting == offset

    def fetch_committed(self, offset: int = 0, **fields: Any) -> Any:
        return self.fetch({("t", 0): offset}, isolation_level=READ_COMMITTED, **fields)


async def node_with_topic() -> Transactional:
    node = Transactional()
    await node.topic("t")
    return node


def only(response: FetchResponse) -> PartitionData:
    return response.responses[0].partitions[0]


def size_of(data: PartitionData) -> int:
    return len(b"".join(data.records or []))  # type: ignore[arg-type]


def aborted_in(data: PartitionData) -> list[tuple[int, int]] | None:
    if data.aborted_transactions is None:
        return None
    return [(each.producer_id, each.first_offset) for each in data.aborted_transactions]


async def two_transactions() -> Transactional:
    """0-1 of producer 1 (aborted at 4), 2-3 of producer 2 (committed at 5), 6 of producer 1 (open)."""
    node = await node_with_topic()
    node.send(1, 0, 2)
    node.send(2, 0, 2)
    node.end(1, False)
    node.end(2, True)
    node.send(1, 2)
    node.storage.flush()
    return node


async def test_readers_are_bounded_by_their_isolation_level() -> None:
    node = await two_transactions()
    data = only(outcome(node.fetch_committed()))
    assert (data.high_watermark, data.last_stable_offset) == (7, 6)
    assert aborted_in(data) == [(1, 0)]
    assert visible_offsets(data.records, aborted_in(data) or [], 0) == [2, 3]  # type: ignore[arg-type]
    everything = only(outcome(node.fetch({("t", 0): 0}, isolation_level=READ_UNCOMMITTED)))
    assert (everything.high_watermark, everything.last_stable_offset) == (7, 6)
    assert aborted_in(everything) is None
    assert size_of(everything) > size_of(data)


async def test_only_what_overlaps_the_range_is_named() -> None:
    node = await two_transactions()
    node.end(1, False)
    # the marker at 4 is what a reader from 4 on needs the first entry for
    for offset, expected in ((3, [(1, 0), (1, 6)]), (4, [(1, 0), (1, 6)]), (5, [(1, 6)])):
        assert aborted_in(only(outcome(node.fetch_committed(offset)))) == expected
    one_batch = only(outcome(node.fetch_committed(2, partition_max=1)))
    assert aborted_in(one_batch) == [(1, 0)]


async def test_where_nothing_was_aborted_the_list_is_empty_and_not_absent() -> None:
    node = await node_with_topic()
    node.appended("t")
    assert aborted_in(only(outcome(node.fetch_committed()))) == []
    assert aborted_in(only(outcome(node.fetch_committed(1)))) == []


async def test_older_data_comes_with_the_same_list() -> None:
    node = await two_transactions()
    cached = only(outcome(node.fetch_committed()))
    node.storage.streams[1].cached_from = 6
    cold = only(await answer(node.fetch_committed()))
    assert b"".join(cold.records) == b"".join(cached.records)  # type: ignore[arg-type]
    assert aborted_in(cold) == aborted_in(cached)
    assert (cold.high_watermark, cold.last_stable_offset) == (7, 6)


async def test_a_read_that_a_deletion_overtook_does_not_return_what_was_aborted() -> None:
    """The index of aborted transactions is trimmed with the log: records without it would pass for committed."""
    node = await two_transactions()
    stream = node.storage.streams[1]
    stream.cached_from = 6
    fetch = stream.fetch

    async def overtaken(offset: int, max_size: int, end_offset: int) -> FetchResult:
        found = await fetch(offset, max_size, end_offset)
        await node.delete(5)
        return found

    stream.fetch = overtaken  # type: ignore[method-assign]
    data = only(await answer(node.fetch_committed()))
    assert data.error_code == ErrorCode.OFFSET_OUT_OF_RANGE


async def test_between_the_last_stable_offset_and_the_end_there_is_nothing_yet() -> None:
    node = await two_transactions()
    node.appended("t")
    for offset in (6, 7, 8):
        data = only(outcome(node.fetch_committed(offset)))
        assert (data.error_code, b"".join(data.records or [])) == (0, b"")  # type: ignore[arg-type]
    data = only(outcome(node.fetch_committed(9)))
    assert data.error_code == ErrorCode.OFFSET_OUT_OF_RANGE


async def test_a_transaction_is_read_once_its_marker_is_durable() -> None:
    node = await node_with_topic()
    node.send(1, 0)
    node.storage.flush()
    node.end(1, True, flush=False)
    assert only(outcome(node.fetch_committed())).last_stable_offset == 0
    node.storage.flush()
    assert only(outcome(node.fetch_committed())).last_stable_offset == 2


async def test_a_deletion_that_cuts_through_a_transaction_leaves_its_rest_to_its_marker() -> None:
    node = await node_with_topic()
    node.send(1, 0, 3)
    node.send(1, 3, 3)
    node.storage.flush()
    await node.delete(2)
    data = only(outcome(node.fetch_committed(2)))
    assert (data.log_start_offset, data.last_stable_offset, data.high_watermark) == (2, 2, 6)
    node.end(1, False)
    data = only(outcome(node.fetch_committed(2)))
    assert data.last_stable_offset == 7
    assert visible_offsets(data.records, aborted_in(data) or [], 2) == []  # type: ignore[arg-type]


# -- waiting ---------------------------------------------------------------------------------------------------------


def test_a_read_committed_fetch_is_not_woken_by_an_open_transaction() -> None:
    async def main() -> None:
        node = await node_with_topic()
        result = node.fetch_committed(max_wait_ms=60_000, min_bytes=1)
        assert isinstance(result, Deferred)
        reads = counted_reads(node)
        node.send(1, 0, 3)
        node.storage.flush()
        await turn()
        assert (result.done, reads) == (False, [])
        node.end(1, True)
        data = only(await answer(result))
        assert data.last_stable_offset == 4
        assert len(reads) == 1

    virtual_loop.run(main())


def test_min_bytes_count_only_what_is_below_the_last_stable_offset() -> None:
    async def main() -> None:
        node = await node_with_topic()
        node.send(1, 0, size=5000)
        node.storage.flush()
        result = node.fetch_committed(max_wait_ms=60_000, min_bytes=5500)
        uncommitted = node.fetch({("t", 0): 0}, max_wait_ms=60_000, min_bytes=5500)
        node.end(1, True)
        node.send(2, 0, size=5000)
        node.storage.flush()
        await turn()
        assert isinstance(uncommitted, Deferred)
        assert uncommitted.done
        assert not result.done
        node.end(2, False)
        data = only(await answer(result))
        assert aborted_in(data) == [(2, 2)]
        assert size_of(data) > 10_000

    virtual_loop.run(main())


def test_without_transactions_it_is_woken_exactly_as_others_are() -> None:
    async def main() -> None:
        node = await node_with_topic()
        result = node.fetch_committed(max_wait_ms=60_000, min_bytes=1000)
        reads = counted_reads(node)
        for _ in range(4):
            node.produce("t", batch([b"x" * 300]))
            node.storage.flush()
            await turn()
        assert result.done
        assert len(reads) == 1

    virtual_loop.run(main())


def test_what_a_transaction_holds_since_before_a_restart_counts_when_it_ends() -> None:
    async def main() -> None:
        before = await node_with_topic()
        before.send(1, 0, size=5000)
        before.storage.flush()
        node = Transactional()
        node.storage = before.storage
        node.partitions._storage = before.storage  # type: ignore[assignment]
        await node.learn({topic.topic_id: topic for topic in before.image.topics()})
        await node.partitions.open_all()
        assert node.partition.last_stable_offset == 0
        result = node.fetch_committed(max_wait_ms=60_000, min_bytes=5000)
        assert isinstance(result, Deferred)
        node.end(1, True)
        await turn()
        assert result.done

    virtual_loop.run(main())


def counted_reads(node: Transactional) -> list[int]:
    reads: list[int] = []
    stream = node.storage.streams[1]
    read_cached = stream.read_cached

    def counting(offset: int, max_size: int, end_offset: int) -> Any:
        reads.append(offset)
        return read_cached(offset, max_size, end_offset)

    stream.read_cached = counting  # type: ignore[method-assign]
    return reads


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# -- ListOffsets -----------------------------------------------------------------------------------------------------


async def test_list_offsets_ends_at_the_last_stable_offset() -> None:
    node = await node_with_topic()
    node.appended("t", batch(timestamps=[NOW_MS]))
    node.send(1, 0, timestamp=NOW_MS + 10)
    node.appended("t", batch(timestamps=[NOW_MS + 20]))
    latest, max_timestamp = -1, -3
    for timestamp, committed, uncommitted in (
        (latest, 1, 3),
        (NOW_MS, 0, 0),
        (NOW_MS + 5, -1, 1),
        (max_timestamp, -1, 2),
    ):
        assert await listed(node, timestamp, READ_COMMITTED) == committed
        assert await listed(node, timestamp, READ_UNCOMMITTED) == uncommitted
    node.end(1, True)
    for timestamp, expected in ((latest, 4), (NOW_MS + 5, 1), (max_timestamp, 2)):
        assert await listed(node, timestamp, READ_COMMITTED) == expected


async def listed(node: Node, timestamp: int, isolation_level: int) -> int:
    topic = ListOffsetsTopic(name="t", partitions=[ListOffsetsPartition(partition_index=0, timestamp=timestamp)])
    request = ListOffsetsRequest(topics=[topic], isolation_level=isolation_level)
    response = await answer(list_offsets.handle(node.services, context(2, 11), request))
    offset: int = response.topics[0].partitions[0].offset
    return offset
