"""A stream as the catalog knows it: what is committed of it can be read, whoever has it open.

It is never opened, so it disturbs nobody, and it is only as new as what it was given last (`take`). Objects may be
replaced or deleted under it: a read then raises ObjectMissing, and its owner looks into the catalog again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from s3stream.api import FetchResult, OffsetOutOfRange
from s3stream.block_cache import BlockReader
from s3stream.catalog.api import Catalog, StreamInfo
from s3stream.committed_ranges import CommittedRanges
from s3stream.range_loader import OBJECT_IDS_OVERLAP, Located, build_ranges, extend, locate


class CommittedStream:
    """`start_offset` and `end_offset` bound what can be read. Empty until something is taken."""

    __slots__ = ("_ranges", "_reader", "end_offset", "info", "last_object_id", "start_offset", "stream_id")

    def __init__(self, stream_id: int, reader: BlockReader) -> None:
        self.stream_id = stream_id
        self.start_offset = 0
        self.end_offset = 0
        self.info: StreamInfo | None = None
        """What the catalog said when the ranges were loaded."""
        self.last_object_id = 0
        """The largest among the ranges; 0: there is none, or they have to be loaded."""
        self._reader = reader
        self._ranges = CommittedRanges()

    @property
    def range_count(self) -> int:
        return len(self._ranges)

    def take(self, info: StreamInfo | None, ranges: CommittedRanges, last_object_id: int) -> None:
        """Go on with what the catalog has now (None: the stream is gone)."""
        self._ranges = ranges
        self.last_object_id = last_object_id
        self._take_info(info)

    def extend(self, info: StreamInfo, newer: Located) -> bool:
        """As `take`, with what came since; False if that leaves something out, or if what was there was compacted by
        key meanwhile, and then `take` has to follow."""
        if self.info is None or self.info.compacted_offset != info.compacted_offset:
            return False
        if not extend(self._ranges, newer, info):
            return False
        self.last_object_id = max([self.last_object_id, *(ref.object_id for _, ref in newer)])
        self._take_info(info)
        return True

    def _take_info(self, info: StreamInfo | None) -> None:
        self.info = info
        self.start_offset = self.end_offset if info is None else info.start_offset
        infos = self._ranges.infos()
        self.end_offset = max(infos[-1].end_offset, self.start_offset) if infos else self.start_offset

    def clear(self) -> None:
        """Nothing can be read any more."""
        self.take(None, CommittedRanges(), 0)

    async def fetch(self, offset: int, max_size: int, end_offset: int) -> FetchResult:
        """Whole batches from the one that contains `offset` on, out of one object; none that begins at `end_offset`.

        Raises OffsetOutOfRange, ObjectMissing, ObjectCorrupt, StoreError.
        """
        if not self.start_offset <= offset <= self.end_offset:
            raise OffsetOutOfRange(
                f"stream {self.stream_id}: {offset} is not within [{self.start_offset}, {self.end_offset}]"
            )
        found = self._ranges.find(offset)
        if found is None or offset >= end_offset:
            return FetchResult((), 0, offset)
        return await self._reader.read(
            found.ref.key,
            found.ref.size,
            self.stream_id,
            offset,
            max_size,
            min(end_offset, found.end_offset),
            found.following,
        )


async def load_committed(
    catalog: Catalog, streams: Sequence[CommittedStream], anew: Collection[CommittedStream] = ()
) -> None:
    """Bring them up to date, all with the same few calls: of those that did not change nothing more is asked for, of
    the others what came since; of those `anew` everything. A stream that is gone becomes empty. Raises CatalogError."""
    infos = {info.stream_id: info for info in await catalog.stream_infos([each.stream_id for each in streams])}
    changed = [each for each in streams if infos.get(each.stream_id) != each.info or each in anew]
    missing: list[CommittedStream] = []
    known = [each for each in changed if each.last_object_id and each not in anew and each.stream_id in infos]
    if known:
        after = max(0, min(each.last_object_id for each in known) - OBJECT_IDS_OVERLAP)
        objects = await catalog.live_objects([each.stream_id for each in known], after)
        newer = await locate(objects, {each.stream_id: infos[each.stream_id].start_offset for each in known})
        missing = [each for each in known if not each.extend(infos[each.stream_id], newer[each.stream_id])]
    missing += [each for each in changed if each not in known]
    starts = {each.stream_id: infos[each.stream_id].start_offset for each in missing if each.stream_id in infos}
    found = await locate(await catalog.live_objects(list(starts)), starts) if starts else {}
    for stream in missing:
        located = found.get(stream.stream_id, [])
        last_object_id = max((ref.object_id for _, ref in located), default=0)
        stream.take(infos.get(stream.stream_id), await build_ranges(located), last_object_id)
