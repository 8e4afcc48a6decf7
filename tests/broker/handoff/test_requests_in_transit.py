"""What becomes of requests for a partition that is on its way: handed over, taken over, or staying after all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from broker.handlers import list_offsets, produce
from broker.handoff import parking as parking_module
from broker.handoff.parking import WAIT_MAX_S
from broker.handoff.refused import KEPT_MS, PLACES_MAX, PRODUCERS_MAX
from broker.partition import opening as opening_module
from broker.partition.partition import Partition
from broker.request import Refused
from protocol.errors import ErrorCode
from protocol.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from s3stream.api import ObjectCorrupt
from s3stream.catalog.api import BrokerInfo, TopicInfo
from tests.broker.handlers_data.node import NODE_ID, NOW_MS, Node, answer, context, fetched, outcome
from tests.broker.handlers_data.virtual_loop import run
from tests.broker.partition.batches import batch
from tests.broker.partition.fake_stream import FakeStream

OTHER = 2


class Traveller:
    """A node, and a partition of it that is on its way."""

    def __init__(self, node: Node, topic: TopicInfo) -> None:
        self.node = node
        self.topic = topic

    async def learn(self, **fields: Any) -> None:
        """Partition 0 is so from now on."""
        first = replace(self.topic.partitions[0], **fields)
        self.topic = replace(self.topic, partitions=(first, *self.topic.partitions[1:]))
        await self.node.learn({self.topic.topic_id: self.topic})

    def hold(self) -> Partition:
        partition = self.node.partitions.get("t", 0)
        assert partition is not None
        self.node.partitions.hold(partition)
        return partition

    async def handed_over(self) -> None:
        await self.learn(leader=OTHER, leader_epoch=6, target=None)

    async def settled(self) -> None:
        await asyncio.gather(*self.node.partitions._tasks)


async def traveller(leader: int = NODE_ID, **fields: Any) -> Traveller:
    node = Node()
    others = {OTHER: BrokerInfo(OTHER, 7, "other", 9093, "r", "memory://", alive=True, closed=False)}
    await node.learn(brokers={**others, NODE_ID: BrokerInfo(NODE_ID, 1, "me", 9092, None, "m", True, False)})
    node.partitions._follows_new_topics = True
    if leader == NODE_ID:
        return Traveller(node, await node.topic("t", partitions=2))
    made = Traveller(node, node.topic_info("t", partitions=2, leader=leader))
    await made.learn(**fields)
    return made


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def call() -> None:
        run(test())

    call.__name__ = test.__name__
    return call


def error_of(result: Any, index: int = 0) -> int:
    code: int = outcome(result).responses[0].partition_responses[index].error_code
    return code


# -- away -------------------------------------------------------------------------------------------------------------
@in_virtual_time
async def test_what_comes_while_a_partition_departs_is_sent_to_the_new_leader() -> None:
    away = await traveller()
    away.hold()
    parked = away.node.produce("t", version=10)
    assert not parked.done
    await away.handed_over()
    assert error_of(parked) == ErrorCode.NOT_LEADER_OR_FOLLOWER
    response = parked.response
    told = response.responses[0].partition_responses[0].current_leader
    assert (told.leader_id, told.leader_epoch) == (OTHER, 6)
    assert [(each.node_id, each.host, each.port) for each in response.node_endpoints] == [(OTHER, "other", 9093)]
    assert away.node.log(away.topic).next_offset == 0


@in_virtual_time
async def test_what_was_appended_before_is_acknowledged_as_if_nothing_happened() -> None:
    away = await traveller()
    appended = away.node.produce("t")
    partition = away.hold()
    assert not appended.done
    away.node.storage.flush()
    assert error_of(appended) == 0
    await away.handed_over()
    assert partition.closed
    assert all(stream.released for stream in partition.streams)  # type: ignore[attr-defined]


@in_virtual_time
async def test_if_it_stays_what_was_parked_is_appended_in_order() -> None:
    away = await traveller()
    partition = away.hold()
    parked = [away.node.produce("t", batch([b"v"], producer_id=7, epoch=0, sequence=sequence)) for sequence in range(3)]
    away.node.partitions.go_on(partition)
    late = away.node.produce("t", batch([b"v"], producer_id=7, epoch=0, sequence=3))
    away.node.storage.flush()
    assert [error_of(each) for each in (*parked, late)] == [0] * 4
    assert [outcome(each).responses[0].partition_responses[0].base_offset for each in (*parked, late)] == [0, 1, 2, 3]


@in_virtual_time
async def test_a_defect_in_what_was_parked_is_answered_as_one() -> None:
    away = await traveller()
    partition = away.hold()
    parked, behind = away.node.produce("t"), away.node.produce("t")
    away.node.log(away.topic).append = fail  # type: ignore[method-assign]
    away.node.partitions.go_on(partition)
    assert error_of(parked) == error_of(behind) == ErrorCode.UNKNOWN_SERVER_ERROR


def fail(*arguments: object) -> int:
    raise ValueError("a defect")


@in_virtual_time
async def test_other_partitions_of_the_request_are_appended_at_once() -> None:
    away = await traveller()
    away.hold()
    away.node.produce("t", index=1)
    assert away.node.log(away.topic, 1).next_offset == 1


@in_virtual_time
async def test_nobody_is_parked_for_ever() -> None:
    away = await traveller()
    away.hold()
    parked = away.node.produce("t")
    await asyncio.sleep(WAIT_MAX_S * 0.9)
    assert not parked.done
    await asyncio.sleep(WAIT_MAX_S * 0.2)
    assert error_of(parked) == ErrorCode.NOT_LEADER_OR_FOLLOWER


@in_virtual_time
async def test_a_stop_answers_who_is_parked() -> None:
    away = await traveller()
    away.hold()
    parked = away.node.produce("t")
    await away.node.partitions.close_all()
    assert error_of(parked) == ErrorCode.NOT_LEADER_OR_FOLLOWER


@in_virtual_time
async def test_a_deleted_topic_answers_who_is_parked() -> None:
    away = await traveller()
    away.hold()
    parked = away.node.produce("t")
    await away.node.learn({away.topic.topic_id: None})
    assert error_of(parked) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@in_virtual_time
async def test_whoever_closed_the_connection_meanwhile_has_nothing_appended() -> None:
    away = await traveller()
    partition = away.hold()
    parked = away.node.produce("t")
    parked.cancel()
    assert not away.node.partitions._parking
    away.node.partitions.go_on(partition)
    assert away.node.log(away.topic).next_offset == 0


@in_virtual_time
async def test_without_acknowledgement_a_batch_is_appended_late_or_its_connection_ends() -> None:
    away = await traveller()
    partition = away.hold()
    parked = away.node.produce("t", acks=0)
    away.node.partitions.go_on(partition)
    away.node.storage.flush()
    assert parked.done
    assert parked.response is None
    assert parked.refused is None
    assert away.node.log(away.topic).next_offset == 1
    away.hold()
    parked = away.node.produce("t", acks=0)
    await away.handed_over()
    assert parked.response is None
    assert isinstance(parked.refused, Refused)


@in_virtual_time
async def test_a_departing_partition_is_read_on_until_it_has_gone() -> None:
    away = await traveller()
    away.node.appended("t", batch([b"a"]))
    away.hold()
    assert fetched(outcome(away.node.fetch({("t", 0): 0})))["t", 0]
    waiting = away.node.fetch({("t", 0): 1}, max_wait_ms=5000)
    await asyncio.sleep(0.1)
    assert not waiting.done
    await away.handed_over()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    [data] = outcome(waiting).responses[0].partitions
    assert data.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


@in_virtual_time
async def test_a_fetch_that_waited_for_a_partition_that_stays_is_answered_by_the_next_record() -> None:
    away = await traveller()
    partition = away.hold()
    waiting = away.node.fetch({("t", 0): 0}, max_wait_ms=5000)
    away.node.partitions.go_on(partition)
    away.node.appended("t", batch([b"a"]))
    await asyncio.sleep(0.01)
    assert fetched(outcome(waiting))["t", 0]


@in_virtual_time
async def test_one_that_comes_back_before_that_was_noticed_is_opened_anew() -> None:
    away = await traveller()
    away.node.appended("t", batch([b"a"]))
    former = away.hold()
    await away.learn(leader_epoch=7)
    await away.settled()
    assert former.closed
    again = away.node.partitions.get("t", 0)
    assert again is not None
    assert again is not former
    assert again.leader_epoch == 7


@in_virtual_time
async def test_one_that_comes_back_before_its_streams_are_closed_is_opened_when_they_are() -> None:
    away = await traveller()
    node, open_streams, goes_on = away.node, away.node.storage.open_streams, asyncio.Event()

    async def open_slowly(stream_ids: Sequence[int]) -> list[FakeStream]:
        for each in stream_ids:
            if (held := node.storage.streams.get(each)) is not None and not held.closed:
                raise ValueError(f"stream {each} is open already")
        await goes_on.wait()
        return await open_streams(stream_ids)

    node.storage.open_streams = open_slowly  # type: ignore[method-assign]
    info = node.topic_info("t", partitions=2, leader=OTHER)
    for index in range(2):  # one is being opened, and one is to be opened next
        more = replace(info.partitions[index], index=2 + index, leader=NODE_ID)
        away.topic = replace(away.topic, partitions=(*away.topic.partitions, more))
        await away.learn()
        await asyncio.sleep(0)
    await away.learn(leader=OTHER, leader_epoch=6)
    await away.learn(leader=NODE_ID, leader_epoch=7)
    goes_on.set()
    await away.settled()
    await away.settled()
    assert [index for index in range(4) if node.partitions.get("t", index) is None] == []


@in_virtual_time
async def test_what_is_not_durable_when_somebody_else_took_it_is_answered() -> None:
    away = await traveller()
    appended = away.node.produce("t")
    away.hold()
    await away.handed_over()
    assert error_of(appended) == ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND


@in_virtual_time
async def test_configs_that_change_while_it_is_held_count_when_it_goes_on() -> None:
    away = await traveller()
    partition = away.hold()
    away.topic = replace(away.topic, configs={"retention.ms": "77"})
    await away.learn()
    away.node.partitions.go_on(partition)
    assert partition.config.retention_ms == 77


# -- a producer that is new -------------------------------------------------------------------------------------------
def sequenced(sequence: int, *, epoch: int = 0, producer_id: int = 7) -> bytearray:
    return batch([b"v"], producer_id=producer_id, epoch=epoch, sequence=sequence)


def stays_in_order(node: Node, refused: int, behind: int) -> None:
    """What was sent behind a refused batch is not appended before it."""
    assert node.appended("t", sequenced(behind)).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert node.appended("t", sequenced(refused)).error_code == 0
    assert node.appended("t", sequenced(behind)).error_code == 0


@in_virtual_time
async def test_a_new_producers_pipeline_stays_in_order_if_this_broker_begins_to_lead_behind_its_first_batch() -> None:
    here = await traveller(leader=OTHER)
    for sequence in (0, 1):
        assert error_of(here.node.produce("t", sequenced(sequence))) == ErrorCode.NOT_LEADER_OR_FOLLOWER
    await here.learn(leader=NODE_ID, leader_epoch=6)
    await here.settled()
    stays_in_order(here.node, refused=0, behind=1)


@pytest.mark.parametrize("by_id", [False, True])
def test_a_new_producers_pipeline_stays_in_order_if_its_topic_becomes_known_behind_its_first_batch(by_id: bool) -> None:
    async def main() -> None:
        node = Node()
        made = node.topic_info("t")
        data = PartitionProduceData(index=0, records=memoryview(sequenced(0)))
        named = {"topic_id": made.topic_id.bytes} if by_id else {"name": "t"}
        request = ProduceRequest(acks=-1, topic_data=[TopicProduceData(**named, partition_data=[data])])  # type: ignore[arg-type]
        code = error_of(produce.handle(node.services, context(0, 13 if by_id else 12), request))
        assert code == (ErrorCode.UNKNOWN_TOPIC_ID if by_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        await node.learn({made.topic_id: made})
        await node.partitions.open_topic(made)
        stays_in_order(node, refused=0, behind=1)

    run(main())


@in_virtual_time
async def test_a_new_producers_pipeline_stays_in_order_if_its_first_batch_was_parked_for_too_long() -> None:
    here = await traveller(leader=OTHER, target=NODE_ID)
    first = here.node.produce("t", sequenced(0))
    await asyncio.sleep(WAIT_MAX_S * 1.1)
    behind = here.node.produce("t", sequenced(1))
    again = here.node.produce("t", sequenced(0))
    await here.learn(leader=NODE_ID, leader_epoch=6, target=None)
    await here.settled()
    here.node.storage.flush()
    codes = [error_of(each) for each in (first, behind, again)]
    assert codes == [ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, 0]


def test_what_finds_no_room_does_not_come_before_what_is_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking_module, "PARKED_MAX", 1)

    async def main() -> None:
        here = await traveller(leader=OTHER, target=NODE_ID)
        parked, refused = (here.node.produce("t", sequenced(sequence)) for sequence in (0, 1))
        assert error_of(refused) == ErrorCode.NOT_LEADER_OR_FOLLOWER
        await here.learn(leader=NODE_ID, leader_epoch=6, target=None)
        await here.settled()
        here.node.storage.flush()
        assert error_of(parked) == 0
        assert here.node.appended("t", sequenced(1)).error_code == 0

    run(main())


@in_virtual_time
async def test_a_producer_that_began_anew_is_expected_with_its_new_epoch() -> None:
    here = await traveller(leader=OTHER)
    here.node.produce("t", sequenced(3))
    here.node.produce("t", sequenced(0, epoch=1))
    await here.learn(leader=NODE_ID, leader_epoch=6)
    await here.settled()
    assert here.node.appended("t", sequenced(1, epoch=1)).error_code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert here.node.appended("t", sequenced(0, epoch=1)).error_code == 0


@in_virtual_time
async def test_refused_batches_are_forgotten_after_a_while_and_never_many() -> None:
    node = Node()
    refused = node.partitions.refused
    for index in range(PLACES_MAX + 5):
        node.produce("t", sequenced(0), index=index)
    node.produce("t", b"no batch")
    node.produce("t", batch())
    assert len(refused) == PLACES_MAX
    for producer_id in range(PRODUCERS_MAX + 5):
        node.produce("u", sequenced(0, producer_id=producer_id))
    assert len(refused.take("u", bytes(16), 0, NOW_MS)) == PRODUCERS_MAX
    assert not refused.take("t", bytes(16), PLACES_MAX, NOW_MS + KEPT_MS)


# -- here -------------------------------------------------------------------------------------------------------------
@in_virtual_time
async def test_what_comes_early_waits_until_the_partition_is_open() -> None:
    here = await traveller(leader=OTHER, target=NODE_ID)
    early = [here.node.produce("t", batch([b"v"], producer_id=7, epoch=0, sequence=each)) for each in range(2)]
    assert not any(each.done for each in early)
    await here.learn(leader=NODE_ID, leader_epoch=6, target=None)
    early.append(here.node.produce("t", batch([b"v"], producer_id=7, epoch=0, sequence=2)))
    await here.settled()
    here.node.storage.flush()
    assert [error_of(each) for each in early] == [0, 0, 0]


@in_virtual_time
async def test_what_came_early_for_a_move_that_is_cancelled_is_refused_at_once() -> None:
    here = await traveller(leader=OTHER, target=NODE_ID)
    early = here.node.produce("t")
    await here.learn(target=None)
    assert error_of(early) == ErrorCode.NOT_LEADER_OR_FOLLOWER


@in_virtual_time
async def test_what_is_led_elsewhere_and_stays_there_is_refused_at_once() -> None:
    here = await traveller(leader=OTHER)
    assert error_of(here.node.produce("t")) == ErrorCode.NOT_LEADER_OR_FOLLOWER


@in_virtual_time
async def test_a_fetch_waits_for_an_arrival_and_then_for_data() -> None:
    here = await traveller(leader=OTHER, target=NODE_ID)
    waiting = here.node.fetch({("t", 0): 0}, max_wait_ms=5000)
    assert not waiting.done
    await here.learn(leader=NODE_ID, leader_epoch=6, target=None)
    await here.settled()
    await asyncio.sleep(0.01)
    assert not waiting.done
    here.node.appended("t", batch([b"a"]))
    await asyncio.sleep(0.01)
    assert fetched(outcome(waiting))["t", 0]


@in_virtual_time
async def test_a_fetch_of_other_partitions_does_not_wait_for_an_arrival() -> None:
    here = await traveller()
    here.node.appended("t", batch([b"a"]), index=1)
    await here.handed_over()
    await here.learn(target=NODE_ID)
    response = outcome(here.node.fetch({("t", 0): 0, ("t", 1): 0}, max_wait_ms=5000))
    assert fetched(response)["t", 1]
    codes = {data.partition_index: data.error_code for data in response.responses[0].partitions}
    assert codes == {0: ErrorCode.NOT_LEADER_OR_FOLLOWER, 1: 0}


@in_virtual_time
async def test_a_fetch_waits_no_longer_than_it_wants_to() -> None:
    here = await traveller(leader=OTHER, target=NODE_ID)
    waiting = here.node.fetch({("t", 0): 0}, max_wait_ms=500)
    await asyncio.sleep(0.51)
    [data] = outcome(waiting).responses[0].partitions
    assert data.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


@in_virtual_time
async def test_nothing_is_kept_of_a_fetch_that_was_answered_or_whose_connection_is_gone() -> None:
    here = await traveller(leader=OTHER, target=NODE_ID)
    here.node.fetch({("t", 0): 0}, max_wait_ms=100)
    gone = here.node.fetch({("t", 0): 0}, max_wait_ms=5000)
    assert here.node.partitions._parking
    gone.cancel()
    await asyncio.sleep(0.11)
    assert not here.node.partitions._parking


@pytest.mark.parametrize("timestamp", [-1, -2, 0])
def test_offsets_are_asked_for_when_the_partition_has_arrived(timestamp: int) -> None:
    async def main() -> None:
        here = await traveller(leader=OTHER, target=NODE_ID)
        wanted = ListOffsetsPartition(partition_index=0, timestamp=timestamp)
        request = ListOffsetsRequest(topics=[ListOffsetsTopic(name="t", partitions=[wanted])])
        asked = asyncio.create_task(answer(list_offsets.handle(here.node.services, context(2, 7), request)))
        await asyncio.sleep(0.1)
        assert not asked.done()
        await here.learn(leader=NODE_ID, leader_epoch=6, target=None)
        response = await asked
        assert response.topics[0].partitions[0].error_code == 0

    run(main())


@in_virtual_time
async def test_offsets_of_a_departing_partition_are_those_it_has() -> None:
    away = await traveller()
    away.node.appended("t", batch([b"a"]))
    away.hold()
    wanted = ListOffsetsPartition(partition_index=0, timestamp=-1)
    request = ListOffsetsRequest(topics=[ListOffsetsTopic(name="t", partitions=[wanted])])
    response = await answer(list_offsets.handle(away.node.services, context(2, 7), request))
    assert response.topics[0].partitions[0].offset == 1


def test_nobody_comes_before_those_who_wait_for_an_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        here = await traveller(leader=OTHER, target=NODE_ID)
        is_closed = asyncio.Event()
        damaged = FakeStream(here.topic.partitions[1].log_stream_id)
        damaged.append(b"damaged", 1, 0)
        damaged.flush()
        here.node.storage.streams[damaged.stream_id] = damaged

        async def recover(*streams: object) -> None:
            raise ObjectCorrupt("a flipped bit")

        async def close(stream: FakeStream) -> None:
            await is_closed.wait()

        monkeypatch.setattr(opening_module, "recover_state", recover)
        monkeypatch.setattr(FakeStream, "close", close)
        parked = here.node.produce("t")
        leaders = tuple(replace(each, leader=NODE_ID, leader_epoch=6, target=None) for each in here.topic.partitions)
        await here.node.learn({here.topic.topic_id: replace(here.topic, partitions=leaders)})
        while here.node.partitions.get("t", 0) is None:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        late = here.node.produce("t")
        here.node.storage.flush()
        offsets = [outcome(each).responses[0].partition_responses[0].base_offset for each in (parked, late)]
        assert offsets == [0, 1]
        is_closed.set()
        await here.node.partitions.close_all()

    run(main())


@in_virtual_time
async def test_offsets_of_many_partitions_that_do_not_arrive_are_waited_for_together() -> None:
    here = await traveller(leader=OTHER, target=NODE_ID)
    arriving = tuple(replace(each, target=NODE_ID) for each in here.topic.partitions)
    await here.node.learn({here.topic.topic_id: replace(here.topic, partitions=arriving)})
    wanted = [ListOffsetsPartition(partition_index=index, timestamp=-1) for index in range(2)]
    request = ListOffsetsRequest(topics=[ListOffsetsTopic(name="t", partitions=wanted)])
    async with asyncio.timeout(WAIT_MAX_S * 1.1):
        response = await answer(list_offsets.handle(here.node.services, context(2, 7), request))
    codes = [each.error_code for each in response.topics[0].partitions]
    assert codes == [ErrorCode.NOT_LEADER_OR_FOLLOWER] * 2


@pytest.mark.parametrize("leader", [NODE_ID, OTHER])
def test_what_changes_while_a_partition_is_opened_counts_when_it_is_open(leader: int) -> None:
    async def main() -> None:
        here = await traveller(leader=OTHER)
        gate = asyncio.Event()
        open_streams = here.node.storage.open_streams

        async def slow(stream_ids: Sequence[int]) -> list[FakeStream]:
            streams = await open_streams(stream_ids)
            await gate.wait()
            return streams

        here.node.storage.open_streams = slow  # type: ignore[method-assign]
        await here.learn(leader=NODE_ID, leader_epoch=6)
        await asyncio.sleep(0.01)
        await here.learn(leader=leader, leader_epoch=8)
        gate.set()
        await here.settled()
        partition = here.node.partitions.get("t", 0)
        assert (partition and partition.leader_epoch) == (8 if leader == NODE_ID else None)
        assert here.node.log(here.topic).closed is (leader == OTHER)

    run(main())
