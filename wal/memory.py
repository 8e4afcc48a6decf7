"""The in-memory twin of the file WAL: same contract, with the durability in the test's hands.

Logs live in a process-wide registry by name, so that "another broker" (`read_wal("memory://name")`) finds what the
first one wrote. By default what was appended in one turn of the loop becomes durable in the next; with
`manual = True`, when the test calls `sync()`. `crash()` drops what is not durable and lets the lock go; `fail()` breaks
the log for good; `size_max` makes it full.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from wal.api import (
    Buffer,
    WalError,
    WalFailed,
    WalForeign,
    WalFull,
    WalLocked,
    WalNotRecovered,
    WalOfAnotherEpoch,
    WalRecord,
    WalUnreachable,
)

_RECORD_OVERHEAD = 4
_CHUNK_SIZE = 4 << 20


@dataclass(slots=True)
class _Log:
    """What survives a crash."""

    records: list[WalRecord] = field(default_factory=list)
    epoch: int = 0
    owner: str | None = None
    end: int = 0
    trimmed: int = 0
    locked: bool = False

    def check_owner(self, name: str, owner: str | None) -> None:
        if None not in (self.owner, owner) and self.owner != owner:
            raise WalForeign(f"memory://{name} belongs to cluster {self.owner}, not to {owner}")

    def untrimmed(self) -> list[WalRecord]:
        return [record for record in self.records if record.end > self.trimmed]


_logs: dict[str, _Log] = {}


def forget(name: str) -> None:
    """Lose the log `name`, as if its disk were gone."""
    _logs.pop(name, None)


class MemoryWal:
    """See the module docstring."""

    def __init__(self, log: _Log) -> None:
        self._log = log
        self._pending: list[tuple[int, int, Sequence[Buffer]]] = []
        self._durable = self._end = log.end
        self._on_durable: Callable[[int], None] = lambda position: None
        self._on_failure: Callable[[WalError], None] = lambda error: None
        self._failure: WalFailed | None = None
        self._closed = False
        self._scheduled = False
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self.manual = False
        """Nothing becomes durable but by `sync()`."""
        self.size_max: int | None = None
        """Untrimmed bytes the log may hold."""
        self.flush_count = 0

    @classmethod
    def open(cls, name: str, epoch: int, owner: str | None = None) -> MemoryWal:
        log = _logs.setdefault(name, _Log())
        if log.locked:
            raise WalLocked(f"memory://{name} is open")
        log.check_owner(name, owner)
        if log.untrimmed():
            raise WalNotRecovered(f"memory://{name} holds records that were not recovered")
        if epoch < log.epoch:
            raise WalError(f"epoch {epoch} is older than the log's {log.epoch}")
        log.records.clear()
        log.locked = True
        log.epoch = epoch
        log.owner = log.owner or owner
        return cls(log)

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

    def append(self, pieces: Sequence[Buffer]) -> int:
        if self._failure is not None:
            raise WalFailed(str(self._failure))
        if self._closed:
            raise WalFailed("the log is closed")
        start = self._end
        end = start + sum(map(len, pieces)) + _RECORD_OVERHEAD
        if self.size_max is not None and end - self._log.trimmed > self.size_max:
            raise WalFull(f"the log is full ({self.size_max} bytes)")
        self._end = end
        self._pending.append((start, end, pieces))
        if not self._scheduled and not self.manual:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_soon)
        return end

    def _flush_soon(self) -> None:
        self._scheduled = False
        if not self.manual:
            self.sync()

    def sync(self, count: int | None = None) -> None:
        """Make the first `count` pending records (default: all) durable, and report it."""
        if self._failure is not None or self._closed:
            return
        done = self._pending if count is None else self._pending[:count]
        if not done:
            return
        self._pending = [] if count is None else self._pending[count:]
        for start, end, pieces in done:
            self._log.records.append(WalRecord(start, end, memoryview(b"".join(pieces))))
        self._log.end = self._durable = done[-1][1]
        self.flush_count += 1
        self._on_durable(self._durable)
        waiting, self._waiters = self._waiters, []
        for position, waiter in waiting:
            if position <= self._durable and not waiter.done():
                waiter.set_result(None)
            elif not waiter.done():
                self._waiters.append((position, waiter))

    def trim(self, position: int) -> None:
        log = self._log
        log.trimmed = max(log.trimmed, min(position, self._durable))
        log.records = log.untrimmed()

    def fail(self, reason: str = "injected failure") -> None:
        """As a failed sync: final."""
        if self._failure is not None or self._closed:
            return
        self._failure = WalFailed(reason)
        self._on_failure(self._failure)
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(WalFailed(reason))
        self._waiters.clear()

    def crash(self, keep: int = 0) -> None:
        """The process dies: of what is not durable, only the first `keep` records reached the disk."""
        for start, end, pieces in self._pending[:keep]:
            self._log.records.append(WalRecord(start, end, memoryview(b"".join(pieces))))
            self._log.end = end
        self._closed = True
        self._pending.clear()
        self._log.locked = False

    async def flush(self) -> None:
        if self._failure is not None:
            raise WalFailed(str(self._failure))
        if self._durable < self._end:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((self._end, waiter))
            await waiter

    async def close(self) -> None:
        if self._closed:
            return
        if self._failure is None:
            if self.manual:
                self.sync()
            await self.flush()
        self._closed = True
        self._log.locked = False


class MemoryLogReadAlong:
    """As `wal.file.reading_along`. Only `crash` and `close` put an owner out."""

    def __init__(self, log: _Log, owner_is_out: bool) -> None:
        self._log = log
        self._epoch = log.epoch
        self._owner_is_out = owner_is_out

    @classmethod
    def open(cls, name: str, owner: str | None = None) -> MemoryLogReadAlong:
        log = _logs.get(name)
        if log is None:
            raise WalUnreachable(f"there is no memory://{name}")
        log.check_owner(name, owner)
        return cls(log, not log.locked)

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def owner_is_out(self) -> bool:
        return self._owner_is_out

    async def records(self) -> AsyncIterator[list[WalRecord]]:
        for chunk in _chunks(self._log, self._epoch):
            yield chunk

    async def discard(self) -> None:
        pass

    async def close(self) -> None:
        pass


def _chunks(log: _Log, epoch: int) -> Iterator[list[WalRecord]]:
    if log.epoch != epoch:
        raise WalOfAnotherEpoch(log.epoch, epoch)
    chunk: list[WalRecord] = []
    size = 0
    for record in log.untrimmed():
        chunk.append(record)
        size += len(record.data)
        if size >= _CHUNK_SIZE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class MemoryRecoverableWal:
    """See the module docstring."""

    def __init__(self, log: _Log) -> None:
        self._log = log
        self._closed = False

    @classmethod
    def fence(cls, name: str, owner: str | None = None) -> MemoryRecoverableWal:
        log = _logs.get(name)
        if log is None:
            raise WalUnreachable(f"there is no memory://{name}")
        if log.locked:
            raise WalLocked(f"memory://{name} is open")
        log.check_owner(name, owner)
        log.locked = True
        return cls(log)

    @property
    def epoch(self) -> int:
        return self._log.epoch

    @property
    def owner_is_out(self) -> bool:
        return True

    async def records(self) -> AsyncIterator[list[WalRecord]]:
        for chunk in _chunks(self._log, self._log.epoch):
            yield chunk

    async def discard(self) -> None:
        self._log.records.clear()
        self._log.trimmed = self._log.end

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._log.locked = False
