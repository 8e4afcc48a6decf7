"""Random logs as producers, transactional or not, leave them, and what a reader makes of a log."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.compaction.cleaning import Batch, Cleaning, CleaningInput
from broker.compaction.transactions import AbortedTransaction
from protocol.records import (
    BatchHeader,
    Codec,
    Record,
    build_batch,
    build_end_txn_marker,
    decode_records,
    parse_end_txn_marker,
    stamp,
)

MINUTE_MS = 60_000
START_MS = 1_700_000_000_000


@dataclass
class Log:
    """`aborted`: of transactions that have ended. `open`: producer id -> first offset of its transaction."""

    batches: list[Batch] = field(default_factory=list)
    end_offset: int = 0
    now_ms: int = START_MS
    aborted: list[AbortedTransaction] = field(default_factory=list)
    open: dict[int, int] = field(default_factory=dict)
    last_batches: dict[int, tuple[int, int]] = field(default_factory=dict)

    def append(self, batch: bytearray, count: int) -> int:
        base_offset = self.end_offset
        stamp(batch, base_offset, 0)
        data = bytes(batch)
        self.batches.append((base_offset, count, BatchHeader.read(data).max_timestamp, data))
        self.end_offset += count
        return base_offset

    def produce(
        self,
        pairs: Iterable[tuple[bytes | None, bytes | None]],
        *,
        producer_id: int = -1,
        transactional: bool = False,
        codec: Codec = Codec.NONE,
        log_append_time: bool = False,
    ) -> int:
        records = [Record(i, self.now_ms + i, key, value, [("h", b"x")]) for i, (key, value) in enumerate(pairs)]
        epoch = 0 if producer_id >= 0 else -1
        batch = build_batch(
            records,
            codec=codec,
            producer_id=producer_id,
            producer_epoch=epoch,
            base_sequence=epoch,
            transactional=transactional,
            log_append_time=log_append_time,
        )
        base_offset = self.append(batch, len(records))
        if transactional:
            self.open.setdefault(producer_id, base_offset)
        if producer_id >= 0:
            self.last_batches[producer_id] = (0, base_offset)
        return base_offset

    def end(self, producer_id: int, committed: bool) -> None:
        first_offset = self.open.pop(producer_id)
        offset = self.append(build_end_txn_marker(producer_id, 0, committed, 0, self.now_ms), 1)
        if not committed:
            self.aborted.append(AbortedTransaction(producer_id, first_offset, offset))

    @property
    def last_stable_offset(self) -> int:
        return min(self.open.values(), default=self.end_offset)

    def compact(
        self,
        dirty_offset: int,
        end_offset: int,
        *,
        delete_retention_ms: int = MINUTE_MS,
        map_size_max: int = 1 << 20,
        rng: random.Random | None = None,
    ) -> int:
        """One pass over [0, end_offset), in chunks of random size; returns the compacted offset."""
        cleaning = Cleaning(
            CleaningInput(
                dirty_offset,
                end_offset,
                self.now_ms,
                delete_retention_ms,
                map_size_max,
                [each for each in self.aborted if each.first_offset < end_offset],
                dict(self.last_batches),
            )
        )
        for chunk in chunks([each for each in self.batches if dirty_offset < each[0] + each[1]], rng):
            if not cleaning.index(chunk):
                break
        compacted_offset = cleaning.begin_filtering()
        kept: list[Batch] = []
        # as in the storage, the last object may hold more
        stop = compacted_offset if rng is None else rng.choice((compacted_offset, self.end_offset))
        for chunk in chunks([each for each in self.batches if each[0] < stop], rng):
            found = cleaning.filter(chunk)
            kept += found.batches
            self.aborted = [each for each in self.aborted if each.last_offset not in found.aborts_dropped]
        if (sealed := cleaning.seal()) is not None:
            kept.append(sealed)
        self.batches = kept + [each for each in self.batches if each[0] >= stop]
        return compacted_offset

    def read(self) -> list[tuple[int, int, bytes | None, bytes | None]]:
        """(offset, timestamp, key, value) as a read_committed consumer is given them."""
        given = []
        to_come = sorted(self.aborted, key=lambda each: each.first_offset)
        aborted: set[int] = set()
        for _, _, _, data in self.batches:
            header = BatchHeader.read(data)
            if header.base_offset >= self.last_stable_offset:
                break
            while to_come and to_come[0].first_offset <= header.last_offset:
                aborted.add(to_come.pop(0).producer_id)
            if header.is_control:
                marker = parse_end_txn_marker(data)
                if marker is not None and not marker.committed:
                    aborted.discard(header.producer_id)
            elif not (header.is_transactional and header.producer_id in aborted):
                given += [(each.offset, each.timestamp, each.key, each.value) for each in decode_records(data)]
        return given

    def state(self) -> dict[bytes | None, bytes]:
        """What a reader from the beginning ends with."""
        found: dict[bytes | None, bytes] = {}
        for _, _, key, value in self.read():
            if value is None:
                found.pop(key, None)
            else:
                found[key] = value
        return found


def chunks(batches: list[Batch], rng: random.Random | None) -> Iterable[list[Batch]]:
    while batches:
        count = len(batches) if rng is None else rng.randint(1, len(batches))
        yield batches[:count]
        batches = batches[count:]


def grow(log: Log, rng: random.Random, steps: int, *, transactional_tombstones: bool = True) -> None:
    """Some more of everything."""
    keys = [b"k%d" % i for i in range(8)] + [b"long" * 20]

    def pairs(tombstones: bool = True) -> list[tuple[bytes, bytes | None]]:
        return [
            (rng.choice(keys), None if tombstones and rng.random() < 0.25 else rng.randbytes(rng.randrange(20)))
            for _ in range(rng.randint(1, 5))
        ]

    for _ in range(steps):
        kind = rng.random()
        codec = rng.choice(list(Codec))
        if kind < 0.35:
            log.produce(pairs(), codec=codec, log_append_time=rng.random() < 0.2)
        elif kind < 0.5:
            log.produce(pairs(), producer_id=rng.choice((1, 2)), codec=codec)
        elif kind < 0.8:
            pid = rng.choice((10, 11, 12))
            log.produce(pairs(transactional_tombstones), producer_id=pid, transactional=True, codec=codec)
        elif log.open:
            log.end(rng.choice(sorted(log.open)), committed=rng.random() < 0.5)
        log.now_ms += rng.randrange(5_000)
