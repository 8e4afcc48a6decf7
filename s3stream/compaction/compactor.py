"""`Compactor`: when objects are rewritten, and the commit that makes it true.

One job at a time, in the background of a storage. A job that fails (the store, a conflict with somebody else's work)
changed nothing: it is planned anew at the next look.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from s3stream.api import ObjectCorrupt, Stream, StreamClosed
from s3stream.block_cache import BlockReader
from s3stream.catalog.api import (
    BrokerFenced,
    Catalog,
    CatalogError,
    ObjectGone,
    ObjectsReplaced,
    OffsetsNotContinuous,
    StreamEpochFenced,
)
from s3stream.committed_ranges import ObjectRef
from s3stream.compaction.plan import Limits, count_settled, plan_merge, plan_sets
from s3stream.compaction.replacement import Located, Replacement
from s3stream.compaction.sets import SetRewriting
from s3stream.compaction.source import ObjectSource
from s3stream.compaction.streams import BatchFilter, StreamReader, filtered, merge
from s3stream.compaction.target import Uploads
from s3stream.compaction.throttle import Throttle
from s3stream.object.writer import Batch
from s3stream.object_ids import ObjectIds
from s3stream.objectstore.api import ObjectMissing, ObjectStore, StoreError
from s3stream.retry import Retry
from s3stream.settings import StorageSettings
from s3stream.stream import S3Stream
from s3stream.upload_pipeline import Offload

log = structlog.get_logger()

MERGE_COUNT_MIN = 2
STREAMS_PER_TURN = 1000
"""Streams that are passed before the event loop gets its turn; it gets one after each look at the ranges of one."""
LOOK_COUNT = 512
"""Ranges of a stream that are looked at together."""
RELOADS_MAX = 16
"""Streams whose ranges are read anew in one round, because set objects of theirs were rewritten elsewhere."""
LEFT_ALONE_S = 3600.0
"""How long what could not be read is left alone."""
_CONFLICTS = (ObjectsReplaced, ObjectGone, OffsetsNotContinuous, StreamEpochFenced)


@dataclass(slots=True)
class CompactionStats:
    """Since the start. `conflicts`: jobs whose inputs were somebody else's by then."""

    bytes_read: int = 0
    bytes_written: int = 0
    objects_written: int = 0
    ranges_replaced: int = 0
    conflicts: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class _Look:
    """When there was nothing to merge in a stream: its number of ranges, from where on to look next, and the objects
    from there on that were not to be merged: set objects, and what is left alone."""

    epoch: int
    count: int
    offset: int
    apart_ids: tuple[int, ...] = ()


