"""WriteTxnMarkers and DescribeProducers, and what a partition lets a producer do around a marker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from broker.cluster.names import CONSUMER_OFFSETS
from broker.handlers import describe_producers, write_txn_markers
from broker.partition import BatchRefused
from broker.partition.partition import Partition
from broker.partition.verification import NOT_REQUIRED, VerificationGuard
from broker.request import Deferred
from protocol.errors import ErrorCode
from protocol.messages.describe_producers import DescribeProducersRequest, ProducerState, TopicRequest
from protocol.messages.write_txn_markers import (
    WritableTxnMarker,
    WritableTxnMarkerTopic,
    WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
)
from protocol.records import BatchHeader, build_batch, iter_batches, parse_end_txn_marker
from protocol.records.batch import Record
from s3stream.api import StorageFull
from tests.broker.handlers_data.node import NOW_MS, Node, context, outcome
from tests.broker.partition.batches import batch

EPOCH_MAX = 2**15 - 1


def marker(
    producer: int = 1,
    epoch: int = 0,
    commit: bool = True,
    partitions: Sequence[int] = (0,),
    topic: str = "t",
    coordinator_epoch: int = 0,
    version: int = 1,
) -> WritableTxnMarker:
    return WritableTxnMarker(
        producer_id=producer,
        producer_epoch=epoch,
        transaction_result=commit,
        topics=[WritableTxnMarkerTopic(name=topic, partition_indexes=list(partitions))],
        coordinator_epoch=coordinator_epoch,
        transaction_version=version,
    )


class Marked(Node):
    def get(self, index: int = 0) -> Partition:
        partition = self.partitions.get("t", index)
        assert partition is not None
        return partition

    def send(
        self,
        producer: int = 1,
        epoch: int = 0,
        sequence: int = 0,
        index: int = 0,
        guard: VerificationGuard | None = NOT_REQUIRED,
        transactional: bool = True,
    ) -> int:
        data = batch(producer_id=producer, epoch=epoch, sequence=sequence, transactional=transactional)
        appended = self.get(index).append_as_leader(memoryview(data), NOW_MS, transactional_id="tx", verification=guard)
        self.storage.flush()
        return appended.base_offset

    def refused(self, *args: Any, **fields: Any) -> ErrorCode:
        with pytest.raises(BatchRefused) as refused:
            self.send(*args, **fields)
        return refused.value.code

    def write(self, *markers: WritableTxnMarker) -> Any:
        return write_txn_markers.handle(self.services, context(27, 2), WriteTxnMarkersRequest(markers=list(markers)))

    def written(self, *markers: WritableTxnMarker) -> list[int]:
        """Error codes, in order."""
        result = self.write(*markers)
        self.storage.flush()
        response: WriteTxnMarkersResponse = outcome(result)
        assert [each.producer_id for each in response.markers] == [each.producer_id for each in markers]
        return [part.error_code for each in response.markers for topic in each.topics for part in topic.partitions]

    def producers(self, index: int = 0, topic: str = "t") -> tuple[int, list[ProducerState]]:
        request = DescribeProducersRequest(topics=[TopicRequest(name=topic, partition_indexes=[index])])
        response = describe_producers.handle(self.services, context(61, 0), request)
        part = response.topics[0].partitions[0]
        return part.error_code, part.active_producers


async def node_with_topic(**options: Any) -> Marked:
    node = Marked()
    await node.topic("t", partitions=3, **options)
    return node


# -- WriteTxnMarkers -------------------------------------------------------------------------------------------------


async def test_markers_are_answered_when_all_of_them_are_durable() -> None:
    node = await node_with_topic()
    node.send(1)
    node.send(1, index=1)
    result = node.write(marker(1, commit=False, partitions=(0, 1, 7)), marker(2, topic="absent"))
    assert isinstance(result, Deferred)
    assert not result.done
    node.storage.streams[1].flush()
    assert not result.done
    node.storage.flush()
    response = outcome(result)
    assert [(part.partition_index, part.error_code) for part in response.markers[0].topics[0].partitions] == [
        (0, ErrorCode.NONE),
        (1, ErrorCode.NONE),
        (7, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]
    assert response.markers[1].topics[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert node.get().aborted_transactions(0, 2) == [(1, 0)]


async def test_a_marker_is_a_control_batch_of_the_producer() -> None:
    node = await node_with_topic()
    node.send(7)
    assert node.written(marker(7, 1, commit=True, coordinator_epoch=3, version=2)) == [0]
    ((header, data),) = iter_batches(node.storage.streams[1].batches[-1][2])
    assert (header.base_offset, header.producer_id, header.producer_epoch, header.base_sequence) == (1, 7, 1, -1)
    assert header.is_control
    assert header.is_transactional
    assert header.partition_leader_epoch == 5
    assert header.max_timestamp == NOW_MS
    assert parse_end_txn_marker(data) == (True, 3)


async def test_a_marker_has_the_time_of_append_where_the_topic_asks_for_it() -> None:
    node = await node_with_topic(message_timestamp_type="LogAppendTime")
    node.send()
    node.written(marker())
    assert BatchHeader.read(node.storage.streams[1].batches[-1][2]).is_log_append_time


async def test_markers_of_the_offsets_topic_are_the_group_coordinators() -> None:
    node = await node_with_topic()
    await node.topic(CONSUMER_OFFSETS, internal=True)
    asked: list[tuple[Any, ...]] = []
    answer = Deferred()

    def complete_transaction(*args: Any) -> Deferred:
        asked.append(args)
        return answer

    groups = SimpleNamespace(complete_transaction=complete_transaction)
    node.services = replace(node.services, groups=groups)  # type: ignore[arg-type]
    result = node.write(marker(5, 3, True, topic=CONSUMER_OFFSETS, coordinator_epoch=4, version=2), marker(5, 3))
    node.storage.flush()
    assert asked == [(0, 5, 3, 4, True, 2)]
    assert not result.done
    answer.complete(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
    codes = [each.topics[0].partitions[0].error_code for each in outcome(result).markers]
    assert codes == [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, 0]


async def test_a_marker_that_finds_no_room_may_be_sent_again() -> None:
    node = await node_with_topic()
    node.send()
    node.storage.streams[1].full = True
    assert node.written(marker()) == [ErrorCode.KAFKA_STORAGE_ERROR]
    assert node.get().transaction_ongoing(1, 0)
    node.storage.streams[1].full = False
    assert node.written(marker()) == [0]
    assert not node.get().transaction_ongoing(1, 0)


async def test_a_failed_log_leaves_the_outcome_open() -> None:
    node = await node_with_topic()
    result = node.write(marker())
    node.storage.streams[1].fail()
    assert outcome(result).markers[0].topics[0].partitions[0].error_code == ErrorCode.KAFKA_STORAGE_ERROR


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_markers_of_an_older_epoch_are_refused(version: int) -> None:
    node = await node_with_topic()
    node.send(epoch=3)
    assert node.written(marker(epoch=2, version=version)) == [ErrorCode.INVALID_PRODUCER_EPOCH]
    assert node.get().transaction_ongoing(1, 3)


async def test_with_an_epoch_per_transaction_a_late_marker_does_not_touch_the_next_transaction() -> None:
    node = await node_with_topic()
    node.send(epoch=0)
    assert node.written(marker(epoch=0, version=2)) == [ErrorCode.INVALID_PRODUCER_EPOCH]
    assert node.written(marker(epoch=1, version=2)) == [0]
    # a repeat ends nothing, as long as there is nothing to end
    assert node.written(marker(epoch=1, commit=False, version=2)) == [0]
    node.send(epoch=1)
    assert node.written(marker(epoch=1, version=2)) == [ErrorCode.INVALID_PRODUCER_EPOCH]
    assert node.get().transaction_ongoing(1, 1)
    assert node.written(marker(epoch=2, commit=False, version=2)) == [0]
    assert node.get().aborted_transactions(0, 99) == [(1, 3)]


async def test_a_transaction_at_the_last_epoch_can_still_be_ended() -> None:
    node = await node_with_topic()
    node.send(epoch=EPOCH_MAX)
    assert node.written(marker(epoch=EPOCH_MAX, version=2)) == [0]
    assert not node.get().transaction_ongoing(1, EPOCH_MAX)


async def test_a_former_coordinator_is_fenced() -> None:
    node = await node_with_topic()
    assert node.written(marker(coordinator_epoch=4)) == [0]
    node.send()
    assert node.written(marker(coordinator_epoch=3)) == [ErrorCode.TRANSACTION_COORDINATOR_FENCED]
    assert node.get().transaction_ongoing(1, 0)
    assert node.written(marker(coordinator_epoch=4)) == [0]


# -- what producers may do -------------------------------------------------------------------------------------------


async def test_the_first_batch_of_a_transaction_needs_a_guard_and_the_others_do_not() -> None:
    node = await node_with_topic()
    assert node.refused(guard=None) == ErrorCode.INVALID_TXN_STATE
    guard = node.get().begin_verification(1, 0, 0, supports_epoch_bump=False)
    assert node.send(guard=guard) == 0
    assert node.get().transaction_ongoing(1, 0)
    assert node.send(sequence=1, guard=None) == 1
    assert not node.get().transaction_ongoing(1, 1)


async def test_a_marker_between_verification_and_append_voids_the_guard() -> None:
    node = await node_with_topic()
    guard = node.get().begin_verification(1, 0, 0, supports_epoch_bump=False)
    node.written(marker(commit=False))
    assert node.refused(guard=guard) == ErrorCode.INVALID_TXN_STATE
    # nor is it of use to a later transaction
    node.get().begin_verification(1, 0, 0, supports_epoch_bump=False)
    assert node.refused(guard=guard) == ErrorCode.INVALID_TXN_STATE


async def test_a_repeat_needs_no_guard_after_its_transaction_has_ended() -> None:
    node = await node_with_topic()
    node.send()
    node.written(marker())
    assert node.send(guard=None) == 0


async def test_after_the_marker_of_an_epoch_per_transaction_the_former_epoch_is_fenced_and_sequences_begin_anew() -> (
    None
):
    node = await node_with_topic()
    node.send()
    node.written(marker(epoch=1, version=2))
    assert node.refused(sequence=1) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert node.refused(epoch=1, sequence=1) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert node.send(epoch=1, sequence=0) == 2


async def test_with_one_epoch_sequences_go_on_from_transaction_to_transaction() -> None:
    node = await node_with_topic()
    node.send()
    node.written(marker())
    assert node.refused(sequence=0 + 2) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert node.send(sequence=1) == 2


async def test_within_a_transaction_everything_of_its_producer_is_transactional() -> None:
    node = await node_with_topic()
    node.send()
    assert node.refused(sequence=1, transactional=False) == ErrorCode.INVALID_TXN_STATE
    assert node.refused(epoch=1, transactional=False) == ErrorCode.INVALID_TXN_STATE
    node.written(marker())
    assert node.send(sequence=1, transactional=False) == 2


async def test_transactional_records_without_a_transactional_id_are_refused() -> None:
    node = await node_with_topic()
    data = batch(producer_id=1, epoch=0, sequence=0, transactional=True)
    with pytest.raises(BatchRefused) as refused:
        node.get().append_as_leader(memoryview(data), NOW_MS)
    assert refused.value.code == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


async def test_a_batch_without_room_leaves_the_guard_for_its_repeat() -> None:
    node = await node_with_topic()
    guard = node.get().begin_verification(1, 0, 0, supports_epoch_bump=True)
    node.storage.streams[1].full = True
    with pytest.raises(StorageFull):
        node.send(guard=guard)
    assert not node.get().transaction_ongoing(1, 0)
    node.storage.streams[1].full = False
    assert node.send(guard=guard) == 0


def internal(producer: int, epoch: int, transactional: bool = True) -> bytearray:
    return build_batch(
        [Record(0, NOW_MS, b"k", b"v")], producer_id=producer, producer_epoch=epoch, transactional=transactional
    )


async def test_a_coordinators_batch_opens_the_transaction_and_has_no_sequence() -> None:
    node = await node_with_topic()
    partition = node.get()
    for _ in range(7):
        partition.append_internal(internal(1, 2))
    node.storage.flush()
    assert partition.transaction_ongoing(1, 2)
    assert partition.last_stable_offset == 0
    (producer,) = partition.active_producers()
    assert (producer.last_sequence, producer.current_txn_first_offset) == (-1, 0)
    with pytest.raises(BatchRefused) as refused:
        partition.append_internal(internal(1, 1))
    assert refused.value.code == ErrorCode.INVALID_PRODUCER_EPOCH
    assert node.written(marker(epoch=3, version=2)) == [0]
    assert partition.last_stable_offset == 8


async def test_a_coordinators_batch_may_come_with_a_guard() -> None:
    node = await node_with_topic()
    partition = node.get()
    guard = partition.begin_verification(1, 0, -1, supports_epoch_bump=True)
    node.written(marker())
    with pytest.raises(BatchRefused) as refused:
        partition.append_internal(internal(1, 0), guard)
    assert refused.value.code == ErrorCode.INVALID_TXN_STATE
    partition.append_internal(internal(1, 0), partition.begin_verification(1, 0, -1, supports_epoch_bump=True))
    partition.append_internal(internal(1, 0), VerificationGuard())
    assert partition.transaction_ongoing(1, 0)


async def test_producers_expire_but_not_with_a_transaction_open() -> None:
    node = await node_with_topic()
    node.send(1)
    node.send(2)
    node.written(marker(2))
    await node.get().maintain(NOW_MS + 10_000, 5_000)
    assert [each.producer_id for each in node.get().active_producers()] == [1]
    assert node.get().last_stable_offset == 0
    node.written(marker(1))
    assert node.get().last_stable_offset == 4


# -- DescribeProducers -----------------------------------------------------------------------------------------------


async def test_producers_are_described_with_their_open_transactions() -> None:
    node = await node_with_topic()
    node.send(1, transactional=False)
    node.send(2, epoch=4)
    node.send(2, epoch=4, sequence=1)
    node.send(3)
    node.written(marker(3, epoch=1, coordinator_epoch=6, version=2))
    code, producers = node.producers()
    assert code == 0
    assert [
        (
            each.producer_id,
            each.producer_epoch,
            each.last_sequence,
            each.last_timestamp,
            each.coordinator_epoch,
            each.current_txn_start_offset,
        )
        for each in producers
    ] == [(1, 0, 0, NOW_MS, -1, -1), (2, 4, 1, NOW_MS, -1, 1), (3, 1, -1, NOW_MS, 6, -1)]


async def test_only_the_leader_of_a_partition_describes_its_producers() -> None:
    node = await node_with_topic()
    await node.topic("elsewhere", leader=2)
    assert node.producers(7) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, [])
    assert node.producers(0, "absent") == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, [])
    assert node.producers(0, "elsewhere") == (ErrorCode.NOT_LEADER_OR_FOLLOWER, [])
