"""A Produce request at work: its batches are appended, parked or refused, and it is answered when all are durable."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from broker.cluster.names import INTERNAL_TOPICS
from broker.leadership import absence_code, current_leader
from broker.partition.errors import BatchRefused, PartitionError, code_of
from broker.request import Deferred, Refused, RequestContext
from broker.services import Services
from broker.verification import ProduceTransaction
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
    """One request, from `append` until the last of its batches is durable. `transaction`: what its batches are part of,
    looked at by the time they are appended."""

    __slots__ = (
        "_ctx",
        "_may_miss_leaders",
        "_may_write_internal",
        "_now_ms",
        "_parked",
        "_request",
        "_response",
        "_services",
        "_transaction",
        "_waiting_count",
        "_zstd",
    )

    def __init__(
        self,
        services: Services,
        ctx: RequestContext,
        request: ProduceRequest,
        transaction: ProduceTransaction | None = None,
    ) -> None:
        super().__init__()
        self._services = services
        self._ctx = ctx
        self._request = request
        self._transaction = transaction
        self._response = ProduceResponse()
        self._now_ms = 0
        self._zstd = ctx.api_version >= _ZSTD_SINCE
        self._may_write_internal = ctx.client_id == _ADMIN_CLIENT_ID
        self._parked: tuple[tuple[str, int, _ParkedBatch], ...] = ()
        """Those of its batches that wait, or have waited, for a partition on its way: topic, partition, what waits."""
        self._may_miss_leaders = False
        # one for `append`, until it has appended everything
        self._waiting_count = 1

    def append(self) -> PendingProduce | None:
        """Append everything; returns itself, or None if no answer is due. Raises Refused to close the connection."""
        services, ctx, request = self._services, self._ctx, self._request
        self._now_ms = services.now_ms()
        response = self._response
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
                if self._append(topic, name, data, answer):
                    size += len(data.records)  # type: ignore[arg-type]
                else:
                    failed = True
        ctx.throttle_time_ms = max(ctx.throttle_time_ms, services.partitions.throttle.charge(size))
        response.throttle_time_ms = ctx.throttle_time_ms
        if not request.acks:
            if failed:
                raise _lost(response)
            if not self._parked:
                return None
        self._may_miss_leaders = failed or bool(self._parked)
        self.part_done()
        return self

    def _append(
        self,
        topic: TopicProduceData,
        name: str,
        data: PartitionProduceData,
        answer: PartitionProduceResponse,
        may_park: bool = True,
    ) -> bool:
        """Append the batch of one partition and put the outcome into `answer`, or park it until that is possible."""
        if name in INTERNAL_TOPICS and not self._may_write_internal:
            _fail(answer, ErrorCode.INVALID_TOPIC_EXCEPTION, f"only brokers write to {name}")
            return False
        partitions = self._services.partitions
        partition = partitions.get(name, data.index)
        if partition is None:
            if may_park and partitions.in_transit(name, data.index):
                again = partial(self._append, topic, name, data, answer, may_park=False)
                parked = _ParkedBatch(self, answer, again)
                if partitions.park(name, data.index, parked):
                    self._parked += ((name, data.index, parked),)
                    self._waiting_count += 1
                    return True
            else:
                partitions.refused.note(name, topic.topic_id, data.index, data.records, self._now_ms)  # type: ignore[arg-type]
            _fail(answer, _absence(self._services, topic, name, data.index), None)
            return False
        if topic.topic_id not in (ZERO_UUID, partition.topic_id):
            _fail(answer, ErrorCode.UNKNOWN_TOPIC_ID, None)
            return False
        records = data.records
        if records is None:
            _fail(answer, ErrorCode.INVALID_RECORD, "no records")
            return False
        try:
            if self._transaction is None:
                appended = partition.append_as_leader(records, self._now_ms, self._zstd)  # type: ignore[arg-type]
            else:
                appended = self._transaction.append(partition, records, self._now_ms, self._zstd)  # type: ignore[arg-type]
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
        self._waiting_count += 1
        partition.when_high_watermark(appended.end_offset, _Ack(self, answer))
        return True

    def cancel(self) -> None:
        """Whoever is gone and expected an answer sends again what was not appended."""
        super().cancel()
        if self._request.acks:
            for parked in self._parked:
                self._services.partitions.leave_parking(*parked)

    def part_done(self) -> None:
        self._waiting_count -= 1
        if not self._waiting_count:
            self._answer()

    def _answer(self) -> None:
        response = self._response
        if self._request.acks:
            if self._may_miss_leaders and self._ctx.api_version >= _ENDPOINTS_SINCE:
                _name_leaders(self._services, response)
            self.complete(response)
            return
        # all that such a producer can notice is the end of its connection
        if _first_error(response) is not None:
            self.refused = _lost(response)
        self.complete(None)


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

    __slots__ = ("_answer", "_append", "_pending")

    def __init__(
        self,
        pending: PendingProduce,
        answer: PartitionProduceResponse,
        append: Callable[[], object],
    ) -> None:
        self._pending = pending
        self._answer = answer
        self._append = append

    def __call__(self) -> None:
        try:
            self._append()
        except Exception:
            _fail(self._answer, ErrorCode.UNKNOWN_SERVER_ERROR, None)
            raise
        finally:
            self._pending.part_done()


def _absence(services: Services, topic: TopicProduceData, name: str, index: int) -> ErrorCode:
    if topic.topic_id != ZERO_UUID and not name:
        return ErrorCode.UNKNOWN_TOPIC_ID
    return absence_code(services.image.topic(name), index)


def _lost(response: ProduceResponse) -> Refused:
    return Refused(f"a batch with acks=0 was refused: {_first_error(response)}")


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


def refuse_all(request: ProduceRequest, code: ErrorCode) -> ProduceResponse:
    """Every batch, for a reason that has nothing to do with its partition."""
    response = ProduceResponse()
    for topic in request.topic_data:
        answers = [PartitionProduceResponse(index=data.index) for data in topic.partition_data]
        for answer in answers:
            _fail(answer, code, None)
        response.responses.append(
            TopicProduceResponse(name=topic.name, topic_id=topic.topic_id, partition_responses=answers)
        )
    return response


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
