"""Produce in transactions, over a transaction coordinator that answers what the test says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from broker.handlers import produce
from broker.peers import PeerUnavailable
from broker.request import Deferred, Refused, RequestContext
from broker.verification import Verification
from protocol.errors import ErrorCode
from protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnPartitionResult,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTopicResult,
)
from protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from tests.broker.handlers_data.node import NOW_MS, Node, outcome
from tests.broker.partition.batches import batch

TV1, TV2 = 11, 12
"""Versions of Produce."""
PRODUCER = 7


class Coordinator:
    """Peers of which only the transaction coordinator answers: when, and what, the test says."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, AddPartitionsToTxnRequest, asyncio.Future[Any]]] = []

    def call(self, node_id: int, api_version: int, request: AddPartitionsToTxnRequest) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.asked.append((node_id, api_version, request, answer))
        return answer

    async def question(self) -> AddPartitionsToTxnRequest:
        """The request that waits for an answer."""
        for _ in range(2000):
            if self.asked:
                return self.asked[0][2]
            await asyncio.sleep(0.001)
        raise AssertionError("the coordinator was not asked")

    async def answer(self, code: ErrorCode = ErrorCode.NONE, **codes: ErrorCode) -> None:
        """`codes`: other codes for some topics."""
        request = await self.question()
        results = [
            AddPartitionsToTxnResult(
                transactional_id=transaction.transactional_id,
                topic_results=[
                    AddPartitionsToTxnTopicResult(
                        name=topic.name,
                        results_by_partition=[
                            AddPartitionsToTxnPartitionResult(
                                partition_index=index, partition_error_code=codes.get(topic.name, code)
                            )
                            for index in topic.partitions
                        ],
                    )
                    for topic in transaction.topics
                ],
            )
            for transaction in request.transactions
        ]
        self.asked.pop(0)[3].set_result(AddPartitionsToTxnResponse(results_by_transaction=results))
        await turns()

    async def fail(self) -> None:
        await self.question()
        self.asked.pop(0)[3].set_exception(PeerUnavailable("gone"))
        await turns()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class TransactionNode(Node):
    def __init__(self, retry_max_ms: int = 100) -> None:
        super().__init__()
        self.coordinator = Coordinator()
        self.coordinator_id: int | None = 3
        verification = Verification(
            self.coordinator,  # type: ignore[arg-type]
            lambda _: None if self.coordinator_id is None else SimpleNamespace(node_id=self.coordinator_id),  # type: ignore[arg-type,return-value]
            retry_backoff_ms=20,
            retry_max_ms=retry_max_ms,
        )
        self.services = replace(self.services, verification=verification)

    def send(
        self,
        *batches: tuple[str, Any],
        version: int = TV2,
        acks: int = -1,
        transactional_id: str | None = "tx",
        connection_id: int = 1,
    ) -> Any:
        request = ProduceRequest(
            transactional_id=transactional_id,
            acks=acks,
            topic_data=[
                TopicProduceData(name=name, partition_data=[PartitionProduceData(index=0, records=memoryview(records))])
                for name, records in batches
            ],
        )
        context = RequestContext(0, version, 1, "test", connection_id, "127.0.0.1")
        return produce.handle(self.services, context, request)

    def codes(self, result: Any) -> list[ErrorCode]:
        """Once everything is durable."""
        self.storage.flush()
        response = outcome(result)
        return [ErrorCode(part.error_code) for topic in response.responses for part in topic.partition_responses]


def txn(sequence: int = 0, epoch: int = 0, producer_id: int = PRODUCER) -> bytearray:
    return batch(producer_id=producer_id, epoch=epoch, sequence=sequence, transactional=True)


async def test_the_first_batch_waits_for_the_coordinator_and_the_next_ones_do_not() -> None:
    node = TransactionNode()
    topic = await node.topic("t")
    first = node.send(("t", txn()))
    assert isinstance(first, Deferred)
    request = await node.coordinator.question()
    assert node.log(topic).next_offset == 0
    [transaction] = request.transactions
    assert (transaction.transactional_id, transaction.producer_id, transaction.producer_epoch) == ("tx", PRODUCER, 0)
    assert not transaction.verify_only
    assert [(each.name, each.partitions) for each in transaction.topics] == [("t", [0])]
    await node.coordinator.answer()
    assert node.log(topic).next_offset == 1
    assert node.codes(first) == [ErrorCode.NONE]
    second = node.send(("t", txn(1)))
    assert node.log(topic).next_offset == 2
    assert node.codes(second) == [ErrorCode.NONE]
    assert not node.coordinator.asked
    assert not len(node.services.verification.order)