class Compactor:
    """`streams` is the storage's mapping of those that are open; `reload` gets a stream's ranges anew."""

    def __init__(
        self,
        catalog: Catalog,
        store: ObjectStore,
        node_id: int,
        broker_epoch: int,
        ids: ObjectIds,
        retry: Retry,
        settings: StorageSettings,
        limits: Limits,
        reader: BlockReader,
        streams: Mapping[int, S3Stream],
        reload: Callable[[S3Stream], Awaitable[bool]],
        offload: Offload,
        rng: random.Random | None = None,
    ) -> None:
        self.adopts: Callable[[int], bool] = lambda uploader: uploader == node_id
        """Whether the set objects that this node uploaded are to be rewritten here."""
        self.stats = CompactionStats()
        self._catalog = catalog
        self._store = store
        self._node_id = node_id
        self._broker_epoch = broker_epoch
        self._ids = ids
        self._retry = retry
        self._settings = settings
        self._limits = limits
        self._streams = streams
        self._reload = reload
        self._offload = offload
        self._rng = rng or random.Random()
        self._throttle = Throttle(settings.compaction_rate, lambda: reader.is_loading)
        self._looks: dict[int, _Look] = {}
        self._left_alone: dict[int, float] = {}
        """Objects that could not be read, and what was to be rewritten with them -> until when."""
        self._set_ids: frozenset[int] = frozenset()
        """Set objects at the last look, of all brokers ..."""
        self._newest_set_id = 0
        """... and the largest of their ids, so far."""
        self._apart_ids: frozenset[int] = frozenset()
        """What does not count as a stream's own: set objects, and what is left alone."""
        self._reloads_left = RELOADS_MAX
        self._busy: set[int] = set()
        """Streams that are being rewritten."""

    async def run(self) -> None:
        """Until cancelled. Raises BrokerFenced."""
        while True:
            await asyncio.sleep(self._settings.compaction_interval_ms / 1000 * self._rng.uniform(0.5, 1.5))
            while await self._attempt():
                pass

    async def _attempt(self) -> bool:
        """Do what is due most; False if nothing is, or it did not work."""
        try:
            return await self.compact()
        except BrokerFenced:
            raise
        except (StoreError, CatalogError, ObjectCorrupt) as error:
            log.warning("compaction failed, will try again", error=str(error))
        except Exception as error:
            # everything is readable as it is: no reason to stop serving
            log.error("compaction has a defect", exc_info=error)
        self.stats.failures += 1
        return False

    async def compact(self) -> bool:
        """One job; False if nothing is due. Raises StoreError, CatalogError, ObjectCorrupt."""
        return await self._compact_sets() or await self._merge_any()

    # -- set objects ---------------------------------------------------------------------------------------------------

    async def _compact_sets(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._left_alone = {key: until for key, until in self._left_alone.items() if until > now}
        found = await self._catalog.set_objects()
        self._set_ids = frozenset(each.object_id for each in found)
        self._apart_ids = self._set_ids | self._left_alone.keys()
        self._newest_set_id = max(self._set_ids, default=self._newest_set_id)
        sets = [each for each in found if self.adopts(each.node_id) and each.object_id not in self._left_alone]
        plan = plan_sets(sets, self._limits, self._settings.set_object_age_ms_max)
        if plan is None:
            self._throttle.urgency = 1.0
            return False
        self._throttle.urgency = plan.urgency
        infos = await self._catalog.object_ranges([each.object_id for each in plan.sources])
        infos = [info for info in infos if info.ranges]
        if not infos:
            return False  # dead all of them, and retired by the cleaner
        refs = [ObjectRef(info.object_id, info.key, info.size, info.shared) for info in infos]
        sources = [ObjectSource(self._store, ref, self._throttle, self._offload) for ref in refs]
        uploads = self._uploads()
        try:
            return await self._replace(await SetRewriting(plan, infos, sources, uploads, self._limits).run())
        except (ObjectCorrupt, ObjectMissing):
            self._leave_alone(refs)
            raise
        finally:
            self._count(sum(source.bytes_read for source in sources), uploads)

    def _leave_alone(self, refs: Iterable[ObjectRef]) -> None:
        """For a while: the rest must not wait for what cannot be read."""
        until = asyncio.get_running_loop().time() + LEFT_ALONE_S
        self._left_alone.update((ref.object_id, until) for ref in refs)

    # -- ranges of streams ---------------------------------------------------------------------------------------------

    async def _merge_any(self) -> bool:
        self._reloads_left = RELOADS_MAX
        for number, stream in enumerate(list(self._streams.values()), 1):
            if number % STREAMS_PER_TURN == 0:
                await asyncio.sleep(0)
            if self._is_new(stream) and await self._look_at(stream):
                return True
        if len(self._looks) > 2 * len(self._streams):
            self._looks = {key: value for key, value in self._looks.items() if key in self._streams}
        return False

    def _is_new(self, stream: S3Stream) -> bool:
        """There may be something to merge that was not there at the last look."""
        count = len(stream.committed_ranges)
        look = self._looks.get(stream.stream_id)
        return (
            count >= MERGE_COUNT_MIN
            and (
                look is None
                or (look.epoch, look.count) != (stream.epoch, count)
                or not self._apart_ids.issuperset(look.apart_ids)
            )
            and stream.stream_id not in self._busy
            and self._streams.get(stream.stream_id) is stream
        )

    async def _look_at(self, stream: S3Stream) -> bool:
        """Merge what is due, from where the last look ended: what lies before is settled."""
        look = self._looks.get(stream.stream_id)
        offset = stream.start_offset if look is None or look.epoch != stream.epoch else look.offset
        may_be_behind = True
        while True:
            located = stream.committed_ranges.located(stream.stream_id, offset, stream.committed_offset, LOOK_COUNT)
            if may_be_behind and self._is_behind(located):
                if not self._reloads_left or not await self._reload(stream):
                    return False
                self._reloads_left -= 1
                may_be_behind = False
                continue
            sizes = [each.size for each, _ in located]
            mergeable = [not ref.shared and ref.object_id not in self._left_alone for _, ref in located]
            found = plan_merge(sizes, mergeable, self._limits)
            if found is not None:
                return await self._merge(stream, located[found[0] : found[1]])
            is_last = len(located) < LOOK_COUNT
            unsettled = located[count_settled(sizes, mergeable, self._limits) :]
            if not is_last and len(unsettled) == LOOK_COUNT:
                unsettled = located[-2 * self._limits.run_count_max :]
            if located:
                offset = unsettled[0][0].start_offset if unsettled else located[-1][0].end_offset
            if is_last:
                apart_ids = tuple(
                    ref.object_id for _, ref in unsettled if ref.shared or ref.object_id in self._left_alone
                )
                self._looks[stream.stream_id] = _Look(stream.epoch, len(stream.committed_ranges), offset, apart_ids)
            await asyncio.sleep(0)
            if is_last:
                return False

    def _is_behind(self, located: Sequence[Located]) -> bool:
        """Parts of set objects that are none any more: another broker rewrote them, or took the others' parts out. One
        that was committed since the last look may be taken for such; then nothing comes of it."""
        return any(
            ref.shared and ref.object_id not in self._set_ids and ref.object_id <= self._newest_set_id
            for _, ref in located
        )

    async def _merge(self, stream: S3Stream, located: Sequence[Located]) -> bool:
        with self._working_on(stream) as (reader, uploads):
            try:
                done = await self._replace(await merge(stream.stream_id, located, reader, uploads))
            except (ObjectCorrupt, ObjectMissing):
                await self._reload(stream)
                start_offset, after = located[0][0].start_offset, located[-1][0].end_offset
                if stream.committed_ranges.located(stream.stream_id, start_offset, after) == list(located):
                    self._leave_alone(ref for _, ref in located)
                raise
            if not done:
                await self._reload(stream)
            return done

    async def rewrite(self, stream: Stream, end_offset: int, batch_filter: BatchFilter, compacted_offset: int) -> bool:
        """Send the stream's committed ranges below `end_offset` through the filter; False if others are at work on it.

        Each step moves the stream's compacted offset, up to `compacted_offset`, and is refused once the stream is open
        elsewhere. What was committed before a conflict or an error stays. Raises StoreError, CatalogError,
        ObjectCorrupt, StreamClosed, and what the filter raises.
        """
        if stream.stream_id in self._busy:
            return False
        stream = self._open(stream)
        located = stream.committed_ranges.located(stream.stream_id, stream.start_offset, end_offset)
        with self._working_on(stream) as (reader, uploads):
            steps = filtered(stream.stream_id, located, batch_filter, reader, uploads, self._limits.target_size)
            try:
                async for step in steps:
                    reached = min(step.removed[-1][0].end_offset, compacted_offset)
                    if not await self._replace(step, stream, max(reached, stream.compacted_offset)):
                        await self._reload(stream)
                        return False
            except ObjectMissing:
                await self._reload(stream)
                raise
        return True

    async def read(self, stream: Stream, start_offset: int, end_offset: int) -> AsyncIterator[list[Batch]]:
        """The committed batches of these offsets, and what shares an object with them. Raises StoreError,
        ObjectCorrupt, StreamClosed."""
        held = self._open(stream)
        located = held.committed_ranges.located(stream.stream_id, start_offset, end_offset)
        reader = StreamReader(self._store, self._throttle, self._offload)
        try:
            async for batches in reader.chunks(located):
                yield batches
        except ObjectMissing:
            await self._reload(held)
            raise
        finally:
            self.stats.bytes_read += reader.bytes_read

    def _open(self, stream: Stream) -> S3Stream:
        held = self._streams.get(stream.stream_id)
        if held is None or held is not stream:
            raise StreamClosed(f"stream {stream.stream_id} is not open here any more")
        return held

    @contextmanager
    def _working_on(self, stream: S3Stream) -> Iterator[tuple[StreamReader, Uploads]]:
        self._busy.add(stream.stream_id)
        reader, uploads = StreamReader(self._store, self._throttle, self._offload), self._uploads()
        try:
            yield reader, uploads
        finally:
            self._busy.discard(stream.stream_id)
            self._count(reader.bytes_read, uploads)

    # -- commit --------------------------------------------------------------------------------------------------------

    async def _replace(
        self, replacement: Replacement, stream: S3Stream | None = None, compacted_offset: int = 0
    ) -> bool:
        """Commit, and show the open streams. False if somebody else was there first. `stream`: was compacted by key."""
        compacted = {} if stream is None else {stream.stream_id: (stream.epoch, compacted_offset)}
        try:
            await self._retry(
                "replace objects",
                self._catalog.replace_objects,
                self._node_id,
                self._broker_epoch,
                replacement.by_object(),
                [new for new, _ in replacement.added],
                compacted,
            )
        except _CONFLICTS as error:
            self.stats.conflicts += 1
            log.info("compaction came second", reason=type(error).__name__, error=str(error))
            return False
        self.stats.ranges_replaced += len(replacement.removed)
        if stream is not None:
            stream.compacted_offset = compacted_offset
        for number, (stream_id, removed, added) in enumerate(replacement.runs(), 1):
            if (shown := self._streams.get(stream_id)) is not None:
                is_shown = shown.committed_ranges.replace(removed, added)
                if shown is stream:
                    # what a filter took out is not to be read any more, from memory or from where it was
                    shown.tail.evict_before(removed[-1][0].end_offset)
                    if not is_shown:
                        await self._reload(shown)
            if number % STREAMS_PER_TURN == 0:
                await asyncio.sleep(0)
        return True

    def _uploads(self) -> Uploads:
        return Uploads(self._store, self._ids, self._throttle, self._offload)

    def _count(self, bytes_read: int, uploads: Uploads) -> None:
        self.stats.bytes_read += bytes_read
        self.stats.bytes_written += uploads.bytes_written
        self.stats.objects_written += uploads.count
        log.debug("objects rewritten", read=bytes_read, written=uploads.bytes_written, objects=uploads.count)
