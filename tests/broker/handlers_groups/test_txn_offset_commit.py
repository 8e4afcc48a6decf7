"""TxnOffsetCommit and the markers that end it, through the handlers and over a real partition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from broker.cluster.names import CONSUMER_OFFSETS
from broker.handlers import offset_fetch, txn_offset_commit, write_txn_markers
from broker.verification import Verification
from protocol.errors import ErrorCode
from protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopicResult,
)
from protocol.messages.offset_fetch import (
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopics,
)
from protocol.messages.txn_offset_commit import TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic
from protocol.messages.write_txn_markers import WritableTxnMarker, WritableTxnMarkerTopic
from tests.broker.handlers_groups.node import GroupNode, group_node

GROUP = "g"
PRODUCER = 7


class TransactionCoordinator:
    """Answers at once, with one verdict for everything."""

    def __init__(self) -> None:
        self.verdict = ErrorCode.NONE
        self.asked: list[AddPartitionsToTxnRequest] = []

    def call(self, node_id: int, api_version: int, request: AddPartitionsToTxnRequest) -> asyncio.Future[Any]:
        self.asked.append(request)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        [transaction] = request.transactions
        [topic] = transaction.topics
        results = [
            AddPartitionsToTxnPartitionResult(partition_index=index, partition_error_code=self.verdict)
            for index in topic.partitions
        ]
        result = AddPartitionsToTxnResult(
            transactional_id=transaction.transactional_id,
            topic_results=[AddPartitionsToTxnTopicResult(name=topic.name, results_by_partition=results)],
        )
        answer.set_result(AddPartitionsToTxnResponse(results_by_transaction=[result]))
        return answer


class Setting:
    def __init__(self, node: GroupNode) -> None:
        self.node = node
        self.coordinator = TransactionCoordinator()
        node.services = replace(
            node.services,
            verification=Verification(
                self.coordinator,  # type: ignore[arg-type]
                lambda _: SimpleNamespace(node_id=1),  # type: ignore[arg-type,return-value]
                retry_backoff_ms=1,
                retry_max_ms=0,
            ),
        )

    @property
    def index(self) -> int:
        return self.node.groups.partition_of(GROUP)

    async def commit(self, offset: int = 5, version: int = 5, topic: str = "t", index: int = 0, **fields: Any) -> int:
        partition = TxnOffsetCommitRequestPartition(partition_index=index, committed_offset=offset)
        fields = {"group_id": GROUP, "transactional_id": "tx", "producer_id": PRODUCER, "producer_epoch": 0} | fields
        response = await self.node.ask(
            txn_offset_commit,
            version,
            topics=[TxnOffsetCommitRequestTopic(name=topic, partitions=[partition])],
            **fields,
        )
        code: int = response.topics[0].partitions[0].error_code
        return code

    async def mark(self, *, commit: bool, epoch: int = 0, index: int | None = None) -> int:
        marker = WritableTxnMarker(
            producer_id=PRODUCER,
            producer_epoch=epoch,
            transaction_result=commit,
            topics=[
                WritableTxnMarkerTopic(
                    name=CONSUMER_OFFSETS, partition_indexes=[self.index if index is None else index]
                )
            ],
        )
        response = await self.node.ask(write_txn_markers, 1, markers=[marker])
        code: int = response.markers[0].topics[0].partitions[0].error_code
        return code

    async def fetched(self, *, stable: bool = True) -> tuple[int, int]:
        """Offset and error."""
        topics = [OffsetFetchRequestTopics(name="t", partition_indexes=[0])]
        groups = [OffsetFetchRequestGroup(group_id=GROUP, topics=topics)]
        response = await self.node.ask(offset_fetch, 8, groups=groups, require_stable=stable)
        partition = response.groups[0].topics[0].partitions[0]
        return partition.committed_offset, partition.error_code


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    async with group_node() as node:
        yield Setting(node)


async def test_offsets_count_after_the_marker_and_stable_fetches_wait_for_it(setting: Setting) -> None:
    assert await setting.commit(5) == ErrorCode.NONE
    assert await setting.fetched() == (-1, ErrorCode.UNSTABLE_OFFSET_COMMIT)
    assert await setting.fetched(stable=False) == (-1, ErrorCode.NONE)
    partition = setting.node.partitions.get(CONSUMER_OFFSETS, setting.index)
    assert partition is not None
    assert partition.last_stable_offset == 0
    assert await setting.mark(commit=True) == ErrorCode.NONE
    assert await setting.fetched() == (5, ErrorCode.NONE)
    assert partition.last_stable_offset == partition.high_watermark
    await setting.commit(6)
    await setting.mark(commit=False)
    assert await setting.fetched() == (5, ErrorCode.NONE)
    assert partition.aborted_transactions(0, partition.high_watermark)


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_the_coordinator_is_asked_once_for_each_transaction(setting: Setting, version: int) -> None:
    await setting.commit(5, version)
    await setting.commit(6, version)
    [request] = setting.coordinator.asked
    [transaction] = request.transactions
    assert (transaction.transactional_id, transaction.producer_id) == ("tx", PRODUCER)
    assert transaction.verify_only == (version < 5)
    assert [(each.name, each.partitions) for each in transaction.topics] == [(CONSUMER_OFFSETS, [setting.index])]
    await setting.mark(commit=True)
    assert await setting.fetched() == (6, ErrorCode.NONE)
    await setting.commit(7, version)
    assert len(setting.coordinator.asked) == 2


@pytest.mark.parametrize(
    ("verdict", "version", "told"),
    [
        (ErrorCode.TRANSACTION_ABORTABLE, 3, ErrorCode.INVALID_TXN_STATE),
        (ErrorCode.TRANSACTION_ABORTABLE, 4, ErrorCode.TRANSACTION_ABORTABLE),
        (ErrorCode.PRODUCER_FENCED, 5, ErrorCode.INVALID_PRODUCER_EPOCH),
        (ErrorCode.NOT_COORDINATOR, 5, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS),
        (ErrorCode.NOT_COORDINATOR, 1, ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (ErrorCode.CONCURRENT_TRANSACTIONS, 4, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS),
        (ErrorCode.CONCURRENT_TRANSACTIONS, 5, ErrorCode.CONCURRENT_TRANSACTIONS),
    ],
)
async def test_verdicts_are_told_as_the_version_knows_them(
    setting: Setting, verdict: ErrorCode, version: int, told: ErrorCode
) -> None:
    setting.coordinator.verdict = verdict
    assert await setting.commit(5, version) == told
    assert await setting.fetched() == (-1, ErrorCode.NONE)


async def test_a_transaction_that_ended_since_it_was_verified_takes_nothing_more(setting: Setting) -> None:
    call = setting.coordinator.call
    partition = setting.node.partitions.get(CONSUMER_OFFSETS, setting.index)
    assert partition is not None

    def abort_meanwhile(*arguments: Any) -> asyncio.Future[Any]:
        partition.append_marker(PRODUCER, 0, 0, commit=False, now_ms=1, transaction_version=1)
        return call(*arguments)

    setting.coordinator.call = abort_meanwhile  # type: ignore[method-assign]
    assert await setting.commit(5, 4) == ErrorCode.INVALID_TXN_STATE
    assert await setting.fetched() == (-1, ErrorCode.NONE)


async def test_a_partition_opened_between_question_and_answer_is_to_be_found_again(setting: Setting) -> None:
    node, call = setting.node, setting.coordinator.call
    topic = node.image.topic(CONSUMER_OFFSETS)
    assert topic is not None
    asked = asyncio.Event()
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def answer_later(*arguments: Any) -> asyncio.Future[Any]:
        asked.set()
        call(*arguments).add_done_callback(lambda given: late.append(given.result()))
        return answer

    late: list[Any] = []
    setting.coordinator.call = answer_later  # type: ignore[method-assign]
    commit = asyncio.ensure_future(setting.commit(5))
    await asked.wait()
    await node.partitions.close_topic(topic.topic_id)
    await node.partitions.open_topic(topic)
    await node.groups.wait_loaded()
    answer.set_result(late[0])
    assert await commit == ErrorCode.NOT_COORDINATOR
    assert await setting.fetched() == (-1, ErrorCode.NONE)


async def test_an_older_epoch_is_refused_by_the_log(setting: Setting) -> None:
    await setting.commit(5, producer_epoch=3)
    assert await setting.commit(6, producer_epoch=2) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert await setting.mark(commit=True, epoch=2) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert await setting.mark(commit=True, epoch=3) == ErrorCode.NONE
    assert await setting.fetched() == (5, ErrorCode.NONE)


async def test_a_member_that_is_not_known_is_refused(setting: Setting) -> None:
    assert await setting.commit(member_id="m", generation_id=3) == ErrorCode.ILLEGAL_GENERATION


async def test_what_does_not_exist_is_refused_and_the_rest_committed(setting: Setting) -> None:
    assert await setting.commit(topic="nowhere") == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert await setting.commit(index=9) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    partitions = [TxnOffsetCommitRequestPartition(partition_index=index, committed_offset=5) for index in (0, 9)]
    response = await setting.node.ask(
        txn_offset_commit,
        5,
        group_id=GROUP,
        transactional_id="tx",
        producer_id=PRODUCER,
        topics=[TxnOffsetCommitRequestTopic(name="t", partitions=partitions)],
    )
    codes = {each.partition_index: each.error_code for each in response.topics[0].partitions}
    assert codes == {0: ErrorCode.NONE, 9: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
    assert await setting.commit(group_id="") == ErrorCode.INVALID_GROUP_ID


async def test_a_reloaded_shard_knows_what_is_pending(setting: Setting) -> None:
    node = setting.node
    await setting.commit(5)
    await node.groups.stop()
    await node.groups.start()
    assert await setting.mark(commit=True) == ErrorCode.NOT_LEADER_OR_FOLLOWER
    await node.groups.wait_loaded()
    assert await setting.fetched() == (-1, ErrorCode.UNSTABLE_OFFSET_COMMIT)
    assert await setting.mark(commit=True) == ErrorCode.NONE
    assert await setting.fetched() == (5, ErrorCode.NONE)
    await node.groups.stop()
    await node.groups.start()
    await node.groups.wait_loaded()
    assert await setting.fetched() == (5, ErrorCode.NONE)