async def test_before_version_12_partitions_are_only_looked_up() -> None:
    node = TransactionNode()
    await node.topic("t")
    result = node.send(("t", txn()), version=TV1)
    assert (await node.coordinator.question()).transactions[0].verify_only
    await node.coordinator.answer()
    assert node.codes(result) == [ErrorCode.NONE]


async def test_what_a_producer_sends_behind_it_waits_and_keeps_its_order() -> None:
    node = TransactionNode()
    topic, other = await node.topic("t"), await node.topic("other")
    results = [node.send(("t", txn(sequence))) for sequence in range(3)]
    results.append(node.send(("other", txn())))
    await node.coordinator.answer()
    assert node.log(topic).next_offset == 3
    assert node.log(other).next_offset == 0
    await node.coordinator.answer()
    assert node.log(other).next_offset == 1
    assert [node.codes(result) for result in results] == [[ErrorCode.NONE]] * 4
    assert not len(node.services.verification.order)


async def test_other_producers_and_connections_do_not_wait() -> None:
    node = TransactionNode()
    topic, other = await node.topic("t"), await node.topic("other")
    waiting = node.send(("t", txn()))
    plain = node.send(("other", batch(producer_id=PRODUCER + 1, epoch=0, sequence=0)), transactional_id=None)
    assert node.log(other).next_offset == 1
    assert node.codes(plain) == [ErrorCode.NONE]
    node.send(("other", txn(producer_id=PRODUCER + 2)), connection_id=2)
    assert len((await node.coordinator.question()).transactions[0].topics) == 1
    await node.coordinator.answer()
    assert node.log(topic).next_offset == 1
    assert node.codes(waiting) == [ErrorCode.NONE]


async def test_partitions_that_are_refused_leave_the_others() -> None:
    node = TransactionNode()
    refused, taken = await node.topic("refused"), await node.topic("taken")
    result = node.send(("refused", txn()), ("taken", txn()))
    await node.coordinator.answer(refused=ErrorCode.TRANSACTION_ABORTABLE)
    assert (node.log(refused).next_offset, node.log(taken).next_offset) == (0, 1)
    assert node.codes(result) == [ErrorCode.TRANSACTION_ABORTABLE, ErrorCode.NONE]


@pytest.mark.parametrize(
    ("verdict", "version", "told"),
    [
        (ErrorCode.INVALID_TXN_STATE, TV2, ErrorCode.INVALID_TXN_STATE),
        (ErrorCode.TRANSACTION_ABORTABLE, 10, ErrorCode.INVALID_TXN_STATE),
        (ErrorCode.TRANSACTION_ABORTABLE, TV1, ErrorCode.TRANSACTION_ABORTABLE),
        (ErrorCode.PRODUCER_FENCED, TV2, ErrorCode.INVALID_PRODUCER_EPOCH),
        (ErrorCode.PRODUCER_FENCED, TV1, ErrorCode.INVALID_PRODUCER_EPOCH),
        (ErrorCode.INVALID_PRODUCER_ID_MAPPING, TV1, ErrorCode.INVALID_PRODUCER_ID_MAPPING),
        (ErrorCode.NOT_COORDINATOR, TV2, ErrorCode.NOT_ENOUGH_REPLICAS),
        (ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, TV1, ErrorCode.NOT_ENOUGH_REPLICAS),
        (ErrorCode.COORDINATOR_NOT_AVAILABLE, TV1, ErrorCode.NOT_ENOUGH_REPLICAS),
        (ErrorCode.CONCURRENT_TRANSACTIONS, TV1, ErrorCode.NOT_ENOUGH_REPLICAS),
    ],
)
async def test_verdicts_are_told_as_the_version_knows_them(verdict: ErrorCode, version: int, told: ErrorCode) -> None:
    node = TransactionNode()
    topic = await node.topic("t")
    result = node.send(("t", txn()), version=version)
    await node.coordinator.answer(verdict)
    assert node.log(topic).next_offset == 0
    assert node.codes(result) == [told]


