"""Produce (0): append record batches, answered when they are durable.

v3-v13. v5 log start offset; v7 zstd; v8 per-record errors (KIP-467); v9 flexible; v10 current leader and node endpoints
(KIP-951); v12 implicit partition adds of transactions (KIP-890); v13 topic ids (KIP-516).

* acks=1 and acks=-1 mean the same: durable in the write-ahead log. acks=0 is appended just so and gets no answer; an
  error closes the connection, which is all such a producer can notice. Any other value is INVALID_REQUIRED_ACKS.
* One batch per partition, magic 2; each partition has its own error. Batches are kept as they came, so the topic's
  `compression.type` has no effect.
* A repeat of a batch (idempotence) is answered with the offset of the first, once that one is durable.
* Only the broker writes to internal topics: INVALID_TOPIC_EXCEPTION.
* Full or failed storage is KAFKA_STORAGE_ERROR, which clients retry: the outcome of what was in flight is unknown.
* `timeout_ms` has no effect: there are no replicas to wait for, and an append is not given up on once it is made.
"""

from __future__ import annotations

from broker.cluster.names import INTERNAL_TOPICS
from broker.leadership import absence_code, current_leader
from broker.partition.errors import BatchRefused, PartitionError, code_of
from broker.request import Deferred, Refused, RequestContext
from broker.services import Services
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

    __slots__ = ("_produce_response", "_waiting_count")

    def __init__(self, response: ProduceResponse) -> None:
        super().__init__()
        self._produce_response = response
        # one for the handler itself, until it has appended everything
        self._waiting_count = 1

    def batch_appended(self) -> None:
        self._waiting_count += 1

    def part_done(self) -> None:
        self._waiting_count -= 1
        if not self._waiting_count:
            self.complete(self._produce_response)


class _Ack:
    """Called when one batch is durable, or the log failed."""

    __slots__ = ("_answer", "_pending")

    def __init__(self, pending: PendingProduce, answer: PartitionProduceResponse) -> None:
        self._pending = pending
        self._answer = answer

    def __call__(self, error: StorageError | None) -> None:
        if error is not None:
            _fail(self._answer, code_of(error), str(error))
        self._pending.part_done()


def handle(services: Services, ctx: RequestContext, request: ProduceRequest) -> ProduceResponse | Deferred | None:
    response = ProduceResponse()
    if request.acks not in (-1, 0, 1):
        _refuse_all(response, request, ErrorCode.INVALID_REQUIRED_ACKS)
        return response
    if request.transactional_id is not None:
        _refuse_all(response, request, ErrorCode.UNSUPPORTED_VERSION)
        return response
    pending = PendingProduce(response)
    now_ms = services.now_ms()
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
            if _append(services, topic, name, data, answer, pending, now_ms, zstd, may_write_internal):
                size += len(data.records)  # type: ignore[arg-type]
            else:
                failed = True
    ctx.throttle_time_ms = max(ctx.throttle_time_ms, services.partitions.throttle.charge(size))
    response.throttle_time_ms = ctx.throttle_time_ms
    if request.acks == 0:
        if failed:
            raise Refused(f"a batch with acks=0 was refused: {_first_error(response)}")
        return None
    if failed and ctx.api_version >= _ENDPOINTS_SINCE:
        _name_leaders(services, response)
    pending.part_done()
    return pending


def _append(
    services: Services,
    topic: TopicProduceData,
    name: str,
    data: PartitionProduceData,
    answer: PartitionProduceResponse,
    pending: PendingProduce,
    now_ms: int,
    zstd: bool,
    may_write_internal: bool,
) -> bool:
    """Append the batch of one partition and put the outcome into `answer`."""
    if name in INTERNAL_TOPICS and not may_write_internal:
        _fail(answer, ErrorCode.INVALID_TOPIC_EXCEPTION, f"only brokers write to {name}")
        return False
    partition = services.partitions.get(name, data.index)
    if partition is None:
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
        appended = partition.append_as_leader(records, now_ms, zstd)  # type: ignore[arg-type]
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
    pending.batch_appended()
    partition.when_high_watermark(appended.end_offset, _Ack(pending, answer))
    return True


def _absence(services: Services, topic: TopicProduceData, name: str, index: int) -> ErrorCode:
    if topic.topic_id != ZERO_UUID and not name:
        return ErrorCode.UNKNOWN_TOPIC_ID
    return absence_code(services.image.topic(name), index)


def _first_error(response: ProduceResponse) -> str:
    return next(
        f"{ErrorCode(answer.error_code).name} for partition {answer.index} of {topic.name!r:.300}"
        for topic in response.responses
        for answer in topic.partition_responses
        if answer.error_code
    )


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


def _name_leaders(services: Services, response: ProduceResponse) -> None:
    """Tell clients that came to the wrong broker where to go."""
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
