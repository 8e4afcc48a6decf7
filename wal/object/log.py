"""The appending half of the object WAL: adaptive batches, several PUTs in flight, acknowledgements in order.

An idle log writes soon after the first append; a busy one collects until there is enough for a slot, enough time has
gone by, or nothing is in flight any more and the last slot left a moment ago. Slots are written in parallel and become
durable in order, which is what makes a seal safe: a slot that could not be created was taken by a seal, and nothing
behind it is ever acknowledged.

A store that does not answer is asked again for ever, with growing pauses: nothing is acknowledged meanwhile.

Trimming deletes slots only once a later slot that says so is durable (`SlotHeader.needed`), so a missing slot is never
mistaken for the end of the log. While nothing is appended, a mark (a slot without records) says it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from wal.api import Buffer, WalError, WalFailed
from wal.object.format import RECORD_OVERHEAD, Kind, SlotHeader, encode_slot, slot_key
from wal.object.store import SlotStore, SlotTaken, StoreTrouble

log = structlog.get_logger()

_DELETED_AT_ONCE = 1000
_PAUSE_MIN_S = 0.1
_PAUSE_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class ObjectWalSettings:
    """A slot leaves with `batch_size` bytes or after `interval_s`; while nothing is in flight after `linger_s`, but not
    within `pace_s` of the one before, which bounds the requests per second to a store that answers at once."""

    linger_s: float = 0.002
    pace_s: float = 0.025
    interval_s: float = 0.1
    batch_size: int = 1 << 20
    slot_size_max: int = 8 << 20
    in_flight_max: int = 8
    mark_delay_s: float = 1.0


class _Slot:
    """One slot on its way."""

    __slots__ = ("end", "is_durable", "needed", "sequence")

    def __init__(self, sequence: int, end: int, needed: int) -> None:
        self.sequence = sequence
        self.end = end
        self.needed = needed
        self.is_durable = False


class ObjectWal:
    """See the module docstring, and `wal.api.Wal` for the contract. Slot 0 of `epoch` exists already."""

    def __init__(
        self,
        store: SlotStore,
        epoch: int,
        position: int,
        writer: bytes,
        settings: ObjectWalSettings | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._epoch = epoch
        self._writer = writer
        self._settings = settings or ObjectWalSettings()
        self._rng = rng or random.Random()
        self._loop = asyncio.get_running_loop()
        self._queue: list[Sequence[Buffer]] = []
        self._queued_size = 0
        self._queued_at = 0.0
        self._end = self._durable = self._started_end = position
        self._next_sequence = 1
        self._slots: deque[_Slot] = deque()
        self._kept: deque[tuple[int, int]] = deque([(0, position)])
        """(sequence, end position) of durable slots that are not trimmed."""
        self._trimmed = self._forgotten = position
        self._needed = 0
        self._needed_durable = 0
        self._deleted_below = 0
        self._deleting: asyncio.Task[None] | None = None
        self._writing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._mark_timer: asyncio.TimerHandle | None = None
        self._started_at = self._loop.time() - self._settings.interval_s
        self._urgent = False
        self._is_troubled = False
        self._failure: WalFailed | None = None
        self._closing: asyncio.Future[None] | None = None
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._on_durable: Callable[[int], None] = lambda position: None
        self._on_failure: Callable[[WalError], None] = lambda error: None

    @property
    def durable_position(self) -> int:
        return self._durable

    @property
    def end_position(self) -> int:
        return self._end

    @property
    def backlog_size(self) -> int:
        return self._end - self._durable

    def set_listeners(self, on_durable: Callable[[int], None], on_failure: Callable[[WalError], None]) -> None:
        self._on_durable = on_durable
        self._on_failure = on_failure

    # -- appending --------------------------------------------------------------------------------------------------
    def append(self, pieces: Sequence[Buffer]) -> int:
        if self._failure is not None:
            raise WalFailed(str(self._failure))
        if self._closing is not None:
            raise WalFailed("the log is closed")
        size = sum(map(len, pieces)) + RECORD_OVERHEAD
        if not self._queue:
            self._queued_at = self._loop.time()
        self._queue.append(pieces)
        self._queued_size += size
        self._end += size
        if self._timer is None or self._queued_size >= self._settings.batch_size:
            self._plan()
        return self._end

    def _plan(self) -> None:
        """Write now, or at the time when it is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        settings = self._settings
        while self._queue and len(self._slots) < settings.in_flight_max and self._failure is None:
            if not self._urgent and self._queued_size < settings.batch_size:
                if self._slots:
                    due = self._started_at + settings.interval_s
                else:
                    due = max(self._queued_at + settings.linger_s, self._started_at + settings.pace_s)
                if due > self._loop.time():
                    self._timer = self._loop.call_at(due, self._write_now)
                    return
            self._write_slot()

    def _write_now(self) -> None:
        self._timer = None
        if self._queue and len(self._slots) < self._settings.in_flight_max and self._failure is None:
            self._write_slot()
            self._plan()

    def _write_slot(self) -> None:
        """Start to write what is queued, up to the size of a slot."""
        count = size = 0
        for pieces in self._queue:
            record_size = sum(map(len, pieces)) + RECORD_OVERHEAD
            if count and size + record_size > self._settings.slot_size_max:
                break
            size += record_size
            count += 1
        records, self._queue = self._queue[:count], self._queue[count:]
        self._queued_size -= size
        if not self._queue:
            self._urgent = False
        self._start(Kind.RECORDS, records, size)

    def _start(self, kind: Kind, records: Sequence[Sequence[Buffer]], size: int) -> None:
        sequence = self._next_sequence
        self._next_sequence += 1
        unconfirmed = self._slots[0].sequence if self._slots else sequence
        header = SlotHeader(kind, self._epoch, sequence, self._started_end, self._needed, unconfirmed, self._writer)
        self._started_end += size
        self._started_at = self._loop.time()
        slot = _Slot(sequence, self._started_end, self._needed)
        self._slots.append(slot)
        task = asyncio.create_task(self._write(slot, encode_slot(header, records)), name=f"wal-slot-{sequence}")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, slot: _Slot, pieces: list[Buffer]) -> None:
        key = slot_key(self._epoch, slot.sequence)
        attempt = 0
        while self._failure is None:
            try:
                await self._store.create(key, pieces)
            except SlotTaken:
                self._fail(WalFailed("the log was sealed: another broker has taken it over"))
                return
            except StoreTrouble as error:
                if not self._is_troubled:
                    self._is_troubled = True
                    log.warning("write-ahead log not written: object store in trouble", slot=key, error=str(error))
                pause = min(_PAUSE_MAX_S, _PAUSE_MIN_S * (1 << min(attempt, 10)))
                await asyncio.sleep(self._rng.uniform(0.5, 1.0) * pause)
                attempt += 1
            except Exception as error:
                self._fail(WalFailed(f"writing the log failed: {error!r}"))
                return
            else:
                if self._is_troubled:
                    self._is_troubled = False
                    log.info("write-ahead log is written again", slot=key)
                slot.is_durable = True
                self._advance()
                return

    def _advance(self) -> None:
        """Acknowledge what is durable, in order."""
        if self._failure is not None:
            return
        slots = self._slots
        durable = self._durable
        while slots and slots[0].is_durable:
            slot = slots.popleft()
            self._kept.append((slot.sequence, slot.end))
            durable = slot.end
            self._needed_durable = slot.needed
        if durable > self._durable:
            self._durable = durable
            waiters = self._waiters
            while waiters and waiters[0][0] <= durable:
                waiter = waiters.popleft()[1]
                if not waiter.done():
                    waiter.set_result(None)
            self._on_durable(durable)
        if self._needed_durable > self._deleted_below:
            self._delete()
        if self._queue:
            self._plan()

    def _fail(self, error: WalFailed) -> None:
        if self._failure is not None:
            return
        self._failure = error
        self._queue.clear()
        for timer in (self._timer, self._mark_timer):
            if timer is not None:
                timer.cancel()
        while self._waiters:
            waiter = self._waiters.popleft()[1]
            if not waiter.done():
                waiter.set_exception(WalFailed(str(error)))
        self._on_failure(error)

    # -- trimming ---------------------------------------------------------------------------------------------------
    def trim(self, position: int) -> None:
        self._trimmed = max(self._trimmed, min(position, self._durable))
        held_data = False
        while self._kept and self._kept[0][1] <= self._trimmed:
            sequence, end = self._kept.popleft()
            held_data = held_data or end > self._forgotten
            self._forgotten = end
            self._needed = sequence + 1
        if held_data and self._mark_timer is None and self._failure is None and self._closing is None:
            self._mark_timer = self._loop.call_later(self._settings.mark_delay_s, self._mark)

    def _mark(self) -> None:
        self._mark_timer = None
        said = self._slots[-1].needed if self._slots else self._needed_durable
        if self._needed > said and self._failure is None:
            self._start(Kind.RECORDS, (), 0)

    def _delete(self) -> None:
        if self._deleting is None or self._deleting.done():
            self._deleting = asyncio.create_task(self._delete_trimmed(), name="wal-trim")

    async def _delete_trimmed(self) -> None:
        """What fails is tried again with the next trim."""
        while self._deleted_below < self._needed_durable:
            end = min(self._needed_durable, self._deleted_below + _DELETED_AT_ONCE)
            keys = [slot_key(self._epoch, sequence) for sequence in range(self._deleted_below, end)]
            try:
                await self._store.delete(keys)
            except StoreTrouble:
                return
            self._deleted_below = end

    # -- ending -----------------------------------------------------------------------------------------------------
    async def flush(self) -> None:
        if self._failure is not None:
            raise WalFailed(str(self._failure))
        if self._durable < self._end:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append((self._end, waiter))
            self._urgent = bool(self._queue)
            self._plan()
            await waiter

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._mark_timer is not None:
            self._mark_timer.cancel()
        if self._failure is None:
            with contextlib.suppress(WalFailed):
                await self.flush()
                await self._written()
                self.trim(self._trimmed)
                self._start(Kind.CLOSE, (), 0)
                await self._written()
        if self._failure is None:
            if self._deleting is not None:
                await self._deleting
            self._failure = WalFailed("the log is closed")
        for task in [*self._writing]:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._store.close()

    async def _written(self) -> None:
        """Until nothing is on its way. A failure of the log ends it too."""
        if self._writing:
            await asyncio.wait([*self._writing])
