"""One pass over a log: first the dirty batches into the key map, then every batch through `filter`. Pure.

What decides is Kafka's (`LogCleaner`, KIP-98, KIP-534): see the package. A batch comes as the storage has it: (base
offset, offset count, max timestamp, data). Everything here may be pickled: a pass runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from broker.compaction.key_map import KeyMap
from broker.compaction.transactions import AbortedTransaction, SeenTransactions
from protocol.errors import ErrorCode, InvalidBatch
from protocol.records import BatchHeader, parse_end_txn_marker
from protocol.records.rewriting import delete_horizon_ms, raw_records, with_records, without_records
from wal.api import Buffer

Batch = tuple[int, int, int, Buffer]

GAP_MAX = 1 << 30
"""Offsets that may go between two batches that stay: an object has 32 bits for what one batch stands for."""


@dataclass(frozen=True, slots=True)
class CleaningInput:
    """[dirty_offset, end_offset) is what is dirty; `aborted` are the transactions that began below its end.
    `last_batches`: producer id -> (epoch, base offset of its last batch or -1) of the producers that are known."""

    dirty_offset: int
    end_offset: int
    now_ms: int
    delete_retention_ms: int
    map_size_max: int
    aborted: Sequence[AbortedTransaction]
    last_batches: Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Filtered:
    """`aborts_dropped`: offsets of abort markers that are not among `batches` any more."""

    batches: list[Batch]
    aborts_dropped: list[int] = field(default_factory=list)


class Cleaning:
    def __init__(self, given: CleaningInput) -> None:
        self._given = given
        self._map = KeyMap(given.map_size_max)
        self._map.end_offset = given.dirty_offset
        # those that ended below are over, though their markers are not met
        self._seen = SeenTransactions(each for each in given.aborted if each.last_offset >= given.dirty_offset)
        self._is_full = False
        self._last_dropped: Batch | None = None
        self._kept_up_to: int | None = None
        """The end of the last batch that `filter` returned, or where it began."""
        self.record_count = 0
        """Records that `filter` was given ..."""
        self.kept_count = 0
        """... and returned."""
        self.next_horizon_ms: int | None = None
        """The earliest delete horizon to come of what is compacted."""

    # -- first half ----------------------------------------------------------------------------------------------------

    def index(self, batches: Iterable[Batch]) -> bool:
        """Take dirty batches into the map, in order; False once it is full, or all are in it. Raises InvalidBatch."""
        for _, _, _, data in batches:
            if self._is_full:
                return False
            header = _header(data)
            if header.base_offset >= self._given.end_offset:
                return False  # whether it counts may not be known yet
            if header.is_control:
                marker = parse_end_txn_marker(data)
                if marker is not None:
                    self._seen.on_marker(header.producer_id, header.last_offset, marker.committed)
            elif not self._seen.on_batch(header.producer_id, header.last_offset, header.is_transactional):
                self._index_records(header, data)
            if not self._is_full:
                self._map.end_offset = max(self._map.end_offset, header.next_offset)
        return not self._is_full

    def _index_records(self, header: BatchHeader, data: Buffer) -> None:
        if header.last_offset < self._given.dirty_offset:
            return
        for record in raw_records(header, data):
            if record.key is None or record.offset < self._given.dirty_offset:
                continue
            if not self._map.put(record.key, record.offset):
                self._is_full = True
                return
            self._map.end_offset = record.offset + 1

    def begin_filtering(self) -> int:
        """Between the halves: up to where the log is compacted by this pass."""
        self._seen = SeenTransactions(self._given.aborted)
        return self._map.end_offset

    # -- second half ---------------------------------------------------------------------------------------------------

    def filter(self, batches: Iterable[Batch]) -> Filtered:
        """What stays of these. Raises InvalidBatch."""
        kept: list[Batch] = []
        aborts_dropped: list[int] = []
        for batch in batches:
            data = batch[3]
            header = _header(data)
            self.record_count += header.record_count
            left = self._filter_one(header, data)
            if self._kept_up_to is None:
                self._kept_up_to = batch[0]
            if left is None and batch[0] + batch[1] - self._kept_up_to > GAP_MAX:
                left = without_records(header)
            if left is None:
                self._last_dropped = batch
                if header.is_control:
                    _note_abort(header, data, aborts_dropped)
                continue
            self._last_dropped = None
            new = header if left is data else BatchHeader.read(left)
            if header.is_control and header.record_count > new.record_count:
                _note_abort(header, data, aborts_dropped)
            self.kept_count += new.record_count
            self._note_horizon(new)
            kept.append((batch[0], batch[1], new.max_timestamp, left))
            self._kept_up_to = batch[0] + batch[1]
        return Filtered(kept, aborts_dropped)

    def seal(self) -> Batch | None:
        """The last batch that `filter` was given, without records, if it was dropped."""
        if self._last_dropped is None:
            return None
        base_offset, count, _, data = self._last_dropped
        header = _header(data)
        return base_offset, count, header.max_timestamp, without_records(header)

    def _filter_one(self, header: BatchHeader, data: Buffer) -> Buffer | None:
        if header.base_offset >= self._map.end_offset:
            return data  # a later pass decides about it, and knows its transactions
        return self._filter_control(header, data) if header.is_control else self._filter_data(header, data)

    def _filter_control(self, header: BatchHeader, data: Buffer) -> Buffer | None:
        marker = parse_end_txn_marker(data)
        needless = marker is not None and self._seen.on_marker(header.producer_id, header.last_offset, marker.committed)
        horizon = delete_horizon_ms(header)
        if needless and horizon is not None and horizon <= self._given.now_ms:
            return without_records(header) if self._is_last_of_producer(header) else None
        if header.record_count == 0:
            return data if self._is_last_of_producer(header) else None
        if needless and horizon is None:
            return with_records(header, raw_records(header, data), self._new_horizon())
        return data

    def _filter_data(self, header: BatchHeader, data: Buffer) -> Buffer | None:
        aborted = self._seen.on_batch(header.producer_id, header.last_offset, header.is_transactional)
        if aborted:
            return self._empty(header, data)
        records = raw_records(header, data)
        horizon = delete_horizon_ms(header)
        keeps_tombstones = horizon is None or self._given.now_ms < horizon
        end_offset, last_offset = self._map.end_offset, self._map.last_offset
        kept = [
            record
            for record in records
            if record.offset >= end_offset
            or (
                record.key is not None
                and record.offset >= last_offset(record.key)
                and (record.has_value or keeps_tombstones)
            )
        ]
        if not kept:
            return self._empty(header, data)
        if horizon is None and not all(record.has_value for record in kept):
            return with_records(header, kept, self._new_horizon())
        return data if len(kept) == len(records) else with_records(header, kept)

    def _empty(self, header: BatchHeader, data: Buffer) -> Buffer | None:
        if not self._is_last_of_producer(header):
            return None
        return data if header.record_count == 0 else without_records(header)

    def _is_last_of_producer(self, header: BatchHeader) -> bool:
        """It holds the last sequence of a producer that is known; or, where no batch is, its last epoch."""
        last = self._given.last_batches.get(header.producer_id) if header.producer_id >= 0 else None
        if last is None:
            return False
        epoch, base_offset = last
        if base_offset >= 0:
            return header.base_offset == base_offset
        return header.is_control and header.producer_epoch == epoch

    def _note_horizon(self, header: BatchHeader) -> None:
        """What is past has had its effect in this pass, though the batch may still carry it."""
        horizon = delete_horizon_ms(header)
        if horizon is None or horizon <= self._given.now_ms or header.next_offset > self._map.end_offset:
            return
        if self.next_horizon_ms is None or horizon < self.next_horizon_ms:
            self.next_horizon_ms = horizon

    def _new_horizon(self) -> int:
        return self._given.now_ms + self._given.delete_retention_ms


def _note_abort(header: BatchHeader, data: Buffer, aborts: list[int]) -> None:
    marker = parse_end_txn_marker(data)
    if marker is not None and not marker.committed:
        aborts.append(header.base_offset)


def _header(data: Buffer) -> BatchHeader:
    header = BatchHeader.read(data)
    if header.size != len(data):
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, f"{len(data)} bytes are not one whole batch: {header!r}")
    return header
