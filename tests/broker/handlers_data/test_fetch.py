from __future__ import annotations

import asyncio

import pytest

from broker.handlers import fetch
from broker.request import Deferred
from protocol.errors import ErrorCode
from protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from s3stream.catalog.api import BrokerInfo
from tests.broker.handlers_data import virtual_loop
from tests.broker.handlers_data.node import Node, answer, context, fetched, outcome
from tests.broker.partition.batches import batch


async def filled(count: int = 3, partitions: int = 1, size: int = 100) -> Node:
    node = Node()
    await node.topic("t", partitions=partitions)
    for index in range(partitions):
        for _ in range(count):
            node.appended("t", batch([b"x" * size, b"y"]), index)
    return node


async def test_what_is_durable_is_returned_at_once_as_it_is_stored() -> None:
    node = await filled()
    node.produce("t")
    response = outcome(node.fetch({("t", 0): 0}))
    data = response.responses[0].partitions[0]
    stored = b"".join(each[2] for each in node.storage.streams[1].batches[:3])
    assert b"".join(data.records) == stored
    assert (data.high_watermark, data.last_stable_offset, data.log_start_offset) == (6, 6, 0)
    assert data.aborted_transactions is None
    assert data.preferred_read_replica == -1


async def test_a_fetch_from_inside_a_batch_returns_it_whole() -> None:
    node = await filled()
    response = outcome(node.fetch({("t", 0): 3}))
    assert fetched(response)["t", 0] == b"".join(each[2] for each in node.storage.streams[1].batches[1:])


async def test_the_first_batch_is_returned_whole_over_every_limit() -> None:
    node = await filled(partitions=2, size=1000)
    response = outcome(node.fetch({("t", 0): 0, ("t", 1): 0}, max_bytes=10, partition_max=10))
    sizes = {key: len(records) for key, records in fetched(response).items()}
    assert sizes["t", 0] == len(node.storage.streams[1].batches[0][2])
    assert sizes["t", 1] == 0


