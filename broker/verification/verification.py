"""`Verification`: asks transaction coordinators whether partitions are part of a transaction, or to add them.

Everything that is asked of one coordinator in one turn of the loop leaves as one AddPartitionsToTxn request. What a
coordinator refuses with CONCURRENT_TRANSACTIONS while it is adding is asked again for a while: the producer has been
told that its last transaction ended, and begins the next one while markers of that one are still being written.

Answers are told with the codes of the coordinator, except that nothing tells a client of requests between brokers:
PRODUCER_FENCED is INVALID_PRODUCER_EPOCH, and no answer is NETWORK_EXCEPTION. What producers are told of them is
decided in `verification.codes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from broker.peers import Peers, PeerUnavailable
from broker.verification.order import ProducerOrder
from protocol.errors import ErrorCode
from protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnTopic,
    AddPartitionsToTxnTransaction,
)

if TYPE_CHECKING:
    from s3stream.catalog.api import BrokerInfo

log = structlog.get_logger()

API_VERSION = 5
RETRY_FIRST_S = 0.002
"""Before a concurrent transaction is asked for again the first time; twice as long each further time."""

TopicPartition = tuple[str, int]
Verdicts = Mapping[TopicPartition, ErrorCode]
"""Of every partition that was asked for; NONE: part of the transaction."""


class Transaction(NamedTuple):
    """`adds`: partitions become part of it (TV2); otherwise they are only looked up."""

    transactional_id: str
    producer_id: int
    producer_epoch: int
    adds: bool


class _Question:
    __slots__ = ("callback", "give_up_at", "partitions", "retry_s", "transaction")

    def __init__(
        self,
        transaction: Transaction,
        partitions: frozenset[TopicPartition],
        callback: Callable[[Verdicts], None],
        give_up_at: float,
    ) -> None:
        self.transaction = transaction
        self.partitions = partitions
        self.callback = callback
        self.give_up_at = give_up_at
        self.retry_s = RETRY_FIRST_S

    def answer_all(self, code: ErrorCode) -> None:
        self.callback(dict.fromkeys(self.partitions, code))


_Batch = dict[str, list[_Question]]
"""By transactional id; the questions of one id are of the same transaction."""


class Verification:
    """`coordinator` finds the broker that coordinates a transactional id, None: nobody does at present."""

    def __init__(
        self,
        peers: Peers,
        coordinator: Callable[[str], BrokerInfo | None],
        *,
        retry_backoff_ms: int,
        retry_max_ms: int,
    ) -> None:
        self._peers = peers
        self._coordinator = coordinator
        self._retry_backoff_s = retry_backoff_ms / 1000
        self._retry_max_s = retry_max_ms / 1000
        self._loop = asyncio.get_running_loop()
        self.order = ProducerOrder()
        self._batches: dict[int, _Batch] = {}

    def ask(
        self,
        transaction: Transaction,
        partitions: Iterable[TopicPartition],
        callback: Callable[[Verdicts], None],
    ) -> None:
        """Calls back once, in a later turn of the loop."""
        self._ask(_Question(transaction, frozenset(partitions), callback, self._loop.time() + self._retry_max_s))

    def _ask(self, question: _Question) -> None:
        transaction = question.transaction
        coordinator = self._coordinator(transaction.transactional_id)
        if coordinator is None:
            self._loop.call_soon(question.answer_all, ErrorCode.COORDINATOR_NOT_AVAILABLE)
            return
        node_id = coordinator.node_id
        batch = self._batches.get(node_id)
        if batch is None:
            batch = self._batches[node_id] = {}
            self._loop.call_soon(self._send, node_id)
        questions = batch.setdefault(transaction.transactional_id, [])
        if questions and questions[0].transaction != transaction:
            # one request names a transactional id once: an older epoch of it, or another way of asking, goes before
            self._send(node_id)
            self._ask(question)
            return
        questions.append(question)

    def _send(self, node_id: int) -> None:
        batch = self._batches.pop(node_id, None)
        if not batch:
            return
        transactions = []
        for questions in batch.values():
            transactional_id, producer_id, producer_epoch, adds = questions[0].transaction
            transactions.append(
                AddPartitionsToTxnTransaction(
                    transactional_id=transactional_id,
                    producer_id=producer_id,
                    producer_epoch=producer_epoch,
                    verify_only=not adds,
                    topics=_topics(questions),
                )
            )
        request = AddPartitionsToTxnRequest(transactions=transactions)
        answer = self._peers.call(node_id, API_VERSION, request)
        answer.add_done_callback(partial(self._answered, batch))

    def _answered(self, batch: _Batch, answer: asyncio.Future[Any]) -> None:
        code = ErrorCode.NONE
        found: dict[str, dict[TopicPartition, ErrorCode]] = {}
        try:
            response: AddPartitionsToTxnResponse = answer.result()
        except PeerUnavailable as error:
            log.info("transaction coordinator does not answer", error=str(error))
            code = ErrorCode.NETWORK_EXCEPTION
        else:
            code = ErrorCode(response.error_code)
            found = {
                result.transactional_id: {
                    (topic.name, each.partition_index): _told(ErrorCode(each.partition_error_code))
                    for topic in result.topic_results
                    for each in topic.results_by_partition
                }
                for result in response.results_by_transaction
            }
        for transactional_id, questions in batch.items():
            codes = found.get(transactional_id, {})
            for question in questions:
                if code is not ErrorCode.NONE:
                    question.answer_all(code)
                else:
                    self._answer(question, codes)

    def _answer(self, question: _Question, codes: Verdicts) -> None:
        verdicts = {each: codes.get(each, ErrorCode.UNKNOWN_SERVER_ERROR) for each in question.partitions}
        if question.transaction.adds and ErrorCode.CONCURRENT_TRANSACTIONS in verdicts.values():
            retry_s = question.retry_s
            if self._loop.time() + retry_s <= question.give_up_at:
                question.retry_s = min(retry_s * 2, self._retry_backoff_s)
                self._loop.call_later(retry_s, self._ask, question)
                return
        question.callback(verdicts)


def _topics(questions: list[_Question]) -> list[AddPartitionsToTxnTopic]:
    by_topic: dict[str, list[int]] = {}
    for topic, index in sorted(frozenset().union(*(question.partitions for question in questions))):
        by_topic.setdefault(topic, []).append(index)
    return [AddPartitionsToTxnTopic(name=name, partitions=indexes) for name, indexes in by_topic.items()]


def _told(code: ErrorCode) -> ErrorCode:
    return ErrorCode.INVALID_PRODUCER_EPOCH if code is ErrorCode.PRODUCER_FENCED else code
