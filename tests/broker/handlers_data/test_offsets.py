"""ListOffsets, DeleteRecords, OffsetForLeaderEpoch."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from crc32c import crc32c

from broker.handlers import delete_records, list_offsets, offset_for_leader_epoch
from protocol.errors import ErrorCode
from protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from protocol.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from tests.broker.handlers_data.node import NOW_MS, Node, answer, context, outcome
from tests.broker.partition.batches import batch


async def listed(node: Node, timestamp: int, version: int = 11, **fields: Any) -> ListOffsetsPartitionResponse:
    wanted = ListOffsetsPartition(partition_index=0, timestamp=timestamp, **fields)
    request = ListOffsetsRequest(topics=[ListOffsetsTopic(name="t", partitions=[wanted])])
    response = await answer(list_offsets.handle(node.services, context(2, version), request))
    found: ListOffsetsPartitionResponse = response.topics[0].partitions[0]
    return found


async def deleted(node: Node, offset: int, topic: str = "t") -> DeleteRecordsPartitionResult:
    wanted = DeleteRecordsPartition(partition_index=0, offset=offset)
    request = DeleteRecordsRequest(topics=[DeleteRecordsTopic(name=topic, partitions=[wanted])])
    response = await delete_records.handle(node.services, context(21, 2), request)
    return response.topics[0].partitions[0]


async def filled() -> Node:
    node = Node()
    await node.topic("t")
    for _ in range(3):
        node.appended("t", batch([b"x", b"y"]))
    node.produce("t")
    return node


async def test_the_ends_of_a_log() -> None:
    node = await filled()
    await deleted(node, 1)
    latest = await listed(node, list_offsets.LATEST)
    assert (latest.offset, latest.timestamp, latest.leader_epoch) == (6, -1, 5)
    for timestamp in (list_offsets.EARLIEST, list_offsets.EARLIEST_LOCAL):
        earliest = await listed(node, timestamp)
        assert (earliest.offset, earliest.timestamp, earliest.leader_epoch) == (1, -1, 5)
    for timestamp in (list_offsets.LATEST_TIERED, list_offsets.EARLIEST_PENDING_UPLOAD):
        nothing = await listed(node, timestamp)
        assert (nothing.offset, nothing.timestamp, nothing.leader_epoch) == (-1, -1, -1)


@pytest.mark.parametrize(("timestamp", "version"), [(-3, 6), (-4, 7), (-5, 8), (-6, 10), (-7, 11)])
async def test_special_timestamps_need_their_versions(timestamp: int, version: int) -> None:
    node = await filled()
    assert (await listed(node, timestamp, version)).error_code == ErrorCode.UNSUPPORTED_VERSION


async def test_a_partition_that_is_named_twice_is_refused() -> None:
    node = await filled()
    wanted = [ListOffsetsPartition(partition_index=0, timestamp=-1)] * 2
    request = ListOffsetsRequest(topics=[ListOffsetsTopic(name="t", partitions=wanted)])
    response = outcome(list_offsets.handle(node.services, context(2, 7), request))
    assert {each.error_code for each in response.topics[0].partitions} == {ErrorCode.INVALID_REQUEST}


async def test_the_leader_epoch_is_checked() -> None:
    node = await filled()
    fenced = await listed(node, list_offsets.LATEST, current_leader_epoch=4)
    assert fenced.error_code == ErrorCode.FENCED_LEADER_EPOCH


@pytest.mark.parametrize("seed", range(6))
async def test_look_ups_by_time_agree_with_a_walk_over_all_records(seed: int) -> None:
    rng = random.Random(seed)
    node = Node()
    await node.topic("t", message_timestamp_type=rng.choice(["CreateTime", "LogAppendTime"]))
    times: list[int] = []
    log_append_time = node.image.topic_config("t").log_append_time
    for _ in range(12):
        node.now_ms += rng.randrange(100)
        sent = [NOW_MS - rng.randrange(1000) for _ in range(rng.randrange(1, 6))]
        part = node.appended("t", batch([b"v" * 20] * len(sent), timestamps=sent, compression=rng.randrange(5)))
        assert part.error_code == 0
        times += [node.now_ms] * len(sent) if log_append_time else sent
    start = rng.randrange(len(times) // 2)
    await deleted(node, start)
    kept = [(timestamp, offset) for offset, timestamp in enumerate(times) if offset >= start]
    for timestamp in [0, NOW_MS + 10**6, *times, *(each + 1 for each in times)]:
        expected = next((each for each in kept if each[0] >= timestamp), (-1, -1))
        found = await listed(node, timestamp)
        assert (found.timestamp, found.offset) == expected
        assert found.leader_epoch == (5 if expected[1] >= 0 else -1)
    node.storage.streams[1].upload()
    latest = await listed(node, list_offsets.MAX_TIMESTAMP)
    newest = max(timestamp for timestamp, _ in kept)
    assert (latest.timestamp, latest.offset) == next(each for each in kept if each[0] == newest)


async def test_what_is_not_durable_is_not_found_by_time() -> None:
    node = await filled()
    node.produce("t", batch(timestamps=[NOW_MS + 500]))
    assert (await listed(node, NOW_MS + 1)).offset == -1
    assert (await listed(node, list_offsets.MAX_TIMESTAMP)).timestamp == NOW_MS


async def test_an_empty_log_has_no_max_timestamp() -> None:
    node = Node()
    await node.topic("t")
    assert (await listed(node, list_offsets.MAX_TIMESTAMP)).offset == -1


async def test_deleting_records_moves_the_start_durably_before_the_answer() -> None:
    node = await filled()
    result = await deleted(node, 3)
    assert (result.error_code, result.low_watermark) == (0, 3)
    assert node.storage.streams[1].trims == [3]
    assert (await deleted(node, 2)).low_watermark == 3
    assert (await deleted(node, -1)).low_watermark == 6


async def test_a_second_deletion_is_not_answered_before_the_first_is_durable() -> None:
    node = await filled()
    first = asyncio.create_task(deleted(node, 3))
    await asyncio.sleep(0)
    second = await deleted(node, 3)
    assert node.storage.streams[1].trims == [3]
    assert (second.low_watermark, (await first).low_watermark) == (3, 3)


@pytest.mark.parametrize("offset", [-2, 7])
async def test_deleting_beyond_the_high_watermark_is_out_of_range(offset: int) -> None:
    node = await filled()
    result = await deleted(node, offset)
    assert (result.error_code, result.low_watermark) == (ErrorCode.OFFSET_OUT_OF_RANGE, -1)


async def test_some_topics_keep_their_records() -> None:
    node = Node()
    await node.topic("compacted", cleanup_policy="compact")
    await node.topic("__internal", internal=True)
    assert (await deleted(node, 0, "compacted")).error_code == ErrorCode.POLICY_VIOLATION
    assert (await deleted(node, 0, "__internal")).error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert (await deleted(node, 0, "nowhere")).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize(
    ("epoch", "current", "expected"),
    [
        (5, 8, (0, 5, 6)),
        (8, -1, (0, 8, 8)),
        (9, 8, (0, -1, -1)),
        (5, 7, (ErrorCode.FENCED_LEADER_EPOCH, -1, -1)),
    ],
)
async def test_where_an_epoch_ended(epoch: int, current: int, expected: tuple[int, int, int]) -> None:
    node = Node()
    await node.topic("t")
    node.appended("t", batch([b"x"] * 6))
    partition = node.partitions.get("t", 0)
    assert partition is not None
    partition.set_leader_epoch(8)
    node.appended("t", batch([b"x"] * 2))
    node.produce("t")
    wanted = OffsetForLeaderPartition(partition=0, current_leader_epoch=current, leader_epoch=epoch)
    request = OffsetForLeaderEpochRequest(topics=[OffsetForLeaderTopic(topic="t", partitions=[wanted])])
    answered = offset_for_leader_epoch.handle(node.services, context(23, 4), request).topics[0].partitions[0]
    assert (answered.error_code, answered.leader_epoch, answered.end_offset) == expected


@pytest.mark.parametrize("uploaded", [True, False])
async def test_the_max_timestamp_is_that_of_a_record_that_is_still_there(uploaded: bool) -> None:
    node = Node()
    await node.topic("t")
    node.appended("t", batch([b"x", b"y"], timestamps=[NOW_MS + 100, NOW_MS]))
    node.appended("t", batch([b"x", b"y"], timestamps=[NOW_MS + 5, NOW_MS + 7]))
    if uploaded:
        node.storage.streams[1].upload()
    await deleted(node, 1)
    latest = await listed(node, list_offsets.MAX_TIMESTAMP)
    assert (latest.timestamp, latest.offset) == (NOW_MS + 7, 3)


async def test_a_batch_that_cannot_be_decoded_is_the_error_of_its_partition() -> None:
    node = await filled()
    garbage = batch([b"x" * 100], timestamps=[NOW_MS + 5])
    garbage[61:] = b"\xff" * (len(garbage) - 61)
    garbage[17:21] = crc32c(memoryview(garbage)[21:]).to_bytes(4, "big")
    assert node.appended("t", garbage).error_code == 0
    assert (await listed(node, NOW_MS)).offset == 0
    for timestamp in (NOW_MS + 1, list_offsets.MAX_TIMESTAMP):
        assert (await listed(node, timestamp)).error_code == ErrorCode.CORRUPT_MESSAGE
