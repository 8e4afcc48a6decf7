"""What a coordinator's log comes down to: the last value of each key, and what open transactions would change.

Pure. A log is taken in batch by batch, in order. Records of a transaction count from its commit marker on; then the
one that is later *in the log* wins, not the one whose marker is: a plain record behind a transaction's stays, whenever
that is committed. A tombstone takes what open transactions hold for its key along.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.coordinator.log import LogBatch

_NOT_PENDING = -1


class LogReplay:
    def __init__(self) -> None:
        self._latest: dict[bytes, bytes] = {}
        self._offsets: dict[bytes, int] = {}
        """Of latest values that came while a transaction was open: all others are older than what is pending."""
        self._pending: dict[int, dict[bytes, tuple[int, bytes]]] = {}
        """Producer id -> key -> offset and value."""

    def add(self, batch: LogBatch) -> None:
        if batch.commit is not None:
            self._end(batch.producer_id, batch.commit)
        elif batch.producer_id >= 0:
            pending = self._pending.setdefault(batch.producer_id, {})
            for (key, value), _ in batch.records:
                if value is not None:
                    pending[key] = batch.offset, value
        elif self._pending:
            self._add_beside_pending(batch)
        else:
            latest = self._latest
            for (key, value), _ in batch.records:
                if value is None:
                    latest.pop(key, None)
                else:
                    latest[key] = value

    def _add_beside_pending(self, batch: LogBatch) -> None:
        for (key, value), _ in batch.records:
            if value is None:
                self._latest.pop(key, None)
                self._offsets.pop(key, None)
                for pending in self._pending.values():
                    pending.pop(key, None)
            else:
                self._latest[key] = value
                self._offsets[key] = batch.offset

    def _end(self, producer_id: int, commit: bool) -> None:
        pending = self._pending.pop(producer_id, {})
        if commit:
            for key, (offset, value) in pending.items():
                if offset > self._offsets.get(key, -1):
                    self._latest[key] = value
                    self._offsets[key] = offset
        if not self._pending:
            self._offsets.clear()

    def records(self) -> Iterator[tuple[int, bytes, bytes]]:
        """(producer id of the open transaction, or -1; key; value), such that of two for one key the later in the log
        comes later."""
        ordered: list[tuple[int, int, bytes, bytes]] = []
        for key, value in self._latest.items():
            offset = self._offsets.get(key)
            if offset is None:
                yield _NOT_PENDING, key, value
            else:
                ordered.append((offset, _NOT_PENDING, key, value))
        for producer_id, pending in self._pending.items():
            ordered += [(offset, producer_id, key, value) for key, (offset, value) in pending.items()]
        ordered.sort(key=lambda each: each[0])
        for _, producer_id, key, value in ordered:
            yield producer_id, key, value