async def test_a_coordinator_that_does_not_answer_is_to_be_tried_again() -> None:
    node = TransactionNode()
    await node.topic("t")
    result = node.send(("t", txn()))
    await node.coordinator.fail()
    assert node.codes(result) == [ErrorCode.NOT_ENOUGH_REPLICAS]
    node.coordinator_id = None
    result = node.send(("t", txn()))
    await turns()
    assert node.codes(result) == [ErrorCode.NOT_ENOUGH_REPLICAS]


async def test_a_transaction_that_is_still_being_completed_is_waited_for_and_not_for_ever() -> None:
    node = TransactionNode(retry_max_ms=60_000)
    await node.topic("t")
    result = node.send(("t", txn()))
    for _ in range(3):
        await node.coordinator.answer(ErrorCode.CONCURRENT_TRANSACTIONS)
    await node.coordinator.answer()
    assert node.codes(result) == [ErrorCode.NONE]
    impatient = TransactionNode(retry_max_ms=0)
    await impatient.topic("t")
    result = impatient.send(("t", txn()))
    await impatient.coordinator.answer(ErrorCode.CONCURRENT_TRANSACTIONS)
    assert impatient.codes(result) == [ErrorCode.CONCURRENT_TRANSACTIONS]


async def test_an_abort_between_question_and_answer_is_not_missed() -> None:
    node = TransactionNode()
    topic = await node.topic("t")
    result = node.send(("t", txn()), version=TV1)
    await node.coordinator.question()
    partition = node.partitions.get("t", 0)
    assert partition is not None
    partition.append_marker(PRODUCER, 0, 1, commit=False, now_ms=NOW_MS, transaction_version=1)
    await node.coordinator.answer()
    assert node.codes(result) == [ErrorCode.INVALID_TXN_STATE]
    assert node.log(topic).next_offset == 1


async def test_one_question_holds_what_one_turn_of_the_loop_asks() -> None:
    node = TransactionNode()
    for name in ("a", "b", "c"):
        await node.topic(name)
    results = [
        node.send((name, txn(producer_id=index)), transactional_id=f"tx{index}", connection_id=index)
        for index, name in enumerate(("a", "b", "c"))
    ]
    request = await node.coordinator.question()
    assert [each.transactional_id for each in request.transactions] == ["tx0", "tx1", "tx2"]
    await node.coordinator.answer()
    assert [node.codes(result) for result in results] == [[ErrorCode.NONE]] * 3


async def test_two_epochs_of_a_transactional_id_are_asked_for_one_after_the_other() -> None:
    node = TransactionNode()
    await node.topic("t")
    node.send(("t", txn(epoch=0)), connection_id=1)
    node.send(("t", txn(epoch=1)), connection_id=2)
    await node.coordinator.question()
    await turns()
    epochs = [[each.producer_epoch for each in request.transactions] for _, _, request, _ in node.coordinator.asked]
    assert epochs == [[0], [1]]


async def test_verification_can_be_switched_off_for_clients_that_add_partitions_themselves() -> None:
    node = TransactionNode()
    await node.topic("t")
    node.config.set_dynamic({"transaction.partition.verification.enable": "false"}, {})
    assert node.codes(node.send(("t", txn()), version=TV1)) == [ErrorCode.NONE]
    node.send(("t", txn(producer_id=8)), version=TV2)
    assert (await node.coordinator.question()).transactions[0].producer_id == 8


async def test_transactional_records_need_a_transactional_id() -> None:
    node = TransactionNode()
    await node.topic("t")
    result = node.send(("t", txn()), transactional_id=None)
    assert node.codes(result) == [ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED]


async def test_records_that_are_in_no_transaction_may_carry_a_transactional_id() -> None:
    node = TransactionNode()
    await node.topic("t")
    assert node.codes(node.send(("t", batch()))) == [ErrorCode.NONE]
    assert not node.coordinator.asked


