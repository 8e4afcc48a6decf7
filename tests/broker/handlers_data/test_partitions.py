"""Opening, restarting and closing the partitions of a broker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from broker import openings as openings_module
from broker import partitions as partitions_module
from broker.partition import opening as opening_module
from broker.partition.opening import RecoveredState, recover_state
from broker.partition.partition import Partition
from broker.partition.state_log import SNAPSHOTS_KEPT
from protocol.errors import ErrorCode
from s3stream.api import ObjectCorrupt, StreamClosed, StreamFailed, StreamFenced
from s3stream.catalog.api import CatalogUnreachable, TopicInfo
from s3stream.objectstore.api import StoreUnreachable
from tests.broker.handlers_data.node import NODE_ID, Node
from tests.broker.partition.batches import batch
from tests.broker.partition.fake_stream import FakeStream
from tests.broker.partition.intervals import snapshot_every


def state_of(partition: Partition) -> tuple[object, ...]:
    return (
        partition.log_start_offset,
        partition.high_watermark,
        partition.leader_epochs.entries(),
        partition.producers.entries,
    )


async def restarted(node: Node) -> Node:
    """Another process on the durable part of the same streams."""
    again = Node()
    again.storage = node.storage
    again.partitions._storage = node.storage  # type: ignore[assignment]
    await again.learn({topic.topic_id: topic for topic in node.image.topics()})
    await again.partitions.open_all()
    return again


def produce_at_random(node: Node, rng: random.Random, count: int, next_sequence: dict[int, int]) -> None:
    for _ in range(count):
        producer = rng.randrange(4)
        length = rng.randrange(1, 4)
        if producer:
            sequence = next_sequence.get(producer, 0)
            part = node.appended("t", batch([b"v"] * length, producer_id=producer, epoch=0, sequence=sequence))
            next_sequence[producer] = sequence + length
        else:
            part = node.appended("t", batch([b"v"] * length))
        assert part.error_code == 0


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("snapshot_interval", [1, 700, 1 << 30])
async def test_the_state_after_a_restart_is_the_state_before(
    clean: bool, snapshot_interval: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_every(monkeypatch, snapshot_interval)
    rng = random.Random(snapshot_interval)
    node = Node()
    await node.topic("t")
    sequences: dict[int, int] = {}
    for _ in range(4):
        produce_at_random(node, rng, 20, sequences)
        partition = node.partitions.get("t", 0)
        assert partition is not None
        before = state_of(partition)
        if clean:
            await node.partitions.close_all()
            node.storage.flush()
        node = await restarted(node)
        partition = node.partitions.get("t", 0)
        assert partition is not None
        assert state_of(partition) == before


async def test_a_clean_restart_reads_no_records() -> None:
    node = Node()
    topic = await node.topic("t")
    produce_at_random(node, random.Random(1), 20, {})
    await node.partitions.close_all()
    node.storage.flush()
    node = await restarted(node)
    assert node.log(topic).fetches == 0


async def test_repeats_are_recognised_after_a_restart() -> None:
    node = Node()
    await node.topic("t")
    node.appended("t", batch([b"a", b"b"], producer_id=7, epoch=0, sequence=0))
    node = await restarted(node)
    repeated = node.appended("t", batch([b"a", b"b"], producer_id=7, epoch=0, sequence=0))
    assert (repeated.error_code, repeated.base_offset) == (0, 0)
    assert node.appended("t", batch([b"c"], producer_id=7, epoch=0, sequence=2)).base_offset == 2


async def with_a_lost_record() -> Node:
    """Of two records the log has lost the last one, and its snapshot knows of both."""
    node = Node()
    topic = await node.topic("t")
    node.appended("t", batch([b"a"], producer_id=7, epoch=0, sequence=0))
    node.appended("t", batch([b"b"], producer_id=7, epoch=0, sequence=1))
    await node.partitions.close_all()
    node.storage.flush()
    node.log(topic).confirmed_offset = 1
    return await restarted(node)


async def test_a_snapshot_of_records_that_were_lost_is_not_used() -> None:
    node = await with_a_lost_record()
    assert node.appended("t", batch([b"b"], producer_id=7, epoch=0, sequence=1)).base_offset == 1


async def test_a_snapshot_of_records_that_were_lost_is_not_used_either_when_others_have_taken_their_offsets() -> None:
    node = await with_a_lost_record()
    assert node.appended("t", batch([b"x"], producer_id=8, epoch=0, sequence=0)).base_offset == 1
    node.storage.flush()
    node = await restarted(node)
    assert node.appended("t", batch([b"b"], producer_id=7, epoch=0, sequence=1)).base_offset == 2


async def test_a_snapshot_of_a_log_that_was_lost_as_a_whole_is_never_used() -> None:
    node = Node()
    topic = await node.topic("t")
    for sequence in range(2):
        node.appended("t", batch([b"a"], producer_id=7, epoch=0, sequence=sequence))
    await node.partitions.close_all()
    node.storage.flush()
    node.log(topic).confirmed_offset = 0
    node = await restarted(node)
    for sequence in range(2):
        node.appended("t", batch([b"x"], producer_id=8, epoch=0, sequence=sequence))
    node.storage.flush()
    node = await restarted(node)
    assert node.appended("t", batch([b"b"], producer_id=7, epoch=0, sequence=1)).base_offset == 2


async def test_a_log_that_never_had_a_record_leaves_no_snapshot_that_would_have_to_be_read() -> None:
    node = Node()
    await node.topic("t", partitions=3)
    await node.partitions.close_all()
    node.storage.flush()
    node = await restarted(node)
    assert all(stream.next_offset == stream.fetches == 0 for stream in node.storage.streams.values())


async def test_the_log_start_survives() -> None:
    node = Node()
    await node.topic("t")
    node.appended("t", batch([b"a", b"b", b"c"]))
    partition = node.partitions.get("t", 0)
    assert partition is not None
    await partition.delete_records(2)
    node = await restarted(node)
    reopened = node.partitions.get("t", 0)
    assert reopened is not None
    assert reopened.log_start_offset == 2


async def test_a_new_topic_takes_one_call_for_all_its_streams_and_no_read() -> None:
    node = Node()
    topic = await node.topic("t", partitions=50)
    assert node.storage.calls == [
        [each for info in topic.partitions for each in (info.log_stream_id, info.state_stream_id)]
    ]
    assert all(stream.fetches == 0 for stream in node.storage.streams.values())


async def test_only_what_is_led_here_is_opened() -> None:
    node = Node()
    info = node.topic_info("t", partitions=2)
    info = replace(info, partitions=(info.partitions[0], replace(info.partitions[1], leader=NODE_ID + 1)))
    await node.learn({info.topic_id: info})
    await node.partitions.open_topic(info)
    assert node.partitions.get("t", 0) is not None
    assert node.partitions.get("t", 1) is None
    assert node.appended("t", index=1).error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_opening_twice_is_opening_once() -> None:
    node = Node()
    topic = await node.topic("t")
    await node.partitions.open_topic(topic)
    await node.partitions.open_all()
    assert len(node.storage.calls) == 1


async def test_a_deleted_topic_answers_what_waits_and_closes_its_streams() -> None:
    node = Node()
    topic = await node.topic("t")
    waiting = node.produce("t")
    await node.learn({topic.topic_id: None})
    late = node.produce("t")
    assert late.response.responses[0].partition_responses[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    await node.partitions.close_topic(topic.topic_id)
    code = waiting.response.responses[0].partition_responses[0].error_code
    assert code == ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND
    assert all(stream.closed for stream in node.storage.streams.values())


async def test_a_partition_that_moved_away_is_saved_and_closed() -> None:
    node = Node()
    topic = await node.topic("t")
    waiting = node.produce("t")
    moved = replace(topic, partitions=(replace(topic.partitions[0], leader=NODE_ID + 1, leader_epoch=6),))
    await node.learn({topic.topic_id: moved})
    assert node.appended("t").error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
    await asyncio.gather(*node.partitions._tasks)
    assert waiting.response.responses[0].partition_responses[0].error_code == 0
    assert all(stream.closed for stream in node.storage.streams.values())
    assert node.storage.streams[topic.partitions[0].state_stream_id].next_offset == 1


async def test_leading_on_under_a_newer_epoch_begins_a_new_epoch() -> None:
    node = Node()
    topic = await node.topic("t")
    node.appended("t", batch([b"a", b"b"]))
    again = replace(topic, partitions=(replace(topic.partitions[0], leader_epoch=6),))
    await node.learn({topic.topic_id: again})
    partition = node.partitions.get("t", 0)
    assert partition is not None
    assert partition.leader_epochs.entries() == [(5, 0), (6, 2)]


async def test_old_snapshots_are_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_every(monkeypatch, 1)
    node = Node()
    topic = await node.topic("t")
    for _ in range(10):
        node.appended("t")
    partition = node.partitions.get("t", 0)
    assert partition is not None
    await partition.maintain(node.now_ms, 1000)
    state = node.storage.streams[topic.partitions[0].state_stream_id]
    assert (state.start_offset, state.next_offset) == (10 - SNAPSHOTS_KEPT, 10)


async def test_what_the_broker_itself_appends_is_in_snapshots_too(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_every(monkeypatch, 200)
    node = Node()
    topic = await node.topic("t")
    partition = node.partitions.get("t", 0)
    assert partition is not None
    for _ in range(10):
        partition.append_internal(batch())
    assert node.storage.streams[topic.partitions[0].state_stream_id].next_offset >= 3


async def test_a_topic_that_could_not_be_opened_is_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions_module, "REOPEN_MIN_S", 0.001)
    node = Node()
    await node.partitions.open_all()
    working, failures = node.storage.open_streams, iter([CatalogUnreachable("blip"), StreamFailed("blip")])

    async def failing(stream_ids: Sequence[int]) -> list[FakeStream]:
        for error in failures:
            raise error
        return await working(stream_ids)

    monkeypatch.setattr(node.storage, "open_streams", failing)
    info = node.topic_info("t")
    await node.learn({info.topic_id: info})
    async with asyncio.timeout(5):
        await asyncio.gather(*node.partitions._tasks)
    assert node.appended("t").error_code == 0
    await node.partitions.close_all()


async def test_a_partition_that_cannot_be_read_is_offline_alone_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partitions_module, "OFFLINE_INTERVAL_S", 0.001)
    node = Node()
    topics = {name: await node.topic(name) for name in ("damaged", "sound")}
    for name in topics:
        node.appended(name)
    again = Node()
    again.storage = node.storage
    again.partitions._storage = node.storage  # type: ignore[assignment]
    damaged = {topics["damaged"].partitions[0].log_stream_id}

    async def recover(log_stream: FakeStream, state_stream: FakeStream) -> RecoveredState:
        if log_stream.stream_id in damaged:
            raise ObjectCorrupt("a flipped bit")
        return await recover_state(log_stream, state_stream)

    monkeypatch.setattr(opening_module, "recover_state", recover)
    await again.learn({topic.topic_id: topic for topic in topics.values()})
    await again.partitions.open_all()
    assert again.appended("sound").error_code == 0
    assert again.appended("damaged").error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert all(node.storage.streams[stream_id].closed for stream_id in damaged)
    damaged.clear()
    async with asyncio.timeout(5):
        while again.partitions._tasks:
            await asyncio.gather(*again.partitions._tasks)
    assert again.appended("damaged").base_offset == 1
    await again.partitions.close_all()


async def test_an_error_that_is_not_the_partitions_own_is_raised_and_its_streams_are_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node()
    topic = await node.topic("t")
    node.appended("t")
    again = Node()
    again.storage = node.storage
    again.partitions._storage = node.storage  # type: ignore[assignment]

    async def unreachable(*streams: object) -> None:
        raise StoreUnreachable("down")

    monkeypatch.setattr(opening_module, "recover_state", unreachable)
    await again.learn({topic.topic_id: topic})
    with pytest.raises(StoreUnreachable):
        await again.partitions.open_topic(topic)
    assert all(stream.closed for stream in node.storage.streams.values())


async def test_a_topic_deleted_while_it_is_opened_does_not_take_the_place_of_its_successor() -> None:
    node = Node()
    gate = asyncio.Event()
    working = node.storage.open_streams

    async def slow(stream_ids: Sequence[int]) -> list[FakeStream]:
        streams = await working(stream_ids)
        if 1 in stream_ids:
            await gate.wait()
        return streams

    node.storage.open_streams = slow  # type: ignore[method-assign]
    first = node.topic_info("t")
    await node.learn({first.topic_id: first})
    opening = asyncio.create_task(node.partitions.open_topic(first))
    await asyncio.sleep(0.01)
    await node.learn({first.topic_id: None})
    second = await node.topic("t")
    gate.set()
    await opening
    await asyncio.gather(*node.partitions._tasks)
    partition = node.partitions.get("t", 0)
    assert partition is not None
    assert partition.topic_id == second.topic_id.bytes
    assert node.storage.streams[1].closed


async def test_repeats_of_deleted_records_are_recognised_after_a_restart() -> None:
    node = Node()
    await node.topic("t")
    node.appended("t", batch([b"a", b"b"], producer_id=7, epoch=0, sequence=0))
    partition = node.partitions.get("t", 0)
    assert partition is not None
    deletion = asyncio.create_task(partition.delete_records(-1))
    await asyncio.sleep(0.01)
    node.storage.flush()
    await deletion
    node = await restarted(node)
    repeated = node.appended("t", batch([b"a", b"b"], producer_id=7, epoch=0, sequence=0))
    assert (repeated.error_code, repeated.base_offset) == (0, 0)


async def test_nothing_is_appended_to_the_state_of_a_partition_that_is_held() -> None:
    node = Node()
    topic = await node.topic("t")
    node.appended("t", batch([b"a", b"b"], producer_id=7, epoch=0, sequence=0))
    node.storage.flush()
    partition = node.partitions.get("t", 0)
    assert partition is not None
    node.partitions.hold(partition)
    with pytest.raises(StreamClosed):
        await asyncio.wait_for(partition.delete_records(1), 1)
    with pytest.raises(StreamClosed):
        await asyncio.wait_for(partition.forget_aborted([1]), 1)
    assert node.storage.streams[topic.partitions[0].state_stream_id].next_offset == 0
    node.partitions.go_on(partition)
    deletion = asyncio.create_task(partition.delete_records(1))
    await asyncio.sleep(0.01)
    node.storage.flush()
    assert await deletion == 1


async def test_a_new_producers_pipeline_stays_in_order_when_its_first_batch_finds_no_room() -> None:
    node = Node()
    topic = await node.topic("t")
    first, second = (batch([b"a", b"b"], producer_id=7, epoch=0, sequence=sequence) for sequence in (0, 2))
    node.log(topic).full = True
    assert node.appended("t", bytearray(first)).error_code == ErrorCode.KAFKA_STORAGE_ERROR
    node.log(topic).full = False
    assert node.appended("t", bytearray(second)).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert node.appended("t", bytearray(first)).base_offset == 0
    assert node.appended("t", bytearray(second)).base_offset == 2


async def test_one_topic_that_cannot_be_opened_yet_does_not_keep_others_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partitions_module, "REOPEN_MIN_S", 0.001)
    node = Node()
    await node.partitions.open_all()
    first, second = node.topic_info("first"), node.topic_info("second")
    working, is_free = node.storage.open_streams, False

    async def fenced(stream_ids: Sequence[int]) -> list[FakeStream]:
        if first.partitions[0].log_stream_id in stream_ids and not is_free:
            raise StreamFenced("open elsewhere")
        return await working(stream_ids)

    node.storage.open_streams = fenced  # type: ignore[method-assign]
    await node.learn({first.topic_id: first, second.topic_id: second})
    async with asyncio.timeout(5):
        while node.partitions.get("second", 0) is None:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        assert node.partitions.get("first", 0) is None
        is_free = True
        await asyncio.gather(*node.partitions._tasks)
    assert node.partitions.get("first", 0) is not None


async def test_of_many_those_are_opened_first_that_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (openings_module, partitions_module):
        monkeypatch.setattr(module, "OPENED_AT_ONCE", 2)
    node = Node()
    info, offsets = node.topic_info("t", 7), node.topic_info("offsets", 2, internal=True)
    await node.learn({info.topic_id: info, offsets.topic_id: offsets})
    node.storage.latest = {info.partitions[3].log_stream_id}
    opened: list[list[tuple[str, int]]] = []
    open_streams = node.storage.open_streams
    arrived: list[int] = []

    async def opening(stream_ids: Sequence[int]) -> Sequence[FakeStream]:
        places = {
            part.log_stream_id: (topic.name, part.index) for topic in (info, offsets) for part in topic.partitions
        }
        opened.append([places[each] for each in stream_ids[::2]])
        if len(opened) == 2:
            node.partitions.park("t", 6, lambda: arrived.append(len(opened)))
            await node.learn({info.topic_id: without(info, 5)})
        return await open_streams(stream_ids)

    monkeypatch.setattr(node.storage, "open_streams", opening)
    await node.partitions.open_all()
    assert opened[0] == [("offsets", 0), ("offsets", 1)]
    assert opened[1:] == [[("t", 3), ("t", 0)], [("t", 6)], [("t", 1), ("t", 2)], [("t", 4)]]
    assert arrived == [3]


def without(topic: TopicInfo, index: int) -> TopicInfo:
    """As if another broker led that one."""
    there = [replace(part, leader=NODE_ID + 1) if part.index == index else part for part in topic.partitions]
    return replace(topic, partitions=tuple(there))
