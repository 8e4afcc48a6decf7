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

from collections.abc import Callable
from functools import partial

import structlog

from broker.cluster.names import INTERNAL_TOPICS
from broker.leadership import absence_code, current_leader
from broker.partition.errors import BatchRefused, PartitionError, code_of
from broker.request import Deferred, Refused, RequestContext
from broker.services import Services
from broker.verification import ProduceTransaction, Verdicts
from protocol.api_keys import ApiKey
from protocol.errors import ErrorCode
from protocol.messages.produce import (
    BatchIndexAndErrorMessage,
    LeaderIdAndEpoch,
    NodeEndpoint,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceData,
    TopicProduceResponse,
)
from protocol.types import ZERO_UUID
from s3stream.api import StorageError
from s3stream.catalog.api import TopicInfo

log = structlog.get_logger()

API_KEY = ApiKey.PRODUCE
MIN_VERSION = 3
MAX_VERSION = 13

_ZSTD_SINCE = 7
_ENDPOINTS_SINCE = 10
_REFUSED_UNSEEN = (ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.CORRUPT_MESSAGE)
"""Answered without the log start offset, as by Kafka."""
_ADMIN_CLIENT_ID = "__admin_client"
"""The one client id that may write to internal topics, as with Kafka."""
_NO_OFFSET = -1
_NO_LEADER = LeaderIdAndEpoch()
"""Shared by all answers that name no leader; never changed."""


class PendingProduce(Deferred):
    """A produce request whose batches are appended: complete when the last of them is durable."""

    __slots__ = ("_waiting_count", "before_answer", "has_parked", "produce_response")

    def __init__(self, response: ProduceResponse) -> None:
        super().__init__()
        self.produce_response: ProduceResponse | None = response
        self.before_answer: Callable[[PendingProduce], None] | None = None
        self.has_parked = False
        """A batch of it waits, or has waited, for a partition on its way."""
        # one for the handler itself, until it has appended everything
        self._waiting_count = 1

    def part_begun(self) -> None:
        self._waiting_count += 1

    def part_done(self) -> None:
        self._waiting_count -= 1
        if not self._waiting_count:
            if self.before_answer is not None:
                self.before_answer(self)
            self.complete(self.produce_response)


class _Ack:
    """Called when one batch is durable, or the log failed."""

    __slots__ = ("_answer", "_pending")

    def __init__(self, pending: PendingProduce, answer: PartitionProduceResponse) -> None:
        self._pending = pending
        self._answer = answer

    def __call__(self, error: StorageError | None) -> None:
        if error is not None:
            # whatever the reason: it may be durable, so that it must come again as it is
            _fail(self._answer, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND, str(error))
        self._pending.part_done()


class _ParkedBatch:
    """Called when its partition has arrived or gone, or no longer waited for."""

    __slots__ = ("_answer", "_append", "_must_append", "_pending")

    def __init__(
        self,
        pending: PendingProduce,
        answer: PartitionProduceResponse,
        must_append: bool,
        append: Callable[[], object],
    ) -> None:
        self._pending = pending
        self._answer = answer
        self._must_append = must_append
        self._append = append

    def __call__(self) -> None:
        try:
            # whoever is gone and expected an answer sends the batch again
            if self._must_append or not self._pending.cancelled:
                self._append()
        except Exception:
            _fail(self._answer, ErrorCode.UNKNOWN_SERVER_ERROR, None)
            raise
        finally:
            self._pending.part_done()


