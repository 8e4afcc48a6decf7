"""One shard of a coordinator: a state machine over one partition's log.

Lifecycle: LOADING (replays the log) -> ACTIVE -> CLOSED (leadership lost, or the log failed). A closed shard is not
reopened: whoever owns it makes a new one, which loads.

Invariants
----------
* State is applied when a record is written, before it is durable; so what an operation sees is the state after all
  operations before it. There is no await between check and apply.
* A reply leaves when every record written before it *about its subject* (the group, the transactional id; None: the
  whole shard) is durable. Reads follow the same rule: nothing that could still be lost is ever shown.
* If the log fails, the state may hold what the log does not. The shard closes at once: every pending reply is refused
  with NOT_COORDINATOR, which clients retry after looking for the coordinator.
* The records of one loop turn leave as one batch, bounded by `batch_size_max` bytes.
* While the log has no room, batches wait in order and the replies with them: back-pressure is no failure, up to
  `FULL_MAX_S`. What waits is bounded by the memory of the requests that do.
* Records of a producer's transaction, and the marker that ends it, are a batch of their own and may be refused by the
  log, which knows the producer. So they are appended at once, behind everything that was written before, and applied
  only then; without room they are refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from typing import Any, Generic, Protocol

import structlog

from broker.coordinator.errors import CoordinatorError
from broker.coordinator.log import AppendRefused, CoordinatorLog, KeyValue, LogFull, LogUnavailable, Marker
from broker.coordinator.machine import M, Outcome, ShardTimers, TransactionalMachine
from broker.coordinator.replay import LogReplay
from broker.coordinator.reply import Reply
from protocol.errors import ErrorCode

log = structlog.get_logger()

BATCH_SIZE_MAX = 512 * 1024
"""Bytes of keys and values after which a batch leaves before the loop's turn ends."""

FULL_RETRY_S = 0.05
"""Between two attempts to append to a log that has no room."""
FULL_MAX_S = 10.0
"""How long that may last before the shard gives up, so that what is durable can be read again."""

_REPLAYED_PER_TURN = 250
_RECORD_OVERHEAD = 32
"""At most what a record's lengths, deltas and attributes take in a batch."""


class Scheduler(Protocol):
    """What a shard needs of the event loop; tests give one with virtual time."""

    def time(self) -> float: ...

    def call_soon(self, callback: Callable[[], None], /) -> Any: ...

    def call_at(self, when: float, callback: Callable[[], None], /) -> Any: ...


class ShardState(Enum):
    LOADING = "loading"
    ACTIVE = "active"
    CLOSED = "closed"


_UNAVAILABLE = {
    ShardState.LOADING: ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ShardState.CLOSED: ErrorCode.NOT_COORDINATOR,
}


class _Batch:
    """Records that are appended together, and the replies that wait for them."""

    __slots__ = ("end_offset", "records", "replies", "size", "subjects")

    def __init__(self) -> None:
        self.end_offset = -1
        self.records: list[KeyValue] = []
        self.size = 0
        self.replies: list[tuple[Reply, Any]] = []
        self.subjects: set[str] = set()


