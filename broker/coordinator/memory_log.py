"""The in-memory twin of a coordinator's log.

`sync` makes everything appended so far durable; with `auto_sync` every append is at once. `fail` is the loss of the
partition. `survivor` is the log as its next leader finds it: what was durable, and any part of the rest.

Of producers it knows what the real one does, as far as it matters here: their epochs, and that a guard is worth nothing
after a marker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from broker.coordinator.log import (
    AppendRefused,
    KeyValue,
    LogBatch,
    LogFull,
    LogUnavailable,
    Marker,
    TransactionalWrite,
)
from protocol.errors import ErrorCode


class MemoryLog:
    def __init__(self, batches: Sequence[LogBatch] = (), *, auto_sync: bool = False) -> None:
        self.batches: list[LogBatch] = list(batches)
        self.durable_offset = self.end_offset
        self.append_count = 0
        self.failed = False
        self.full = False
        """Appends are refused for as long as this is set."""
        self.epochs: dict[int, int] = {}
        """Producer id -> its last epoch."""
        self._auto_sync = auto_sync
        self._waiting: list[tuple[int, Callable[[Exception | None], None]]] = []

    @property
    def end_offset(self) -> int:
        return _end(self.batches[-1]) if self.batches else 0

    @property
    def records(self) -> list[tuple[KeyValue, int]]:
        """All but markers, whether or not they count."""
        return [record for batch in self.batches for record in batch.records]

    def append(
        self, records: Sequence[KeyValue], timestamp_ms: int, transaction: TransactionalWrite | None = None
    ) -> int:
        self._check()
        producer_id = -1
        if transaction is not None:
            producer_id = transaction.producer_id
            self._check_epoch(producer_id, transaction.producer_epoch)
        return self._append([(record, timestamp_ms) for record in records], producer_id, None)

    def append_marker(self, marker: Marker, timestamp_ms: int) -> int:
        self._check()
        self._check_epoch(marker.producer_id, marker.producer_epoch)
        return self._append([], marker.producer_id, marker.commit)

    def _check(self) -> None:
        if self.failed:
            raise LogUnavailable("log has failed")
        if self.full:
            raise LogFull("log is full")

    def _check_epoch(self, producer_id: int, producer_epoch: int) -> None:
        if producer_epoch < self.epochs.get(producer_id, -1):
            raise AppendRefused(ErrorCode.INVALID_PRODUCER_EPOCH)
        self.epochs[producer_id] = producer_epoch

    def _append(self, records: list[tuple[KeyValue, int]], producer_id: int, commit: bool | None) -> int:
        self.append_count += 1
        self.batches.append(LogBatch(self.end_offset, records, producer_id, commit))
        if self._auto_sync:
            self.sync()
        return self.end_offset

    def when_durable(self, end_offset: int, callback: Callable[[Exception | None], None]) -> None:
        if self.failed:
            callback(LogUnavailable("log has failed"))
        elif end_offset <= self.durable_offset:
            callback(None)
        else:
            self._waiting.append((end_offset, callback))

    def sync(self, end_offset: int | None = None) -> None:
        """Everything up to `end_offset` (None: all) becomes durable."""
        self.durable_offset = max(self.durable_offset, self.end_offset if end_offset is None else end_offset)
        while self._waiting and self._waiting[0][0] <= self.durable_offset:
            self._waiting.pop(0)[1](None)

    def fail(self) -> None:
        """Appends are refused from now on; what is pending has an unknown outcome."""
        self.failed = True
        waiting, self._waiting = self._waiting, []
        for _, callback in waiting:
            callback(LogUnavailable("log has failed"))

    def survivor(self, end_offset: int | None = None) -> MemoryLog:
        """The next leader's log; `end_offset` (not below the durable one) says how much of the rest came through.
        Batches come through as a whole."""
        end = self.durable_offset if end_offset is None else max(end_offset, self.durable_offset)
        survivor = MemoryLog([batch for batch in self.batches if _end(batch) <= end], auto_sync=self._auto_sync)
        survivor.epochs = dict(self.epochs)
        return survivor

    def durable_batches(self) -> list[LogBatch]:
        return [batch for batch in self.batches if _end(batch) <= self.durable_offset]

    async def read_all(self) -> AsyncIterator[LogBatch]:
        for batch in self.durable_batches():
            yield batch


def _end(batch: LogBatch) -> int:
    return batch.offset + (len(batch.records) if batch.commit is None else 1)
