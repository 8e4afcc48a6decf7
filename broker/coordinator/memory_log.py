"""The in-memory twin of a coordinator's log.

`sync` makes everything appended so far durable; with `auto_sync` every append is at once. `fail` is the loss of the
partition. `survivor` is the log as its next leader finds it: what was durable, and any part of the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from broker.coordinator.log import KeyValue, LogFull, LogUnavailable

_CHUNK = 100


class MemoryLog:
    def __init__(self, records: Sequence[tuple[KeyValue, int]] = (), *, auto_sync: bool = False) -> None:
        self.records: list[tuple[KeyValue, int]] = list(records)
        self.durable_offset = len(self.records)
        self.append_count = 0
        self.failed = False
        self.full = False
        """Appends are refused for as long as this is set."""
        self._auto_sync = auto_sync
        self._waiting: list[tuple[int, Callable[[Exception | None], None]]] = []

    @property
    def end_offset(self) -> int:
        return len(self.records)

    def append(self, records: Sequence[KeyValue], timestamp_ms: int) -> int:
        if self.failed:
            raise LogUnavailable("log has failed")
        if self.full:
            raise LogFull("log is full")
        self.append_count += 1
        self.records.extend((record, timestamp_ms) for record in records)
        if self._auto_sync:
            self.sync()
        return len(self.records)

    def when_durable(self, end_offset: int, callback: Callable[[Exception | None], None]) -> None:
        if self.failed:
            callback(LogUnavailable("log has failed"))
        elif end_offset <= self.durable_offset:
            callback(None)
        else:
            self._waiting.append((end_offset, callback))

    def sync(self, end_offset: int | None = None) -> None:
        """Everything up to `end_offset` (None: all) becomes durable."""
        self.durable_offset = max(self.durable_offset, len(self.records) if end_offset is None else end_offset)
        while self._waiting and self._waiting[0][0] <= self.durable_offset:
            self._waiting.pop(0)[1](None)

    def fail(self) -> None:
        """Appends are refused from now on; what is pending has an unknown outcome."""
        self.failed = True
        waiting, self._waiting = self._waiting, []
        for _, callback in waiting:
            callback(LogUnavailable("log has failed"))

    def survivor(self, end_offset: int | None = None) -> MemoryLog:
        """The next leader's log; `end_offset` (not below the durable one) says how much of the rest came through."""
        end = self.durable_offset if end_offset is None else max(end_offset, self.durable_offset)
        return MemoryLog(self.records[:end], auto_sync=self._auto_sync)

    async def read_all(self) -> AsyncIterator[list[tuple[KeyValue, int]]]:
        for start in range(0, self.durable_offset, _CHUNK):
            yield self.records[start : min(start + _CHUNK, self.durable_offset)]
