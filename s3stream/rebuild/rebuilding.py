"""A new catalog out of the bucket: the newest snapshot, the indexes of all objects, and the write-ahead logs.

Exact: every committed record is served again, at its offset; topics, configs, ids as of the snapshot; what is only in
a log is recovered by the next start, as after any crash; no id and no epoch is given out twice (they go on well above
what was in use).

Not exact is what happened after the last snapshot (seconds, a minute at most):

* a topic that was made since comes back without its name and configs, one partition for each of its own;
* a topic that was deleted since is there again, configs that were altered since are the former ones;
* records that were deleted since (DeleteRecords; retention does it again by itself) are there again as long as their
  objects are in the bucket.

Nothing in the bucket is changed. Objects that do not count stay, and `fsck --repair` removes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from s3stream.api import ObjectCorrupt
from s3stream.catalog.api import CatalogError
from s3stream.catalog.database import Database
from s3stream.catalog.objects import object_key
from s3stream.catalog.ranges import decode_ranges, encode_ranges
from s3stream.catalog.schema import METADATA, STREAM_ID, counters, meta, streams
from s3stream.catalog.snapshot import Snapshot, restore
from s3stream.fsck.bucket import list_bucket
from s3stream.fsck.object_content import entries_of, load_index
from s3stream.fsck.rows import NewObject, insert_committed
from s3stream.object.reader import IndexEntry
from s3stream.objectstore.api import ObjectMissing, ObjectStore, RangeInvalid
from s3stream.rebuild.log_streams import FoundLog, LogStreams, read_log_streams
from s3stream.rebuild.revision import revise
from s3stream.rebuild.selection import Selection, StreamBounds, StreamResult

READS_AT_ONCE = 32
GROUP_COUNT = 512
"""Objects whose indexes are held at once."""
INSERT_COUNT = 500


class NotEmpty(CatalogError):
    """The database holds a catalog that is in use: nothing was changed."""


@dataclass(slots=True)
class Rebuilt:
    """What came of it. `lost` and `unnamed` are for the user to know."""

    object_count: int = 0
    leftover_count: int = 0
    stream_count: int = 0
    topic_count: int = 0
    waiting_count: int = 0
    """Records that are in write-ahead logs only."""
    lost: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Rebuilder:
    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        snapshot: Snapshot,
        logs: Sequence[FoundLog],
        progress: Callable[[str, int], None],
    ) -> None:
        self._database = database
        self._store = store
        self._snapshot = snapshot
        self._logs = logs
        self._progress = progress
        self._report = Rebuilt()
        self._chosen: dict[int, tuple[int, bytes]] = {}
        """Object id -> size and encoded ranges: packed, because there may be very many."""
        self._last_stream_id = 0

    async def run(self) -> Rebuilt:
        """Raises NotEmpty, CatalogError, StoreError, WalError."""
        await self._database.read(require_empty)
        known = {
            row["stream_id"]: StreamBounds(row["start_offset"], row["end_offset"])
            for row in self._snapshot.rows(streams)
        }
        given_out = self._snapshot.counter(STREAM_ID)
        selection = Selection(known)
        found = await read_log_streams(self._logs)
        younger = {stream_id for stream_id in found.streams if stream_id > given_out}
        for stream_id in younger:
            selection.know(stream_id)
        sizes = (await list_bucket(self._store, self._progress)).sizes
        ids = sorted(sizes, reverse=True)
        for position in range(0, len(ids), GROUP_COUNT):
            group = ids[position : position + GROUP_COUNT]
            for object_id, entries in zip(group, await self._load(group, sizes), strict=True):
                if entries is None:
                    continue
                for stream_id in {entry.stream_id for entry in entries if entry.stream_id > given_out} - younger:
                    younger.add(stream_id)
                    selection.know(stream_id)
                self._choose(object_id, sizes[object_id], selection, entries)
            self._progress("objects read", position + len(group))
        await self._write(selection.results(), younger, found, max(ids, default=0))
        return self._report

    async def _load(self, ids: Sequence[int], sizes: Mapping[int, int]) -> list[list[IndexEntry] | None]:
        at_once = asyncio.Semaphore(READS_AT_ONCE)

        async def load(object_id: int) -> list[IndexEntry] | None:
            key = object_key(object_id)
            async with at_once:
                try:
                    return entries_of(await load_index(self._store, key, sizes[object_id]))
                except (ObjectCorrupt, ObjectMissing, RangeInvalid) as error:
                    self._report.notes.append(f"an object that cannot be read was left out: {error}")
                    return None

        return list(await asyncio.gather(*(load(object_id) for object_id in ids)))

    def _choose(self, object_id: int, size: int, selection: Selection, entries: Sequence[IndexEntry]) -> None:
        ranges = selection.add(entries)
        if ranges:
            self._chosen[object_id] = (size, encode_ranges(ranges))
        else:
            self._report.leftover_count += 1

    # -- the catalog ---------------------------------------------------------------------------------------------------

    async def _write(
        self, results: Mapping[int, StreamResult], younger: set[int], logs: LogStreams, last_object_id: int
    ) -> None:
        revised = revise(self._snapshot, results, younger, self._logs, logs, last_object_id)
        report = self._report
        report.unnamed = revised.unnamed
        report.notes += revised.notes
        report.waiting_count = logs.record_count
        report.stream_count = len(results)
        report.topic_count = revised.topic_count
        for stream_id, result in sorted(results.items()):
            for start, end in result.lost:
                name = revised.names.get(stream_id, f"stream {stream_id}")
                report.lost.append(f"{name} offsets {start} to {end - 1}")
        ends = {stream_id: result.end_offset for stream_id, result in results.items()}

        def write(tx: Connection) -> int:
            require_empty(tx)
            restore(tx, revised.snapshot)
            count = 0
            some: list[NewObject] = []
            for object_id, (size, value) in self._chosen.items():
                ranges = tuple(each for each in decode_ranges(value) if each.start_offset < ends[each.stream_id])
                if ranges:
                    some.append(NewObject(object_id, size, ranges))
                    count += 1
                if len(some) == INSERT_COUNT:
                    insert_committed(tx, some)
                    some = []
            insert_committed(tx, some)
            return count

        report.object_count = await self._database.write(write, idempotent=False)
        report.leftover_count += len(self._chosen) - report.object_count


def require_empty(tx: Connection) -> None:
    """A database that was made a moment ago may be written. Raises NotEmpty."""
    for table in METADATA.sorted_tables:
        if table in (meta, counters):
            continue
        if tx.execute(select(func.count()).select_from(table)).scalar_one():
            raise NotEmpty(
                f"the database is not empty (table {table.name}): a catalog is rebuilt into a new one only; move the "
                "old one away, or name another (--metadata URL)"
            )
