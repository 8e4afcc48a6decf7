"""The transaction coordinator's state machine: who may do what in which state, and what follows.

Kafka's rules (KIP-98, KIP-360, KIP-588, KIP-890), one step each: a change is a record, so there is nothing between two
states, and whoever asks during Prepare is told CONCURRENT_TRANSACTIONS.

Invariants
----------
* How a transaction ends is decided once, by its Prepare record. Markers go out when that record is durable, not
  before; the Complete record follows when all of them are written.
* An epoch never goes back, and a producer id that was given up never comes back.
* What a producer of `transaction.version` 2 asks about one transaction never touches a later one: each has its epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.machine import Outcome, ShardTimers
from broker.coordinator.reply import Reply
from broker.coordinator.transaction import rules, transitions
from broker.coordinator.transaction.config import TransactionConfig
from broker.coordinator.transaction.listing import TransactionFilter
from broker.coordinator.transaction.marker_job import MarkerJob
from broker.coordinator.transaction.records import (
    NO_PRODUCER_ID,
    TopicPartition,
    TransactionRecord,
    TransactionValue,
    decode_record,
)
from broker.coordinator.transaction.states import FOLLOWERS, IDLE, PREPARED, TransactionState
from broker.coordinator.transaction.transitions import BUMPS_EPOCH_SINCE, is_exhausted
from broker.request import Deferred
from protocol.errors import ErrorCode
from protocol.messages.describe_transactions import TopicData
from protocol.messages.describe_transactions import TransactionState as DescribedTransaction
from protocol.messages.end_txn import EndTxnRequest, EndTxnResponse
from protocol.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from protocol.messages.list_transactions import TransactionState as ListedTransaction

CLUSTER_VERSION = 2
"""The finalized `transaction.version`: what the coordinator goes by when it aborts on its own."""

_ABORT_TIMER = ("abort",)
_EXPIRY_TIMER = ("expiry",)


class MarkerSink(Protocol):
    """Where markers are sent from; it ends with `TransactionMachine.markers_written`, run on the shard."""

    def send(self, job: MarkerJob) -> None: ...


class TransactionMachine:
    """`take_producer_id` gives a new producer id, or None if there is none at hand."""

    def __init__(
        self,
        timers: ShardTimers,
        config: TransactionConfig,
        take_producer_id: Callable[[], int | None],
        markers: MarkerSink,
    ) -> None:
        self.transactions: dict[str, TransactionValue] = {}
        self._timers = timers
        self._config = config
        self._take_producer_id = take_producer_id
        self._markers = markers
        self._jobs: dict[str, MarkerJob] = {}
        """Of those that are prepared, once they are durable."""
        self._deadlines: dict[str, int] = {}
        """Of those that are ongoing, on the timers' clock: no jump of the wall clock ends a transaction."""

    # -- the state machine's contract -------------------------------------------------------------------------------
    def decode(self, key: bytes, value: bytes) -> TransactionRecord | None:
        return decode_record(key, value)

    def replay(self, record: TransactionRecord) -> None:
        transactional_id, value = record
        if value is None:
            self.transactions.pop(transactional_id, None)
            return
        self.transactions[transactional_id] = value
        if value.state is TransactionState.ONGOING:
            self._deadlines.setdefault(transactional_id, self._timers.now_ms + value.timeout_ms)
        else:
            self._deadlines.pop(transactional_id, None)

    def loaded(self, out: Outcome) -> None:
        """Take up the endings that were decided, and count the time of the transactions that are under way."""
        for transactional_id, value in self.transactions.items():
            if value.state in PREPARED:
                self._finish(out, transactional_id, value)
            elif value.state is TransactionState.ONGOING:
                left_ms = value.start_ms + value.timeout_ms - out.now_ms
                self._deadlines[transactional_id] = self._timers.now_ms + min(max(left_ms, 0), value.timeout_ms)
        self._watch_deadlines()
        self._timers.schedule(_EXPIRY_TIMER, self._config.id_expiration_check_interval_ms, None, self._expire)

    def waiting(self) -> list[Reply]:
        return []

    # -- a producer begins ------------------------------------------------------------------------------------------
    def init_producer_id(self, out: Outcome, reply: Reply, request: InitProducerIdRequest) -> None:
        """Fences whoever had the transactional id before. An ongoing transaction is aborted first, and the producer
        told to come again: the epoch of that fence is nobody's."""
        transactional_id, timeout_ms = request.transactional_id or "", request.transaction_timeout_ms
        if not 0 < timeout_ms <= self._config.timeout_max_ms:
            raise CoordinatorError(ErrorCode.INVALID_TRANSACTION_TIMEOUT)
        expected = (request.producer_id, request.producer_epoch) if request.producer_id != NO_PRODUCER_ID else None
        value = self.transactions.get(transactional_id)
        if value is None:
            after = transitions.created(self._new_producer_id(), timeout_ms, out.now_ms)
        elif value.state in PREPARED:
            raise CoordinatorError(ErrorCode.CONCURRENT_TRANSACTIONS)
        elif value.state is TransactionState.ONGOING:
            if expected is not None and expected != (value.producer_id, value.producer_epoch):
                raise CoordinatorError(ErrorCode.PRODUCER_FENCED)
            self._end(out, transactional_id, value, commit=False, client_version=CLUSTER_VERSION)
            out.answer(reply, reply.refusal(ErrorCode.CONCURRENT_TRANSACTIONS))
            return
        else:
            after = rules.reinitialized(value, expected, timeout_ms, out.now_ms, self._new_producer_id)
        self._write(out, transactional_id, value, after)
        out.answer(reply, InitProducerIdResponse(producer_id=after.producer_id, producer_epoch=after.producer_epoch))

    # -- partitions join --------------------------------------------------------------------------------------------
    def add_partitions(
        self,
        out: Outcome,
        reply: Reply,
        transactional_id: str,
        producer: tuple[int, int],
        partitions: frozenset[TopicPartition],
        client_version: int,
    ) -> None:
        """Answers NONE, by the reply's own refusal, once the partitions are known to be the transaction's."""
        value = self._of_producer(transactional_id, producer)
        if value.state is not TransactionState.ONGOING or not partitions <= value.partitions:
            after = transitions.extended(value, partitions, client_version, out.now_ms)
            self._write(out, transactional_id, value, after)
            self._watch_deadlines()
        out.answer(reply, reply.refusal(ErrorCode.NONE))

    def verify_partitions(
        self,
        transactional_id: str,
        producer: tuple[int, int],
        partitions: frozenset[TopicPartition],
    ) -> dict[TopicPartition, ErrorCode]:
        """Whether they are in the producer's transaction (KIP-890): NONE, or TRANSACTION_ABORTABLE."""
        value = self._of_producer(transactional_id, producer)
        added = value.partitions if value.state is TransactionState.ONGOING else frozenset()
        return {each: ErrorCode.NONE if each in added else ErrorCode.TRANSACTION_ABORTABLE for each in partitions}

    def _of_producer(self, transactional_id: str, producer: tuple[int, int]) -> TransactionValue:
        value = self.transactions.get(transactional_id)
        if value is None:
            raise CoordinatorError(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        if value.state in PREPARED:  # goes first: the producer may have been told its next producer id already
            raise CoordinatorError(ErrorCode.CONCURRENT_TRANSACTIONS)
        if value.producer_id != producer[0]:
            raise CoordinatorError(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        if value.producer_epoch != producer[1]:
            raise CoordinatorError(ErrorCode.PRODUCER_FENCED)
        return value

    # -- the transaction ends ---------------------------------------------------------------------------------------
    def end(self, out: Outcome, reply: Reply, request: EndTxnRequest, client_version: int) -> None:
        """The answer leaves once the decision is durable; the markers follow."""
        transactional_id, commit = request.transactional_id, request.committed
        value = self.transactions.get(transactional_id)
        if value is None:
            raise CoordinatorError(ErrorCode.INVALID_PRODUCER_ID_MAPPING)
        repeats = rules.repeats_bumping if client_version >= BUMPS_EPOCH_SINCE else rules.repeats_plain
        if not repeats(value, request.producer_id, request.producer_epoch, commit):
            value = self._end(out, transactional_id, value, commit, client_version)
        producer_id, producer_epoch = transitions.next_producer(value)
        out.answer(reply, EndTxnResponse(producer_id=producer_id, producer_epoch=producer_epoch))

    def _end(
        self, out: Outcome, transactional_id: str, value: TransactionValue, commit: bool, client_version: int
    ) -> TransactionValue:
        """Decide. Where the epoch grows and cannot grow on, the producer goes on with a new id."""
        rotates = client_version >= BUMPS_EPOCH_SINCE and is_exhausted(value.producer_epoch)
        next_producer_id = self._new_producer_id() if rotates else NO_PRODUCER_ID
        after = transitions.prepared(value, commit, client_version, next_producer_id, out.now_ms)
        self._write(out, transactional_id, value, after)
        self._finish(out, transactional_id, after)
        return after

    def _finish(self, out: Outcome, transactional_id: str, value: TransactionValue) -> None:
        """Send the markers of a prepared value once it is durable; without partitions it is complete at once."""
        if not value.partitions:
            self._write(out, transactional_id, value, transitions.completed(value, out.now_ms))
            return
        job = self._jobs[transactional_id] = MarkerJob(
            transactional_id,
            value.producer_id,
            value.producer_epoch,
            value.state is TransactionState.PREPARE_COMMIT,
            value.client_version,
            value.partitions,
        )
        durable = Reply(lambda _: None)  # if it never is, the next one to load this log decides
        durable.on_complete = self._decided
        out.answer(durable, job)

    def _decided(self, durable: Deferred) -> None:
        if durable.response is not None:
            self._markers.send(durable.response)

    def markers_written(self, out: Outcome, reply: Reply, job: MarkerJob) -> None:
        """All of its partitions have answered."""
        transactional_id = job.transactional_id
        if self._jobs.get(transactional_id) is job:
            del self._jobs[transactional_id]
            value = self.transactions[transactional_id]
            self._write(out, transactional_id, value, transitions.completed(value, out.now_ms))
        out.answer(reply, reply.refusal(ErrorCode.NONE))

    # -- time -------------------------------------------------------------------------------------------------------
    def _watch_deadlines(self) -> None:
        if _ABORT_TIMER not in self._timers:
            self._timers.schedule(_ABORT_TIMER, self._config.abort_check_interval_ms, None, self._abort_overdue)

    def _abort_overdue(self, out: Outcome) -> None:
        now_ms = self._timers.now_ms
        for transactional_id in [each for each, deadline_ms in self._deadlines.items() if deadline_ms <= now_ms]:
            with suppress(CoordinatorError):  # no producer id at hand: the next time
                self._end(out, transactional_id, self.transactions[transactional_id], False, CLUSTER_VERSION)
        if self._deadlines:
            self._watch_deadlines()

    def _expire(self, out: Outcome) -> None:
        """Forget transactional ids that nobody has used for long."""
        oldest_ms = out.now_ms - self._config.id_expiration_ms
        for transactional_id, value in self.transactions.items():
            if value.state in IDLE and value.last_update_ms <= oldest_ms:
                out.write(TransactionRecord(transactional_id, None))
        self._timers.schedule(_EXPIRY_TIMER, self._config.id_expiration_check_interval_ms, None, self._expire)

    # -- what tools see ---------------------------------------------------------------------------------------------
    def describe(self, out: Outcome, reply: Reply, transactional_id: str) -> None:
        """Of a transaction whose ending is decided, the partitions that have not answered yet."""
        value = self.transactions.get(transactional_id)
        if value is None:
            raise CoordinatorError(ErrorCode.TRANSACTIONAL_ID_NOT_FOUND)
        job = self._jobs.get(transactional_id)
        topics: dict[str, list[int]] = {}
        for topic, index in sorted(value.partitions if job is None else job.remaining):
            topics.setdefault(topic, []).append(index)
        described = DescribedTransaction(
            transactional_id=transactional_id,
            transaction_state=value.state.label,
            transaction_timeout_ms=value.timeout_ms,
            transaction_start_time_ms=value.start_ms,
            producer_id=value.producer_id,
            producer_epoch=value.producer_epoch,
            topics=[TopicData(topic=topic, partitions=indexes) for topic, indexes in topics.items()],
        )
        out.answer(reply, described)

    def list_transactions(self, out: Outcome, reply: Reply, wanted: TransactionFilter) -> None:
        listed = [
            ListedTransaction(
                transactional_id=transactional_id, producer_id=value.producer_id, transaction_state=value.state.label
            )
            for transactional_id, value in self.transactions.items()
            if wanted.matches(transactional_id, value, out.now_ms)
        ]
        out.answer(reply, listed)

    # -- inside -----------------------------------------------------------------------------------------------------
    def _new_producer_id(self) -> int:
        producer_id = self._take_producer_id()
        if producer_id is None:
            raise CoordinatorError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        return producer_id

    @staticmethod
    def _write(out: Outcome, transactional_id: str, before: TransactionValue | None, after: TransactionValue) -> None:
        assert after.state in FOLLOWERS[None if before is None else before.state], (before, after)
        out.write(TransactionRecord(transactional_id, after))
