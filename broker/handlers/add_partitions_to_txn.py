"""AddPartitionsToTxn (24): partitions join a transaction, or a broker asks whether they have.

v0-v5. v2 PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH; v3 flexible. v4 is between brokers (KIP-890): several
transactions, each added to or only verified; v5 adds for producers that leave it to the broker.

* One partition that does not exist refuses the whole transaction: the others are answered OPERATION_NOT_ATTEMPTED.
* A verification answers each partition: NONE, or TRANSACTION_ABORTABLE if it is not in the ongoing transaction.
* Adding is answered when it is durable. Whoever comes while the former transaction ends is told
  CONCURRENT_TRANSACTIONS and tries again.
* A request without any transaction is answered; Kafka never does.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from broker.coordinator.reply import Gathered, Reply
from broker.coordinator.transaction.answers import known_code, topic_results
from broker.coordinator.transaction.records import TopicPartition
from broker.request import Deferred, RequestContext
from broker.services import Services
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.add_partitions_to_txn import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult,
    AddPartitionsToTxnTransaction,
)

API_KEY = ApiKey.ADD_PARTITIONS_TO_TXN
MIN_VERSION = 0
MAX_VERSION = 5

_FENCED_SINCE = 2
_BETWEEN_BROKERS_SINCE = 4
_PLAIN, _BUMPING = 0, 2
"""`transaction.version` of the producer: clients ask themselves only if they are of the old kind."""


def handle(services: Services, ctx: RequestContext, request: AddPartitionsToTxnRequest) -> Deferred:
    version = ctx.api_version
    if version >= _BETWEEN_BROKERS_SINCE:
        return Gathered([_handle(services, version, each) for each in request.transactions], _several)
    transaction = AddPartitionsToTxnTransaction(
        transactional_id=request.v3_and_below_transactional_id,
        producer_id=request.v3_and_below_producer_id,
        producer_epoch=request.v3_and_below_producer_epoch,
        topics=request.v3_and_below_topics,
    )
    return Gathered([_handle(services, version, transaction)], _single)


def _handle(services: Services, version: int, asked: AddPartitionsToTxnTransaction) -> Reply:
    partitions = frozenset((topic.name, index) for topic in asked.topics for index in topic.partitions)
    reply = Reply(partial(_refusal, version, asked.transactional_id, partitions))
    unknown = {each for each in partitions if not _exists(services, each)}
    if unknown:
        codes = {
            each: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if each in unknown else ErrorCode.OPERATION_NOT_ATTEMPTED
            for each in partitions
        }
        reply.complete(_result(asked.transactional_id, codes))
        return reply
    producer = asked.producer_id, asked.producer_epoch
    if asked.verify_only:
        services.transactions.submit(
            asked.transactional_id,
            reply,
            lambda machine, out: out.answer(
                reply,
                _result(
                    asked.transactional_id, machine.verify_partitions(asked.transactional_id, producer, partitions)
                ),
            ),
        )
    else:
        client_version = _BUMPING if version >= _BETWEEN_BROKERS_SINCE else _PLAIN
        services.transactions.submit(
            asked.transactional_id,
            reply,
            lambda machine, out: machine.add_partitions(
                out, reply, asked.transactional_id, producer, partitions, client_version
            ),
        )
    return reply


def _exists(services: Services, partition: TopicPartition) -> bool:
    topic = services.image.topic(partition[0])
    return topic is not None and 0 <= partition[1] < len(topic.partitions)


def _refusal(
    version: int, transactional_id: str, partitions: frozenset[TopicPartition], code: ErrorCode
) -> AddPartitionsToTxnResult:
    code = known_code(code, version >= _FENCED_SINCE)
    return _result(transactional_id, dict.fromkeys(partitions, code))


def _result(transactional_id: str, codes: dict[TopicPartition, ErrorCode]) -> AddPartitionsToTxnResult:
    return AddPartitionsToTxnResult(transactional_id=transactional_id, topic_results=topic_results(codes))


def _several(parts: list[Any]) -> AddPartitionsToTxnResponse:
    return AddPartitionsToTxnResponse(results_by_transaction=parts)


def _single(parts: list[Any]) -> AddPartitionsToTxnResponse:
    return AddPartitionsToTxnResponse(results_by_topic_v3_and_below=parts[0].topic_results)
