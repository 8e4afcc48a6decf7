"""The repair: mends what a check has found, as far as that needs no invention.

Everything is decided first, from what the objects themselves say; new objects are uploaded under registered ids; then
one transaction changes the catalog; then what is not needed is removed. A crash in between leaves the store as it was,
and some objects that the next repair or a broker removes. Doing it again does nothing.

* An object whose row is wrong, or that no row names, is **adopted** for the offsets that are in no other object.
* Of an object with damaged blocks the others are **salvaged** into a new one.
* Offsets that are in no object any more are **filled** with an empty batch, so that readers pass them and no offset is
  given out again. They are what is lost, and are named.
* What was replaced is kept below `damaged/`, as it was; so is whatever holds offsets that nothing else has. Only what
  is needed for nothing is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from s3stream.api import ObjectCorrupt
from s3stream.catalog.api import StreamRange
from s3stream.catalog.database import Database
from s3stream.catalog.objects import object_key
from s3stream.catalog.ranges import RangesCorrupt, decode_ranges
from s3stream.catalog.schema import COMMITTED, RETIRED
from s3stream.fsck import rows
from s3stream.fsck.bucket import DAMAGED_PREFIX
from s3stream.fsck.checking import Checker
from s3stream.fsck.coverage import Coverage, merged
from s3stream.fsck.findings import Report
from s3stream.fsck.intervals import Intervals
from s3stream.fsck.object_content import entries_of, load_index, read_blocks
from s3stream.fsck.rows import Changes, NewObject, NewStream
from s3stream.fsck.tables import object_pages
from s3stream.object.reader import Block, IndexEntry
from s3stream.object.writer import Batch, build_object
from s3stream.objectstore.api import ObjectMissing, ObjectStore, RangeInvalid

SALVAGE_SIZE = 64 << 20
"""Blocks of a damaged object are copied into new ones of about this size."""
FILL_COUNT = 10_000
"""Empty batches in one object."""
ASIDE_SIZE_MAX = 512 << 20
"""A larger damaged object stays where it is: putting it aside would take it all into memory."""

Filler = Callable[[bool, int, int], Sequence[Batch]]
"""(whether it is a log, start offset, end offset) -> empty batches that cover exactly these offsets."""

_NOT_FOR_REPAIR = ("foreign-bucket", "newer-than-catalog")
"""The database does not go with the bucket: new objects would get the ids of some that are there."""
_SUSPECT = ("unreadable-row", "wrong-size", "wrong-range", "overlap")


class Repairer:
    """Of one checked store; to be run once. Say `done` to the user."""

    def __init__(
        self, database: Database, store: ObjectStore, checker: Checker, report: Report, filler: Filler
    ) -> None:
        self._database = database
        self._store = store
        self._checker = checker
        self._report = report
        self._filler = filler
        self._changes = Changes()
        self._candidates: dict[int, int] = {}
        """Objects that may be adopted: id -> size."""
        self._aside: set[int] = set()
        self._needless: set[int] = set()
        self._rewitness: set[int] = set()
        self.done: list[str] = []

    async def run(self) -> None:
        """Raises BrokerAlive, CatalogError, StoreError."""
        if any(self._report.of(*_NOT_FOR_REPAIR)):
            return
        self._sort_out()
        await self._suspect_neighbours()
        coverage = await self._cover()
        await self._salvage(coverage)
        await self._adopt(coverage)
        await self._fill(coverage)
        self._set_ends(coverage)
        await self._sort_out_orphans(coverage)
        await self._put_aside()
        if self._changes:
            await self._database.write(lambda tx: rows.apply(tx, self._changes), idempotent=True)
        await self._remove()

    # -- what the findings say -----------------------------------------------------------------------------------------

    def _sort_out(self) -> None:
        report, changes, tables = self._report, self._changes, self._checker.tables
        for finding in report.of("missing-object"):
            assert finding.object_id is not None
            changes.dropped.add(finding.object_id)
            self.done.append(f"forgot {finding.subject}, which is not in the bucket")
        for finding in report.of("corrupt-object", "corrupt-block"):
            assert finding.object_id is not None
            changes.dropped.add(finding.object_id)
            self._aside.add(finding.object_id)
        for finding in report.of(*_SUSPECT):
            if finding.object_id is not None and finding.object_id not in changes.dropped:
                self._suspect(finding.object_id)
        self._rewitness = {
            finding.object_id
            for finding in report.of("wrong-witness")
            if finding.object_id is not None and finding.object_id not in changes.dropped
        }
        for finding in report.of("orphan"):
            assert finding.object_id is not None
            self._candidates[finding.object_id] = self._checker.bucket.sizes[finding.object_id]
        for finding in report.of("counter-behind"):
            changes.counters[finding.subject] = self._highest(finding.subject)
            self.done.append(f"set the counter {finding.subject} to {changes.counters[finding.subject]}")
        waiting = {broker.epoch for broker in tables.brokers if broker.is_waiting}
        for stream in tables.streams.values():
            if stream.owner is not None and stream.owner not in waiting:
                changes.closed_streams.append(stream.stream_id)
                self.done.append(f"closed stream {stream.stream_id} ({tables.names.get(stream.stream_id)})")
            if stream.stream_id not in tables.names and stream.end_offset <= stream.start_offset:
                changes.deleted_streams.append(stream.stream_id)
                self.done.append(f"removed stream {stream.stream_id}, which is empty and of no partition")

    def _suspect(self, object_id: int) -> None:
        """Its row is not believed; what the object says is."""
        size = self._checker.bucket.sizes.get(object_id)
        if size is not None:
            self._changes.dropped.add(object_id)
            self._candidates[object_id] = size

    def _highest(self, counter: str) -> int:
        tables = self._checker.tables
        if counter == "broker_epoch":
            return max(broker.epoch for broker in tables.brokers)
        return max(tables.streams.keys() | tables.names.keys())

    # -- what the objects hold -----------------------------------------------------------------------------------------

    async def _suspect_neighbours(self) -> None:
        """Rows that end or begin at a gap may name less than their objects hold."""
        gaps = [finding.data[0] for finding in self._report.of("gap", "log-gap")]
        edges = {(gap.stream_id, gap.start_offset) for gap in gaps} | {(gap.stream_id, gap.end_offset) for gap in gaps}
        if not edges:
            return
        async for page in object_pages(self._database):
            for row in page:
                if row.state != COMMITTED or row.object_id in self._changes.dropped:
                    continue
                ranges = decode_ranges(row.ranges or b"")
                near = [
                    each
                    for each in ranges
                    if (each.stream_id, each.start_offset) in edges or (each.stream_id, each.end_offset) in edges
                ]
                if near and await self._holds_more(row.object_id, near):
                    self._suspect(row.object_id)

    async def _holds_more(self, object_id: int, named: Sequence[StreamRange]) -> bool:
        entries = await self._entries(object_id)
        ends = {each.stream_id: (each.start_offset, each.end_offset) for each in named}
        return any(
            entry.stream_id in ends
            and (entry.start_offset < ends[entry.stream_id][0] or entry.end_offset > ends[entry.stream_id][1])
            for entry in entries or ()
        )

    async def _entries(self, object_id: int) -> list[IndexEntry] | None:
        """None if the object cannot be read."""
        size = self._checker.bucket.sizes.get(object_id)
        if size is None:
            return None
        try:
            return entries_of(await load_index(self._store, object_key(object_id), size))
        except (ObjectCorrupt, ObjectMissing, RangeInvalid):
            return None

    async def _cover(self) -> Coverage:
        """What the rows that are believed cover, with streams that have lost their rows."""
        tables, tails = self._checker.tables, self._checker.tails
        lost = {stream_id: Intervals() for stream_id in tables.names.keys() - tables.streams.keys()}
        bounds = {
            stream.stream_id: (
                stream.start_offset,
                max(stream.end_offset, tails.gaps.get(stream.stream_id, (0, 0))[1], stream.start_offset),
            )
            for stream in tables.streams.values()
        }
        kept: list[tuple[StreamRange, ...]] = []
        coverage = Coverage(bounds)
        async for page in object_pages(self._database):
            for row in page:
                if row.ranges is None or row.object_id in self._changes.dropped:
                    continue
                try:
                    ranges = decode_ranges(row.ranges)
                except RangesCorrupt:
                    continue
                of_lost = [each for each in ranges if each.stream_id in lost]
                for each in of_lost:
                    lost[each.stream_id].add(each.start_offset, each.end_offset)
                if row.state == RETIRED and of_lost:
                    self._suspect(row.object_id)  # it went with its stream, and comes back with it
                elif row.state == COMMITTED:
                    coverage.add(ranges)
                    if of_lost:
                        kept.append(tuple(of_lost))
                    if row.object_id in self._rewitness:
                        self._changes.objects.append(NewObject(row.object_id, row.size or 0, ranges))
                        self.done.append(f"set the witness of {row.key}")
        for stream_id, held in lost.items():
            bounds[stream_id] = self._recreate(stream_id, held)
        for ranges in kept:
            coverage.add(ranges)
        return coverage

    def _recreate(self, stream_id: int, held: Intervals) -> tuple[int, int]:
        parts = list(held)
        start, end = (parts[0][0], parts[-1][1]) if parts else (0, 0)
        epoch, node_id, broker_epoch = self._checker.tails.unknown.get(stream_id, (1, 0, 0))
        owner = (node_id, broker_epoch) if broker_epoch else None
        self._changes.new_streams.append(NewStream(stream_id, epoch, owner, start, end))
        name = self._checker.tables.names[stream_id]
        self.done.append(f"made stream {stream_id} ({name}) anew, with offsets {start} to {end - 1}")
        return start, end

    # -- what closes gaps ----------------------------------------------------------------------------------------------

    async def _salvage(self, coverage: Coverage) -> None:
        """Copy the intact blocks of damaged objects."""
        for object_id in sorted(self._aside):
            key = object_key(object_id)
            batches: dict[int, list[Batch]] = {}
            parts: list[StreamRange] = []
            size = 0
            for entry in await self._entries(object_id) or ():
                if not coverage.lacks(entry):
                    continue
                (read,) = await read_blocks(self._store, key, [entry])
                if read.block is None:
                    continue
                parts += coverage.adopt([entry])
                batches.setdefault(entry.stream_id, []).extend(batches_of(entry, read.block))
                size += entry.size
                if size >= SALVAGE_SIZE:
                    await self._write(batches, parts, f"salvaged from {key}")
                    batches, parts, size = {}, [], 0
            await self._write(batches, parts, f"salvaged from {key}")

    async def _adopt(self, coverage: Coverage) -> None:
        for object_id in sorted(self._candidates):
            entries = await self._entries(object_id)
            if entries is None:
                self._aside.add(object_id)
                continue
            adopted = coverage.adopt(entries)
            if adopted:
                self._changes.objects.append(NewObject(object_id, self._candidates[object_id], adopted))
                spans = ", ".join(self._names(adopted))
                self.done.append(f"{object_key(object_id)} counts for {spans}, as its index says")

    async def _fill(self, coverage: Coverage) -> None:
        logs = {partition.log_stream_id for partition in self._checker.tables.partitions}
        batches: dict[int, list[Batch]] = {}
        parts: list[StreamRange] = []
        count = 0
        for stream_id in sorted(coverage.bounds):
            for start, end in coverage.gaps(stream_id):
                filling = self._filler(stream_id in logs, start, end)
                batches.setdefault(stream_id, []).extend(filling)
                size = sum(len(data) for _, _, _, data in filling)
                parts.append(StreamRange(stream_id, start, end, size, max(each[2] for each in filling)))
                coverage.covered[stream_id].add(start, end)
                count += 1
                span = self._checker.tables.span(stream_id, start, end)
                lost = "lost" if stream_id in logs or stream_id not in self._checker.tables.names else "left out"
                self.done.append(f"{lost}: {span}")
                if count % FILL_COUNT == 0:
                    await self._write(batches, parts, None)
                    batches, parts = {}, []
        await self._write(batches, parts, None)

    async def _write(self, batches: dict[int, list[Batch]], parts: Sequence[StreamRange], what: str | None) -> None:
        """Upload as a new object that counts for `parts`; its row comes with the transaction."""
        if not batches:
            return
        built = build_object(sorted(batches.items()))
        [object_id] = await self._database.write(lambda tx: rows.prepare(tx, 1), idempotent=True)
        await self._store.put(object_key(object_id), built.pieces)
        ranges = merged(parts)
        self._changes.objects.append(NewObject(object_id, built.size, ranges))
        if what is not None:
            self.done.append(f"{what}: {', '.join(self._names(ranges))}")

    def _set_ends(self, coverage: Coverage) -> None:
        new = {stream.stream_id: stream.end_offset for stream in self._changes.new_streams}
        for stream_id, covered in coverage.covered.items():
            stream = self._checker.tables.streams.get(stream_id)
            end = new.get(stream_id) if stream is None else max(stream.end_offset, stream.start_offset)
            if covered and end is not None and covered.end > end:
                self._changes.ends[stream_id] = covered.end
                self.done.append(f"moved the end of {self._checker.tables.names.get(stream_id)} to {covered.end}")

    # -- what is left over ---------------------------------------------------------------------------------------------

    async def _sort_out_orphans(self, coverage: Coverage) -> None:
        adopted = {new.object_id for new in self._changes.objects}
        for object_id in sorted(self._candidates.keys() - adopted - self._aside):
            entries = await self._entries(object_id)
            if entries is not None and coverage.adds_nothing(entries):
                self._needless.add(object_id)
            else:
                self._aside.add(object_id)

    async def _put_aside(self) -> None:
        """Copies, before anything is changed."""
        for object_id in sorted(self._aside):
            key, size = object_key(object_id), self._checker.bucket.sizes.get(object_id, 0)
            if size > ASIDE_SIZE_MAX:
                self._aside.discard(object_id)
                self.done.append(f"{key} stays where it is: with {size} bytes it is too large to be put aside")
                continue
            data = await self._store.get(key)
            await self._store.put(DAMAGED_PREFIX + key, [data])

    async def _remove(self) -> None:
        for object_id in sorted(self._aside):
            self.done.append(f"put {object_key(object_id)} aside as {DAMAGED_PREFIX}{object_key(object_id)}")
        for object_id in sorted(self._needless):
            self.done.append(f"deleted {object_key(object_id)}, which is needed for nothing")
        gone = [object_key(object_id) for object_id in sorted(self._aside | self._needless)]
        if gone:
            await self._store.delete_many(gone)

    def _names(self, ranges: Sequence[StreamRange]) -> list[str]:
        return [str(self._checker.tables.span(r.stream_id, r.start_offset, r.end_offset)) for r in ranges]


def batches_of(entry: IndexEntry, block: Block) -> list[Batch]:
    """The block's batches; the index knows one timestamp for all of them."""
    batches: list[Batch] = []
    offset = entry.start_offset
    while offset < entry.end_offset:
        data, next_offset = block.slice(offset, 1, entry.end_offset)
        batches.append((offset, next_offset - offset, entry.max_timestamp, data))
        offset = next_offset
    return batches