def handle(services: Services, ctx: RequestContext, request: ProduceRequest) -> ProduceResponse | Deferred | None:
    response = ProduceResponse()
    if request.acks not in (-1, 0, 1):
        _refuse_all(response, request, ErrorCode.INVALID_REQUIRED_ACKS)
        return response
    pending = PendingProduce(response)
    if request.transactional_id is None:
        return _append_all(services, ctx, request, pending, None)
    transaction = ProduceTransaction(
        request.transactional_id, ctx.api_version, services.config.transaction_partition_verification_enable
    )
    if not _look_at_batches(services, request, transaction):
        _refuse_all(response, request, ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        return response
    work = _TransactionalProduce(services, ctx, request, pending, transaction)
    services.verification.order.add(work.key, work)
    if work.refused is not None:
        raise work.refused
    return pending


def _append_all(
    services: Services,
    ctx: RequestContext,
    request: ProduceRequest,
    pending: PendingProduce,
    transaction: ProduceTransaction | None,
) -> Deferred | None:
    response = pending.produce_response
    assert response is not None
    now_ms = services.now_ms()
    acks = request.acks
    zstd = ctx.api_version >= _ZSTD_SINCE
    may_write_internal = ctx.client_id == _ADMIN_CLIENT_ID
    size = 0
    failed = False
    for topic in request.topic_data:
        name = topic.name
        info: TopicInfo | None = None
        if topic.topic_id != ZERO_UUID:
            info = services.image.topic_by_id(topic.topic_id)
            name = info.name if info is not None else ""
        answers: list[PartitionProduceResponse] = []
        response.responses.append(
            TopicProduceResponse(name=topic.name, topic_id=topic.topic_id, partition_responses=answers)
        )
        for data in topic.partition_data:
            answer = PartitionProduceResponse(index=data.index, current_leader=_NO_LEADER)
            answers.append(answer)
            if _append(
                services, topic, name, data, answer, pending, acks, now_ms, zstd, may_write_internal, transaction
            ):
                size += len(data.records)  # type: ignore[arg-type]
            else:
                failed = True
    ctx.throttle_time_ms = max(ctx.throttle_time_ms, services.partitions.throttle.charge(size))
    response.throttle_time_ms = ctx.throttle_time_ms
    if acks == 0:
        if failed:
            raise _lost(response)
        if not pending.has_parked:
            return None
        pending.before_answer = _leave_unanswered
    elif (failed or pending.has_parked) and ctx.api_version >= _ENDPOINTS_SINCE:
        pending.before_answer = partial(_name_leaders, services)
    pending.part_done()
    return pending


def _leave_unanswered(pending: PendingProduce) -> None:
    """With acks=0 all that a producer can notice is the end of its connection."""
    response, pending.produce_response = pending.produce_response, None
    if response is not None and _first_error(response) is not None:
        pending.refused = _lost(response)


def _lost(response: ProduceResponse) -> Refused:
    return Refused(f"a batch with acks=0 was refused: {_first_error(response)}")


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

    __slots__ = ("_ctx", "_pending", "_request", "_services", "_transaction", "key", "refused")

    def __init__(
        self,
        services: Services,
        ctx: RequestContext,
        request: ProduceRequest,
        pending: PendingProduce,
        transaction: ProduceTransaction,
    ) -> None:
        self._services = services
        self._ctx = ctx
        self._request = request
        self._pending = pending
        self._transaction = transaction
        self.key = ctx.connection_id, transaction.producer_id
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
            if _append_all(self._services, self._ctx, self._request, self._pending, self._transaction) is None:
                self._pending.complete(None)
        except Refused as refused:
            log.info("a batch in a transaction was lost", reason=str(refused))
            self.refused = refused
            self._pending.complete(None)
        except Exception:
            # the ones behind it must not wait for ever
            log.exception("produce failed")
            response = ProduceResponse()
            _refuse_all(response, self._request, ErrorCode.UNKNOWN_SERVER_ERROR)
            self._pending.complete(response)


def _append(
    services: Services,
    topic: TopicProduceData,
    name: str,
    data: PartitionProduceData,
    answer: PartitionProduceResponse,
    pending: PendingProduce,
    acks: int,
    now_ms: int,
    zstd: bool,
    may_write_internal: bool,
    transaction: ProduceTransaction | None,
    may_park: bool = True,
) -> bool:
    """Append the batch of one partition and put the outcome into `answer`, or park it until that is possible."""
    if name in INTERNAL_TOPICS and not may_write_internal:
        _fail(answer, ErrorCode.INVALID_TOPIC_EXCEPTION, f"only brokers write to {name}")
        return False
    partition = services.partitions.get(name, data.index)
    if partition is None:
        if may_park and services.partitions.in_transit(name, data.index):
            again = partial(
                _append, services, topic, name, data, answer, pending, acks, now_ms, zstd, may_write_internal,
                transaction, may_park=False,
            )  # fmt: skip
            if services.partitions.park(name, data.index, _ParkedBatch(pending, answer, acks == 0, again)):
                pending.has_parked = True
                pending.part_begun()
                return True
        else:
            services.partitions.refused.note(name, topic.topic_id, data.index, data.records, now_ms)  # type: ignore[arg-type]
        _fail(answer, _absence(services, topic, name, data.index), None)
        return False
    if topic.topic_id not in (ZERO_UUID, partition.topic_id):
        _fail(answer, ErrorCode.UNKNOWN_TOPIC_ID, None)
        return False
    records = data.records
    if records is None:
        _fail(answer, ErrorCode.INVALID_RECORD, "no records")
        return False
    try:
        if transaction is None:
            appended = partition.append_as_leader(records, now_ms, zstd)  # type: ignore[arg-type]
        else:
            appended = transaction.append(partition, records, now_ms, zstd)  # type: ignore[arg-type]
    except BatchRefused as error:
        _fail(answer, error.code, str(error))
        answer.record_errors = [
            BatchIndexAndErrorMessage(batch_index=index, batch_index_error_message=message)
            for index, message in error.record_errors
        ]
        if error.code not in _REFUSED_UNSEEN:
            answer.log_start_offset = partition.log_start_offset
        return False
    except (PartitionError, StorageError) as error:
        _fail(answer, code_of(error), str(error))
        return False
    answer.base_offset = appended.base_offset
    answer.log_append_time_ms = appended.log_append_time_ms
    answer.log_start_offset = partition.log_start_offset
    pending.part_begun()
    partition.when_high_watermark(appended.end_offset, _Ack(pending, answer))
    return True


def _absence(services: Services, topic: TopicProduceData, name: str, index: int) -> ErrorCode:
    if topic.topic_id != ZERO_UUID and not name:
        return ErrorCode.UNKNOWN_TOPIC_ID
    return absence_code(services.image.topic(name), index)


def _first_error(response: ProduceResponse) -> str | None:
    errors = (
        f"{ErrorCode(answer.error_code).name} for partition {answer.index} of {topic.name!r:.300}"
        for topic in response.responses
        for answer in topic.partition_responses
        if answer.error_code
    )
    return next(errors, None)


def _fail(answer: PartitionProduceResponse, code: ErrorCode, message: str | None) -> None:
    answer.error_code = code
    answer.error_message = message
    answer.base_offset = _NO_OFFSET
    answer.log_append_time_ms = -1
    answer.log_start_offset = -1


def _refuse_all(response: ProduceResponse, request: ProduceRequest, code: ErrorCode) -> None:
    for topic in request.topic_data:
        answers = [PartitionProduceResponse(index=data.index) for data in topic.partition_data]
        for answer in answers:
            _fail(answer, code, None)
        response.responses.append(
            TopicProduceResponse(name=topic.name, topic_id=topic.topic_id, partition_responses=answers)
        )


def _name_leaders(services: Services, pending: PendingProduce) -> None:
    """Tell clients that came to the wrong broker where to go."""
    response = pending.produce_response
    assert response is not None
    named: set[int] = set()
    for topic in response.responses:
        by_id = topic.topic_id != ZERO_UUID
        info = services.image.topic_by_id(topic.topic_id) if by_id else services.image.topic(topic.name)
        for answer in topic.partition_responses:
            if answer.error_code != ErrorCode.NOT_LEADER_OR_FOLLOWER:
                continue
            leader = current_leader(services.image, info, answer.index)
            if leader is None:
                continue
            leader_epoch, broker = leader
            answer.current_leader = LeaderIdAndEpoch(leader_id=broker.node_id, leader_epoch=leader_epoch)
            if broker.node_id not in named:
                named.add(broker.node_id)
                response.node_endpoints.append(
                    NodeEndpoint(node_id=broker.node_id, host=broker.host, port=broker.port, rack=broker.rack)
                )