async def test_the_limit_of_the_response_is_shared_in_order() -> None:
    node = await filled(count=10, partitions=3)
    one = len(node.storage.streams[1].batches[0][2])
    response = outcome(node.fetch({("t", index): 0 for index in range(3)}, max_bytes=15 * one))
    assert [len(records) // one for records in fetched(response).values()] == [10, 5, 0]


@pytest.mark.parametrize("offset", [0, 7])
async def test_offsets_outside_of_the_log_are_out_of_range(offset: int) -> None:
    node = await filled()
    partition = node.partitions.get("t", 0)
    assert partition is not None
    await partition.delete_records(1)
    data = outcome(node.fetch({("t", 0): offset}, max_wait_ms=500)).responses[0].partitions[0]
    assert (data.error_code, data.high_watermark) == (ErrorCode.OFFSET_OUT_OF_RANGE, -1)


async def test_an_offset_that_is_not_durable_yet_is_waited_for() -> None:
    node = await filled()
    node.produce("t", batch([b"a", b"b"]))
    result = node.fetch({("t", 0): 7}, max_wait_ms=1000)
    assert isinstance(result, Deferred)
    result.cancel()


@pytest.mark.parametrize(
    ("epoch", "code"),
    [(5, 0), (-1, 0), (4, ErrorCode.FENCED_LEADER_EPOCH), (6, ErrorCode.UNKNOWN_LEADER_EPOCH)],
)
async def test_the_client_s_leader_epoch_is_checked(epoch: int, code: int) -> None:
    node = await filled()
    wanted = FetchPartition(partition=0, current_leader_epoch=epoch, partition_max_bytes=1000)
    request = FetchRequest(min_bytes=1, topics=[FetchTopic(topic="t", partitions=[wanted])])
    response = outcome(fetch.handle(node.services, context(1, 12), request))
    assert response.responses[0].partitions[0].error_code == code


async def test_a_log_that_diverged_is_told_where() -> None:
    node = await filled()
    partition = node.partitions.get("t", 0)
    assert partition is not None
    partition.set_leader_epoch(8)
    node.appended("t")
    wanted = FetchPartition(partition=0, fetch_offset=7, last_fetched_epoch=5, partition_max_bytes=1000)
    request = FetchRequest(min_bytes=1, topics=[FetchTopic(topic="t", partitions=[wanted])])
    data = outcome(fetch.handle(node.services, context(1, 12), request)).responses[0].partitions[0]
    assert (data.diverging_epoch.epoch, data.diverging_epoch.end_offset) == (5, 6)


async def test_older_data_is_fetched_several_partitions_at_once() -> None:
    node = await filled(partitions=3)
    for stream in node.storage.streams.values():
        stream.cached_from = 4
    response = await answer(node.fetch({("t", 0): 0, ("t", 1): 4, ("t", 2): 2}))
    sizes = {key: len(records) for key, records in fetched(response).items()}
    one = len(node.storage.streams[1].batches[0][2])
    assert sizes == {("t", 0): 3 * one, ("t", 1): one, ("t", 2): 2 * one}


async def test_topic_ids_that_nobody_has_are_unknown() -> None:
    node = await filled()
    topic = node.image.topic("t")
    assert topic is not None
    wanted = [FetchPartition(partition=0, partition_max_bytes=1000)]
    request = FetchRequest(
        min_bytes=1,
        topics=[
            FetchTopic(topic_id=topic.topic_id.bytes, partitions=wanted),
            FetchTopic(topic_id=bytes(15) + b"\1", partitions=wanted),
        ],
    )
    response = outcome(fetch.handle(node.services, context(1, 13), request))
    codes = {each.topic_id: each.partitions[0].error_code for each in response.responses}
    assert codes == {topic.topic_id.bytes: 0, bytes(15) + b"\1": ErrorCode.UNKNOWN_TOPIC_ID}


async def test_the_leader_is_named_from_version_16_on() -> None:
    node = Node()
    topic = node.topic_info("t", leader=2)
    await node.learn({topic.topic_id: topic}, {2: BrokerInfo(2, 1, "host", 9000, None, "", True, False)})
    wanted = [FetchPartition(partition=0, partition_max_bytes=1000)]
    request = FetchRequest(min_bytes=1, topics=[FetchTopic(topic_id=topic.topic_id.bytes, partitions=wanted)])
    response = outcome(fetch.handle(node.services, context(1, 16), request))
    data = response.responses[0].partitions[0]
    assert data.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert (data.current_leader.leader_id, response.node_endpoints[0].port) == (2, 9000)
    assert not outcome(fetch.handle(node.services, context(1, 15), request)).node_endpoints


async def test_an_incremental_session_over_handlers() -> None:
    node = await filled(partitions=2)
    first = outcome(node.fetch({("t", 0): 0, ("t", 1): 6}, session_epoch=0))
    assert first.session_id
    node.appended("t", index=1)
    second = outcome(node.fetch({("t", 0): 6}, session_id=first.session_id, session_epoch=1))
    assert list(fetched(second)) == [("t", 1)]
    wrong = outcome(node.fetch({}, session_id=first.session_id, session_epoch=1))
    assert wrong.error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH


# -- waiting, on a virtual clock --------------------------------------------------------------------------------------


def test_a_fetch_at_the_end_is_answered_after_exactly_max_wait() -> None:
    async def main() -> None:
        node = await filled()
        loop = asyncio.get_running_loop()
        started = loop.time()
        response = await answer(node.fetch({("t", 0): 6}, max_wait_ms=500))
        assert loop.time() - started == pytest.approx(0.5)
        assert fetched(response) == {("t", 0): b""}

    virtual_loop.run(main())


def test_a_flush_wakes_the_fetch_once_with_everything_it_confirmed() -> None:
    async def main() -> None:
        node = await filled(partitions=2)
        loop = asyncio.get_running_loop()
        started = loop.time()
        result = node.fetch({("t", 0): 6, ("t", 1): 6}, max_wait_ms=500)
        node.produce("t", index=0)
        node.produce("t", index=1)
        assert not result.done
        node.storage.flush()
        response = await answer(result)
        assert loop.time() == started
        assert all(fetched(response).values())
        assert not waiters(node)

    virtual_loop.run(main())


def test_min_bytes_are_counted_over_all_partitions() -> None:
    async def main() -> None:
        node = await filled(partitions=2)
        size = len(batch())
        result = node.fetch({("t", 0): 6, ("t", 1): 6}, max_wait_ms=10_000, min_bytes=2 * size)
        node.produce("t", index=0)
        node.storage.flush()
        await asyncio.sleep(1)
        assert not result.done
        node.produce("t", index=1)
        node.storage.flush()
        await asyncio.sleep(0)
        assert [len(records) for records in fetched(await answer(result)).values()] == [size, size]

    virtual_loop.run(main())


def test_with_too_little_at_the_end_of_its_time_it_returns_what_there_is() -> None:
    async def main() -> None:
        node = await filled()
        result = node.fetch({("t", 0): 6}, max_wait_ms=300, min_bytes=10_000)
        node.appended("t")
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert fetched(await answer(result))["t", 0] == node.storage.streams[1].batches[-1][2]
        assert loop.time() - started == pytest.approx(0.3)

    virtual_loop.run(main())


def test_a_fetch_whose_client_is_gone_leaves_nothing_behind() -> None:
    async def main() -> None:
        node = await filled()
        result = node.fetch({("t", 0): 6}, max_wait_ms=300)
        assert waiters(node)
        result.cancel()
        assert not waiters(node)
        node.appended("t")
        await asyncio.sleep(1)
        assert not result.done

    virtual_loop.run(main())


def test_a_deleted_topic_ends_the_wait() -> None:
    async def main() -> None:
        node = await filled()
        topic = node.image.topic("t")
        assert topic is not None
        loop = asyncio.get_running_loop()
        started = loop.time()
        result = node.fetch({("t", 0): 6}, max_wait_ms=5000)
        await node.learn({topic.topic_id: None})
        response = await answer(result)
        assert loop.time() == started
        assert response.responses[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

    virtual_loop.run(main())


def waiters(node: Node) -> bool:
    return any(partition._waiters._fetches for partition in node.partitions.all())
