"""The check: bucket against catalog against indexes against logs, of a store that is stopped. Changes nothing.

Memory is bounded by some words for each object (its size) and each stream (the offsets that its objects cover, as
intervals), whatever the objects hold: rows are read in pages, and forgotten.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from s3stream.api import ObjectCorrupt
from s3stream.catalog.api import StreamRange
from s3stream.catalog.database import Database
from s3stream.catalog.objects import object_key
from s3stream.catalog.ranges import RangesCorrupt, decode_ranges
from s3stream.catalog.schema import BROKER_EPOCH, COMMITTED, OBJECT_ID, PREPARED, STREAM_ID
from s3stream.fsck.bucket import Bucket, list_bucket
from s3stream.fsck.findings import Finding, Report, Span
from s3stream.fsck.intervals import Intervals
from s3stream.fsck.logs import BrokerLog, LogTails, read_logs
from s3stream.fsck.object_content import damaged_blocks, entries_of, load_index, ranges_of
from s3stream.fsck.tables import ObjectRow, Tables, load_tables, object_pages
from s3stream.objectstore.api import ObjectMissing, ObjectStore, RangeInvalid
from s3stream.rebuild.snapshots import bucket_owner

READS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Depth:
    """What is read of the objects themselves. Nothing: the listing, the catalog and the logs tell most, quickly."""

    indexes: bool = False
    blocks: bool = False


def no_progress(what: str, count: int) -> None:
    """For who does not look."""


class Checker:
    """One check. `tables`, `bucket`, `covered` and `tails` are what it saw, for a repair."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        cluster_id: str,
        logs: Sequence[BrokerLog],
        depth: Depth,
        progress: Callable[[str, int], None] = no_progress,
    ) -> None:
        self._database = database
        self._store = store
        self._cluster_id = cluster_id
        self._logs = logs
        self._depth = depth
        self._progress = progress
        self.tables: Tables
        self.bucket = Bucket()
        self.tails = LogTails()
        self.covered: defaultdict[int, Intervals] = defaultdict(Intervals)
        """Stream id -> live offsets that rows of committed objects name."""
        self._problems: list[Finding] = []
        self._notes: list[str] = []
        self._overlapping: dict[int, list[Span]] = {}
        self._prepared_count = self._retired_count = 0
        self._object_count = self._object_size = 0

    async def run(self) -> Report:
        """Raises StoreError, CatalogError."""
        owner = await bucket_owner(self._store)
        if owner is not None and owner != self._cluster_id:
            found = Finding("foreign-bucket", owner, f"the catalog is of cluster {self._cluster_id}")
            return Report([found], [])
        # The tables first: what is committed afterwards would be new in the bucket only. Nobody should be at it anyway.
        self.tables = await load_tables(self._database)
        self.bucket = await list_bucket(self._store, self._progress)
        unseen = dict(self.bucket.sizes)
        count = 0
        async for page in object_pages(self._database):
            await self._check_page(page, unseen)
            count += len(page)
            self._progress("objects checked", count)
        self._check_unseen(unseen)
        self._check_streams()
        self._check_partitions()
        self._check_counters()
        self.tails, findings = await read_logs(self._logs, self.tables)
        self._problems += findings
        self._note()
        return Report(self._problems, self._notes, self._object_count, self._object_size, len(self.tables.streams))

    # -- objects -----------------------------------------------------------------------------------------------------

    async def _check_page(self, page: Sequence[ObjectRow], unseen: dict[int, int]) -> None:
        to_read: list[tuple[ObjectRow, tuple[StreamRange, ...], int]] = []
        for row in page:
            size = unseen.pop(row.object_id, None)
            if row.state != COMMITTED:
                self._prepared_count += row.state == PREPARED and size is not None
                self._retired_count += row.state != PREPARED and size is not None
                continue
            ranges = self._check_row(row, size)
            if size is not None and ranges is not None:
                to_read.append((row, ranges, size))
        if self._depth.indexes or self._depth.blocks:
            await self._read_objects(to_read)

    def _check_row(self, row: ObjectRow, size: int | None) -> tuple[StreamRange, ...] | None:
        """What the row names, if it can be read; what it covers counts as there, present or not."""
        try:
            ranges = decode_ranges(row.ranges or b"")
        except RangesCorrupt as error:
            self._add("unreadable-row", row, str(error))
            return None
        live = self._live(ranges)
        for each in live:
            self._cover(row, each)
        if size is None:
            if live:
                self._add("missing-object", row, f"{row.size} bytes", self._spans(live))
            else:
                self._notes.append(f"{row.key} is not in the bucket, and nothing in it is needed")
            return None
        self._object_count += 1
        self._object_size += size
        if row.size != size:
            self._add("wrong-size", row, f"{row.size} bytes in the catalog, {size} in the bucket", self._spans(live))
        witness = (row.witness_stream_id, row.witness_end_offset)
        if self._is_live(*witness) and witness not in {(each.stream_id, each.end_offset) for each in live}:
            self._add("wrong-witness", row, "stream {}, offset {} is not what it holds".format(*witness))
        return ranges

    def _is_live(self, witness_stream_id: int | None, witness_end_offset: int | None) -> bool:
        """Brokers look again at an object whose witness is not, and find another."""
        if witness_stream_id is None or witness_end_offset is None:
            return False
        stream = self.tables.streams.get(witness_stream_id)
        return stream is not None and stream.start_offset < witness_end_offset

    def _cover(self, row: ObjectRow, live: StreamRange) -> None:
        for start, end in self.covered[live.stream_id].add(live.start_offset, live.end_offset):
            span = self.tables.span(live.stream_id, start, end)
            self._add("overlap", row, "an object with a smaller id holds the same offsets", (span,))

    def _live(self, ranges: Sequence[StreamRange]) -> list[StreamRange]:
        """Of streams that exist; what is below the start is cut off."""
        found = []
        for each in ranges:
            stream = self.tables.streams.get(each.stream_id)
            if stream is not None and each.end_offset > stream.start_offset:
                start = max(each.start_offset, stream.start_offset)
                found.append(each if start == each.start_offset else _from(each, start))
        return found

    async def _read_objects(self, rows: Sequence[tuple[ObjectRow, tuple[StreamRange, ...], int]]) -> None:
        at_once = asyncio.Semaphore(READS_AT_ONCE)

        async def read(row: ObjectRow, ranges: tuple[StreamRange, ...], size: int) -> None:
            async with at_once:
                await self._read_object(row, ranges, size)

        async with asyncio.TaskGroup() as group:
            for row, ranges, size in rows:
                group.create_task(read(row, ranges, size))

    async def _read_object(self, row: ObjectRow, ranges: tuple[StreamRange, ...], size: int) -> None:
        try:
            index = await load_index(self._store, row.key, size)
        except ObjectMissing:
            self._add("missing-object", row, "it went away during the check", self._spans(self._live(ranges)))
            return
        except (ObjectCorrupt, RangeInvalid) as error:
            self._add("corrupt-object", row, str(error), self._spans(self._live(ranges)))
            return
        entries = entries_of(index)
        wrong = wrong_ranges(ranges, ranges_of(entries))
        if wrong:
            spans = self._spans(self._live(wrong))
            self._add("wrong-range", row, f"{len(wrong)} of {len(ranges)} ranges are not in the index", spans)
        if self._depth.blocks:
            wanted = {each.stream_id for each in ranges}
            for read in await damaged_blocks(self._store, row.key, [e for e in entries if e.stream_id in wanted]):
                entry = read.entry
                span = self.tables.span(entry.stream_id, entry.start_offset, entry.end_offset)
                self._add("corrupt-block", row, read.error, (span,))

    def _check_unseen(self, unseen: dict[int, int]) -> None:
        given_out = self.tables.counters.get(OBJECT_ID, 0)
        for object_id, size in sorted(unseen.items()):
            kind = "orphan" if object_id <= given_out else "newer-than-catalog"
            self._problems.append(Finding(kind, object_key(object_id), f"{size} bytes", (), object_id))

    # -- streams, partitions, counters -------------------------------------------------------------------------------

    def _check_streams(self) -> None:
        waiting = {broker.epoch for broker in self.tables.brokers if broker.is_waiting}
        for stream in self.tables.streams.values():
            covered = self.covered.get(stream.stream_id, Intervals())
            subject = f"stream {stream.stream_id}"
            for start, end in covered.missing(stream.start_offset, stream.end_offset):
                span = self.tables.span(stream.stream_id, start, end)
                self._problems.append(Finding("gap", subject, "no object holds them", (span,)))
            if covered and covered.end > max(stream.end_offset, stream.start_offset):
                span = self.tables.span(stream.stream_id, stream.end_offset, covered.end)
                detail = f"the catalog's end is {stream.end_offset}"
                self._problems.append(Finding("beyond-end", subject, detail, (span,)))
            if stream.owner is not None and stream.owner not in waiting:
                name = self.tables.names.get(stream.stream_id, "no partition")
                detail = f"open at a broker with epoch {stream.owner}, which is at its end"
                self._problems.append(Finding("stale-owner", f"{subject} ({name})", detail))

    def _check_partitions(self) -> None:
        tables = self.tables
        indexes: defaultdict[str, set[int]] = defaultdict(set)
        for partition in tables.partitions:
            if partition.topic is None:
                subject = f"{partition.topic_id}, partition {partition.number}"
                self._problems.append(Finding("partition-without-topic", subject, "its topic has no row"))
                continue
            indexes[partition.topic].add(partition.number)
            for stream_id in (partition.log_stream_id, partition.state_stream_id):
                if stream_id not in tables.streams:
                    subject = f"{tables.names[stream_id]} (stream {stream_id})"
                    self._problems.append(Finding("partition-without-stream", subject, "the stream has no row"))
        for topic in tables.topics.values():
            found = indexes[topic]
            if found != set(range(max(found, default=0) + 1)):
                missing = sorted(set(range(max(found, default=0) + 1)) - found)
                self._problems.append(Finding("missing-partition", topic, f"no partition {missing}"))
        for stream_id in tables.streams.keys() - tables.names.keys():
            stream = tables.streams[stream_id]
            count = stream.end_offset - stream.start_offset
            detail = f"{count} offsets" if count > 0 else "it is empty"
            self._problems.append(Finding("stream-without-partition", f"stream {stream_id}", detail))

    def _check_counters(self) -> None:
        tables = self.tables
        in_use = {
            STREAM_ID: max(tables.streams.keys() | tables.names.keys(), default=0),
            BROKER_EPOCH: max((broker.epoch for broker in tables.brokers), default=0),
        }
        for name, used in in_use.items():
            if tables.counters.get(name, 0) < used:
                detail = f"at {tables.counters.get(name, 0)}, but {used} is in use"
                self._problems.append(Finding("counter-behind", name, detail))

    def _note(self) -> None:
        if self._prepared_count:
            self._notes.append(f"{self._prepared_count} uploads that were never committed: a broker removes them")
        if self._retired_count:
            self._notes.append(f"{self._retired_count} objects that are not needed any more: a broker removes them")
        if self.tails.recoverable_count:
            self._notes.append(
                f"{self.tails.recoverable_count} records ({self.tails.recoverable_size} bytes) of "
                f"{len(self.tails.ends)} streams are in write-ahead logs only: the next start brings them into objects"
            )
        if not self.bucket.snapshot_count:
            self._notes.append("there is no copy of the metadata in the bucket: the database could not be rebuilt")
        if self.bucket.kept_count:
            self._notes.append(f"{self.bucket.kept_count} damaged objects that a repair has put aside (damaged/)")
        if self.bucket.unknown_count:
            examples = ", ".join(self.bucket.unknown_keys[:3])
            self._notes.append(f"{self.bucket.unknown_count} objects with other names, left alone ({examples})")

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _spans(self, ranges: Sequence[StreamRange]) -> tuple[Span, ...]:
        return tuple(self.tables.span(each.stream_id, each.start_offset, each.end_offset) for each in ranges)

    def _add(self, kind: str, row: ObjectRow, detail: str, data: tuple[Span, ...] = ()) -> None:
        self._problems.append(Finding(kind, row.key, detail, data, row.object_id))


def wrong_ranges(named: Sequence[StreamRange], held: Sequence[StreamRange]) -> list[StreamRange]:
    """Those of `named` (a row) that do not begin and end where blocks of `held` (the index) do."""
    held_of: defaultdict[int, Intervals] = defaultdict(Intervals)
    for each in held:
        held_of[each.stream_id].add(each.start_offset, each.end_offset)
    return [each for each in named if held_of[each.stream_id].missing(each.start_offset, each.end_offset)]


def _from(each: StreamRange, start: int) -> StreamRange:
    return StreamRange(each.stream_id, start, each.end_offset, each.size, each.max_timestamp)
