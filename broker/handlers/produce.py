"""Produce (0): append record batches, answered when they are durable.

v3-v13. v5 log start offset; v7 zstd; v8 per-record errors (KIP-467); v9 flexible; v10 current leader and node endpoints
(KIP-951); v12 implicit partition adds of transactions (KIP-890); v13 topic ids (KIP-516).

* acks=1 and acks=-1 mean the same: durable in the write-ahead log. acks=0 is appended just so and gets no answer; an
  error closes the connection, which is all such a producer can notice. Any other value is INVALID_REQUIRED_ACKS.
* One batch per partition, magic 2; each partition has its own error. Batches are kept as they came, so the topic's
  `compression.type` has no effect.
* Batches of a transaction go to partitions that are part of it. Where none of it is open yet the transaction's
  coordinator is asked first, or, from v12 on, told (`broker.verification`); what this producer sends behind it on the
  connection waits. Without a transactional id such a batch is TRANSACTIONAL_ID_AUTHORIZATION_FAILED; those of two
  producers in one request are INVALID_PRODUCER_ID_MAPPING. Any acks will do, as with Kafka.
* A repeat of a batch (idempotence) is answered with the offset of the first, once that one is durable.
* Only the broker writes to internal topics: INVALID_TOPIC_EXCEPTION.
* A batch for a partition that is being handed over, or taken over, waits until it is known where it is led; the batches
  behind it in the partition wait too. The other partitions of the request do not.
* If a partition opens here behind a batch that was refused, what its producer sent after that one is
  OUT_OF_ORDER_SEQUENCE_NUMBER until it has come again (`broker.handoff.refused`): Kafka would take it for the first.
* Full or failed storage is KAFKA_STORAGE_ERROR, which clients retry. What was appended before that, or before this
  broker was replaced, is NOT_ENOUGH_REPLICAS_AFTER_APPEND: its outcome is unknown here, and a new leader may have it.
  With NOT_LEADER_OR_FOLLOWER, as Kafka answers, librdkafka takes it for lost and may send its records in other batches,
  which no leader can recognize as repeats.
* `timeout_ms` has no effect: there are no replicas to wait for, and an append is not given up on once it is made.
"""

from __future__ import annotations

import structlog

from broker.produce_request import PendingProduce, refuse_all
from broker.request import Deferred, Refused, RequestContext
from broker.services import Services
from broker.verification import ProduceTransaction, Verdicts
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.produce import ProduceRequest, ProduceResponse
from protocol.types import ZERO_UUID

log = structlog.get_logger()

API_KEY = ApiKey.PRODUCE
MIN_VERSION = 3
MAX_VERSION = 13


def handle(services: Services, ctx: RequestContext, request: ProduceRequest) -> ProduceResponse | Deferred | None:
    if request.acks not in (-1, 0, 1):
        return refuse_all(request, ErrorCode.INVALID_REQUIRED_ACKS)
    if request.transactional_id is None:
        return PendingProduce(services, ctx, request).append()
    transaction = ProduceTransaction(
        request.transactional_id, ctx.api_version, services.config.transaction_partition_verification_enable
    )
    if not _look_at_batches(services, request, transaction):
        return refuse_all(request, ErrorCode.INVALID_PRODUCER_ID_MAPPING)
    pending = PendingProduce(services, ctx, request, transaction)
    work = _TransactionalProduce(services, request, pending, transaction, ctx.connection_id)
    services.verification.order.add(work.key, work)
    if work.refused is not None:
        raise work.refused
    return pending


def _look_at_batches(services: Services, request: ProduceRequest, transaction: ProduceTransaction) -> bool:
    """Tell the transaction of the batches for partitions led here; False if they are of several producers."""
    for topic in request.topic_data:
        name = topic.name
        if topic.topic_id != ZERO_UUID:
            info = services.image.topic_by_id(topic.topic_id)
            name = info.name if info is not None else ""
        for data in topic.partition_data:
            partition = services.partitions.get(name, data.index)
            if partition is None or data.records is None:
                continue
            if not transaction.add(partition, data.records):  # type: ignore[arg-type]
                return False
    return True


class _TransactionalProduce:
    """One request in the order of its producer: appended when all its partitions are known to be in the transaction,
    or not to be."""

    __slots__ = ("_pending", "_request", "_services", "_transaction", "key", "refused")

    def __init__(
        self,
        services: Services,
        request: ProduceRequest,
        pending: PendingProduce,
        transaction: ProduceTransaction,
        connection_id: int,
    ) -> None:
        self._services = services
        self._request = request
        self._pending = pending
        self._transaction = transaction
        self.key = connection_id, transaction.producer_id
        self.refused: Refused | None = None
        """Set within the handler's call it closes the connection; later it is too late for that: others behind it have
        been taken."""

    def begin(self) -> bool:
        transaction = self._transaction
        asked = transaction.begin_verification()
        if asked:
            self._services.verification.ask(transaction.transaction(), asked, self._verified)
            return False
        self._append()
        return True

    def _verified(self, verdicts: Verdicts) -> None:
        self._transaction.verified(verdicts)
        self._append()
        self._services.verification.order.done(self.key)

    def _append(self) -> None:
        try:
            if self._pending.append() is None:
                self._pending.complete(None)
        except Refused as refused:
            log.info("a batch in a transaction was lost", reason=str(refused))
            self.refused = refused
            self._pending.complete(None)
        except Exception:
            # the ones behind it must not wait for ever
            log.exception("produce failed")
            self._pending.complete(refuse_all(self._request, ErrorCode.UNKNOWN_SERVER_ERROR))