async def test_two_producers_in_one_request_are_refused() -> None:
    node = TransactionNode()
    a, b = await node.topic("a"), await node.topic("b")
    result = node.send(("a", txn()), ("b", txn(producer_id=8)))
    assert node.codes(result) == [ErrorCode.INVALID_PRODUCER_ID_MAPPING] * 2
    assert (node.log(a).next_offset, node.log(b).next_offset) == (0, 0)


async def test_acks_0_is_not_answered_whether_it_waited_or_not() -> None:
    node = TransactionNode()
    topic = await node.topic("t")
    waiting = node.send(("t", txn()), acks=0)
    assert not waiting.done
    await node.coordinator.answer()
    at_once = node.send(("t", txn(1)), acks=0)
    assert node.log(topic).next_offset == 2
    assert (outcome(waiting), outcome(at_once)) == (None, None)
    with pytest.raises(Refused):
        node.send(("t", txn(7)), acks=0)
    lost = node.send(("t", txn(producer_id=8)), acks=0)
    await node.coordinator.answer(ErrorCode.INVALID_PRODUCER_EPOCH)
    assert outcome(lost) is None
    assert not len(node.services.verification.order)


async def test_what_is_refused_behind_a_waiting_batch_stops_nobody() -> None:
    node = TransactionNode()
    topic = await node.topic("t")
    results = [node.send(("t", txn()), acks=0), node.send(("t", txn(7)), acks=0), node.send(("t", txn(1)))]
    neighbour = node.send(("t", txn(producer_id=8)), connection_id=2, transactional_id="neighbour")
    await node.coordinator.answer()
    assert [node.codes(results[2]), node.codes(neighbour)] == [[ErrorCode.NONE]] * 2
    assert [outcome(result) for result in results[:2]] == [None, None]
    assert node.log(topic).next_offset == 3
    assert not len(node.services.verification.order)


@pytest.mark.parametrize("was_open", [True, False])
async def test_a_partition_opened_between_question_and_answer_is_to_be_tried_again(was_open: bool) -> None:
    node = TransactionNode()
    topic = await node.topic("t")
    other = await node.topic("other")
    if not was_open:
        await node.partitions.close_topic(topic.topic_id)
    result = node.send(("t", txn()), ("other", txn()))
    await node.coordinator.question()
    if was_open:
        await node.partitions.close_topic(topic.topic_id)
    await node.partitions.open_topic(topic)
    await node.coordinator.answer()
    assert node.codes(result) == [ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.NONE]
    assert (node.log(topic).next_offset, node.log(other).next_offset) == (0, 1)


async def test_a_partition_that_opens_in_between_does_not_begin_with_a_later_batch() -> None:
    node = TransactionNode()
    topic = await node.topic("t")
    await node.partitions.close_topic(topic.topic_id)
    first = node.send(("t", txn()), version=TV1)
    await node.partitions.open_topic(topic)
    assert node.codes(first) == [ErrorCode.NOT_LEADER_OR_FOLLOWER]
    codes = []
    for sequence in (1, 0, 1):
        result = node.send(("t", txn(sequence)), version=TV1)
        if not result.done and node.log(topic).next_offset == 0:
            await node.coordinator.answer()
        codes += node.codes(result)
    assert codes == [ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, ErrorCode.NONE, ErrorCode.NONE]


async def test_batches_cut_short_are_refused_without_asking_anybody() -> None:
    node = TransactionNode()
    await node.topic("t")
    for size in (0, 1, 21, 60):
        [code] = node.codes(node.send(("t", txn()[:size])))
        assert code is not ErrorCode.NONE
    assert not node.coordinator.asked


async def test_a_defect_while_appending_answers_and_lets_the_next_ones_through(monkeypatch: pytest.MonkeyPatch) -> None:
    node = TransactionNode()
    await node.topic("t")
    first, second = node.send(("t", txn())), node.send(("t", txn()))
    await node.coordinator.question()
    monkeypatch.setattr(node.partitions, "throttle", SimpleNamespace(charge=lambda size: 1 // 0))
    await node.coordinator.answer()
    monkeypatch.undo()
    assert node.codes(first) == [ErrorCode.UNKNOWN_SERVER_ERROR]
    assert outcome(second) is not None
    assert not len(node.services.verification.order)