class Shard(Generic[M]):
    """`new_machine` makes an empty machine around the shard's timers; `now_ms` is wall-clock time."""

    def __init__(
        self,
        index: int,
        coordinator_log: CoordinatorLog,
        new_machine: Callable[[ShardTimers], M],
        scheduler: Scheduler,
        now_ms: Callable[[], int],
        on_failure: Callable[[Shard[M], Exception], None],
        *,
        batch_size_max: int = BATCH_SIZE_MAX,
    ) -> None:
        self.index = index
        self.state = ShardState.LOADING
        self.timers: ShardTimers = ShardTimers(int(scheduler.time() * 1000))
        self.machine = new_machine(self.timers)
        self._new_machine = new_machine
        self._log = coordinator_log
        self._scheduler = scheduler
        self._now_ms = now_ms
        self._on_failure = on_failure
        self._batch_size_max = batch_size_max
        self._batch: _Batch | None = None
        """The last of the unwritten ones, if it takes more."""
        self._unwritten: deque[_Batch] = deque()
        self._in_flight: deque[_Batch] = deque()
        self._retry: Any = None
        self._full_since: float | None = None
        self._pending: dict[str, _Batch] = {}
        self._wake: Any = None
        self._wake_ms = 0

    # -- loading ----------------------------------------------------------------------------------------------------
    async def load(self) -> None:
        """Replay the log, last value of each key (see `replay`); then serve. Raises what reading the log raises; may be
        tried again.

        A key's earlier values are never decoded, and its tombstone drops it: machines do not depend on the order of
        different keys.
        """
        replay = LogReplay()
        read_count = 0
        async for batch in self._log.read_all():
            replay.add(batch)
            read_count += len(batch.records)
            if read_count >= _REPLAYED_PER_TURN:
                read_count = 0
                await asyncio.sleep(0)
        machine = self.machine = self._new_machine(self.timers)
        for count, (producer_id, key, value) in enumerate(replay.records(), 1):
            record = machine.decode(key, value)
            if record is None:
                pass
            elif producer_id < 0:
                machine.replay(record)
            else:
                self._transactional().replay_pending(producer_id, record)
            if not count % _REPLAYED_PER_TURN:
                await asyncio.sleep(0)
        if self.state is ShardState.LOADING:
            self.state = ShardState.ACTIVE
            out = self._begin()
            machine.loaded(out)
            self._settle(None, out)
            self._arm()

    # -- operations -------------------------------------------------------------------------------------------------
    def submit(self, subject: str | None, reply: Reply, operation: Callable[[M, Outcome], None]) -> None:
        """Run one operation now. `reply` is answered by it, parked by it in the state, or refused."""
        if self.state is not ShardState.ACTIVE:
            reply.refuse(_UNAVAILABLE[self.state])
            return
        out = self._begin()
        try:
            operation(self.machine, out)
        except CoordinatorError as error:
            out.answer(reply, reply.refusal(error.code))
        self._settle(subject, out)
        self._arm()

    def end_transaction(self, reply: Reply, marker: Marker) -> None:
        """Write the marker and apply it; `reply` is answered with an ErrorCode."""
        if self.state is not ShardState.ACTIVE:
            reply.refuse(_UNAVAILABLE[self.state])
            return
        try:
            batch = self._append_now(lambda: self._log.append_marker(marker, self._now_ms()))
        except CoordinatorError as error:
            reply.refuse(error.code)
            return
        subjects = self._transactional().end_transaction(marker.producer_id, marker.commit)
        batch.replies.append((reply, ErrorCode.NONE))
        self._in_flight_now(batch, subjects)

    def close(self) -> None:
        """Leadership is lost: whatever is pending or parked is refused. What was appended stays in the log."""
        if self.state is not ShardState.CLOSED:
            self._close()

    def _begin(self) -> Outcome:
        self.timers.now_ms = int(self._scheduler.time() * 1000)
        return Outcome(self._now_ms())

    def _settle(self, subject: str | None, out: Outcome) -> None:
        if out.records:
            if out.transaction is not None:
                self._write_pending(out)
                return
            self._write(out.records)
        if out.replies:
            self._reply(subject, out.replies)

    def _write(self, records: list[Any]) -> None:
        for record in records:
            key_value = record.encode()
            self.machine.replay(record)
            key, value = key_value
            size = len(key) + (len(value) if value is not None else 0) + _RECORD_OVERHEAD
            batch = self._batch
            if batch is not None and batch.size + size > self._batch_size_max:
                self._flush()
                if self.state is ShardState.CLOSED:
                    return
                batch = None
            if batch is None:
                batch = self._batch = _Batch()
                self._unwritten.append(batch)
                self._scheduler.call_soon(self._flush)
            batch.records.append(key_value)
            batch.size += size
            batch.subjects.add(record.subject)
            self._pending[record.subject] = batch

    def _reply(self, subject: str | None, replies: list[tuple[Reply, Any]]) -> None:
        if self.state is ShardState.CLOSED:
            for reply, _ in replies:
                reply.refuse(ErrorCode.NOT_COORDINATOR)
            return
        if subject is None:
            last = self._unwritten or self._in_flight
            batch = last[-1] if last else None
        else:
            batch = self._pending.get(subject)
        if batch is None:
            for reply, response in replies:
                reply.complete(response)
        else:
            batch.replies.extend(replies)

    # -- transactions -----------------------------------------------------------------------------------------------
    def _write_pending(self, out: Outcome) -> None:
        """Records and replies of an operation in a transaction."""
        transaction, records = out.transaction, out.records
        assert transaction is not None
        encoded = [record.encode() for record in records]
        try:
            batch = self._append_now(lambda: self._log.append(encoded, self._now_ms(), transaction))
        except CoordinatorError as error:
            for reply, _ in out.replies:
                reply.refuse(error.code)
            return
        machine = self._transactional()
        for record in records:
            machine.replay_pending(transaction.producer_id, record)
        batch.replies += out.replies
        self._in_flight_now(batch, {record.subject for record in records})

    def _append_now(self, append: Callable[[], int]) -> _Batch:
        """Append behind everything that was written. Raises CoordinatorError."""
        self._flush()
        if self.state is ShardState.CLOSED:
            raise CoordinatorError(ErrorCode.NOT_COORDINATOR)
        if self._unwritten:
            raise CoordinatorError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        batch = _Batch()
        try:
            batch.end_offset = append()
        except LogFull as error:
            raise CoordinatorError(ErrorCode.COORDINATOR_NOT_AVAILABLE) from error
        except AppendRefused as error:
            raise CoordinatorError(error.code) from error
        except LogUnavailable as error:
            self._fail(error)
            raise CoordinatorError(ErrorCode.NOT_COORDINATOR) from error
        return batch

    def _in_flight_now(self, batch: _Batch, subjects: Iterable[str]) -> None:
        for subject in subjects:
            batch.subjects.add(subject)
            self._pending[subject] = batch
        self._in_flight.append(batch)
        self._log.when_durable(batch.end_offset, partial(self._appended, batch))

    def _transactional(self) -> TransactionalMachine:
        machine = self.machine
        assert isinstance(machine, TransactionalMachine)
        return machine

    # -- log --------------------------------------------------------------------------------------------------------
    def _flush(self) -> None:
        while self._unwritten and self.state is not ShardState.CLOSED:
            batch = self._unwritten[0]
            try:
                batch.end_offset = self._log.append(batch.records, self._now_ms())
            except LogFull as error:
                self._wait_for_room(error)
                return
            except LogUnavailable as error:
                self._fail(error)
                return
            self._full_since = None
            self._unwritten.popleft()
            self._in_flight.append(batch)
            if self._batch is batch:
                self._batch = None
            self._log.when_durable(batch.end_offset, partial(self._appended, batch))

    def _wait_for_room(self, error: LogFull) -> None:
        now = self._scheduler.time()
        if self._full_since is None:
            self._full_since = now
            log.warning("coordinator log has no room", shard=self.index, error=str(error))
        elif now - self._full_since >= FULL_MAX_S:
            self._fail(error)
            return
        if self._retry is None:
            self._retry = self._scheduler.call_at(now + FULL_RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._flush()

    def _appended(self, batch: _Batch, error: Exception | None) -> None:
        if self.state is ShardState.CLOSED:
            return
        if error is not None:
            self._fail(error)
            return
        done = self._in_flight.popleft()
        assert done is batch, "appends become durable in order"
        pending = self._pending
        for subject in batch.subjects:
            if pending.get(subject) is batch:
                del pending[subject]
        for reply, response in batch.replies:
            reply.complete(response)

    def _fail(self, error: Exception) -> None:
        log.warning("coordinator log failed", shard=self.index, error=str(error))
        self._close()
        self._on_failure(self, error)

    def _close(self) -> None:
        active = self.state is ShardState.ACTIVE
        self.state = ShardState.CLOSED
        self.timers.clear()
        for handle in (self._wake, self._retry):
            if handle is not None:
                handle.cancel()
        self._wake = self._retry = None
        batches = [*self._in_flight, *self._unwritten]
        self._in_flight.clear()
        self._unwritten.clear()
        self._batch = None
        self._pending.clear()
        for batch in batches:
            for reply, _ in batch.replies:
                reply.refuse(ErrorCode.NOT_COORDINATOR)
        if active:
            for reply in self.machine.waiting():
                reply.refuse(ErrorCode.NOT_COORDINATOR)

    # -- timers -----------------------------------------------------------------------------------------------------
    def _arm(self) -> None:
        if self.state is not ShardState.ACTIVE:
            return
        next_ms = self.timers.next_ms()
        if next_ms is None or (self._wake is not None and self._wake_ms <= next_ms):
            return
        if self._wake is not None:
            self._wake.cancel()
        self._wake_ms = next_ms
        self._wake = self._scheduler.call_at(next_ms / 1000, self._run_timers)

    def _run_timers(self) -> None:
        self._wake = None
        if self.state is not ShardState.ACTIVE:
            return
        self.timers.now_ms = max(int(self._scheduler.time() * 1000), self._wake_ms)
        while (timer := self.timers.pop_due()) is not None:
            out = Outcome(self._now_ms())
            timer.event(out)
            self._settle(timer.subject, out)
            if self.state is not ShardState.ACTIVE:
                return
        self._arm()
